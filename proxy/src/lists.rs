//! Lists: the tags of a repository, as its registry lists them.
//!
//! Owns how registries are asked for lists, how their answers are read, and which member asks for all. Also owns what
//! is kept while a registry gives no list, and the file that keeps it over a restart. A list only helps to choose: an
//! image on it is pulled by digest, with the right of the node that pulls. What is chosen, and how often, is up to the
//! callers.

mod answers;
mod ask;
mod fault;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gather;
mod kept;
mod lister;
mod member;
#[cfg(test)]
mod tests;
mod told;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use larder_shared::{Digest, RegistryName, Repository, warm::ListBy};

use self::{ask::Asker, files::Files, kept::Came};
pub use self::{
    fault::{Fault, FaultKind},
    gather::MOST,
    kept::{Kept, Known, Trouble},
    lister::thing,
    told::Told,
};
use crate::{
    clock::unix_now,
    cluster::Cluster,
    coalesce::Coalesce,
    config::Config,
    credentials::Credentials,
    identity::Key,
    metrics::{ListOutcome, Metrics},
    store::Store,
    upstream::Upstreams,
};

/// The most lists that are known at once.
const LISTS: usize = 1000;

/// On behalf of members, a registry is asked for a list no more often than this.
const SOONEST: Duration = Duration::from_secs(1);

/// Identifies a list: its repository, and the way in which the registry is asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wanted {
    pub registry: RegistryName,
    pub repository: Repository,
    pub by: ListBy,
}

impl Wanted {
    fn thing(&self) -> Digest {
        thing(&self.registry, &self.repository, self.by)
    }
}

/// What is known of one list.
#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    kept: Kept,
    /// When the registry was last asked, by this node or by the member that told the list.
    tried: Option<Instant>,
    /// Whether the list's file was read.
    read: bool,
    /// Whether the registry refuses a request with a number of tags.
    without_n: bool,
    /// Since when none of the members that stand before this node has answered.
    silent: Option<Instant>,
    /// The part of a refresh for which this node waits for silent members.
    jitter: f64,
}

/// The parts of the application that lists need.
#[derive(Debug)]
pub struct Parts {
    pub config: Arc<ArcSwap<Config>>,
    pub upstreams: Arc<Upstreams>,
    pub credentials: Arc<Credentials>,
    pub key: Arc<Key>,
    pub cluster: Arc<Cluster>,
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
}

/// All lists that this node needs.
#[derive(Debug)]
pub struct Lists {
    asker: Asker,
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    files: Files,
    entries: Mutex<HashMap<Digest, Entry>>,
    refreshing: Coalesce<Digest, ()>,
    asking: Coalesce<Digest, ()>,
    soonest: Duration,
}

impl Lists {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            config,
            upstreams,
            credentials,
            key,
            cluster,
            store,
            metrics,
        } = parts;
        Arc::new(Self {
            asker: Asker {
                config,
                upstreams,
                credentials,
                key,
            },
            cluster,
            metrics,
            files: Files::new(store),
            entries: Mutex::default(),
            refreshing: Coalesce::default(),
            asking: Coalesce::default(),
            soonest: SOONEST,
        })
    }

    /// Sets the lists of the configuration. Sets for other nodes count too, since this node may have to list for them.
    /// All other lists are forgotten. Waits for no registry.
    pub async fn want(&self, wanted: &[Wanted]) {
        let things: Vec<Digest> = wanted.iter().map(Wanted::thing).collect();
        self.entries().retain(|thing, _| things.contains(thing));
        for wanted in wanted {
            self.entry(&wanted.thing(), Some(wanted), |_| ());
        }
        self.files.retain(things).await;
    }

    /// What is known of a list. Asks no registry and no member.
    pub async fn known(&self, wanted: &Wanted) -> Kept {
        let thing = wanted.thing();
        self.read(&thing, wanted).await;
        self.entry(&thing, Some(wanted), |entry| entry.kept.clone())
            .unwrap_or_default()
    }

    /// Asks for a list: another member, or the registry. `refresh` is the time between two of these calls. A list that
    /// was asked for within most of that time is new enough. An operator that wants a new list gives a shorter time.
    pub async fn refresh(self: &Arc<Self>, wanted: &Wanted, refresh: Duration) -> Kept {
        if wanted.by == ListBy::Off {
            return Kept::default();
        }
        let thing = wanted.thing();
        let (lists, of) = (Arc::clone(self), wanted.clone());
        let refreshing = async move {
            lists.read(&thing, &of).await;
            if !Box::pin(lists.by_member(&thing, &of, refresh)).await {
                Box::pin(lists.by_registry(thing, &of, refresh)).await;
                Box::pin(lists.by_any_member(&thing, &of)).await;
            }
        };
        self.refreshing.run(thing, refreshing).await;
        self.known(wanted).await
    }

    /// Asks the registry, unless it was asked a moment ago. Simultaneous callers share one request.
    async fn by_registry(self: &Arc<Self>, thing: Digest, wanted: &Wanted, refresh: Duration) {
        let (lists, wanted) = (Arc::clone(self), wanted.clone());
        let asking = async move {
            let known = lists.entry(&thing, Some(&wanted), |entry| {
                (entry.is_due(refresh), entry.without_n)
            });
            let Some((true, mut without_n)) = known else {
                return;
            };
            // A list is as old as its first page: any later answer about a tag is newer.
            let at = unix_now();
            let came = Box::pin(lists.asker.list(&wanted, &mut without_n)).await;
            let now = unix_now();
            let came = match came {
                Ok(ask::Came { listing, private }) => {
                    Came::List(Known::new(listing, at, None, private), None)
                }
                Err(fault) => Came::Nothing(fault),
            };
            lists.entry(&thing, Some(&wanted), |entry| {
                entry.tried = Some(Instant::now());
                entry.without_n = without_n;
                entry.silent = None;
            });
            lists.learn(&thing, &wanted, came, now, None).await;
        };
        self.asking.run(thing, asking).await;
    }

    /// Records the result of a refresh, and writes it to the file. `outcome` replaces the result's own in the metrics.
    async fn learn(
        &self,
        thing: &Digest,
        wanted: &Wanted,
        came: Came,
        now: u64,
        outcome: Option<ListOutcome>,
    ) {
        let learned = self.entry(thing, Some(wanted), |entry| {
            let before = entry.kept.trouble.clone();
            let learned = entry.kept.learn(came, now);
            (learned, before, entry.kept.clone())
        });
        let Some((learned, before, kept)) = learned else {
            return;
        };
        self.metrics.lists.came(outcome.unwrap_or(learned));
        say(wanted, before.as_ref(), &kept);
        self.files.write(*thing, wanted, &kept).await;
    }

    /// Reads the list's file, once.
    async fn read(&self, thing: &Digest, wanted: &Wanted) {
        let read = self.entry(thing, Some(wanted), |entry| entry.read);
        if read != Some(false) {
            return;
        }
        let found = self.files.read(*thing).await;
        self.entry(thing, Some(wanted), |entry| {
            if std::mem::replace(&mut entry.read, true) {
                return;
            }
            if let (Some(kept), None) = (found, &entry.kept.list) {
                entry.kept = kept;
            }
        });
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Digest, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes an entry. If there is none, `wanted` creates it.
    fn entry<T>(
        &self,
        thing: &Digest,
        wanted: Option<&Wanted>,
        look: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(thing) {
            return Some(look(entry));
        }
        let wanted = wanted?;
        if entries.len() >= LISTS {
            return None;
        }
        let entry = entries.entry(*thing).or_insert_with(|| Entry {
            wanted: wanted.clone(),
            kept: Kept::default(),
            tried: None,
            read: false,
            without_n: false,
            silent: None,
            jitter: fastrand::f64(),
        });
        Some(look(entry))
    }
}

impl Entry {
    fn is_due(&self, refresh: Duration) -> bool {
        lister::is_due(self.tried.map(|tried| tried.elapsed()), refresh)
    }
}

/// Logs once that a list is not the newest any more, and once that it is again.
fn say(wanted: &Wanted, before: Option<&Trouble>, kept: &Kept) {
    let (registry, repository) = (&wanted.registry, &wanted.repository);
    match (before, &kept.trouble) {
        (None, Some(trouble)) if kept.list.is_some() => tracing::warn!(
            upstream.registry = %registry,
            upstream.repository = %repository,
            why = trouble.why,
            "the repository's tags cannot be listed; the last list stays in use, and larder asks again by itself"
        ),
        (None, Some(trouble)) => tracing::warn!(
            upstream.registry = %registry,
            upstream.repository = %repository,
            why = trouble.why,
            "the repository's tags cannot be listed; fix what this names, larder asks again by itself"
        ),
        (Some(_), None) => tracing::info!(
            upstream.registry = %registry,
            upstream.repository = %repository,
            "the repository's tags are listed again"
        ),
        _ => {}
    }
}

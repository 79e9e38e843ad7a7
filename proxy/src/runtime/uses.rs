//! Tells the store what is in use: after each report, and when the content of the store has changed.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use larder_shared::{
    Digest, Reference, RegistryName, Repository, Tag,
    name::ImageName,
    runtime::{Report, User},
};

use super::{
    Good, State,
    closure::{self, Manifests},
    lock,
};
use crate::{
    store::{Names, Store, Totals},
    sys::Calls,
};

/// While the report stays the same, a changed store is looked through at most this often.
const AGAIN: Duration = Duration::from_secs(30);

/// How long to wait for a slow disk. No other work waits for it.
const WITHIN: Duration = Duration::from_secs(30);

/// What the store was told last.
pub(super) struct Uses {
    calls: Calls,
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    report: Option<Arc<Report>>,
    totals: Totals,
    told: Option<Instant>,
    /// Manifests do not change: each is read once.
    manifests: Manifests,
}

impl Uses {
    pub(super) fn new() -> Self {
        Self {
            calls: Calls::new(1, WITHIN),
            last: Arc::default(),
        }
    }

    /// Forgets what the store was told, because the runtime is not known any more.
    pub(super) fn forget(&self) {
        *lock(&self.last) = Last::default();
    }

    /// Tells the store what is in use by the latest good report. Returns whether the store knows it now.
    pub(super) async fn tell(&self, store: &Arc<Store>, good: &Good, state: &State) -> bool {
        let totals = store.totals();
        {
            let last = lock(&self.last);
            let same = last
                .report
                .as_ref()
                .is_some_and(|report| Arc::ptr_eq(report, &good.report));
            let just_told = last.told.is_some_and(|told| told.elapsed() < AGAIN);
            if same && (last.totals == totals || just_told) {
                return true;
            }
        }
        let (store, last) = (Arc::clone(store), Arc::clone(&self.last));
        let (good, fresh) = (good.clone(), *state == State::Fresh);
        let tell = move || {
            let before = std::mem::take(&mut *lock(&last));
            let mut manifests = before.manifests;
            // Reports come often, and most repeat the one before.
            let nothing_new = before.totals == totals
                && before.report.is_some_and(|report| {
                    report.users == good.report.users && report.images == good.report.images
                });
            let at = store.clock().now().saturating_sub(good.age().as_secs());
            let known = store.in_use().at().unwrap_or(0);
            // If the report is older than what the store knows, an earlier watcher left it.
            if (fresh || at >= known) && nothing_new {
                store.still_in_use(at.max(known));
            } else if fresh || at >= known {
                let tags = look_through(&store, &mut manifests);
                let tagged = |name: &ImageName| tags.get(name.clone());
                let digests = closure::in_use(&good.report, &manifests, tagged);
                store.set_in_use(digests, at.max(known));
            }
            *lock(&last) = Last {
                report: Some(good.report),
                totals,
                told: Some(Instant::now()),
                manifests,
            };
        };
        self.calls.run(tell).await.is_ok()
    }
}

/// The manifests and tags of the store at one moment, for questions about which user uses which blob.
#[derive(Default, Debug)]
pub struct Seen {
    manifests: Manifests,
    tags: Tags,
}

impl Seen {
    /// Takes the store's content of now (blocking). Manifests do not change, so known ones are not read again.
    #[must_use]
    pub fn again(mut self, store: &Store) -> Self {
        self.tags = look_through(store, &mut self.manifests);
        self
    }

    /// The images of the users that are `wanted`: their manifests, configurations and layers, as far as report and
    /// store tell.
    pub fn used_by(&self, report: &Report, wanted: impl Fn(&User) -> bool) -> HashSet<Digest> {
        let users = report.users.iter().filter(|user| wanted(user));
        let tagged = |name: &ImageName| self.tags.get(name.clone());
        closure::in_use_by(report, users, &self.manifests, tagged)
    }
}

/// The targets of tags, as far as the store knows them.
#[derive(Default, Debug)]
struct Tags(HashMap<(RegistryName, Repository, Tag), Digest>);

impl Tags {
    fn get(&self, name: ImageName) -> Option<Digest> {
        let Reference::Tag(tag) = name.reference else {
            return None;
        };
        self.0.get(&(name.registry, name.repository, tag)).copied()
    }
}

/// Updates `manifests` to the store's content of now (blocking). These reads do not count as use of the blobs.
fn look_through(store: &Store, manifests: &mut Manifests) -> Tags {
    let mut read = std::mem::take(manifests);
    let mut tags = Tags::default();
    store.repositories().each(|holding| {
        for link in &holding.links {
            let digest = link.digest;
            if link.media_type.is_none() || !store.has(&digest) || manifests.contains_key(&digest) {
                continue;
            }
            let names = read
                .remove(&digest)
                .or_else(|| Some(Names::of(&store.read_unseen(&digest)?)));
            manifests.extend(names.map(|names| (digest, names)));
        }
        for (tag, record) in holding.tags {
            let name = (holding.registry.clone(), holding.repository.clone(), tag);
            tags.0.insert(name, record.digest);
        }
    });
    tags
}

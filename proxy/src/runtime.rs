//! The images that this node's container runtime has and uses, as its watcher reports them.
//!
//! Owns the reading of the watcher's file (`runtime.json`, see [`larder_shared::runtime`]), the state while there is no
//! good report, and the set of digests in use, which it gives to the store. Knows no socket and sends nothing: the
//! watcher and the daemon share only this file. The file tells facts about this node, and proves no client's right to
//! read.

mod closure;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod references;
mod uses;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use larder_shared::{Digest, runtime::Report};
use tokio::sync::watch;

use crate::{
    clock::unix_age,
    config::Config,
    drain::Watch,
    store::{Store, Tenure, Totals},
    sys::Calls,
};

pub use file::Unreadable;
use file::{Found, Stamp};
pub use references::{references, tells};
pub use uses::Seen;
use uses::Uses;

/// How often the daemon looks at the file.
const POLL: Duration = Duration::from_secs(3);

/// How often the daemon asks the store whether it has listed its disk.
const SOON: Duration = Duration::from_millis(100);

/// The age from which a report is old: it tells the past, not the present. The watcher writes every 30 s.
pub const OLD_AFTER: Duration = Duration::from_mins(5);

/// The limit for one look.
const WITHIN: Duration = Duration::from_secs(4);

/// How current the daemon's knowledge of the runtime is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// No file is configured, or no file has appeared yet.
    Off,
    /// The latest report is less than [`OLD_AFTER`] old.
    Fresh,
    /// The latest report is older.
    Old,
    /// There should be a report of this node, but the file cannot be used, for this reason.
    Unreadable(Unreadable),
    /// A newer larder wrote the file.
    Newer { version: u32 },
}

impl State {
    /// The state in one word, for people; metrics have the same words.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Fresh => "fresh",
            Self::Old => "old",
            Self::Unreadable(_) => "unreadable",
            Self::Newer { .. } => "newer",
        }
    }
}

/// A whole report that could be read.
#[derive(Clone, Debug)]
pub struct Good {
    pub report: Arc<Report>,
    /// When this process read the report. It is an `Instant`, since the node's clock may be set later.
    asked: Instant,
    /// The report's age at that time.
    age: Duration,
}

impl Good {
    fn new(report: Report) -> Self {
        Self {
            // A time in the future was written while the clock was wrong. The file is here now, so it counts as new.
            age: unix_age(report.at).unwrap_or_default(),
            asked: Instant::now(),
            report: Arc::new(report),
        }
    }

    /// The time since the watcher asked the runtime.
    pub fn age(&self) -> Duration {
        self.age + self.asked.elapsed()
    }
}

/// What is known of the runtime.
#[derive(Clone, Debug)]
pub struct Known {
    pub state: State,
    /// The latest good report, whatever the file says now. `None` when off, and until there is one.
    pub good: Option<Good>,
}

impl Known {
    const NOTHING: Self = Self {
        state: State::Off,
        good: None,
    };

    /// The latest good report.
    pub fn report(&self) -> Option<&Arc<Report>> {
        self.good.as_ref().map(|good| &good.report)
    }

    /// The time since the watcher last asked the runtime with success. `None` if that is not known.
    pub fn age(&self) -> Option<Duration> {
        self.good.as_ref().map(Good::age)
    }
}

/// Reads the watcher's file again and again, and tells the store which digests are in use.
pub struct Runtime {
    config: Arc<ArcSwap<Config>>,
    store: Arc<Store>,
    known: watch::Sender<Arc<Known>>,
    /// What the last look found.
    last: Mutex<Last>,
    calls: Calls,
    uses: Uses,
    /// Whether the store knows what is in use, as far as that can be known.
    settled: watch::Sender<bool>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// What the last look found.
#[derive(Default)]
struct Last {
    path: Option<PathBuf>,
    stamp: Option<Stamp>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime {
    /// A reader that knows nothing yet.
    pub fn new(config: Arc<ArcSwap<Config>>, store: Arc<Store>) -> Self {
        Self {
            config,
            store,
            known: watch::Sender::new(Arc::new(Known::NOTHING)),
            last: Mutex::default(),
            calls: Calls::new(1, WITHIN),
            uses: Uses::new(),
            settled: watch::Sender::new(false),
        }
    }

    /// What is known now.
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.borrow())
    }

    /// A receiver that sees each change of what is known.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Known>> {
        self.known.subscribe()
    }

    /// How long larder has not known what is in use: the time since the last good report, even if an earlier process
    /// read it. `None` while larder knows, and if it never knew.
    pub fn unknown_for(&self) -> Option<Duration> {
        let known = self.known();
        if matches!(known.state, State::Off | State::Fresh) {
            return None;
        }
        let told = || Some(self.store.clock().age(self.store.in_use().at()?));
        known.age().or_else(told)
    }

    /// Why larder does not know what is in use; `None` while it knows, and if no watcher reports.
    pub fn why_unknown(&self) -> Option<String> {
        match &self.known().state {
            State::Off | State::Fresh => None,
            State::Old => Some(format!(
                "the watcher has not written for {} s or longer",
                OLD_AFTER.as_secs()
            )),
            State::Unreadable(why) => Some(why.to_string()),
            State::Newer { version } => Some(format!("a newer larder wrote it: version {version}")),
        }
    }

    /// How much of the store is in use.
    pub fn in_use(&self) -> Totals {
        self.store.in_use_totals(longest_ttl(&self.config.load()))
    }

    /// Whether a digest is in use, or was in use when that was last known.
    pub fn is_in_use(&self, digest: &Digest) -> bool {
        let ttl = longest_ttl(&self.config.load());
        self.store.is_in_use(digest, ttl)
    }

    /// Waits until the store knows what is in use, as far as that can be known, but no longer than `patience`.
    pub async fn settled(&self, patience: Duration) {
        let mut settled = self.settled.subscribe();
        let waiting = settled.wait_for(|settled| *settled);
        let _ = tokio::time::timeout(patience, waiting).await;
    }

    /// Looks again and again, until the drain.
    pub async fn run(self: Arc<Self>, mut watch: Watch) {
        loop {
            self.look().await;
            let told = self.tell().await;
            self.settled.send_if_modified(|settled| {
                let first = told && !*settled;
                *settled |= told;
                first
            });
            let wait = if told { POLL } else { SOON };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = watch.stopped() => return,
            }
        }
    }

    /// Tells the store what is in use. `false` if that has to wait, such as until the store has listed its disk.
    async fn tell(&self) -> bool {
        let known = self.known();
        let remembers = self.store.in_use().at().is_some();
        if known.state == State::Off && !remembers {
            return true;
        }
        // A blob that is not listed yet cannot be marked as in use. While another larder has the store, that one marks.
        if self.store.tenure() == Tenure::Waiting {
            return true;
        }
        if !self.store.is_scanned() {
            return false;
        }
        if let Some(good) = &known.good {
            self.uses.tell(&self.store, good, &known.state).await
        } else {
            self.uses.forget();
            let ttl = longest_ttl(&self.config.load());
            let holds = self.store.in_use().holds(self.store.clock().now(), ttl);
            if known.state == State::Off || !holds {
                let store = Arc::clone(&self.store);
                let forget = move || store.forget_in_use();
                return self.calls.run(forget).await.is_ok();
            }
            true
        }
    }

    /// Looks at the file once.
    pub async fn look(&self) {
        let path = self.config.load().runtime.file.clone();
        let Some(path) = path else {
            *lock(&self.last) = Last::default();
            self.learn(Known::NOTHING);
            return;
        };
        let before = {
            let mut last = lock(&self.last);
            if last.path.as_ref() != Some(&path) {
                // What another file said is not about this file's runtime.
                let first = last.path.is_none();
                *last = Last {
                    path: Some(path.clone()),
                    stamp: None,
                };
                if !first {
                    self.learn(Known::NOTHING);
                }
            }
            last.stamp.clone()
        };
        let looking = path.clone();
        let looked = self
            .calls
            .run(move || file::look(&looking, before.as_ref()))
            .await;
        // A look that is late leaves no stamp, so the next look reads the file again.
        let (stamp, found) = looked.unwrap_or((None, Found::Unreadable(Unreadable::Hangs)));
        lock(&self.last).stamp = stamp;
        let remembers = self.store.in_use().at().is_some();
        let known = next(&self.known(), found, remembers);
        let before = self.known();
        self.learn(known);
        self.complain(&before, &path);
    }

    fn learn(&self, known: Known) {
        self.known.send_if_modified(|old| {
            let same = |a: &Good, b: &Good| Arc::ptr_eq(&a.report, &b.report);
            let good = match (&old.good, &known.good) {
                (Some(a), Some(b)) => same(a, b),
                (None, None) => true,
                _ => false,
            };
            let changed = !good || old.state != known.state;
            if changed {
                *old = Arc::new(known);
            }
            changed
        });
    }

    /// Logs once that the daemon does not know any more, and once that it knows again.
    fn complain(&self, before: &Known, path: &Path) {
        let known = self.known();
        let state = &known.state;
        if before.state.as_str() == state.as_str() {
            return;
        }
        let (file, since) = (path.display(), self.unknown_for().map(|age| age.as_secs()));
        match state {
            State::Off => {}
            State::Fresh => tracing::info!(%file, "what the container runtime uses is known"),
            State::Old => tracing::warn!(
                %file, age_s = since,
                "the watcher of the container runtime has not written for a while; what was last in use counts as in use until its ttl is over; look at the watcher's log"
            ),
            State::Unreadable(why) => tracing::warn!(
                %file, error = %why, age_s = since,
                "what the container runtime uses is not known; what was last in use counts as in use until its ttl is over; look at the watcher's log"
            ),
            State::Newer { version } => tracing::warn!(
                %file, version,
                "a newer larder writes the watcher's file; run the same larder for both"
            ),
        }
    }
}

/// How long a digest counts as in use after the last report that says so; `None` for ever.
fn longest_ttl(config: &Config) -> Option<Duration> {
    let mut own = config
        .upstreams
        .values()
        .filter_map(|upstream| upstream.ttl);
    own.try_fold(config.store.ttl?, |longest, ttl| Some(longest.max(ttl?)))
}

/// What is known after a look. `before` is what was known; `remembers` says whether the store knows uses from an
/// earlier process.
fn next(before: &Known, found: Found, remembers: bool) -> Known {
    let aged = |good: Option<Good>| Known {
        state: match &good {
            Some(good) if good.age() < OLD_AFTER => State::Fresh,
            Some(_) => State::Old,
            None => State::Off,
        },
        good,
    };
    let good = before.good.clone();
    match (found, &before.state) {
        (Found::Report(report), _) => aged(Some(Good::new(*report))),
        // An unusable file stays unusable until it changes.
        (Found::Same, State::Unreadable(_) | State::Newer { .. }) => Known {
            state: before.state.clone(),
            good,
        },
        (Found::Same, _) => aged(good),
        (Found::Nothing, State::Off) if !remembers => Known::NOTHING,
        (Found::Nothing, _) => Known {
            state: State::Unreadable(Unreadable::Gone),
            good,
        },
        (Found::Newer { version }, _) => Known {
            state: State::Newer { version },
            good,
        },
        (Found::Unreadable(why), _) => Known {
            state: State::Unreadable(why),
            good,
        },
    }
}

#[cfg(test)]
mod tests;

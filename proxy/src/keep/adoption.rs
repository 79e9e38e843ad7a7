//! Adopts what the container runtime holds, slowly and after everything else. It hashes the runtime's files one at a
//! time, and asks the origins that names and labels nominate. [`crate::adopt`] chooses what comes next.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::{RegistryName, runtime::Report};
use tokio::sync::Notify;

use crate::{
    adopt::{Adoption, Next, guesses},
    drain::Watch,
    metrics::AdoptedState,
    pull::Pull,
    store::{Entry, Looked},
};

/// Files are hashed at so many bytes a second, unless a request waits for one.
const RATE: u64 = 32 << 20;

/// The time between two questions, before jitter.
const BETWEEN: Duration = Duration::from_millis(200);

/// The time between two looks while nothing is to be done, and after a file that could not be read.
const IDLE: Duration = Duration::from_secs(1);
const UNREADABLE: Duration = Duration::from_secs(10);

/// How long adoption waits for fills to end, and how often it looks.
const FILLS_FIRST: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(100);

/// Members that begin together spread their first questions: over so much for each further member, and at the most.
const SPREAD: Duration = Duration::from_millis(500);
const SPREAD_MAX: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Adopting {
    pull: Arc<Pull>,
    adoption: Mutex<Adoption>,
    changed: Notify,
}

/// Adopts until the drain.
pub async fn adopt(pull: Arc<Pull>, mut watch: Watch) {
    let adopting = Adopting {
        pull,
        adoption: Mutex::default(),
        changed: Notify::new(),
    };
    tokio::select! {
        () = adopting.follow_reports() => {}
        () = adopting.hash() => {}
        () = adopting.ask() => {}
        () = adopting.on_behalf() => {}
        () = watch.stopped() => {}
    }
}

impl Adopting {
    fn lock(&self) -> MutexGuard<'_, Adoption> {
        self.adoption.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over each report of the runtime. The last one counts for as long as there is no other.
    async fn follow_reports(&self) {
        let mut known = self.pull.runtime.subscribe();
        loop {
            let report = known.borrow_and_update().report().cloned();
            self.nominate(report.as_deref()).await;
            self.show();
            if known.changed().await.is_err() {
                // The reader lives as long as the daemon.
                return std::future::pending().await;
            }
        }
    }

    async fn nominate(&self, report: Option<&Report>) {
        let config = self.pull.config.load_full();
        let content = config.runtime.content.as_deref();
        let Some((content, report)) = content.zip(report) else {
            self.pull.store.list_adoptable(None, []);
            self.lock().nominate(Vec::new(), Instant::now());
            return;
        };
        let clock = self.pull.store.clock();
        let blobs = report.content.iter().map(|content| {
            let used = content.created.map_or(0, |at| clock.of_wall(at));
            let size = content.size;
            (content.digest, Entry { size, used })
        });
        self.pull.store.list_adoptable(Some(content), blobs);
        let configured: Vec<RegistryName> = config
            .upstreams
            .keys()
            .filter_map(|name| name.parse().ok())
            .collect();
        let open = {
            let mut adoption = self.lock();
            adoption.nominate(guesses(report, &configured), Instant::now());
            adoption.open()
        };
        for guess in open {
            if self.pull.is_known(&guess).await {
                self.lock().known(&guess);
                if self.pull.store.note_proven(guess.digest()) {
                    self.pull.cluster.announce(*guess.digest());
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// Hashes one file after the other.
    async fn hash(&self) {
        loop {
            let next = self.lock().next_to_hash(Instant::now());
            let Some(digest) = next else {
                self.rest(IDLE).await;
                continue;
            };
            self.fills_first().await;
            let looked = self.pull.store.look_at_adopted(digest, RATE).await;
            // A young file is looked at again: it may still change.
            let sound = matches!(looked, Looked::Sound(_));
            let readable = !matches!(looked, Looked::Unreadable(_) | Looked::Unknown);
            let young = matches!(looked, Looked::Young(_));
            drop(looked);
            if young {
                self.rest(IDLE).await;
                continue;
            }
            self.lock().hashed(&digest, sound, Instant::now());
            if sound && self.pull.store.holds(&digest) {
                self.pull.cluster.announce(digest);
            }
            self.show();
            self.changed.notify_waiters();
            if !readable {
                self.rest(UNREADABLE).await;
            }
        }
    }

    /// Asks one question after the other.
    async fn ask(&self) {
        let members = self.pull.cluster.members.view().addresses.len() as u32;
        let spread = SPREAD
            .saturating_mul(members.saturating_sub(1))
            .min(SPREAD_MAX);
        tokio::time::sleep(spread.mul_f64(fastrand::f64())).await;
        loop {
            let next = self.lock().next_to_ask(Instant::now());
            let guess = match next {
                Next::Ask(guess) => guess,
                Next::Wait(at) => {
                    self.rest(at.saturating_duration_since(Instant::now()).min(IDLE))
                        .await;
                    continue;
                }
                Next::Nothing => {
                    self.rest(IDLE).await;
                    continue;
                }
            };
            self.fills_first().await;
            let answered = self.pull.prove_guess(&guess).await;
            tracing::debug!(upstream.registry = %guess.registry, upstream.repository = %guess.repository, what = ?guess.what, ?answered, "what the container runtime nominates was asked for");
            let jitter = fastrand::f64();
            self.lock()
                .answered(&guess, answered, Instant::now(), jitter);
            self.show();
            tokio::time::sleep(BETWEEN.mul_f64(0.5 + jitter)).await;
        }
    }

    /// Proves what callers were served, with the callers' own rights.
    async fn on_behalf(&self) {
        loop {
            let (place, digest) = self.pull.wishes.next().await;
            self.fills_first().await;
            self.pull.prove_family(&place, digest).await;
        }
    }

    /// Waits until there is something new, at most for this long.
    async fn rest(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.changed.notified()).await;
    }

    /// Waits while clients' downloads are under way, up to a limit.
    async fn fills_first(&self) {
        let begun = Instant::now();
        while begun.elapsed() < FILLS_FIRST && self.pull.fills.are_under_way() {
            tokio::time::sleep(GLANCE).await;
        }
    }

    fn show(&self) {
        let standing = self.lock().standing();
        let metrics = &self.pull.metrics.adoption;
        for (state, count) in [
            (AdoptedState::Nominated, standing.nominated),
            (AdoptedState::Hashed, standing.hashed),
            (AdoptedState::Proven, standing.proven),
            (AdoptedState::Later, standing.later),
            (AdoptedState::Refused, standing.refused),
        ] {
            metrics.guesses(state, count);
        }
    }
}

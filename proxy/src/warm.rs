//! Warm sets: images that larder fetches to this node before a client asks, and holds (promise P31).
//!
//! Which images belong to a set is a pure choice ([`choice`]), made anew at each look at the registries ([`look`]).
//! Which of them have room is another pure choice ([`budget`]). The images come by digest, in the same way as every
//! pull, so a set gives no caller a right and takes none away. The store remembers what a set holds. That is no pin,
//! and is evicted before what containers use.

mod bring;
mod budget;
pub mod cachemachine;
pub mod choice;
mod labels;
mod look;
mod seen;
mod state;
mod status;
mod together;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use self::state::{Progress, SetState};
pub use self::together::SETS;
use crate::{
    config::{Config, WarmSource},
    drain::Watch,
    lists::Wanted,
    pull::Pull,
    store::Tenure,
};

/// The time between two checks whether the configuration has changed, or whether this larder has the store by now.
const GLANCE: Duration = Duration::from_secs(1);

/// How long a person waits for the answers of the registries. The command line waits a little longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// How long the first look waits until it is known what the runtime uses.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// The sets of this node.
#[derive(Debug)]
pub struct Warm {
    pull: Arc<Pull>,
    /// In the order of the configuration.
    sets: Mutex<Vec<(String, SetState)>>,
    /// How many looks were asked for, and the number of the last one that is done.
    asked: AtomicU64,
    looked: watch::Sender<u64>,
    /// Wake the loop that looks, and the loop that brings images.
    look: Notify,
    bring: Notify,
    /// Why this node's labels are not known, if they are not.
    label_trouble: Mutex<Option<String>>,
    /// What the members' runtimes have, as this node last gathered it.
    gathered: tokio::sync::Mutex<seen::Gathered>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Warm {
    /// Creates the sets. They do nothing until [`Self::run`].
    pub fn new(pull: Arc<Pull>) -> Arc<Self> {
        Arc::new(Self {
            pull,
            sets: Mutex::default(),
            asked: AtomicU64::new(0),
            looked: watch::channel(0).0,
            look: Notify::new(),
            bring: Notify::new(),
            label_trouble: Mutex::default(),
            gathered: tokio::sync::Mutex::default(),
        })
    }

    /// Looks at registries and brings images until the drain. Without sets it does neither.
    pub async fn run(self: Arc<Self>, mut stop: Watch) {
        let work = async {
            self.until_owned().await;
            self.pull.runtime.settled(SETTLED_WITHIN).await;
            tokio::join!(self.looks(), self.brings());
        };
        tokio::select! {
            () = work => {}
            () = stop.stopped() => {}
        }
    }

    /// Waits until this larder has the store and has listed it: before that, it is not known which images are here.
    async fn until_owned(&self) {
        while self.pull.store.tenure() != Tenure::Held || !self.pull.store.is_scanned() {
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn looks(&self) {
        loop {
            let config = self.pull.config.load_full();
            let asked = self.asked.load(Ordering::Acquire);
            // If a person asks, even a recent list is asked for again.
            let within = if *self.looked.borrow() < asked {
                Duration::ZERO
            } else {
                config.warm.refresh
            };
            self.look_at_all(&config, within).await;
            self.looked.send_replace(asked);
            self.bring.notify_one();
            let due = tokio::time::sleep(jittered(config.warm.refresh));
            tokio::select! {
                () = due, if !config.warm.sets.is_empty() => {}
                () = self.look.notified() => {}
                () = self.until_changed(&config) => {}
            }
        }
    }

    /// Asks the registries of all sets now. Waits until they have answered, but not longer than a while.
    pub async fn refresh(&self) {
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut looked = self.looked.subscribe();
        self.look.notify_one();
        // The sender lives as long as `self`.
        let done = looked.wait_for(|done| *done >= number);
        let _ = tokio::time::timeout(ANSWERED_WITHIN, done).await;
    }

    /// Returns when `[warm]` has changed.
    async fn until_changed(&self, config: &Arc<Config>) {
        let mut seen = Arc::clone(config);
        loop {
            tokio::time::sleep(GLANCE).await;
            let now = self.pull.config.load_full();
            if !Arc::ptr_eq(&now, &seen) {
                if now.warm != config.warm {
                    return;
                }
                seen = now;
            }
        }
    }

    /// Looks at all sets. A list that was asked for within most of `within` is new enough.
    async fn look_at_all(&self, config: &Arc<Config>, within: Duration) {
        self.pull.lists.want(&wanted(config)).await;
        let (labels, trouble) = {
            let warm = config.warm.clone();
            let read = tokio::task::spawn_blocking(move || labels::of_node(&warm)).await;
            read.unwrap_or_else(|panic| (config.warm.labels.clone(), Some(panic.to_string())))
        };
        if let Some(trouble) = &trouble
            && lock(&self.label_trouble).as_ref() != Some(trouble)
        {
            tracing::warn!(
                error = trouble,
                "this node's labels cannot be read, so sets that ask for them are not warmed here; correct [warm] labels_file"
            );
        }
        *lock(&self.label_trouble) = trouble;
        self.forget(config);
        for (name, set) in &config.warm.sets {
            let before = self.state(name);
            let new = if set.matches(&labels) {
                self.look(set, name, before, within).await
            } else {
                SetState {
                    labels: set.nodes.clone(),
                    looked: true,
                    ..SetState::default()
                }
            };
            self.put(config, name, new);
            // The first set's images need not wait for the registries of the last set.
            self.bring.notify_one();
        }
    }

    /// Drops the sets that the configuration no longer names.
    fn forget(&self, config: &Config) {
        lock(&self.sets).retain(|(name, _)| config.warm.set(name).is_some());
    }

    fn state(&self, name: &str) -> SetState {
        let sets = lock(&self.sets);
        let found = sets.iter().find(|(of, _)| of == name);
        found.map(|(_, state)| state.clone()).unwrap_or_default()
    }

    /// Stores the result of a look. An image that is being fetched keeps its progress.
    fn put(&self, config: &Config, name: &str, mut new: SetState) {
        let mut sets = lock(&self.sets);
        let known = sets.iter_mut().find(|(of, _)| of == name);
        if let Some((_, old)) = &known {
            for image in &mut new.images {
                let Some(digest) = image.digest else {
                    continue;
                };
                let mut same = old.images.iter();
                let same = same.find(|old| old.is(&image.registry, &image.repository, &digest));
                if let Some(same) = same
                    && matches!(same.progress, Progress::Coming(_))
                {
                    image.progress = same.progress.clone();
                }
            }
        }
        match known {
            Some((_, state)) => *state = new,
            None => sets.push((name.to_owned(), new)),
        }
        let place = |name: &str| config.warm.sets.iter().position(|(of, _)| of == name);
        sets.sort_by_key(|(name, _)| place(name));
    }
}

/// Varies the time by a tenth, so that nodes that started together do not ask together for ever.
fn jittered(refresh: Duration) -> Duration {
    refresh.mul_f64(fastrand::f64().mul_add(0.2, 0.9))
}

/// The lists of all sets, including sets for other nodes: this node may have to list for those.
fn wanted(config: &Config) -> Vec<Wanted> {
    let sources = config.warm.sets.iter().flat_map(|(_, set)| &set.from);
    let lists = sources.filter_map(|source| match source {
        WarmSource::Repository(from) if from.needs_list() => Some(look::list_of(from)),
        _ => None,
    });
    lists.collect()
}

//! Ready layers: files that the container runtime mounts as they are, instead of unpacking layers (promise P34).
//!
//! Owns which images' layers are made ready, and on what ground they are offered ([`rights`]). Withdraws layers that
//! may not be offered any more. The store owns the files, their life and their room ([`crate::store::Ready`]).
//! [`streams`] owns layers that are mounted before they are here. This module does nothing unless `[streaming] mode`
//! turns it on.

mod images;
mod index;
mod links;
mod look;
mod make;
mod rights;
mod streams;
mod work;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::{Algorithm, Digest};
use tokio::{sync::Notify, time::sleep};

use self::{
    images::{Barred, Image, Read},
    streams::Streams,
};
use crate::{
    config::Mode,
    drain::Watch,
    metrics::{IndexMade, ReadyCause, ReadyState},
    pull::Pull,
    store::{Cause, Ground, Origin, Phase, Ready},
    sys::Ongoing,
};

/// How often the directory is tried again, while it cannot be used or another larder has it.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// Time between two looks at the images without a cause, and the least time between any two looks.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Pause before failed work is tried again.
const LATER: Duration = Duration::from_mins(10);

/// The most refusals and failures that are remembered, of layers and of images.
const REMEMBERED: usize = 10_000;

/// The layers of this node's images.
struct Layers {
    pull: Arc<Pull>,
    /// Whether anything new is offered. `false` with `mode = "off"`.
    offers: bool,
    streams: Arc<Streams>,
    known: Mutex<Known>,
    survey: tokio::sync::Mutex<Option<Ongoing<look::Survey>>>,
    /// Rings when there is something to make.
    work: Notify,
    /// Rings when a file was made, or could not be made.
    changed: Notify,
}

#[derive(Default)]
struct Known {
    read: Read,
    barred: Arc<Barred>,
    /// Layers of which no ready file can be made, and why.
    refused: HashMap<Digest, String>,
    /// Images whose configuration names other layers than their manifest has.
    foreign: HashSet<Digest>,
    /// Images and layers that wait after a failure, or because their index is another member's to build.
    later: HashMap<Digest, Instant>,
    /// Why an image could not be made ready, when it was last tried.
    failed: HashMap<Digest, String>,
    /// Layers whose index is to be built.
    unindexed: Vec<Digest>,
    /// Layers with an index from an earlier process that was not read yet. `None` until they are listed.
    unread: Option<Vec<Digest>>,
    /// Images for which there was no room, and how many bytes they lack.
    no_room: HashMap<Digest, u64>,
    /// Images to make ready, the most recently used first.
    todo: Vec<Image>,
    /// Links whose layer is whole here.
    links: Vec<(Digest, Origin)>,
}

/// Makes layers ready until the drain, if the configuration asks for it. Layers that containers have mounted are served
/// until the process ends.
pub async fn run(pull: Arc<Pull>, mut watch: Watch, until_end: Watch) {
    let mode = pull.config.load().streaming.mode;
    let lazy = mode == Mode::Lazy;
    let layers = Layers {
        streams: Streams::new(Arc::clone(&pull)),
        offers: mode != Mode::Off,
        pull,
        known: Mutex::default(),
        survey: tokio::sync::Mutex::default(),
        work: Notify::new(),
        changed: Notify::new(),
    };
    let work = async {
        if !layers.offers && !has_left_files(&layers.pull).await {
            return;
        }
        layers.open().await;
        let streams = async {
            Arc::clone(&layers.streams).resume().await;
            if !lazy && layers.streams.is_empty() {
                return;
            }
            let serving = layers.streams.serve(until_end);
            let starting = async {
                if lazy {
                    layers.offer_starting().await;
                }
            };
            tokio::join!(serving, starting, layers.streams.heed());
        };
        tokio::join!(layers.follow(), layers.make(), streams);
    };
    tokio::select! {
        () = work => {}
        () = watch.stopped() => {}
    }
}

/// Whether an earlier process, with another mode, has left files in the directory.
async fn has_left_files(pull: &Pull) -> bool {
    let directory = pull.config.load().streaming.directory.clone();
    let look = move || {
        let shards = fs::read_dir(directory.join(Algorithm::Sha256.as_str()));
        let mut shards = shards.into_iter().flatten().flatten();
        shards.any(|shard| fs::read_dir(shard.path()).is_ok_and(|mut files| files.next().is_some()))
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}

impl Layers {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> Option<&Ready> {
        self.pull.store.ready()
    }

    /// Waits until this larder has the directory, and the store is scanned.
    async fn open(&self) {
        let mut said: Option<String> = None;
        loop {
            let (store, config) = (Arc::clone(&self.pull.store), self.pull.config.load_full());
            let directory = config.streaming.directory.clone();
            let open = move || -> io::Result<bool> {
                Ok(store.is_scanned() && store.open_ready(&directory)?)
            };
            let opened = tokio::task::spawn_blocking(open)
                .await
                .unwrap_or_else(|panic| Err(io::Error::other(panic)));
            match opened {
                Ok(true) if self.offers => {
                    tracing::info!(directory = %config.streaming.directory.display(), "ready layers are offered here");
                    return;
                }
                Ok(true) => {
                    tracing::warn!(directory = %config.streaming.directory.display(), "[streaming] mode is \"off\": no further layer is offered; each file goes once the watcher reports that no snapshot refers to it");
                    return;
                }
                Ok(false) => {
                    if !self.offers && said.is_none() {
                        tracing::info!(directory = %config.streaming.directory.display(), "[streaming] mode is \"off\", but there are files of ready layers, and larder serves those that are mounted as soon as no other larder does");
                        said = Some(String::new());
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if said.as_ref() != Some(&error) {
                        tracing::error!(error, directory = %config.streaming.directory.display(), "no ready layers are offered: the directory cannot be used; make it writable for larder, or name another in [streaming] directory");
                    }
                    said = Some(error);
                }
            }
            sleep(OPEN_AGAIN).await;
        }
    }

    /// Looks after each report of the runtime, and after each pull.
    async fn follow(&self) {
        let mut known = self.pull.runtime.subscribe();
        loop {
            drop(known.borrow_and_update());
            self.look().await;
            self.show();
            sleep(BETWEEN_LOOKS).await;
            tokio::select! {
                changed = known.changed() => if changed.is_err() {
                    // The reader of reports lives as long as the daemon.
                    return std::future::pending().await;
                },
                () = self.pull.served.new.notified() => {}
                () = self.changed.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Brings the metrics up to date.
    fn show(&self) {
        let Some(ready) = self.ready() else { return };
        self.streams.tend();
        let metrics = &self.pull.metrics.layers;
        let mut sums: HashMap<ReadyState, (u64, u64)> = HashMap::new();
        for file in ready.files().values() {
            let state = match file.phase {
                Phase::Aside { .. } => ReadyState::Aside,
                Phase::Offered if file.references > 0 => ReadyState::InUse,
                Phase::Offered => ReadyState::Offered,
            };
            let sum = sums.entry(state).or_default();
            sum.0 += 1;
            sum.1 += file.bytes;
        }
        for state in ReadyState::ALL.iter().copied() {
            let (files, bytes) = sums.get(&state).copied().unwrap_or_default();
            metrics.holds(state, files, bytes);
        }
        let indexes = self.pull.store.indexes().totals();
        metrics.holds_indexes(IndexMade::Here, indexes.own, indexes.own_bytes);
        metrics.holds_indexes(IndexMade::Elsewhere, indexes.foreign, indexes.foreign_bytes);
        for (cause, bytes) in ready.take_removed() {
            let cause = match cause {
                Cause::Room => ReadyCause::Room,
                Cause::Expired => ReadyCause::Expired,
                Cause::Withdrawn => ReadyCause::Withdrawn,
            };
            metrics.removed(cause, bytes);
        }
    }
}

fn origin_of(image: &Image, layer: Digest, ground: Ground) -> Origin {
    Origin {
        layer,
        registry: image.registry.clone(),
        repository: image.repository.clone(),
        manifest: image.manifest,
        ground,
        mounted: None,
    }
}

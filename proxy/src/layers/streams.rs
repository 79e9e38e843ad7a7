//! Layers that are mounted before they are whole on this node (promise P33): docs/lazy-layers.md.
//!
//! Owns which layers stream, and the number by which the kernel knows each. [`layer`] answers the reads of one layer,
//! [`offer`] decides when a layer is offered, [`rest`] brings the rest, and [`serve`] has the connection to the kernel.

mod layer;
mod learn;
mod learning;
mod means;
mod offer;
mod order;
mod rest;
mod serve;

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_shared::{Digest, name::ImageName};
use tokio::sync::{Semaphore, watch};

use self::{layer::Layer, means::Means};
use crate::{
    flat::{Entry, Files, Unread},
    pull::{Caller, Pull},
    store::{Needed, Ready},
};

/// Spans that are decoded at the same time. Each takes some MiB of memory.
const DECODING: usize = 4;

/// The layers that stream.
pub struct Streams {
    means: Arc<Means>,
    layers: Mutex<HashMap<u64, Known>>,
    /// Where the runtime sees the files. `None` while they cannot be served.
    mounted: watch::Sender<Option<PathBuf>>,
    /// Images whose rest is being fetched, each with the latest caller that asked for it.
    coming: Mutex<Vec<(ImageName, Caller)>>,
}

/// How long a layer may be in the table without a file: it is added a moment before its link is in the directory.
const YOUNG: Duration = Duration::from_mins(1);

/// The file behind a number.
enum Known {
    /// A layer that is not whole here, since when, and the record that its index is needed.
    Streams(
        Arc<Layer>,
        Instant,
        #[expect(dead_code, reason = "it acts when it is dropped")] Needed,
    ),
    /// A layer that an earlier process streamed and that is whole now: diffID, length and handle of its ready file.
    Whole(Digest, u64, Arc<File>),
}

impl Known {
    fn diff_id(&self) -> Digest {
        match self {
            Self::Streams(layer, ..) => layer.diff_id,
            Self::Whole(diff_id, ..) => *diff_id,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Streams(layer, ..) => layer.length(),
            Self::Whole(_, bytes, _) => *bytes,
        }
    }
}

impl Streams {
    pub fn new(pull: Arc<Pull>) -> Arc<Self> {
        Arc::new(Self {
            means: Arc::new(Means {
                pull,
                decoding: Semaphore::new(DECODING),
                waiting: AtomicU64::new(0),
                wanted: Mutex::new(Instant::now()),
            }),
            layers: Mutex::default(),
            mounted: watch::Sender::new(None),
            coming: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> Option<&Ready> {
        self.means.pull.store.ready()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether reads of a layer can be answered.
    fn serves(&self, diff_id: &Digest) -> bool {
        let known = self.lock();
        let known = known.get(&node_of(diff_id));
        known.is_some_and(|known| known.diff_id() == *diff_id)
    }

    /// The layer with this diffID, if it streams or did so in this process.
    fn of(&self, diff_id: &Digest) -> Option<Arc<Layer>> {
        match self.lock().get(&node_of(diff_id)) {
            Some(Known::Streams(layer, ..)) if layer.diff_id == *diff_id => Some(Arc::clone(layer)),
            _ => None,
        }
    }

    /// Every layer that streams or did so in this process.
    fn all(&self) -> Vec<Arc<Layer>> {
        let known = self.lock();
        let layers = known.values().filter_map(|known| match known {
            Known::Streams(layer, ..) => Some(Arc::clone(layer)),
            Known::Whole(..) => None,
        });
        layers.collect()
    }

    /// The ready file of a layer was made. Containers that have the layer mounted read the file from now on (blocking).
    pub fn become_whole(&self, diff_id: &Digest, file: File) -> io::Result<()> {
        let Some(layer) = self.of(diff_id) else {
            return self.take_whole(diff_id, file);
        };
        if layer.become_whole(file)? {
            tracing::info!(image = %layer.image, blob.digest = %layer.digest, "a layer that was mounted before it was here is whole");
        }
        Ok(())
    }

    /// Takes the ready file of a layer that this process has not streamed. Containers that have the layer mounted read
    /// the file, if its tree is the one by which they mounted it (blocking).
    fn take_whole(&self, diff_id: &Digest, file: File) -> io::Result<()> {
        let known = self.ready().and_then(|ready| ready.file(diff_id));
        let Some(tree) = known.and_then(|known| known.origin?.mounted) else {
            return Ok(());
        };
        if !tree.begins(&file)? {
            tracing::error!(layer.diff_id = %diff_id, "a layer was mounted by a wrong index: containers that have it mounted get errors; delete their pods, new ones get the layer as it is");
            return Ok(());
        }
        let known = Known::Whole(*diff_id, file.metadata()?.len(), Arc::new(file));
        self.lock().entry(node_of(diff_id)).or_insert(known);
        Ok(())
    }

    /// Stops all reads by an index that a whole layer has disproved.
    pub async fn heed(&self) {
        let indexes = self.means.pull.store.indexes();
        loop {
            let disproved = indexes.disproved.notified();
            let wrong = indexes.wrong();
            for layer in self.all() {
                if wrong.iter().any(|wrong| layer.is_by(wrong)) {
                    layer.disprove();
                }
            }
            disproved.await;
        }
    }

    /// Forgets layers that the runtime cannot find any more, and counts the rest.
    pub fn tend(&self) {
        let Some(ready) = self.ready() else { return };
        let files = ready.files();
        let gone = |known: &Known| {
            let young = matches!(known, Known::Streams(_, since, _) if since.elapsed() < YOUNG);
            !young && !files.contains_key(&known.diff_id())
        };
        let dropped: Vec<Known> = {
            let mut known = self.lock();
            known
                .extract_if(|_, known| gone(known))
                .map(|(_, known)| known)
                .collect()
        };
        // Closing a large unlinked file waits for the disk.
        if !dropped.is_empty() {
            tokio::task::spawn_blocking(move || drop(dropped));
        }
        let layers = self.all().into_iter();
        let streaming = layers.filter(|layer| !layer.has_become_whole()).count();
        let metrics = &self.means.pull.metrics.layers;
        metrics.streaming.set(streaming as i64);
    }
}

/// The number by which the kernel knows a layer's file. It is computed from the diffID, so that it outlives the
/// process. FUSE gives 0 and 1 a meaning: no file, and the directory.
fn node_of(diff_id: &Digest) -> u64 {
    let hex = diff_id.hex();
    let first = hex.get(..16).unwrap_or_default();
    u64::from_str_radix(first, 16).unwrap_or(0) | 2
}

/// The name of a layer's file.
fn name_of(diff_id: &Digest) -> String {
    format!("{}.erofs", diff_id.hex())
}

impl Files for Streams {
    fn named(&self, name: &[u8]) -> Option<Entry> {
        let hex = name.strip_suffix(b".erofs")?;
        let hex = std::str::from_utf8(hex).ok()?;
        let diff_id = Digest::from_hex(larder_shared::Algorithm::Sha256, hex).ok()?;
        let node = node_of(&diff_id);
        let known = self.lock();
        let known = known.get(&node).filter(|known| known.diff_id() == diff_id);
        let bytes = known?.bytes();
        Some(Entry { node, bytes })
    }

    fn of(&self, node: u64) -> Option<Entry> {
        let bytes = self.lock().get(&node)?.bytes();
        Some(Entry { node, bytes })
    }

    async fn read(self: Arc<Self>, node: u64, range: Range<u64>) -> Result<Bytes, Unread> {
        let (streams, whole) = match self.lock().get(&node) {
            Some(Known::Streams(layer, ..)) => (Some(Arc::clone(layer)), None),
            Some(Known::Whole(.., file)) => (None, Some(Arc::clone(file))),
            None => return Err(Unread::Gone),
        };
        if let Some(layer) = streams {
            return layer.read(range).await.map_err(|_| Unread::Failed);
        }
        let file = whole.ok_or(Unread::Gone)?;
        means::read_file(&file, range).await.map_err(|error| {
            tracing::error!(%error, "a ready file could not be read that a container has mounted; look at the disk");
            Unread::Failed
        })
    }
}

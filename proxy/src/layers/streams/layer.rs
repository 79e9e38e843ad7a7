//! One layer that is mounted before it is here: brings the spans that are read, checks them and keeps them.
//!
//! ```text
//! span:  absent --- a read wants it: its range of the layer comes, decodes, has its sha256 ---> here
//!        absent --- nothing right comes within a minute ---> the read fails; the next one tries again
//! layer: streams --- its ready file is made, from the whole layer ---> whole: reads are the file's
//!        streams --- its index is disproved ---> wrong: every read fails
//! ```
//!
//! Every read is answered with checked bytes, or fails. Decoded spans do not outlive the process: the node tier keeps
//! the layer's bytes, and the next process decodes them again.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::{Bytes, BytesMut};
use larder_layer::{Index, Span, SpanError, decode};
use larder_shared::{Digest, Range as Bounds, name::ImageName};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    learning::Learning,
    means::{Means, Waits, read_file},
    order::SpanAt,
};
use crate::{
    coalesce::Coalesce,
    metrics::LazyRead,
    pull::{Caller, NoSpan, SpanFrom},
    store::{Tree, WrongIndex},
    telemetry,
};

/// How long a read waits for its bytes. It fails late, because EROFS repeats a failed read page by page, and logs each.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Pauses between two attempts to bring a span.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The most callers on whose behalf a layer is fetched.
const CALLERS: usize = 4;

/// The bytes did not come in time, or no source had bytes with the right sha256.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Late;

/// What a layer is read from.
#[derive(Debug)]
struct Tar {
    file: Arc<File>,
    /// Offset of the tar in the file.
    at: u64,
    /// Whether the whole tar is there.
    whole: bool,
}

/// A layer that streams.
pub struct Layer {
    pub diff_id: Digest,
    pub digest: Digest,
    pub image: ImageName,
    callers: Mutex<Vec<Caller>>,
    /// Without its tree, which is in the file `tree`.
    index: Index,
    windows: Arc<File>,
    maker: String,
    /// Whether another member made the index.
    foreign: bool,
    tree: Arc<File>,
    /// The tree by which it is mounted.
    pub mounted: Tree,
    tar: ArcSwap<Tar>,
    /// Which spans are in the file of `tar`.
    here: Vec<AtomicBool>,
    here_bytes: AtomicU64,
    wrong: AtomicBool,
    learning: ArcSwapOption<(u16, Arc<Learning>)>,
    coming: Coalesce<usize, Option<Bytes>>,
    means: Arc<Means>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the layer {}", self.digest)
    }
}

/// The parts that a layer is made of.
#[derive(Debug)]
pub struct Parts {
    pub image: ImageName,
    pub caller: Caller,
    pub maker: String,
    /// Whether another member made the index.
    pub foreign: bool,
    /// The file of the index.
    pub windows: Arc<File>,
    /// Two unlinked files, for the tree and for the decoded spans.
    pub files: (File, File),
}

impl Layer {
    /// A layer of which nothing is here but its index (blocking).
    pub fn new(mut index: Index, parts: Parts, means: Arc<Means>) -> io::Result<Self> {
        let (tree, tar) = parts.files;
        let bytes = index.take_tree();
        tree.write_all_at(&bytes, 0)?;
        let here = index.spans().iter().map(|_| AtomicBool::new(false));
        Ok(Self {
            diff_id: index.diff_id(),
            digest: index.layer(),
            image: parts.image,
            callers: Mutex::new(vec![parts.caller]),
            windows: parts.windows,
            maker: parts.maker,
            foreign: parts.foreign,
            tree: Arc::new(tree),
            mounted: Tree::of(&bytes),
            tar: ArcSwap::from_pointee(Tar {
                file: Arc::new(tar),
                at: 0,
                whole: false,
            }),
            here: here.collect(),
            here_bytes: AtomicU64::new(0),
            wrong: AtomicBool::new(false),
            learning: ArcSwapOption::empty(),
            coming: Coalesce::default(),
            index,
            means,
        })
    }

    /// Bytes of the file that the runtime mounts.
    pub fn length(&self) -> u64 {
        self.mounted.bytes + self.index.tar_length()
    }

    /// Bytes of that file that are on this node's disk.
    pub fn here(&self) -> u64 {
        self.mounted.bytes + self.here_bytes.load(Ordering::Relaxed)
    }

    /// Counts the layer's bytes in the node tier.
    pub fn account(&self) {
        if let Some(ready) = self.means.pull.store.ready() {
            ready.has_grown(&self.diff_id, self.here(), self.length());
        }
    }

    pub fn spans(&self) -> usize {
        self.here.len()
    }

    /// Reads from now on come from the ready file of this very layer (blocking). `false` if the file's tree differs
    /// from the mounted one: then every read fails.
    pub fn become_whole(&self, file: File) -> io::Result<bool> {
        if file.metadata()?.len() != self.length() || !self.mounted.begins(&file)? {
            self.disprove();
            return Ok(false);
        }
        self.tar.store(Arc::new(Tar {
            file: Arc::new(file),
            at: self.mounted.bytes,
            whole: true,
        }));
        Ok(true)
    }

    pub fn has_become_whole(&self) -> bool {
        self.tar.load().whole
    }

    /// Whether the layer is read by an index that was disproved.
    pub fn is_by(&self, wrong: &WrongIndex) -> bool {
        self.foreign && wrong.layer == self.digest && wrong.maker == self.maker
    }

    /// The whole layer contradicts the index: every read by that index fails from now on.
    pub fn disprove(&self) {
        if !self.wrong.swap(true, Ordering::Relaxed) {
            tracing::error!(image = %self.image, blob.digest = %self.digest, maker = self.maker, "the index by which a layer is mounted was wrong: containers that have it mounted get errors from now on; delete their pods, new ones get the layer as it is");
        }
    }

    /// Adds a caller on whose behalf the layer may be fetched. The latest is asked for first.
    pub fn fetch_for(&self, caller: Caller) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.retain(|one| one.identity.fingerprint() != caller.identity.fingerprint());
        callers.insert(0, caller);
        callers.truncate(CALLERS);
    }

    /// Counts reads from now on as part of the start of an image, in which the layer has this place.
    pub fn learn(&self, place: u16, learning: Arc<Learning>) {
        self.learning.store(Some(Arc::new((place, learning))));
    }

    /// The bytes of a range of the file.
    pub async fn read(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, Late> {
        let mut waited = false;
        let read = self.read_noting(range, &mut waited).await;
        let metrics = &self.means.pull.metrics.layers;
        metrics.read(match (&read, waited) {
            (Ok(_), false) => LazyRead::Here,
            (Ok(_), true) => LazyRead::Waited,
            (Err(_), _) => LazyRead::Failed,
        });
        read
    }

    async fn read_noting(
        self: &Arc<Self>,
        range: Range<u64>,
        waited: &mut bool,
    ) -> Result<Bytes, Late> {
        if self.wrong.load(Ordering::Relaxed) {
            return Err(Late);
        }
        let until = Instant::now() + PATIENCE;
        let range = range.start..range.end.min(self.length());
        let tree = range.start..range.end.min(self.mounted.bytes);
        if tree.end == range.end {
            return self.read_file(&self.tree, tree).await;
        }
        let tar = range.start.max(self.mounted.bytes) - self.mounted.bytes
            ..range.end - self.mounted.bytes;
        if tree.is_empty() {
            return self.read_tar(tar, until, waited).await;
        }
        let mut bytes = BytesMut::from(&self.read_file(&self.tree, tree).await?[..]);
        bytes.extend_from_slice(&self.read_tar(tar, until, waited).await?);
        Ok(bytes.freeze())
    }

    /// Bytes of a range of the tar, in one span or several.
    async fn read_tar(
        self: &Arc<Self>,
        range: Range<u64>,
        until: Instant,
        waited: &mut bool,
    ) -> Result<Bytes, Late> {
        let mut bytes = BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            if self.wrong.load(Ordering::Relaxed) {
                return Err(Late);
            }
            let tar = self.tar.load_full();
            let (piece, end) = if tar.whole {
                let place = tar.at + at..tar.at + range.end;
                (self.read_file(&tar.file, place).await?, range.end)
            } else {
                let number = self.index.span_of(at).ok_or(Late)?;
                let span = self.index.spans()[number];
                if let Some(learning) = &*self.learning.load() {
                    let (layer, learning) = &**learning;
                    learning.note(SpanAt {
                        layer: *layer,
                        span: number as u32,
                    });
                }
                let end = range
                    .end
                    .min(span.tar_at + u64::from(span.tar_length as u32));
                let piece = match self.bring(number, until).await? {
                    Some(decoded) => {
                        *waited = true;
                        let from = (at - span.tar_at) as usize;
                        decoded.slice(from..from + (end - at) as usize)
                    }
                    None => self.read_file(&tar.file, tar.at + at..tar.at + end).await?,
                };
                (piece, end)
            };
            if bytes.is_empty() && end == range.end {
                return Ok(piece);
            }
            bytes.extend_from_slice(&piece);
            at = end;
        }
        Ok(bytes.freeze())
    }

    async fn read_file(&self, file: &Arc<File>, range: Range<u64>) -> Result<Bytes, Late> {
        read_file(file, range).await.map_err(|error| {
            self.say(&format!("its file could not be read: {error}"));
            Late
        })
    }

    /// Waits until a span is here, for a read. Returns its bytes if they have just come, or the disk did not take them.
    async fn bring(self: &Arc<Self>, number: usize, until: Instant) -> Result<Option<Bytes>, Late> {
        if self.here[number].load(Ordering::Acquire) {
            return Ok(None);
        }
        let _waits = Waits::new(&self.means);
        self.bring_ahead(number, until).await
    }

    /// The same, before a read needs the span.
    pub async fn bring_ahead(
        self: &Arc<Self>,
        number: usize,
        until: Instant,
    ) -> Result<Option<Bytes>, Late> {
        loop {
            if self.here[number].load(Ordering::Acquire) {
                return Ok(None);
            }
            if self.wrong.load(Ordering::Relaxed) {
                return Err(Late);
            }
            let layer = Arc::clone(self);
            let coming = self
                .coming
                .run(number, async move { layer.fetch(number).await });
            match timeout_at(until, coming).await {
                Ok(Some(Some(bytes))) => return Ok(Some(bytes)),
                Ok(_) if Instant::now() + PAUSE < until => sleep(PAUSE).await,
                _ => return Err(Late),
            }
        }
    }

    /// Brings one span for all reads that wait for it, no longer than a read waits. `None` if no right bytes came.
    async fn fetch(self: Arc<Self>, number: usize) -> Option<Bytes> {
        let until = Instant::now() + PATIENCE;
        self.means.note_wanted();
        let (mut pause, mut from) = (PAUSE, SpanFrom::Anywhere);
        loop {
            if self.wrong.load(Ordering::Relaxed) {
                return None;
            }
            match timeout_at(until, self.fetch_once(number, from)).await {
                Ok(Ok(bytes)) => return Some(bytes),
                Ok(Err(error)) => {
                    // The bytes of a layer that is not whole are not verified, on this node or on another. So the
                    // registry is asked next.
                    from = match (&error, from) {
                        (NoBytes::Span { .. }, SpanFrom::Anywhere) => SpanFrom::Registry,
                        _ => SpanFrom::Anywhere,
                    };
                    self.say(&error.to_string());
                }
                Err(_) => {
                    self.say("its bytes do not come");
                    return None;
                }
            }
            if Instant::now() + pause > until {
                return None;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn fetch_once(self: &Arc<Self>, number: usize, from: SpanFrom) -> Result<Bytes, NoBytes> {
        let span = self.index.spans()[number];
        let range = Bounds::new(span.layer_at, span.layer_at + span.layer_length);
        let callers = {
            let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
            callers.clone()
        };
        let pull = &self.means.pull;
        let bytes = pull
            .span(&self.image, &self.digest, range, from, &callers)
            .await?;
        let _turn = self.means.decoding.acquire().await;
        let layer = Arc::clone(self);
        let decoding = tokio::task::spawn_blocking(move || layer.decode(number, &span, &bytes));
        decoding.await.unwrap_or(Err(NoBytes::Panic))
    }

    /// Decodes a span and keeps it (blocking).
    fn decode(&self, number: usize, span: &Span, bytes: &[u8]) -> Result<Bytes, NoBytes> {
        let mut window = vec![0; span.window_length as usize];
        self.windows
            .read_exact_at(&mut window, span.window_at)
            .map_err(NoBytes::Index)?;
        let decoded = decode(span, &window, bytes).map_err(|error| NoBytes::Span {
            error,
            maker: self.maker.clone(),
        })?;
        let tar = self.tar.load_full();
        if !tar.whole && tar.file.write_all_at(&decoded, span.tar_at).is_ok() {
            // Readers may use the file only now. If the disk refuses the bytes, waiting reads get them from memory.
            if !self.here[number].swap(true, Ordering::Release) {
                let length = decoded.len() as u64;
                self.here_bytes.fetch_add(length, Ordering::Relaxed);
                self.account();
            }
        }
        Ok(decoded.into())
    }

    fn say(&self, error: &str) {
        if let Some(due) = telemetry::due("streaming", &self.digest.to_string()) {
            tracing::warn!(image = %self.image, blob.digest = %self.digest, error, unsaid = due.unsaid, "a mounted layer waits for bytes, and containers that read it wait too; look at its registry and at other members");
        }
    }
}

/// Why a span is not here after an attempt.
#[derive(Debug, thiserror::Error)]
enum NoBytes {
    #[error(transparent)]
    Pull(#[from] NoSpan),
    #[error("{error}; its index is by {maker}")]
    Span { error: SpanError, maker: String },
    #[error("its index could not be read: {0}")]
    Index(io::Error),
    #[error("decoding it panicked")]
    Panic,
}

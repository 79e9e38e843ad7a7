//! Fills: at most one download per digest and node, however many clients want it.
//!
//! A fill is one task that brings a blob into a [`Partial`] by a few streams, and any number of [`Reader`]s that follow
//! the growing file, each at its own pace. Readers say what they want; the task fetches what is missing of it, most
//! urgent first ([`plan`]), from the sources that the readers brought along, and outlives them when the blob is wanted
//! as a whole.
//!
//! ```text
//!             join                size known             all present, digest right
//!   (none) ──────────▶ Starting ─────────────▶ Filling ─────────────────────────────▶ Verified ─▶ committed
//!                         │                       │ digest wrong, sources exhausted, disk failed
//!                         └───────────────────────┴────────────────────────────────▶ Failed
//! ```
//!
//! A fill that was verified or has failed leaves the list, so the next request meets the store or a new fill. Every
//! reader learns of a failure: a body that failed never looks complete. [`crate::store`] owns the bytes on disk, and
//! [`crate::upstream`] the registries' answers. The right to read is decided before a reader joins.

mod disk;
mod fetch;
mod list;
mod opened;
mod pace;
mod patience;
mod plan;
mod ramp;
mod reader;
mod running;
mod sources;
mod start;
mod streams;
mod suspects;
mod task;
mod through;
mod wants;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_shared::{Digest, Range, RegistryName, Repository, Spans};
use lru::LruCache;
use tokio::sync::{Notify, OnceCell, Semaphore};

use crate::{
    access::Access,
    cluster::{Cluster, peers::Flow},
    config::Config,
    identity::Identity,
    metrics::Metrics,
    store::{Partial, Store},
    trace::Trace,
    upstream::{Failure, Upstreams},
};
pub use list::FillView;
use plan::DEPTH;
pub use reader::{Chunk, Reader, SMALL_WITHIN};
use suspects::Suspects;
use through::Before;
pub use through::{Passage, Small, Through};
use wants::{Interest, Wants};

/// The last bytes of a complete answer are held back until the digest is known to match (promise P9). Blobs of up to
/// this size are verified before their first byte leaves (promise P4).
pub const HELD_BACK: u64 = 64 << 10;

/// Where a reader gets its bytes: a repository that it may read.
#[derive(Clone, Debug)]
pub struct Source {
    pub registry: RegistryName,
    pub repository: Repository,
    /// The caller that asks there for the blob.
    pub identity: Identity,
    /// The request for which the source is asked. It does not count when sources are compared.
    pub trace: Trace,
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        (&self.registry, &self.repository, &self.identity)
            == (&other.registry, &other.repository, &other.identity)
    }
}

impl Eq for Source {}

/// Why a fill ended without its blob.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    /// What the registry of this reader's own source said.
    #[error("{0}")]
    Upstream(Failure),
    /// The source stopped in the middle and did not come back.
    #[error("the source broke off and did not come back: {0}")]
    Broken(String),
    #[error("the bytes that came do not have the digest")]
    Digest,
    /// The store cannot take the blob.
    #[error("the store failed: {0}")]
    Disk(String),
}

#[derive(Clone, Debug)]
enum Phase {
    Starting,
    Filling,
    Verified,
    Failed(FillError),
}

impl Phase {
    /// Why the fill failed, if it did.
    fn failure(&self) -> Option<FillError> {
        match self {
            Self::Failed(error) => Some(error.clone()),
            Self::Starting | Self::Filling | Self::Verified => None,
        }
    }
}

/// What a caller has a right to before it joins (promise P16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// No right is known: the caller's own source must answer first.
    None,
    /// The repository, and so the bytes of the caller's own source, not those of other sources.
    Repository,
    /// Another member answers for its reader's right to the repository: any bytes that came through that repository
    /// will do.
    Member,
    /// This very digest, which the caller's repository holds.
    Digest,
}

/// How a reader wants its bytes to be fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manner {
    /// How many members may stand between the reader and the source.
    pub depth: u8,
    /// Exactly these bytes: the reader has no use for those around them.
    pub exact: bool,
}

impl Manner {
    /// The manner of a client of this node.
    pub const CLIENT: Self = Self {
        depth: DEPTH,
        exact: false,
    };
    /// The manner of a read of a mounted layer, which waits for one span of the layer.
    pub const SPAN: Self = Self {
        depth: DEPTH,
        exact: true,
    };

    /// The manner of another member, which has rounded its range already.
    pub const fn member(depth: u8) -> Self {
        Self { depth, exact: true }
    }
}

/// How joining ended.
#[derive(Debug)]
pub enum Joined {
    /// The caller reads this fill.
    Reader(Box<Reader>),
    /// Other callers' sources brought bytes: this caller has to show a right to the digest itself.
    Claimed,
    /// The blob was committed after the request had looked for it in the store.
    Here,
    /// The fill belongs to another registry. Its bytes are not for this registry's clients, since their own registry
    /// has not said that they may have them.
    OtherRegistry,
}

/// One reader, as the fill sees it.
#[derive(Debug)]
struct ReaderEntry {
    wants: Wants,
    source: Source,
    right: Right,
    manner: Manner,
    /// What was on this node before the reader joined.
    here: Spans,
    waker: Option<Waker>,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; the phase is an enum"
)]
struct State {
    phase: Phase,
    /// Bytes of the blob, once a source has said.
    size: Option<u64>,
    partial: Option<Arc<Partial>>,
    /// Bytes of the first stream that are not written yet, and where they begin.
    fresh: Option<(u64, Bytes)>,
    readers: HashMap<u64, ReaderEntry>,
    next_reader: u64,
    sources: Vec<Source>,
    /// Failures that belong to one source, not to the digest.
    refusals: Vec<(Source, Failure)>,
    /// A reader asked for the whole blob, so the fill completes it even if that reader leaves.
    whole: bool,
    /// A source has answered since the last failure.
    answered: bool,
    /// The sources whose origin has answered for the digest: their repositories hold it once it is verified.
    served: Vec<Source>,
    /// The sources for which another member or the object store answers: their repositories hold it as well, but such
    /// an answer says nothing about the caller.
    vouched: Vec<Source>,
    /// The sources whose bytes came from a mirror.
    mirrored: Vec<Source>,
    /// A reader has its headers: this file can no longer be taken back.
    opened: bool,
    /// An earlier fill, perhaps of an earlier process, brought some of the bytes for a caller that is not known any
    /// more.
    resumed: bool,
    /// The first bytes came from another member.
    by_member: bool,
    /// The object store has brought some of the bytes.
    by_object: bool,
    /// The bytes are known not to have the digest: no reader is given any more of them.
    wrong: bool,
}

impl State {
    /// Whether a reader of `source` without a right to the digest itself may have the bytes of this fill. It may if its
    /// own source brings them. With a right to the repository, it also may if they are proven to have come through it.
    fn brings_for(&self, source: &Source, right: Right) -> bool {
        let first = self.sources.first();
        if !self.resumed && right == Right::Member {
            return first.is_some_and(|first| first.repository == source.repository);
        }
        if !self.resumed {
            return first == Some(source);
        }
        let came = |partial: &Arc<Partial>| partial.proven_in().contains(&source.repository);
        matches!(right, Right::Repository | Right::Member)
            && self.partial.as_ref().is_some_and(came)
    }

    /// The repositories that hold the digest, once it is verified. A mirror's bytes count only where all sources have
    /// the same repository: then all bytes came through it.
    fn holders(&self) -> Vec<Source> {
        let mut holders = self.served.clone();
        holders.extend(self.vouched.iter().cloned());
        if let Some(first) = self.mirrored.first() {
            let same = |source: &Source| source.repository == first.repository;
            if !self.resumed && self.sources.iter().all(same) {
                holders.push(first.clone());
            }
        }
        holders
    }
}

/// All fills of this node.
#[derive(Debug)]
pub struct Fills {
    store: Arc<Store>,
    upstreams: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    access: Arc<Access>,
    config: Arc<ArcSwap<Config>>,
    cluster: Arc<Cluster>,
    suspects: Suspects,
    /// The lengths of blobs as manifests list them. A member's answer is compared with them.
    listed: Mutex<LruCache<Digest, u64>>,
    running: Mutex<HashMap<Digest, Arc<Fill>>>,
    /// Rings when something was added to the store.
    pub grown: Notify,
    /// Streams besides the first of each fill, for the whole node.
    extra_streams: Arc<Semaphore>,
    more_pieces: fetch::SharedPieces,
}

/// One digest on its way in.
#[derive(Debug)]
struct Fill {
    /// Notes what comes from upstream and the object store, for members that wait for it.
    flow: Arc<Flow>,
    more_pieces: fetch::SharedPieces,
    digest: Digest,
    /// The registry of all its sources.
    registry: RegistryName,
    upstreams: Arc<Upstreams>,
    state: Mutex<State>,
    /// Wakes the task: a reader came, left, or moved on.
    demand: Notify,
    /// Members that are not asked again for a run.
    failed: Mutex<HashSet<(u64, SocketAddr)>>,
    /// The members that hold the blob as its keepers say, once the keepers were asked.
    hinted: OnceCell<Vec<SocketAddr>>,
    /// The members that hold it, once all were asked.
    found: OnceCell<Vec<SocketAddr>>,
    /// The source for whose repository the object store has the blob, and the blob's length.
    durable: OnceCell<Option<(Source, u64)>>,
    /// The object store has failed this fill, and is not asked again.
    object_failed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fill {
    fn new(
        digest: Digest,
        registry: RegistryName,
        upstreams: Arc<Upstreams>,
        flow: Arc<Flow>,
        more_pieces: fetch::SharedPieces,
    ) -> Self {
        Self {
            flow,
            more_pieces,
            digest,
            registry,
            upstreams,
            state: Mutex::new(State {
                phase: Phase::Starting,
                size: None,
                partial: None,
                fresh: None,
                readers: HashMap::new(),
                next_reader: 0,
                sources: Vec::new(),
                refusals: Vec::new(),
                whole: false,
                answered: false,
                served: Vec::new(),
                vouched: Vec::new(),
                mirrored: Vec::new(),
                opened: false,
                resumed: false,
                by_member: false,
                by_object: false,
                wrong: false,
            }),
            demand: Notify::new(),
            failed: Mutex::default(),
            hinted: OnceCell::new(),
            found: OnceCell::new(),
            durable: OnceCell::new(),
            object_failed: AtomicBool::new(false),
        }
    }

    fn note_failed(&self, run: u64, member: SocketAddr) {
        lock(&self.failed).insert((run, member));
    }

    fn has_failed(&self, run: u64, member: SocketAddr) -> bool {
        let failed = lock(&self.failed);
        failed.contains(&(run, member)) || failed.contains(&(sources::ANY_RUN, member))
    }

    fn has_failed_object(&self) -> bool {
        self.object_failed.load(Ordering::Relaxed)
    }

    /// Whether a client of this node reads, and not members alone.
    fn is_read_here(&self) -> bool {
        let state = lock(&self.state);
        state
            .readers
            .values()
            .any(|entry| entry.manner.depth == plan::DEPTH)
    }

    /// How urgently the most eager reader needs bytes that have just come.
    fn interest(&self, came: Range) -> Interest {
        let state = lock(&self.state);
        let wants = state.readers.values().map(|entry| &entry.wants);
        let interests = wants.map(|wants| wants.interest(came));
        interests.max().unwrap_or(Interest::Ahead)
    }

    /// Something changed that readers may wait for.
    fn wake_readers(&self) {
        let wakers: Vec<Waker> = lock(&self.state)
            .readers
            .values_mut()
            .filter_map(|entry| entry.waker.take())
            .collect();
        for waker in wakers {
            waker.wake();
        }
    }

    fn set_phase(&self, phase: Phase) {
        lock(&self.state).phase = phase;
        self.wake_readers();
    }
}

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
//! Leaving `Verified` and `Failed` takes the fill off the list, so the next request meets the store or a new fill.
//! A failure is told to every reader; it is never the end of a body. The store's bytes are the store's business, the
//! registries' answers are [`crate::upstream`]'s, and who may read is decided before anybody joins.

mod fetch;
mod plan;
mod ramp;
mod reader;
mod sources;
mod start;
mod streams;
mod suspects;
mod task;
mod through;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_shared::{Digest, Range, RangeHeader, RegistryName, Repository};
use lru::LruCache;
use tokio::sync::{Notify, OnceCell, Semaphore};

use crate::{
    access::{Access, Place},
    cluster::{Cluster, durable::KeptLink},
    config::Config,
    events,
    identity::Identity,
    metrics::Metrics,
    store::{Blob, Partial, Store},
    trace::Trace,
    upstream::{Failure, Upstreams},
};
pub use plan::DEPTH;
pub use reader::{Chunk, Reader};
use through::Before;
pub use through::{Passage, Through};

/// The last bytes of a complete answer are held back until the digest is known to match (promise P9). Blobs of up to
/// this size are verified before their first byte leaves (promise P4).
pub const HELD_BACK: u64 = 64 << 10;

/// Streams besides the first of each fill that the node opens at once.
const EXTRA_STREAMS: usize = 64;

/// Blobs whose lengths are remembered from manifests.
const TOLD: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

/// Where the bytes can be had: a repository that the reader may read.
#[derive(Clone, Debug)]
pub struct Source {
    pub registry: RegistryName,
    pub repository: Repository,
    /// Who asks for it there.
    pub identity: Identity,
    /// For which request. Sources are the same whichever request they are for.
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
    /// The store cannot take it.
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

/// What a caller has a right to before it joins (promise P16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Nothing that is known: its own source must answer first.
    None,
    /// Its repository, and so whatever its own source brings. Not what others brought.
    Repository,
    /// Another member answers for its reader's right to the repository: whatever came through that repository will do.
    Member,
    /// This very digest, which its repository holds.
    Digest,
}

/// What came of joining.
#[derive(Debug)]
pub enum Joined {
    Seat(Reader),
    /// Bytes are here that others brought: a right to the digest itself must be shown.
    Claimed,
    /// Another registry's bytes are coming, and they are not for this one's clients: their registry has not said that
    /// they may have them.
    Elsewhere,
}

/// One reader, as the fill sees it.
#[derive(Debug)]
struct Seat {
    wants: Wants,
    source: Source,
    right: Right,
    /// How many members may stand between it and the source.
    depth: u8,
    waker: Option<Waker>,
}

/// What a reader wants next.
#[derive(Clone, Debug)]
enum Wants {
    /// The size is not known yet; bytes from here on, if that much can be told from the request.
    Opening {
        start: Option<u64>,
        end: Option<u64>,
        whole: bool,
    },
    /// Everything from here to the end, to be right as a whole.
    Whole { at: u64 },
    /// From here to the end, but perhaps the reader leaves early.
    Open { at: u64 },
    /// These parts and nothing else.
    Parts(Vec<Range>),
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; the phase is an enum"
)]
struct State {
    phase: Phase,
    /// Bytes of the blob, once a source has told.
    size: Option<u64>,
    partial: Option<Arc<Partial>>,
    /// What the first stream has brought and nobody has written yet: where it begins, and the bytes.
    fresh: Option<(u64, Bytes)>,
    seats: HashMap<u64, Seat>,
    next_seat: u64,
    sources: Vec<Source>,
    /// Failures that belong to one source, not to the digest.
    refusals: Vec<(Source, Failure)>,
    /// Somebody asked for the whole blob, so it is completed even if they leave.
    whole: bool,
    /// A source has answered since the last failure.
    answered: bool,
    /// The sources whose origin has answered for the digest: their repositories hold it once it is verified.
    served: Vec<Source>,
    /// The sources for which another member or the object store answers: their repositories hold it as well, but that says
    /// nothing about who asks.
    vouched: Vec<Source>,
    /// The sources that brought bytes by a mirror.
    mirrored: Vec<Source>,
    /// Some reader has its headers: the bytes of this file count.
    opened: bool,
    /// An earlier process brought some of the bytes, on whosever behalf.
    resumed: bool,
    /// The first bytes came from another member.
    by_member: bool,
    /// The object store has brought some of the bytes.
    by_object: bool,
}

impl State {
    /// Whether the bytes of this fill are for a reader of `source` who has no right to the digest itself: its own source
    /// brings them, or, for who may read the repository, they are proven to have come through it.
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

    /// The repositories that hold the digest, once it is verified. What a mirror brought counts where nobody else brought
    /// anything: then all of it came through that repository.
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

/// When this node last received something that came from no other member.
#[derive(Debug)]
struct Flow {
    start: Instant,
    /// Milliseconds after `start`, at least 1; 0 for never.
    at: AtomicU64,
}

impl Flow {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            at: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    fn note(&self) {
        self.at.store(self.now(), Ordering::Relaxed);
    }

    fn since(&self) -> Option<Duration> {
        let at = self.at.load(Ordering::Relaxed);
        (at > 0).then(|| Duration::from_millis(self.now().saturating_sub(at)))
    }
}

/// One digest on its way in.
#[derive(Debug)]
struct Fill {
    flow: Arc<Flow>,
    digest: Digest,
    /// Whose bytes these are: the registry of all its sources.
    registry: RegistryName,
    upstreams: Arc<Upstreams>,
    state: Mutex<State>,
    /// Wakes the task: a reader came, left, or moved on.
    demand: Notify,
    /// Members that are not asked again for a run.
    failed: Mutex<HashSet<(u64, SocketAddr)>>,
    /// Who is said to hold the blob, once somebody was asked.
    hinted: OnceCell<Vec<SocketAddr>>,
    /// Who holds it, once everybody was asked.
    found: OnceCell<Vec<SocketAddr>>,
    /// Whose it is in the object store, and how long.
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
    ) -> Self {
        Self {
            flow,
            digest,
            registry,
            upstreams,
            state: Mutex::new(State {
                phase: Phase::Starting,
                size: None,
                partial: None,
                fresh: None,
                seats: HashMap::new(),
                next_seat: 0,
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

    /// Whether somebody on this node reads, and not members alone.
    fn is_read_here(&self) -> bool {
        let state = lock(&self.state);
        state.seats.values().any(|seat| seat.depth == plan::DEPTH)
    }

    /// Something changed that readers may wait for.
    fn wake_readers(&self) {
        let wakers: Vec<Waker> = lock(&self.state)
            .seats
            .values_mut()
            .filter_map(|seat| seat.waker.take())
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

/// What a fill looks like from outside.
#[derive(Clone, Debug)]
pub struct FillView {
    pub digest: Digest,
    pub present: u64,
    pub size: Option<u64>,
    pub readers: usize,
    /// Where its first reader has it from.
    pub source: Option<Source>,
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
    suspects: suspects::Suspects,
    flow: Arc<Flow>,
    /// What manifests say of the lengths of blobs: another member's word is held against it.
    told: Mutex<LruCache<Digest, u64>>,
    running: Mutex<HashMap<Digest, Arc<Fill>>>,
    /// Rings when something was added to the store.
    pub grown: Notify,
    /// Streams besides the first of each fill, for the whole node.
    extra_streams: Arc<Semaphore>,
}

impl Fills {
    pub fn new(
        store: Arc<Store>,
        upstreams: Arc<Upstreams>,
        metrics: Arc<Metrics>,
        access: Arc<Access>,
        config: Arc<ArcSwap<Config>>,
        cluster: Arc<Cluster>,
    ) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            suspects: suspects::Suspects::default(),
            flow: Flow::new(),
            told: Mutex::new(LruCache::new(TOLD)),
            store,
            upstreams,
            metrics,
            access,
            config,
            running: Mutex::default(),
            grown: Notify::new(),
            extra_streams: Arc::new(Semaphore::new(EXTRA_STREAMS)),
        })
    }

    /// Joins the fill of `digest`, starting it when there is none. The caller has looked for the blob in the store.
    pub fn join(
        self: &Arc<Self>,
        digest: Digest,
        source: Source,
        range: &RangeHeader,
        right: Right,
        depth: u8,
    ) -> Joined {
        let mut fills = lock(&self.running);
        let (fill, started) = if let Some(fill) = fills.get(&digest) {
            if fill.registry != source.registry {
                return Joined::Elsewhere;
            }
            if right != Right::Digest && !lock(&fill.state).brings_for(&source, right) {
                return Joined::Claimed;
            }
            (Arc::clone(fill), false)
        } else {
            let rest = self.store.has_partial(&digest);
            if right != Right::Digest && rest {
                return Joined::Claimed;
            }
            let registry = source.registry.clone();
            let fill = Arc::new(Fill::new(
                digest,
                registry,
                Arc::clone(&self.upstreams),
                Arc::clone(&self.flow),
            ));
            lock(&fill.state).resumed = rest;
            fills.insert(digest, Arc::clone(&fill));
            (fill, true)
        };
        // Seated under the list's lock: a fill that is about to leave the list sees the new reader.
        let reader = Reader::sit(&fill, source, range, right, depth);
        drop(fills);
        if started {
            self.metrics.fills.started.inc();
            tokio::spawn(events::carried(task::run(Arc::clone(self), fill)));
        } else {
            self.metrics.fills.coalesced.inc();
            fill.demand.notify_one();
        }
        Joined::Seat(reader)
    }

    /// A source as a place with its record.
    fn place(&self, source: &Source) -> Place {
        Place {
            registry: source.registry.clone(),
            repository: source.repository.clone(),
            record: self
                .store
                .repositories()
                .get(&source.registry, &source.repository),
            identity: source.identity.clone(),
            trace: source.trace.clone(),
        }
    }

    /// Whether a digest is being filled: its partial is in use.
    pub fn is_active(&self, digest: &Digest) -> bool {
        lock(&self.running).contains_key(digest)
    }

    /// Tells how long a blob is that will be passed on and not kept.
    pub async fn passage(&self, digest: Digest, source: Source) -> Result<Passage, FillError> {
        Passage::find(Arc::clone(&self.upstreams), source, digest).await
    }

    /// The fills under way.
    pub fn list(&self) -> Vec<FillView> {
        let fills: Vec<Arc<Fill>> = lock(&self.running).values().cloned().collect();
        fills
            .iter()
            .map(|fill| {
                let state = lock(&fill.state);
                FillView {
                    digest: fill.digest,
                    present: state.partial.as_ref().map_or(0, |p| p.present().total()),
                    size: state.size,
                    readers: state.seats.len(),
                    source: state.sources.first().cloned(),
                }
            })
            .collect()
    }

    /// How long ago something came from elsewhere than another member.
    pub fn flowed(&self) -> Option<Duration> {
        self.flow.since()
    }

    /// A manifest says how long these blobs are.
    pub fn expect(&self, sizes: impl IntoIterator<Item = (Digest, u64)>) {
        let mut told = lock(&self.told);
        for (digest, size) in sizes {
            told.put(digest, size);
        }
    }

    /// How long a blob should be, if a manifest has said so.
    fn expected(&self, digest: &Digest) -> Option<u64> {
        lock(&self.told).peek(digest).copied()
    }

    /// Has a committed blob written behind, for each of these repositories.
    fn write_behind(&self, registry: &RegistryName, repositories: &[Repository], blob: &Blob) {
        let link = KeptLink {
            size: blob.size(),
            media_type: None,
        };
        for repository in repositories {
            self.cluster
                .write_behind(registry, repository, *blob.digest(), &link, blob.handle());
        }
    }

    /// Tells those members who keep such knowledge that this node holds a digest.
    pub fn announce(&self, digest: Digest) {
        if self.cluster.has_others() {
            let cluster = Arc::clone(&self.cluster);
            tokio::spawn(async move { cluster.announce(&digest).await });
        }
    }

    /// A blob is right: whoever brought wrong bytes of it before is named (blocking).
    fn name_liars(&self, right: &Blob) {
        match self.suspects.name(right) {
            Ok(liars) => {
                for member in liars {
                    tracing::warn!(%member, blob.digest = %right.digest(), "distrust: a member gave wrong bytes and is not asked for a while; look at its disk and memory, and run `larder verify` there");
                    self.cluster.members.distrust(member);
                    self.metrics.peers.distrusted.inc();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a wrong blob cannot be compared with the right one");
            }
        }
    }

    /// Writes down how far every fill is, for the next process (blocking).
    pub fn checkpoint(&self) {
        let fills: Vec<Arc<Fill>> = lock(&self.running).values().cloned().collect();
        for fill in fills {
            let partial = lock(&fill.state).partial.clone();
            if let Some(Err(error)) = partial.map(|partial| partial.checkpoint()) {
                tracing::warn!(blob.digest = %fill.digest, %error, "a partial was not written down and is fetched again; look at the store's disk");
            }
        }
    }

    /// Takes a fill off the list if it is still this one.
    fn unlist(&self, fill: &Arc<Fill>) {
        let mut fills = lock(&self.running);
        if fills
            .get(&fill.digest)
            .is_some_and(|listed| Arc::ptr_eq(listed, fill))
        {
            fills.remove(&fill.digest);
        }
    }

    /// Takes a fill off the list that nobody wants any more. `false` if somebody came in the meantime.
    fn retire(&self, fill: &Arc<Fill>) -> bool {
        let mut fills = lock(&self.running);
        let state = lock(&fill.state);
        if !state.seats.is_empty() || state.whole {
            return false;
        }
        drop(state);
        fills.remove(&fill.digest);
        true
    }
}

//! The list of fills: a digest is on it at most once, and readers join there.
//!
//! Owns the entries, and what all fills share. A fill's task decides what the fill does.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use larder_shared::{Digest, RangeHeader, RegistryName, Repository};
use lru::LruCache;
use tokio::sync::{Notify, Semaphore};

use super::{
    Fill, FillError, Fills, Joined, Manner, Passage, Reader, Right, Source, fetch::SharedPieces,
    lock, suspects, task,
};
use crate::{
    access::{Access, Place},
    cluster::Cluster,
    config::Config,
    events,
    metrics::Metrics,
    store::{Blob, Link, Store, sizes},
    upstream::{Subject, Upstreams, Want},
};

/// How many streams the node has open at once, not counting the first of each depth of a fill.
const EXTRA_STREAMS: usize = 64;

/// No blob is this long.
const FARTHEST: u64 = 1 << 48;

/// Manifests of a repository that are looked through for the length of a blob.
const LOOKED_THROUGH: usize = 64;

/// Blobs whose lengths are remembered from manifests.
const LISTED: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

/// What a fill looks like from outside.
#[derive(Clone, Debug)]
pub struct FillView {
    pub digest: Digest,
    pub present: u64,
    pub size: Option<u64>,
    pub readers: usize,
    /// The source of its first reader.
    pub source: Option<Source>,
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
            listed: Mutex::new(LruCache::new(LISTED)),
            store,
            upstreams,
            metrics,
            access,
            config,
            running: Mutex::default(),
            grown: Notify::new(),
            extra_streams: Arc::new(Semaphore::new(EXTRA_STREAMS)),
            more_pieces: SharedPieces::default(),
        })
    }

    /// Joins the fill of `digest`, and starts it where there is none. The request has already looked for the blob in
    /// the store. If the blob has come since, the answer is [`Joined::Here`], unless a fill is wanted `anyway`.
    pub fn join(
        self: &Arc<Self>,
        digest: Digest,
        source: Source,
        range: &RangeHeader,
        right: Right,
        manner: Manner,
        anyway: bool,
    ) -> Joined {
        let mut fills = lock(&self.running);
        let (fill, started) = if let Some(fill) = fills.get(&digest) {
            if fill.registry != source.registry {
                return Joined::OtherRegistry;
            }
            if right != Right::Digest && !lock(&fill.state).brings_for(&source, right) {
                return Joined::Claimed;
            }
            (Arc::clone(fill), false)
        } else {
            // The fill has left the list if its blob was committed since the request looked.
            if !anyway && self.store.has(&digest) {
                return Joined::Here;
            }
            let rest = self.store.has_partial(&digest);
            if right != Right::Digest && rest {
                return Joined::Claimed;
            }
            let registry = source.registry.clone();
            let fill = Arc::new(Fill::new(
                digest,
                registry,
                Arc::clone(&self.upstreams),
                Arc::clone(&self.cluster.peers.flow),
                self.more_pieces.clone(),
            ));
            lock(&fill.state).resumed = rest;
            fills.insert(digest, Arc::clone(&fill));
            (fill, true)
        };
        // The reader joins under the list's lock: a fill that is about to leave the list sees the new reader.
        let reader = Reader::join(&fill, source, range, right, manner);
        drop(fills);
        if started {
            self.metrics.fills.started.inc();
            tokio::spawn(events::carried(task::run(Arc::clone(self), fill)));
        } else {
            self.metrics.fills.coalesced.inc();
            fill.demand.notify_one();
        }
        Joined::Reader(Box::new(reader))
    }

    /// The place of a source, with its record, which the reader's request has read already.
    pub(super) fn place(&self, source: &Source) -> Place {
        Place {
            patience: None,
            registry: source.registry.clone(),
            repository: source.repository.clone(),
            record: self
                .store
                .repositories()
                .seen(&source.registry, &source.repository),
            identity: source.identity.clone(),
            trace: source.trace.clone(),
        }
    }

    /// Whether a digest is being filled: its partial is in use.
    pub fn is_active(&self, digest: &Digest) -> bool {
        lock(&self.running).contains_key(digest)
    }

    /// Whether anything is being filled.
    pub fn are_under_way(&self) -> bool {
        !lock(&self.running).is_empty()
    }

    /// Finds the length of a blob that will be passed on and not kept.
    pub async fn passage(&self, digest: Digest, source: Source) -> Result<Passage, FillError> {
        let listed = self.expected(&digest);
        Passage::find(Arc::clone(&self.upstreams), source, digest, listed).await
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
                    readers: state.readers.len(),
                    source: state.sources.first().cloned(),
                }
            })
            .collect()
    }

    /// Notes how long these blobs are, as a manifest says.
    pub fn expect(&self, sizes: impl IntoIterator<Item = (Digest, u64)>) {
        let mut listed = lock(&self.listed);
        for (digest, size) in sizes.into_iter().filter(|(_, size)| *size < FARTHEST) {
            listed.put(digest, size);
        }
    }

    /// How long a blob should be, if a manifest has said so.
    pub(super) fn expected(&self, digest: &Digest) -> Option<u64> {
        lock(&self.listed).peek(digest).copied()
    }

    /// The length of a blob whose source does not tell it: as a manifest lists it, or else as the registry answers a
    /// HEAD. The length gives no caller a right, and the digest decides whether it was true.
    pub async fn find_length(&self, place: &Place, digest: &Digest) -> Option<u64> {
        if let Some(size) = self.expected(digest) {
            return Some(size);
        }
        let (record, digest) = (Arc::clone(&place.record), *digest);
        let look = move |store: &Store| {
            let manifests = record.manifests().into_iter().take(LOOKED_THROUGH);
            let mut lists = manifests.filter_map(|manifest| store.read_unseen(&manifest));
            lists.find_map(|bytes| {
                let listed = sizes(&bytes)
                    .into_iter()
                    .find(|(named, _)| *named == digest);
                listed.map(|(_, size)| size)
            })
        };
        let (registry, repository) = (&place.registry, &place.repository);
        let what = format!("what manifests of {registry}/{repository} say of {digest}");
        let listed = self.store.ask(what, look).await.flatten();
        if let Some(size) = listed.filter(|size| *size < FARTHEST) {
            return Some(size);
        }
        let head = place.ask(Subject::Blob(digest), Want::Head);
        let answer = self.upstreams.ask(&head).await.ok()?;
        answer.whole_length()
    }

    /// Has a committed blob written behind to the object store, with a record for each of these repositories.
    pub(super) fn write_behind(
        &self,
        registry: &RegistryName,
        repositories: &[Repository],
        blob: &Blob,
    ) {
        let link = Link {
            digest: *blob.digest(),
            size: blob.size(),
            media_type: None,
        };
        for repository in repositories {
            self.cluster
                .write_behind(registry, repository, &link, blob.handle());
        }
    }

    /// Tells the digest's keepers that this node holds it.
    pub fn announce(&self, digest: Digest) {
        self.cluster.announce(digest);
    }

    /// Frees the room of wrong files that were kept for long enough (blocking).
    pub fn let_go_of_suspects(&self) {
        self.suspects.let_go(suspects::KEPT_FOR);
    }

    /// Names and distrusts the members that brought wrong bytes of a blob, now that the right ones are here (blocking).
    pub(super) fn name_corrupt_sources(&self, right: &Blob) {
        match self.suspects.name(right) {
            Ok(corrupt) => {
                for member in corrupt {
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
    pub(super) fn unlist(&self, fill: &Arc<Fill>) {
        let mut fills = lock(&self.running);
        if fills
            .get(&fill.digest)
            .is_some_and(|listed| Arc::ptr_eq(listed, fill))
        {
            fills.remove(&fill.digest);
        }
    }

    /// Takes a fill off the list that no reader wants any more. `false` if a reader came in the meantime.
    pub(super) fn retire(&self, fill: &Arc<Fill>) -> bool {
        let mut fills = lock(&self.running);
        let state = lock(&fill.state);
        if !state.readers.is_empty() || state.whole {
            return false;
        }
        drop(state);
        fills.remove(&fill.digest);
        true
    }
}

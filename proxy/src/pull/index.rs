//! Indexes of layers: which a caller gets, what another member is given, and how members believe each other.
//!
//! An index names the files of its layer. So it is given under exactly the right that the layer needs, to callers and to
//! members (promise P16), and what lacks the right gets the same answer as where there is none.

mod bring;

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    num::NonZeroUsize,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_layer::{Envelope, envelope::Proof};
use larder_shared::{Algorithm, Digest, Hasher, RegistryName, Repository};
use lru::LruCache;
use tokio::{sync::mpsc, time::timeout};

use super::Pull;
use crate::{
    access::Place,
    body::{Body, Content},
    fill::Right,
    store::{Made, OpenIndex, may_have_index},
    sys,
    upstream::Subject,
};

/// What a proof in an envelope is about, so that it proves nothing else. docs/index-format.md has it.
const KIND: &str = "index of a layer, 1";

/// Bytes that are read and sent at a time, and such pieces that wait for a member.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// Hints of either kind.
const HINTS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// That a repository holds a layer, by the word of the member that gave its index, is remembered for so long: the layer
/// itself comes meanwhile.
const VOUCHED: Duration = Duration::from_hours(1);

/// A failure to get an index. A member's says something of the repository that was named alone: to another one it may give it.
type Without = (Source, Digest);

/// Where an index may come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Source {
    Member(SocketAddr, RegistryName, Repository),
    ObjectStore,
}

impl Source {
    fn member(member: SocketAddr, place: &Place) -> Self {
        Self::Member(member, place.registry.clone(), place.repository.clone())
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(member, ..) => member.fmt(f),
            Self::ObjectStore => f.write_str("the object store"),
        }
    }
}

/// A layer by the name of a repository that may hold it.
type Named = (RegistryName, Repository, Digest);

fn named(place: &Place, layer: &Digest) -> Named {
    (place.registry.clone(), place.repository.clone(), *layer)
}

/// What is known of other members' indexes for a while.
#[derive(Debug)]
pub struct IndexHints {
    /// Sources that are not asked for an index before then.
    without: Mutex<LruCache<Without, Instant>>,
    /// Repositories that hold a layer by another member's word, or the object store's, and until when that counts.
    vouched: Mutex<LruCache<Named, Instant>>,
}

impl Default for IndexHints {
    fn default() -> Self {
        Self {
            without: Mutex::new(LruCache::new(HINTS)),
            vouched: Mutex::new(LruCache::new(HINTS)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl IndexHints {
    fn may_ask(&self, source: &Source, layer: &Digest) -> bool {
        let without = lock(&self.without);
        let until = without.peek(&(source.clone(), *layer));
        until.is_none_or(|until| *until <= Instant::now())
    }

    fn has_none(&self, source: Source, layer: &Digest, pause: Duration) {
        lock(&self.without).put((source, *layer), Instant::now() + pause);
    }

    fn vouch(&self, place: &Place, layer: &Digest) {
        lock(&self.vouched).put(named(place, layer), Instant::now() + VOUCHED);
    }

    fn is_vouched(&self, place: &Place, layer: &Digest) -> bool {
        let until = lock(&self.vouched).peek(&named(place, layer)).copied();
        until.is_some_and(|until| Instant::now() < until)
    }
}

impl Pull {
    /// The index of a layer of `layer_length` bytes, for a caller that may have the layer: from this node, from other
    /// members, from the object store. `None` if it is not to be had within `within`.
    pub async fn index(
        &self,
        place: &Place,
        layer: &Digest,
        layer_length: u64,
        within: Duration,
    ) -> Option<OpenIndex> {
        if !may_have_index(layer) || self.store.indexes().refused(layer).is_some() {
            return None;
        }
        let got = async {
            if self.right(place, layer).ok()? == Right::None {
                // In an outage, as for the layer, a right of not long ago will do.
                let subject = Subject::Blob(*layer);
                self.access.prove(place, subject).await.ok()?;
            }
            let linked = place.record.link(layer).is_some();
            let holds = linked || self.index_hints.is_vouched(place, layer);
            if holds && let Some(own) = self.own_index(layer).await {
                return Some(own);
            }
            // Without a key nothing is believed that comes from elsewhere.
            if !self.key.is_shared() {
                return None;
            }
            self.index_from_elsewhere(place, layer, layer_length, holds, within)
                .await
        };
        timeout(within, got).await.ok().flatten()
    }

    async fn own_index(&self, layer: &Digest) -> Option<OpenIndex> {
        self.store.indexes().has(layer)?;
        let layer = *layer;
        let open = self
            .store
            .survey(move |store| store.indexes().open(&layer))
            .await;
        open.flatten()
    }

    /// The index of a layer for another member, which answers for its reader's right to the repository: that the repository
    /// holds the layer has to be known here. Only one that was made here is given.
    pub async fn index_for_member(
        &self,
        registry: RegistryName,
        repository: Repository,
        layer: Digest,
    ) -> Option<Body> {
        let place = self.known_place(registry, repository).await.ok()?;
        place.record.link(&layer)?;
        let give = self.store.indexes().has(&layer) == Some(Made::Here);
        let given = self
            .store
            .survey(move |store| store.indexes().give(&layer))
            .await;
        let (file, mut envelope) = given.flatten().filter(|_| give)?;
        // The key may have changed since it was kept.
        envelope.proof = Some(self.sign_index(&envelope)?);
        Some(body(file, &envelope))
    }

    /// Has the index of a layer that was made here written to the object store, where members can believe it.
    pub async fn write_index_behind(&self, layer: Digest) {
        let Some(store) = self.cluster.store.clone() else {
            return;
        };
        if !self.key.is_shared() {
            return;
        }
        let look = move |own: &crate::store::Store| {
            let (file, envelope) = own.indexes().give(&layer)?;
            // One that was kept under another key is of no use there.
            envelope.proof?;
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let (mut piece, mut length) = (vec![0; PIECE], 0);
            let mut from = &file;
            std::io::Seek::rewind(&mut from).ok()?;
            loop {
                match from.read(&mut piece).ok()? {
                    0 => break,
                    read => {
                        hasher.update(&piece[..read]);
                        length += read as u64;
                    }
                }
            }
            Some((file, hasher.finish(), length))
        };
        let looked = self.store.survey(look).await.flatten();
        if let Some((file, digest, length)) = looked {
            store.write_index(layer, Arc::new(file), digest, length);
        }
    }

    /// The proof that a member of this cluster made an index. `None`: the cluster has no key.
    pub fn sign_index(&self, envelope: &Envelope) -> Option<Proof> {
        self.key.prove(KIND, &envelope.signed())
    }

    /// What this node calls itself as the maker of an index.
    pub fn index_maker(&self) -> String {
        let own = self.cluster.members.view().own_address();
        let own = own.map_or_else(|| "-".to_owned(), |own| own.to_string());
        format!("{own} {}", sys::net::own_name())
    }
}

/// An index, and behind it its envelope. What cannot be read ends it short, and no envelope fits then.
fn body(file: File, envelope: &Envelope) -> Body {
    let (send, pieces) = mpsc::channel(PIECES);
    let (length, end) = (
        envelope.index_length,
        Bytes::copy_from_slice(&envelope.bytes()),
    );
    tokio::spawn(async move {
        let file = Arc::new(file);
        let mut at = 0;
        while at < length {
            let take = (length - at).min(PIECE as u64) as usize;
            let from = Arc::clone(&file);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; take];
                from.read_exact_at(&mut piece, at).map(|()| piece)
            });
            let Ok(Ok(piece)) = read.await else { return };
            at += take as u64;
            if send.send(piece.into()).await.is_err() {
                return;
            }
        }
        let _ = send.send(end).await;
    });
    Body::new(Content::Produced(pieces), [])
}

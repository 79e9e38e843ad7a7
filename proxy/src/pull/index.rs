//! Indexes of layers: which index a caller gets, which one another member gets, and how members trust each other's
//! indexes.
//!
//! An index names the files of its layer. So callers and members need the same right as for the layer (promise P16).
//! Without that right, they get the same answer as if there were no index.

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

/// The subject of the proof in an envelope, so that the proof counts for nothing else (docs/index-format.md).
const KIND: &str = "index of a layer, 1";

/// Bytes that are read and sent at a time, and the number of such pieces that wait for a member.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// How many hints of each kind are remembered.
const HINTS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// A member that gives an index vouches that the repository holds the layer. Its word counts for so long; the layer
/// itself arrives meanwhile.
const VOUCHED: Duration = Duration::from_hours(1);

/// A source that failed to give an index. For a member, the failure counts only for the repository that was named: it
/// may give the same index for another one.
type Without = (Source, Digest);

/// A source of indexes.
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

/// A layer, and a repository that may hold it.
type Named = (RegistryName, Repository, Digest);

fn named(place: &Place, layer: &Digest) -> Named {
    (place.registry.clone(), place.repository.clone(), *layer)
}

/// Short-lived knowledge about the indexes of other members.
#[derive(Debug)]
pub struct IndexHints {
    /// When each of these sources may be asked for an index again.
    without: Mutex<LruCache<Without, Instant>>,
    /// Repositories that hold a layer by the word of a member or of the object store, and until when that word counts.
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
    /// members, or from the object store. `None` if no source gives it within `within`.
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
                // In an outage, a recent right is enough, as for the layer itself.
                let subject = Subject::Blob(*layer);
                self.access.prove(place, subject).await.ok()?;
            }
            let linked = place.record.link(layer).is_some();
            let holds = linked || self.index_hints.is_vouched(place, layer);
            if holds && let Some(own) = self.own_index(layer).await {
                return Some(own);
            }
            // Without a shared key, no index from elsewhere can be trusted.
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

    /// The index of a layer for another member, which has checked its reader's right to the repository. This node must
    /// know itself that the repository holds the layer. Only indexes that were made here are given.
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
        // The key may have changed since the index was kept.
        envelope.proof = Some(self.sign_index(&envelope)?);
        Some(body(file, &envelope))
    }

    /// Queues the index of a layer that was made here for the object store, where members can verify it.
    pub async fn write_index_behind(&self, layer: Digest) {
        let Some(store) = self.cluster.store.clone() else {
            return;
        };
        if !self.key.is_shared() {
            return;
        }
        let look = move |own: &crate::store::Store| {
            let (file, envelope) = own.indexes().give(&layer)?;
            // An index that was signed with another key would be useless there.
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

    /// The name of this node as the maker of an index.
    pub fn index_maker(&self) -> String {
        let own = self.cluster.members.view().own_address();
        let own = own.map_or_else(|| "-".to_owned(), |own| own.to_string());
        format!("{own} {}", sys::net::own_name())
    }
}

/// An index, followed by its envelope. If a read fails, the body ends short and the receiver finds no valid envelope.
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

//! The node tier: blobs on this node's disk, addressed by digest.
//!
//! Owns the layout on disk, the way of a blob from partial to committed, the index of what is here, and what is known
//! of repositories. Knows digests and bytes; HTTP, registries' answers and rights to read are others' business.

mod adopted;
mod blob;
mod bounds;
mod calls;
mod claim;
mod counts;
mod evicting;
mod file_state;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gone;
mod hanging;
mod in_use;
mod incoming;
mod index;
mod indexes;
mod journal;
mod keeping;
mod layout;
mod lists;
mod named;
mod orders;
mod partial;
mod pins;
mod reads;
mod ready;
mod repositories;
mod scan;
mod sums;
mod sweeping;
mod tenure;
mod warm;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
};

use bytes::Bytes;
use larder_shared::{Digest, Range, RegistryName, Repository};

pub use adopted::{AdoptedView, Looked, Sum};
pub use blob::Blob;
pub use bounds::{Around, Bounds};
pub use counts::Counts;
pub use evicting::{Evicted, Limits, Room};
pub use gone::Gone;
pub use hanging::{FLUSHED_WITHIN, HANGS, Hung, SLOWEST};
pub use in_use::InUse;
pub use incoming::Incoming;
pub use index::{Entry, Totals};
pub use indexes::{
    IndexTotals, Indexes, Made, Needed, NotKept, OpenIndex, Other, WrongIndex, may_have_index,
};
pub use journal::Journal;
pub use larder_shared::{Link, TagRecord};
pub use named::{Named, Names, Platform, sizes};
pub use partial::{Partial, Piece};
pub use ready::{
    Cause, Ground, Making, OfImage, Origin, Ready, ReadyFile, ReadyTotals, Tree, image_name,
    life::{Phase, Told},
};
pub use repositories::{HeldAs, Holding, Repositories, RepositoryRecord};
pub use sums::{Checked, Sums};
pub use tenure::Tenure;
pub use warm::{WarmHolds, WarmImage};

use crate::{
    clock::Clock,
    coalesce::Coalesce,
    sys::{Calls, Hangs, Turns, disk},
};

/// Blobs up to this size are answered from memory once they were read.
pub const SMALL: u64 = 256 << 10;

/// The node tier of one larder. Cheap to share; every method may be called from anywhere, those that block say so.
#[derive(Debug)]
pub struct Store {
    layout: Arc<layout::Layout>,
    index: Mutex<index::Index>,
    repositories: Repositories,
    pins: Mutex<HashSet<Digest>>,
    /// Held while a change of the pins is written down.
    pinning: Mutex<()>,
    /// Taken while a blob gets or loses its place in both index and directory: they must not disagree.
    places: Turns<Digest>,
    /// Damaged files that could not be taken away, because the disk takes no changes: they are not served.
    stuck: Mutex<HashMap<Digest, blob::Identity>>,
    in_use: Mutex<in_use::InUse>,
    /// What warm sets hold.
    warm: Mutex<warm::Held>,
    room: Mutex<evicting::Room>,
    trouble: Mutex<Option<keeping::Trouble>>,
    rotten: AtomicU64,
    /// What left the tier, for whoever tells other members.
    gone: gone::List,
    /// What lies on disk is listed in the index.
    scanned: AtomicBool,
    calls: Calls,
    surveys: Calls,
    hanging: hanging::Hanging,
    opening: Coalesce<(Digest, Option<u64>), Opened>,
    reading: Coalesce<Digest, Result<Option<Bytes>, Hangs>>,
    /// What the container runtime's content store holds.
    adopted: adopted::Adopted,
    /// Indexes of layers.
    indexes: Arc<indexes::Indexes>,
    /// Layers that the container runtime mounts; empty while none are offered.
    ready: OnceLock<ready::Ready>,
}

/// A blob that was opened, unless it is not here, or its disk hangs.
type Opened = Result<Option<Arc<Blob>>, Hangs>;

/// Why a store directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use the store directory {path}: {source}; choose another with --store DIR or [store] path"
)]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// A store that is not open yet.
    fn waiting(path: &Path) -> Self {
        let layout = Arc::new(layout::Layout::new(path.to_owned()));
        let calls = calls::of_requests();
        Self {
            index: Mutex::new(index::Index::default()),
            repositories: Repositories::new(Arc::clone(&layout), calls.clone()),
            calls,
            scanned: AtomicBool::new(false),
            surveys: calls::of_surveys(),
            hanging: hanging::Hanging::default(),
            opening: Coalesce::default(),
            reading: Coalesce::default(),
            pins: Mutex::default(),
            pinning: Mutex::default(),
            places: Turns::default(),
            stuck: Mutex::default(),
            in_use: Mutex::default(),
            warm: Mutex::default(),
            room: Mutex::default(),
            trouble: Mutex::default(),
            rotten: AtomicU64::new(0),
            adopted: adopted::Adopted::default(),
            indexes: Arc::new(indexes::Indexes::new(Arc::clone(&layout))),
            ready: OnceLock::new(),
            gone: gone::List::default(),
            layout,
        }
    }

    /// Where records are kept for other members.
    pub fn records(&self) -> PathBuf {
        self.layout.root().join("cluster")
    }

    /// Where grants are kept, and their key.
    pub fn grants(&self) -> (PathBuf, PathBuf) {
        (self.layout.grants(), self.layout.grants_key())
    }

    /// What ages are counted by.
    pub fn clock(&self) -> Clock {
        self.layout.clock()
    }

    /// When something was used, for people: by the node's own clock, as it goes now.
    pub fn used_at(&self, entry: &Entry) -> u64 {
        self.clock().by_wall(entry.used)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// What is known of each repository.
    pub fn repositories(&self) -> &Repositories {
        &self.repositories
    }

    /// Committed blobs and their bytes, as far as they are listed in the index.
    pub fn totals(&self) -> Totals {
        lock(&self.index).totals()
    }

    /// Room on the store's file system.
    pub fn space(&self) -> io::Result<disk::Space> {
        disk::space(self.layout.root())
    }

    /// A committed blob, open for reading. `size` is what its repository says it has: a file of another length, one
    /// that was removed, or one that could not be sent, is damaged and is taken out of the tier (blocking; see
    /// [`Self::find`]).
    pub fn blob(&self, digest: &Digest, size: Option<u64>) -> Option<Arc<Blob>> {
        if !self.is_held() {
            return None;
        }
        let open = lock(&self.index).open(digest);
        if let Some(blob) = open {
            if !blob.is_damaged() && blob.is_in_place() {
                return self.unless_late(blob);
            }
            if self.quarantine(&blob) {
                return None;
            }
            // Another file has its place by now, or none.
            lock(&self.index).close(&blob);
        }
        let stays = self.places.take(digest);
        let path = self.layout.blob(digest);
        let opened = disk::open_unseen(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((found, file)) => {
                let blob = Arc::new(Blob::new(*digest, found, file).ok()?);
                if size.is_none_or(|size| size == found) && !self.is_stuck(&blob) {
                    lock(&self.index).opened(&blob);
                    return Some(blob);
                }
                drop(stays);
                self.quarantine(&blob);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut index = lock(&self.index);
                if index.has(digest) {
                    index.remove(digest);
                    drop(index);
                    drop(stays);
                    self.note_rotten(digest);
                }
            }
            Err(_) => {}
        }
        None
    }

    /// A committed blob for a look that is no use: neither its time nor the list of open files changes (blocking).
    pub fn peek(&self, digest: &Digest) -> Option<Arc<Blob>> {
        if !self.is_held() {
            return None;
        }
        let file = disk::open_unseen(&self.layout.blob(digest)).ok()?;
        let size = file.metadata().ok()?.len();
        let blob = Blob::new(*digest, size, file).ok()?;
        (!self.is_stuck(&blob)).then(|| Arc::new(blob))
    }

    /// A small blob's bytes from memory, if they are there.
    pub fn small(&self, digest: &Digest) -> Option<Bytes> {
        lock(&self.index).small(digest)
    }

    /// The whole of a committed blob of at most `limit` bytes, in memory (blocking unless it is there already).
    pub fn read(&self, digest: &Digest, limit: u64) -> Option<Bytes> {
        if let Some(bytes) = self.small(digest) {
            return Some(bytes);
        }
        let blob = self.blob(digest, None)?;
        if blob.size() > limit {
            return None;
        }
        let bytes: Bytes = blob.read(Range::new(0, blob.size())).ok()?.into();
        // Manifests are read whole anyway: make sure of them, once, as they enter the memory.
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            self.quarantine(&blob);
            return None;
        }
        lock(&self.index).remember(*digest, &bytes);
        Some(bytes)
    }

    /// Keeps verified bytes in memory, for requests that come before [`Self::put`] is done.
    pub fn remember(&self, digest: &Digest, bytes: &Bytes) {
        if self.is_held() {
            lock(&self.index).remember(*digest, bytes);
        }
    }

    /// Keeps verified bytes: in memory now, on disk when this returns (blocking). While the store is another larder's,
    /// nothing is kept.
    pub fn put(&self, digest: &Digest, bytes: &Bytes) -> io::Result<()> {
        if !self.is_held() {
            return Ok(());
        }
        lock(&self.index).remember(*digest, bytes);
        // The runtime has it.
        if self.adopts(digest) {
            return Ok(());
        }
        let path = self.layout.blob(digest);
        if !path.exists() {
            let written = self.layout.write_new(&path, bytes);
            let written = written.or_else(|error| {
                // As in `begin`.
                if error.kind() == io::ErrorKind::NotFound {
                    self.layout.create()?;
                    return self.layout.write_new(&path, bytes);
                }
                Err(error)
            });
            self.noting(written)?;
            self.works();
        }
        let _stays = self.places.take(digest);
        if path.exists() {
            let used = self.layout.clock().now();
            lock(&self.index).found(*digest, bytes.len() as u64, used);
        }
        Ok(())
    }

    /// Begins to fill a blob of `size` bytes that come from `registry` (blocking).
    pub fn begin(&self, digest: Digest, size: u64, registry: &RegistryName) -> io::Result<Partial> {
        self.owned()?;
        let begun = Partial::create(&self.layout, digest, size, registry).or_else(|error| {
            // The directory may have vanished under a running larder: make it again, once.
            if error.kind() == io::ErrorKind::NotFound {
                self.layout.create()?;
                return Partial::create(&self.layout, digest, size, registry);
            }
            Err(error)
        });
        self.noting(begun)
    }

    /// Whether the partial on disk is proven to have come through this repository (blocking).
    pub fn partial_came_through(
        &self,
        digest: &Digest,
        registry: &RegistryName,
        repository: &Repository,
    ) -> bool {
        self.is_held() && partial::came_through(&self.layout, digest, registry, repository)
    }

    /// Bytes of the partial that an earlier fill from `registry` left (blocking).
    pub fn partial_present(&self, digest: &Digest, registry: &RegistryName) -> u64 {
        partial::present(&self.layout, digest, registry)
    }

    /// Whether a partial of this digest lies on disk, as far as is known without looking there.
    pub fn has_partial(&self, digest: &Digest) -> bool {
        self.is_held() && self.layout.left().contains(digest)
    }

    /// The partial that an earlier process left for `digest` from `registry`, if it can be used (blocking). Any other is
    /// swept away.
    pub fn resume(&self, digest: Digest, registry: &RegistryName) -> io::Result<Option<Partial>> {
        self.owned()?;
        self.noting(Partial::resume(&self.layout, digest, registry))
    }

    /// Commits a verified partial (blocking: waits for the disk).
    pub fn commit(&self, partial: &Partial) -> io::Result<()> {
        // After a write-back error the pages may be gone although the file looks whole: nothing of it can be trusted.
        let committed = (|| {
            partial.seal()?;
            if let Some(sums) = partial.take_sums() {
                self.keep_sums(partial.blob().digest(), partial.size(), &sums);
            }
            // Not under the lock: a rename may wait for the journal, and requests for the lock.
            partial.put_in_place()?;
            {
                let _stays = self.places.take(partial.blob().digest());
                let path = self.layout.blob(partial.blob().digest());
                if partial.blob().is_at(&path) {
                    lock(&self.index).opened(partial.blob());
                }
            }
            partial.settle()
        })();
        self.noting(committed.inspect_err(|_| {
            let _ = partial.discard();
        }))?;
        self.works();
        Ok(())
    }

    /// An error while the store is another larder's.
    fn owned(&self) -> io::Result<()> {
        if self.is_held() {
            return Ok(());
        }
        Err(io::Error::other("the store is another larder's"))
    }

    fn noting<T>(&self, done: io::Result<T>) -> io::Result<T> {
        // A file that was removed from outside says nothing about the disk.
        done.inspect_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                self.failed(error);
            }
        })
    }
}

#[cfg(test)]
mod tests;

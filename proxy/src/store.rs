//! The node tier: blobs on this node's disk, addressed by digest.
//!
//! Owns the layout on disk, a blob's way from partial to committed, the index of committed blobs, and the records of
//! repositories. It knows digests and bytes. HTTP, registries' answers and callers' rights belong to other modules.

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

/// A blob of at most this many bytes is answered from memory after its first read.
pub const SMALL: u64 = 256 << 10;

/// The node tier of one larder, shared by all its tasks. A method that waits for the disk says so: (blocking).
#[derive(Debug)]
pub struct Store {
    layout: Arc<layout::Layout>,
    index: Mutex<index::Index>,
    repositories: Repositories,
    pins: Mutex<HashSet<Digest>>,
    /// Held while a change of the pins is written down.
    pinning: Mutex<()>,
    /// Taken while a blob is added to or removed from both index and directory, so that the two agree.
    places: Turns<Digest>,
    /// Damaged files that could not be moved or removed, because the disk takes no changes. They are not served.
    stuck: Mutex<HashMap<Digest, blob::Identity>>,
    in_use: Mutex<in_use::InUse>,
    /// What warm sets hold.
    warm: Mutex<warm::Held>,
    room: Mutex<evicting::Room>,
    trouble: Mutex<Option<keeping::Trouble>>,
    rotten: AtomicU64,
    /// Blobs that left the tier, for the part of larder that tells other members.
    gone: gone::List,
    /// Whether the index lists everything that lies on disk.
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
    /// Ready files of layers, which the container runtime mounts. Empty while larder offers none.
    ready: OnceLock<ready::Ready>,
}

/// An open blob; `None` if it is not here, an error if its disk hangs.
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

    /// The directory of records that this larder keeps for other members.
    pub fn records(&self) -> PathBuf {
        self.layout.root().join("cluster")
    }

    /// The paths of the grants and of their key.
    pub fn grants(&self) -> (PathBuf, PathBuf) {
        (self.layout.grants(), self.layout.grants_key())
    }

    /// The clock by which the store counts ages.
    pub fn clock(&self) -> Clock {
        self.layout.clock()
    }

    /// When a blob was last used, by the node's clock as it goes now: for people.
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

    /// The number of committed blobs and their bytes, as far as the index lists them.
    pub fn totals(&self) -> Totals {
        lock(&self.index).totals()
    }

    /// Room on the store's file system (blocking).
    pub fn space(&self) -> io::Result<disk::Space> {
        disk::space(self.layout.root())
    }

    /// A committed blob, open for reading (blocking; see [`Self::find`]). `size` is the length that its repository
    /// states. A file of another length, a file that was removed and a file that could not be sent are damaged: they
    /// leave the tier.
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
            // By now another file is in its place, or none: look there again.
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

    /// A committed blob, for a look that does not count as a use: neither its last use nor the list of open files
    /// changes (blocking).
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
        // Manifests are read whole anyway, so larder verifies them once, when they enter the memory.
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

    /// Keeps verified bytes: in memory at once, on disk when this returns (blocking). Keeps nothing while another
    /// larder owns the store.
    pub fn put(&self, digest: &Digest, bytes: &Bytes) -> io::Result<()> {
        if !self.is_held() {
            return Ok(());
        }
        lock(&self.index).remember(*digest, bytes);
        // The container runtime's store has it already.
        if self.adopts(digest) {
            return Ok(());
        }
        let path = self.layout.blob(digest);
        if !path.exists() {
            let written = self.layout.write_new(&path, bytes);
            let written = written.or_else(|error| {
                // The directory may have vanished, as in `begin`.
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

    /// Whether a partial of this digest is known to lie on disk. Does not ask the disk.
    pub fn has_partial(&self, digest: &Digest) -> bool {
        self.is_held() && self.layout.left().contains(digest)
    }

    /// The partial that an earlier process left for `digest` from `registry`, if it can be used (blocking). Any other
    /// partial of the digest is removed.
    pub fn resume(&self, digest: Digest, registry: &RegistryName) -> io::Result<Option<Partial>> {
        self.owned()?;
        self.noting(Partial::resume(&self.layout, digest, registry))
    }

    /// Commits a verified partial (blocking: waits for the disk).
    pub fn commit(&self, partial: &Partial) -> io::Result<()> {
        // After a write-back error the pages may be gone although the file looks whole, so larder trusts none of it.
        let committed = (|| {
            partial.seal()?;
            if let Some(sums) = partial.take_sums() {
                self.keep_sums(partial.blob().digest(), partial.size(), &sums);
            }
            // Outside of the lock: the rename may wait for the file system's journal, and requests wait for the lock.
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

    /// An error while another larder owns the store.
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

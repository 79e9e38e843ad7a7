//! Blobs that left the node tier, for the part of larder that tells other members.

use std::{
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use larder_shared::Digest;

use super::{Store, lock, partial};

/// The most that are remembered. Other members stop believing the rest by themselves.
const REMEMBERED: usize = 10_000;

/// A blob that is here no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    pub digest: Digest,
    /// It was not used on any node for its TTL, so no copy has to take its place.
    pub expired: bool,
}

/// The list. It stays empty until it is read for the first time.
#[derive(Default, Debug)]
pub(super) struct List {
    wanted: AtomicBool,
    gone: Mutex<Vec<Gone>>,
}

impl List {
    pub(super) fn note(&self, gone: Gone) {
        if self.wanted.load(Ordering::Relaxed) {
            let mut list = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            if list.len() < REMEMBERED {
                list.push(gone);
            }
        }
    }

    /// The blobs that were noted since the last call. The first call begins the list.
    pub(super) fn take(&self) -> Vec<Gone> {
        self.wanted.store(true, Ordering::Relaxed);
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    /// Takes a blob out of the tier (blocking). Readers that have it open finish.
    pub fn remove(&self, digest: &Digest) {
        self.remove_as(digest, false);
    }

    /// As [`Self::remove`]. `expired`: the blob was not used on any node for its TTL.
    pub(super) fn remove_as(&self, digest: &Digest, expired: bool) {
        if !self.is_held() {
            return;
        }
        self.gone.note(Gone {
            digest: *digest,
            expired,
        });
        let path = self.layout.blob(digest);
        let aside = self.layout.new_tmp();
        {
            let _alone = self.places.take(digest);
            let mut index = lock(&self.index);
            if let Some(entry) = index.entry(digest) {
                // The runtime may have the blob, too. Its age does not depend on which copy was served.
                self.adopted.note_used(digest, entry.used);
            }
            index.remove(digest);
            drop(index);
            // The name goes at once, under the lock. Freeing the room of a large file takes longer.
            if fs::rename(&path, &aside).is_err() {
                let _ = partial::remove_if_there(&path);
            }
        }
        let _ = partial::remove_if_there(&aside);
        // The checksums and the index stay if the runtime has the same bytes.
        if !self.adopts(digest) {
            let _ = partial::remove_if_there(&self.layout.sums(digest));
            self.let_index_go(digest);
        }
    }

    /// The blobs that left since the last call, those of the runtime as well. The first call begins the list.
    pub fn take_gone(&self) -> Vec<Gone> {
        let mut gone = self.gone.take();
        gone.extend(self.adopted.take_gone());
        gone
    }
}

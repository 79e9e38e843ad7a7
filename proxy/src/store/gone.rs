//! What left the node tier, for the part of larder that tells other members.

use std::{
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use larder_shared::Digest;

use super::{Store, lock, partial};

/// So many are remembered. Other members stop believing the rest by themselves.
const REMEMBERED: usize = 10_000;

/// A blob that is here no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    pub digest: Digest,
    /// It was not used anywhere for its time: no copy is to take its place.
    pub expired: bool,
}

/// The list. Nothing is put on it unless somebody reads it.
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

    /// What was noted since the last call. The first call begins the list.
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

    /// The same. `expired`: it was not used anywhere for its time.
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
                // The runtime may have it, too: how old it is does not depend on which copy was served.
                self.adopted.note_used(digest, entry.used);
            }
            index.remove(digest);
            drop(index);
            // Its name goes at once; to free the room of a large file takes its time.
            if fs::rename(&path, &aside).is_err() {
                let _ = partial::remove_if_there(&path);
            }
        }
        let _ = partial::remove_if_there(&aside);
        // Checksums are of the bytes, wherever they lie.
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

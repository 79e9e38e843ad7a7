//! The records in memory: each is made when its repository is first asked for, and its log is read after that.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use larder_shared::{RegistryName, Repository};
use lru::LruCache;

use super::{RepositoryRecord, held::Held, lock, log::Writers};
use crate::{store::layout::Layout, sys::Calls};

/// All repositories, loaded when first asked for.
#[derive(Debug)]
pub struct Repositories {
    pub(super) layout: Arc<Layout>,
    pub(super) loaded: Mutex<LruCache<(RegistryName, Repository), Arc<RepositoryRecord>>>,
    pub(super) writers: Writers,
    pub(super) held: Arc<Held>,
    pub(super) calls: Calls,
}

/// Repositories held in memory at once. One that falls out is read again from its log.
pub(super) const LOADED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// When a record has to fall out, at most this many are passed over because their lines are not written yet, or their
/// log is being read.
const UNWRITTEN: usize = 256;

impl Repositories {
    pub(in crate::store) fn new(layout: Arc<Layout>, calls: Calls) -> Self {
        Self {
            layout,
            held: Arc::default(),
            calls,
            loaded: Mutex::new(LruCache::new(LOADED)),
            writers: Writers::default(),
        }
    }

    /// Adds what the logs say to the records that were made while another larder had the logs (blocking).
    pub(in crate::store) fn take_over(&self) {
        for record in self.all_loaded() {
            record.read();
        }
    }

    /// Writes what the disk has not taken so far (blocking).
    pub fn flush(&self) {
        for record in self.all_loaded() {
            // No request has read the log since the record was made: a fill goes on without it.
            if record.is_to_be_read() {
                record.read();
            }
            record.flush();
        }
    }

    pub(super) fn all_loaded(&self) -> Vec<Arc<RepositoryRecord>> {
        let loaded = lock(&self.loaded);
        loaded.iter().map(|(_, r)| Arc::clone(r)).collect()
    }

    /// The record of one repository, its log read (blocking).
    pub fn get(&self, registry: &RegistryName, repository: &Repository) -> Arc<RepositoryRecord> {
        let record = self.seen(registry, repository);
        record.read();
        record
    }

    /// As [`Self::get`], but without reading the log if it is not read yet: asks nothing of the disk.
    pub fn seen(&self, registry: &RegistryName, repository: &Repository) -> Arc<RepositoryRecord> {
        let key = (registry.clone(), repository.clone());
        let mut loaded = lock(&self.loaded);
        if let Some(record) = loaded.get(&key) {
            return Arc::clone(record);
        }
        let record = Arc::new(RepositoryRecord::unread(self, key.clone()));
        let mut fallen = loaded.push(key, Arc::clone(&record));
        // Lines that are in memory alone must not be forgotten, and a log whose read hangs must not be read twice. A
        // disk that hangs has more than a few such records.
        for _ in 0..UNWRITTEN {
            match fallen {
                Some((key, fell)) if fell.stays() => fallen = loaded.push(key, fell),
                _ => break,
            }
        }
        record
    }
}

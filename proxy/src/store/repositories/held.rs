//! Which digests a registry's repositories are known to hold, without reading their logs for each question.
//!
//! Hashes, and for each one repository that holds it: what is not here is held by none, what is here is looked up there.
//! Made from all logs when it is first asked for; from then on it learns with the records.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use larder_shared::{Digest, RegistryName, Repository};

use super::lock;

/// A repository's name, shared by all that it holds.
pub(super) type Name = Arc<(RegistryName, Repository)>;

/// The list.
#[derive(Default, Debug)]
pub(super) struct Held {
    hasher: RandomState,
    holders: Mutex<HashMap<u64, Name>>,
    /// The list was asked for: it is worth learning.
    wanted: AtomicBool,
    /// All logs have been looked through; locked while they are.
    pub(super) whole: tokio::sync::Mutex<bool>,
}

impl Held {
    fn hash(&self, registry: &RegistryName, digest: &Digest) -> u64 {
        self.hasher.hash_one((registry, digest))
    }

    /// A repository holds a digest.
    pub(super) fn note(&self, name: &Name, digest: &Digest) {
        if self.wanted.load(Ordering::Acquire) {
            let hash = self.hash(&name.0, digest);
            lock(&self.holders).insert(hash, Arc::clone(name));
        }
    }
    /// From now on the list learns with the records.
    pub(super) fn begin(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// The repository that may hold a digest; no other is known to.
    pub(super) fn holder(&self, registry: &RegistryName, digest: &Digest) -> Option<Name> {
        let hash = self.hash(registry, digest);
        lock(&self.holders).get(&hash).cloned()
    }

    /// The repository that was noted holds the digest no longer.
    pub(super) fn forget(&self, registry: &RegistryName, digest: &Digest) {
        let hash = self.hash(registry, digest);
        lock(&self.holders).remove(&hash);
    }
}

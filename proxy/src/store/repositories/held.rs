//! The digests that a registry's repositories are known to hold, without reading their logs for each question.
//!
//! The list has hashes of registry and digest, and for each hash one repository that holds the digest. A digest that is
//! not on the list is held by no repository. One that is on it is looked up in that repository's record. The list is
//! made from all logs when it is first asked for, and then learns with the records.

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
    /// The list was asked for, so it has to learn.
    wanted: AtomicBool,
    /// All logs have been looked through; locked while they are.
    pub(super) whole: tokio::sync::Mutex<bool>,
}

impl Held {
    fn hash(&self, registry: &RegistryName, digest: &Digest) -> u64 {
        self.hasher.hash_one((registry, digest))
    }

    /// Takes note that a repository holds a digest.
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

    /// The repository that may hold a digest. The list knows no other that does.
    pub(super) fn holder(&self, registry: &RegistryName, digest: &Digest) -> Option<Name> {
        let hash = self.hash(registry, digest);
        lock(&self.holders).get(&hash).cloned()
    }

    /// Takes note that the listed repository holds the digest no longer.
    pub(super) fn forget(&self, registry: &RegistryName, digest: &Digest) {
        let hash = self.hash(registry, digest);
        lock(&self.holders).remove(&hash);
    }
}

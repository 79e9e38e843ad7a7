//! Which digests a registry's repositories are known to hold, without reading their logs for each question.
//!
//! Hashes, and for each one repository that holds it: what is not here is held by none, what is here is looked up there.
//! Made from all logs when it is first asked for; from then on it learns with the records.

use std::{
    collections::HashMap,
    fs,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use larder_shared::{Digest, RegistryName, Repository};

use super::{Known, Repositories, lock};

/// A repository's name, shared by all that it holds.
pub(super) type Name = Arc<(RegistryName, Repository)>;

/// The list.
#[derive(Default, Debug)]
pub(super) struct Held {
    hasher: RandomState,
    holders: Mutex<HashMap<u64, Name>>,
    /// Somebody has asked: it is worth learning.
    wanted: AtomicBool,
    /// All logs have been looked through; held while they are.
    whole: tokio::sync::Mutex<bool>,
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
}

impl Repositories {
    /// Whether some repository of `registry` is known to hold `digest`. Waits for the disk; see [`Self::ready`].
    pub async fn held_in(&self, registry: &RegistryName, digest: &Digest) -> bool {
        self.look_through().await;
        let hash = self.held.hash(registry, digest);
        let Some(name) = lock(&self.held.holders).get(&hash).cloned() else {
            return false;
        };
        let record = self.seen(&name.0, &name.1);
        Arc::clone(&record).ready(self.calls.clone()).await;
        if name.0 == *registry && record.link(digest).is_some() {
            return true;
        }
        // It was let go there since. Another that holds it is not remembered, which costs a download.
        lock(&self.held.holders).remove(&hash);
        false
    }

    /// Reads all logs, once.
    async fn look_through(&self) {
        let mut whole = self.held.whole.lock().await;
        if *whole || !self.layout.claim().is_held() {
            return;
        }
        self.held.wanted.store(true, Ordering::Release);
        for record in self.all_loaded() {
            record.note_held();
        }
        let layout = Arc::clone(&self.layout);
        let Ok(names) = self
            .calls
            .run(move || super::search::names(&layout, None))
            .await
        else {
            return;
        };
        for name in names {
            if self.is_loaded(&name) {
                continue;
            }
            let path = self.layout.repository_log(&name.0, &name.1);
            // One that hangs is noted when it is read.
            if let Ok(Ok(text)) = self.calls.run(move || fs::read(path)).await {
                let (known, _) = Known::read(&text);
                let name = Name::new(name);
                for digest in known.links.keys() {
                    self.held.note(&name, digest);
                }
            }
        }
        *whole = true;
    }
}

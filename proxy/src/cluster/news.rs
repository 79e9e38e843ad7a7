//! The blobs that have come to this node since the keepers were last told.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use larder_shared::Digest;
use tokio::sync::Notify;

/// How many wait at most. Keepers learn of the rest with everything else that this node holds.
const WAITING: usize = 10_000;

/// The list.
#[derive(Default, Debug)]
pub struct News {
    come: Mutex<HashSet<Digest>>,
    /// Rings when something was added.
    pub added: Notify,
}

impl News {
    /// Notes a blob that has come.
    pub fn add(&self, digest: Digest) {
        let mut come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        if come.len() < WAITING {
            come.insert(digest);
        }
        drop(come);
        self.added.notify_one();
    }

    /// What has come since the last call.
    pub fn take(&self) -> Vec<Digest> {
        let mut come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *come).into_iter().collect()
    }
}

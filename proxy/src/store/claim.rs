//! The store's lock, as everything that touches the directory sees it.

use std::sync::{Arc, OnceLock};

use crate::sys::disk;

/// The lock, once it is held. Everything that touches the directory looks here first.
#[derive(Clone, Default, Debug)]
pub struct Claim(Arc<OnceLock<disk::Lock>>);

impl Claim {
    pub(super) fn is_held(&self) -> bool {
        self.0.get().is_some()
    }

    /// Makes the directory this larder's. Two callers that come here at once cannot both have the lock.
    pub(super) fn hold(&self, taken: disk::Lock) {
        let _ = self.0.set(taken);
    }
}

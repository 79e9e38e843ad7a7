//! Images that clients of this node have asked for lately, for what is made of them ahead.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use http::HeaderValue;
use larder_shared::{Digest, Route};
use lru::LruCache;
use tokio::sync::Notify;

use super::{DIGEST, Pull, PullError, Pulled};
use crate::{clock::unix_now, config::Mode, metrics::Outcome};

/// So many manifests are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Manifests that were served, and when they last were.
#[derive(Debug)]
pub struct Served {
    at: Mutex<LruCache<Digest, u64>>,
    /// There is one more.
    pub new: Notify,
}

impl Default for Served {
    fn default() -> Self {
        Self {
            at: Mutex::new(LruCache::new(REMEMBERED)),
            new: Notify::new(),
        }
    }
}

impl Served {
    /// When a client of this node last asked for a manifest, in Unix seconds.
    pub fn at(&self, manifest: &Digest) -> Option<u64> {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.peek(manifest).copied()
    }
}

impl Pull {
    /// Takes note of a manifest that was served, if anything comes of it.
    pub(super) fn note_served(&self, route: &Route, answered: &Result<Pulled, PullError>) {
        let (Route::Manifest(..), Ok(pulled)) = (route, answered) else {
            return;
        };
        if self.config.load().streaming.mode == Mode::Off || pulled.outcome == Outcome::Stale {
            return;
        }
        let digest = pulled.headers.get(DIGEST).map(HeaderValue::to_str);
        let digest: Option<Digest> = digest.and_then(|text| text.ok()?.parse().ok());
        if let Some(digest) = digest {
            let mut at = self
                .served
                .at
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            at.put(digest, unix_now());
            drop(at);
            self.served.new.notify_one();
        }
    }
}

//! Images that clients of this node have asked for lately, for what is made of them ahead.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderValue;
use larder_shared::{Digest, Route};
use lru::LruCache;
use tokio::sync::Notify;

use super::{DIGEST, Pull, PullError, Pulled, starts};
use crate::{
    clock::unix_now,
    config::Mode,
    metrics::Outcome,
    store::{Named, Names},
};

/// So many images are remembered with what they say. Between manifest and configuration there are moments.
const IMAGES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// So many manifests are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Manifests that were served, and when they last were.
#[derive(Debug)]
pub struct Served {
    at: Mutex<LruCache<Digest, u64>>,
    /// What images say whose manifests were served, by their configurations.
    images: Mutex<LruCache<Digest, Arc<starts::Served>>>,
    /// There is one more.
    pub new: Notify,
}

impl Default for Served {
    fn default() -> Self {
        Self {
            at: Mutex::new(LruCache::new(REMEMBERED)),
            images: Mutex::new(LruCache::new(IMAGES)),
            new: Notify::new(),
        }
    }
}

impl Served {
    /// The image that has this configuration, if its manifest was served lately.
    pub(super) fn image_of(&self, config: &Digest) -> Option<Arc<starts::Served>> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(config).cloned()
    }

    fn remember(&self, manifest: Digest, bytes: &[u8]) {
        let names = Names::of(bytes);
        let sized = |named: &Named| (named.digest, named.size.unwrap_or(0));
        let Some(config) = names.config_blob().map(sized) else {
            return;
        };
        let image = Arc::new(starts::Served {
            manifest,
            config,
            layers: names.layers().map(sized).collect(),
        });
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.put(config.0, image);
    }

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
        let mode = self.config.load().streaming.mode;
        if mode == Mode::Off || pulled.outcome == Outcome::Stale {
            return;
        }
        let digest = pulled.headers.get(DIGEST).map(HeaderValue::to_str);
        let digest: Option<Digest> = digest.and_then(|text| text.ok()?.parse().ok());
        if let Some(digest) = digest {
            if mode == Mode::Lazy
                && let Some(bytes) = pulled.body.in_memory()
            {
                self.served.remember(digest, bytes);
            }
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

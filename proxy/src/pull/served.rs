//! Images that clients of this node asked for lately. Their layers are then prepared ahead.

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

/// Images whose content is remembered. A client asks for the configuration moments after the manifest.
const IMAGES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Manifests whose time of serving is remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Manifests that were served, and when each last was (Unix seconds).
#[derive(Debug)]
pub struct Served {
    at: Mutex<LruCache<Digest, u64>>,
    /// The content of images whose manifests were served, by the digests of their configurations.
    images: Mutex<LruCache<Digest, Arc<starts::Served>>>,
    /// Notified after each manifest that was served.
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
    /// Records that a manifest was served, if layers are prepared for mounting at all.
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

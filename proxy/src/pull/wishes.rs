//! Images that a caller was just served and that the container runtime also holds. The rest of such an image is proven
//! in the background with the caller's own right, while the registry can still be asked.
//!
//! A runtime that has an image asks only for its tag. Without this module, its credential would prove nothing about the
//! rest of the image.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderValue;
use larder_shared::{Digest, RegistryName, Repository, Route};
use lru::LruCache;
use tokio::sync::Notify;

use super::{DIGEST, Pull, PullError, Pulled};
use crate::{
    access::{Place, Verdict},
    metrics::Outcome,
};

/// How many images wait at most. Each keeps its caller's identity in memory until its turn.
const WAITING: usize = 64;

/// An image that was queued is not queued again for `AGAIN_AFTER`. So many images are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const AGAIN_AFTER: Duration = Duration::from_mins(10);

/// The queue of such images.
#[derive(Debug)]
pub struct Wishes {
    inside: Mutex<Inside>,
    new: Notify,
}

#[derive(Debug)]
struct Inside {
    waiting: VecDeque<(Place, Digest)>,
    done: LruCache<(RegistryName, Repository, Digest), Instant>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            inside: Mutex::new(Inside {
                waiting: VecDeque::new(),
                done: LruCache::new(REMEMBERED),
            }),
            new: Notify::new(),
        }
    }
}

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, place: &Place, digest: Digest) {
        let mut inside = self.lock();
        let key = (place.registry.clone(), place.repository.clone(), digest);
        let recent = inside
            .done
            .get(&key)
            .is_some_and(|at| at.elapsed() < AGAIN_AFTER);
        if recent || inside.waiting.len() >= WAITING {
            return;
        }
        inside.done.put(key, Instant::now());
        let place = Place {
            patience: None,
            ..place.clone()
        };
        inside.waiting.push_back((place, digest));
        drop(inside);
        self.new.notify_one();
    }

    /// Takes the next image, waiting for it if necessary.
    pub async fn next(&self) -> (Place, Digest) {
        loop {
            if let Some(next) = self.lock().waiting.pop_front() {
                return next;
            }
            self.new.notified().await;
        }
    }
}

impl Pull {
    /// Queues an image that was served, if the runtime holds it.
    pub(super) fn wish(&self, place: &Place, route: &Route, answered: &Result<Pulled, PullError>) {
        let (Route::Manifest(..), Ok(pulled)) = (route, answered) else {
            return;
        };
        let digest = pulled.headers.get(DIGEST).map(HeaderValue::to_str);
        let digest = digest.and_then(|text| text.ok()?.parse().ok());
        if let Some(digest) = digest
            && pulled.outcome != Outcome::Stale
            && self.store.may_adopt(&digest)
            && self.access.verdict(place) == Verdict::Allowed
        {
            self.wishes.add(place, digest);
        }
    }
}

//! Which members hold a digest: soft knowledge that members give to a digest's keepers, and that runs out.
//!
//! A hint that is missing or wrong costs a request, never correctness.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::Digest;
use lru::LruCache;

/// A hint is believed this long.
const BELIEVED: Duration = Duration::from_hours(6);

/// Digests with hints, and hints for each.
const DIGESTS: NonZeroUsize = NonZeroUsize::new(50_000).unwrap();
const HOLDERS: usize = 4;

/// What other members have reported to this node as a keeper.
#[derive(Debug)]
pub struct Hints(Mutex<LruCache<Digest, Vec<(SocketAddr, Instant)>>>);

impl Default for Hints {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(DIGESTS)))
    }
}

impl Hints {
    /// `holder` says that it holds `digest`.
    pub fn add(&self, digest: Digest, holder: SocketAddr) {
        let mut hints = self.lock();
        let holders = hints.get_or_insert_mut(digest, Vec::new);
        holders.retain(|(known, _)| *known != holder);
        holders.insert(0, (holder, Instant::now()));
        holders.truncate(HOLDERS);
    }

    /// The members that hold `digest`, the last to say so first.
    pub fn holders(&self, digest: &Digest) -> Vec<SocketAddr> {
        let mut hints = self.lock();
        let Some(holders) = hints.get(digest) else {
            return Vec::new();
        };
        let believed = holders.iter().filter(|(_, at)| at.elapsed() < BELIEVED);
        believed.map(|(holder, _)| *holder).collect()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Digest, Vec<(SocketAddr, Instant)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_say_so_comes_first_and_few_are_kept() {
        let hints = Hints::default();
        let digest = Digest::sha256(b"a");
        let holder = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        for n in [1, 2, 3, 4, 5, 2] {
            hints.add(digest, holder(n));
        }
        assert_eq!(hints.holders(&digest), [2, 5, 4, 3].map(holder));
        assert_eq!(hints.holders(&Digest::sha256(b"b")), []);
    }
}

//! How long a refusal is believed before the origin is asked again: one second at first, then twice as long each time.
//! A workload that is deployed before its image is pushed recovers within seconds, and a caller in a loop burdens no
//! registry.

use std::{
    hash::Hash,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;

const FIRST: Duration = Duration::from_secs(1);

/// Long enough to slow a loop down, short enough for a right that was just given.
const LONGEST: Duration = Duration::from_secs(20);

/// After this long without a refusal, the next one counts as the first again.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// A client may show any secret, so the number of remembered refusals is bounded.
const MOST: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The state of a remembered refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    None,
    /// The refusal is recent enough to be believed.
    Believed,
    /// The refusal is older: the origin is asked again.
    Doubted,
}

/// Refusals in memory.
#[derive(Debug)]
pub(super) struct Pauses<K: Eq + Hash>(LruCache<K, Pause>);

#[derive(Clone, Copy, Debug)]
struct Pause {
    since: Instant,
    wait: Duration,
}

impl<K: Eq + Hash> Pauses<K> {
    pub(super) fn new() -> Self {
        Self(LruCache::new(MOST))
    }

    /// Records that the origin refused `key` now. Many requests that meet the same refusal count as one.
    pub(super) fn refused(&mut self, key: K, now: Instant) {
        let wait = match self.0.get(&key) {
            Some(pause) if now < pause.since + pause.wait => return,
            Some(pause) if now < pause.since + FORGOTTEN => (pause.wait * 2).min(LONGEST),
            _ => FIRST,
        };
        self.0.put(key, Pause { since: now, wait });
    }

    /// Records that the origin served `key`.
    pub(super) fn served(&mut self, key: &K) {
        self.0.pop(key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn look(&mut self, key: &K, now: Instant) -> Refusal {
        match self.0.get(key) {
            Some(pause) if now < pause.since + pause.wait => Refusal::Believed,
            Some(_) => Refusal::Doubted,
            None => Refusal::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_end_with_an_answer() {
        let mut now = Instant::now();
        let mut pauses = Pauses::new();
        assert_eq!(pauses.look(&"a", now), Refusal::None);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let begun = now;
            pauses.refused("a", now);
            pauses.refused("a", now);
            while pauses.look(&"a", now) == Refusal::Believed {
                now += FIRST / 4;
            }
            assert_eq!(pauses.look(&"a", now), Refusal::Doubted);
            waits.push((now - begun).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 20, 20]);
        pauses.served(&"a");
        assert_eq!(pauses.look(&"a", now), Refusal::None);
        pauses.refused("a", now);
        assert_eq!(pauses.look(&"a", now + FIRST), Refusal::Doubted);
    }

    #[test]
    fn a_refusal_long_after_the_last_one_is_a_first_one() {
        let now = Instant::now();
        let mut pauses = Pauses::new();
        pauses.refused("a", now);
        pauses.refused("a", now + FIRST);
        let later = now + FIRST + FORGOTTEN;
        pauses.refused("a", later);
        assert_eq!(pauses.look(&"a", later + FIRST), Refusal::Doubted);
    }
}

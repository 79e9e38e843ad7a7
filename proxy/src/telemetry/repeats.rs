//! The same complaint once a minute: a registry that is down while a thousand pods start fails a thousand requests, and
//! each has its access line, but what is wrong and what to do is one thing to say.

use std::{
    num::NonZeroUsize,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

/// A complaint is repeated this often while its cause lasts.
const EVERY: Duration = Duration::from_mins(1);

/// Causes that are remembered; the one that was not heard of for longest is forgotten.
const CAUSES: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// It is time to complain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// How often the same happened since the last line about it, unsaid.
    pub unsaid: u64,
}

/// A log is the process's, so what it has said is as well.
static SAID: LazyLock<Mutex<Repeats>> = LazyLock::new(|| Mutex::new(Repeats::new()));

/// Whether to complain about `cause` now. `what` is the kind of complaint, and `cause` whatever makes it another one
/// for the operator: a registry, a path. Not more, or every line is another.
pub fn due(what: &'static str, cause: &str) -> Option<Due> {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.due(what, cause, Instant::now())
}

struct Repeats(LruCache<(&'static str, String), Said>);

struct Said {
    at: Instant,
    unsaid: u64,
}

impl Repeats {
    fn new() -> Self {
        Self(LruCache::new(CAUSES))
    }

    fn due(&mut self, what: &'static str, cause: &str, now: Instant) -> Option<Due> {
        let said = self.0.get_or_insert_mut((what, cause.to_owned()), || Said {
            // Never said: that it was long ago is as good.
            at: now.checked_sub(EVERY).unwrap_or(now),
            unsaid: 0,
        });
        if now.saturating_duration_since(said.at) < EVERY {
            said.unsaid += 1;
            return None;
        }
        let unsaid = std::mem::take(&mut said.unsaid);
        said.at = now;
        Some(Due { unsaid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once_a_minute_with_what_was_left_out() {
        let mut repeats = Repeats::new();
        let start = Instant::now();
        assert_eq!(repeats.due("a", "x", start), Some(Due { unsaid: 0 }));
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            assert_eq!(repeats.due("a", "x", now), None);
        }
        assert_eq!(repeats.due("a", "y", start), Some(Due { unsaid: 0 }));
        assert_eq!(repeats.due("b", "x", start), Some(Due { unsaid: 0 }));
        assert_eq!(
            repeats.due("a", "x", start + EVERY),
            Some(Due { unsaid: 59 })
        );
        assert_eq!(repeats.due("a", "x", start + EVERY), None);
        assert_eq!(
            repeats.due("a", "x", start + 2 * EVERY),
            Some(Due { unsaid: 1 })
        );
    }
}

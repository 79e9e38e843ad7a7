//! Repeats a complaint once a minute at most. If a registry is down while a thousand pods start, a thousand requests
//! fail. Each has its access line, but the fault and what to do about it need one line.

use std::{
    num::NonZeroUsize,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

/// A complaint is repeated this often while its cause lasts.
const EVERY: Duration = Duration::from_mins(1);

/// The most causes that are remembered. The cause that was not seen for longest is forgotten.
const CAUSES: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// The caller should log the complaint now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// How often the complaint was left out since its last line.
    pub unsaid: u64,
}

/// One for the process, as the log is.
static SAID: LazyLock<Mutex<Repeats>> = LazyLock::new(|| Mutex::new(Repeats::new()));

/// Whether to log a complaint about `cause` now. `what` is the kind of complaint. `cause` is what the operator can tell
/// apart: a registry, a path. With more detail in `cause`, no line would repeat another.
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
            // A new complaint is due at once.
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

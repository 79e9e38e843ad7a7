//! Whose turn it is to probe a registry that asked to be left alone: one member of the cluster at a time (promise P15).
//!
//! Each silence has a keeper among the members, which gives the turn to a member and hears how it ended. Callers pass
//! the time in.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use larder_shared::Digest;
use lru::LruCache;

/// The pause after the first probe. It doubles with each further probe, until a probe is answered.
const PAUSE: Duration = Duration::from_mins(2);
const PAUSE_MAX: Duration = Duration::from_hours(6);

/// Silences that are known at once.
const SILENCES: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The answer to a member that wants to probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The member may probe.
    Go,
    /// Another member has probed not long ago.
    Wait,
    /// Another member's probe was answered after the asking member was silenced.
    Over,
}

impl Turn {
    /// As members write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Wait => "wait",
            Self::Over => "over",
        }
    }

    /// Reads what a member wrote.
    pub fn parse(text: &[u8]) -> Option<Self> {
        [Self::Go, Self::Wait, Self::Over]
            .into_iter()
            .find(|turn| turn.as_str().as_bytes() == text)
    }
}

#[derive(Default, Debug)]
struct Known {
    /// When the last turn was given away, and the pause after it.
    given: Option<(Instant, Duration)>,
    /// When a probe was last answered.
    over: Option<Instant>,
}

/// The silences that this node is a keeper of.
#[derive(Debug)]
pub struct Probes(Mutex<LruCache<Digest, Known>>);

impl Default for Probes {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SILENCES)))
    }
}

impl Probes {
    /// The answer to a member that wants to probe, and that was silenced so long ago.
    pub fn ask(&self, silence: Digest, silenced: Duration, now: Instant) -> Turn {
        let mut known = self.lock();
        let known = known.get_or_insert_mut(silence, Known::default);
        let over = known.over.map(|at| now.saturating_duration_since(at));
        if over.is_some_and(|ago| ago < silenced) {
            return Turn::Over;
        }
        let pause = match known.given {
            None => PAUSE,
            Some((at, pause)) => {
                let ago = now.saturating_duration_since(at);
                if ago < pause {
                    return Turn::Wait;
                }
                // No member has asked for long: the last turn was for another silence.
                if ago < pause * 3 {
                    (pause * 2).min(PAUSE_MAX)
                } else {
                    PAUSE
                }
            }
        };
        known.given = Some((now, pause));
        Turn::Go
    }

    /// Notes that a member's probe was answered.
    pub fn over(&self, silence: Digest, now: Instant) {
        let known = Known {
            given: None,
            over: Some(now),
        };
        self.lock().put(silence, known);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Digest, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn one_member_at_a_time_and_less_and_less_often() {
        let (probes, silence, start) = (Probes::default(), Digest::sha256(b"a"), Instant::now());
        let mut given = Vec::new();
        for minute in 1..=60 {
            let now = start + minute * MINUTE;
            // Three members ask, all silenced at the start.
            let turns = [(); 3].map(|()| probes.ask(silence, minute * MINUTE, now));
            match turns {
                [Turn::Go, Turn::Wait, Turn::Wait] => given.push(minute),
                turns => assert_eq!(turns, [Turn::Wait; 3]),
            }
        }
        assert_eq!(given, [1, 3, 7, 15, 31]);
        // Another silence, long after.
        let later = start + 500 * MINUTE;
        assert_eq!(probes.ask(silence, MINUTE, later), Turn::Go);
        assert_eq!(probes.ask(silence, MINUTE, later + PAUSE), Turn::Go);
    }

    #[test]
    fn an_answer_ends_the_silences_that_began_before_it() {
        let (probes, silence, now) = (Probes::default(), Digest::sha256(b"a"), Instant::now());
        assert_eq!(probes.ask(silence, MINUTE, now), Turn::Go);
        probes.over(silence, now + MINUTE);
        let later = now + 2 * MINUTE;
        assert_eq!(probes.ask(silence, 3 * MINUTE, later), Turn::Over);
        assert_eq!(probes.ask(silence, MINUTE / 2, later), Turn::Go);
        assert_eq!(
            probes.ask(Digest::sha256(b"b"), 3 * MINUTE, later),
            Turn::Go
        );
    }

    #[test]
    fn words_are_read_back() {
        for turn in [Turn::Go, Turn::Wait, Turn::Over] {
            assert_eq!(Turn::parse(turn.as_str().as_bytes()), Some(turn));
        }
        assert_eq!(Turn::parse(b"GO"), None);
    }
}

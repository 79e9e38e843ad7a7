//! How long requests have waited without a daemon. Pure.

use std::time::{Duration, Instant};

/// Measures how long requests have waited without a daemon. A reader whose request was taken cannot even be killed
/// before the answer. So an absence has to have an end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    /// Zero if an absence may last for ever.
    most: Duration,
    since: Option<Instant>,
}

impl Absence {
    pub(super) fn new(most: Duration) -> Self {
        Self { most, since: None }
    }

    /// Takes what is seen now, and returns whether the absence has lasted too long. It begins anew when a daemon has
    /// come, or when no request waits.
    pub(super) fn is_too_long(&mut self, now: Instant, daemon: bool, waiting: bool) -> bool {
        if daemon || !waiting {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        !self.most.is_zero() && now.duration_since(since) >= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_the_first_request_that_waits_to_a_daemon() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut absence = Absence::new(Duration::from_mins(5));
        // An absence in which no request waits does not count.
        assert!(!absence.is_too_long(at(0), false, false));
        assert!(!absence.is_too_long(at(1000), false, true));
        assert!(!absence.is_too_long(at(1299), false, true));
        assert!(!absence.is_too_long(at(1299), true, true));
        assert!(!absence.is_too_long(at(1300), false, true));
        assert!(!absence.is_too_long(at(1400), false, false));
        assert!(!absence.is_too_long(at(1401), false, true));
        assert!(!absence.is_too_long(at(1700), false, true));
        assert!(absence.is_too_long(at(1701), false, true));
        let mut never = Absence::new(Duration::ZERO);
        assert!(!never.is_too_long(at(0), false, true));
        assert!(!never.is_too_long(at(100_000), false, true));
    }
}

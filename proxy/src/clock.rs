//! How old something is, whatever happens to the node's clock.
//!
//! The clock of a node jumps: from 1970 to today when it boots without a battery, years ahead when its time server is
//! wrong. So ages are not counted by it. Here time passes while larder runs, and only then; the store writes down how much
//! has passed, and the next process goes on from there. A jump is no age, and nor are the weeks that a node was off.

use std::time::{Duration, Instant};

/// The seconds that have passed, counted on from where the last process stopped. The first process of a store begins with
/// the node's clock, so they look like Unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: u64,
    started: Instant,
}

impl Clock {
    /// Goes on from `base`, now.
    pub fn from(base: u64) -> Self {
        Self {
            base,
            started: Instant::now(),
        }
    }

    /// The present moment.
    pub fn now(&self) -> u64 {
        self.base + self.started.elapsed().as_secs()
    }

    /// A moment that was read from a file. One that is still to come was written by somebody else, by a clock of theirs.
    pub fn seen(&self, at: u64) -> u64 {
        at.min(self.now())
    }

    /// How long ago `moment` was.
    pub fn age(&self, moment: u64) -> Duration {
        Duration::from_secs(self.now().saturating_sub(moment))
    }

    /// How old a file is that the kernel says was `written` then, when it is `wall` for the kernel.
    pub fn age_of_file(&self, written: u64, wall: u64) -> Duration {
        Duration::from_secs(file_age(
            self.base,
            self.started.elapsed().as_secs(),
            written,
            wall,
        ))
    }
}

/// What was there before this process, by the time that had passed for its predecessors; what came since is no older than
/// this process, whatever the kernel's clock says.
fn file_age(base: u64, up: u64, written: u64, wall: u64) -> u64 {
    match base.checked_sub(written) {
        Some(before) => before + up,
        None => wall.saturating_sub(written).min(up),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const YEAR: u64 = 365 * DAY;
    /// Some moment of 2026, and one of 1972.
    const TODAY: u64 = 1_790_000_000;
    const BOOT: u64 = 2 * YEAR;

    #[test]
    fn a_jump_of_the_clock_is_no_age() {
        for (what, base, up, written, wall, age) in [
            (
                "all is well",
                TODAY,
                100,
                TODAY - DAY,
                TODAY + 100,
                DAY + 100,
            ),
            ("written meanwhile", TODAY, 100, TODAY + 40, TODAY + 100, 60),
            (
                "20 years ahead",
                TODAY,
                100,
                TODAY - DAY,
                TODAY + 20 * YEAR,
                DAY + 100,
            ),
            (
                "20 years ahead, written meanwhile",
                TODAY,
                100,
                TODAY + 40,
                TODAY + 20 * YEAR,
                100,
            ),
            (
                "and back again",
                TODAY,
                100,
                TODAY + 20 * YEAR,
                TODAY + 100,
                0,
            ),
            ("booted in 1972", TODAY, 100, TODAY - DAY, BOOT, DAY + 100),
            ("from 1972 to today", BOOT, 100, BOOT + 10, TODAY, 100),
            ("a store of today in 1972", BOOT, 100, TODAY, BOOT + 100, 0),
            (
                "the node was off for a year",
                TODAY,
                100,
                TODAY - DAY,
                TODAY + YEAR,
                DAY + 100,
            ),
        ] {
            assert_eq!(file_age(base, up, written, wall), age, "{what}");
        }
    }

    #[test]
    fn moments_pass_with_the_process() {
        let clock = Clock {
            base: TODAY,
            started: Instant::now().checked_sub(Duration::from_secs(50)).unwrap(),
        };
        assert!((TODAY + 50..TODAY + 60).contains(&clock.now()));
        assert_eq!(clock.seen(TODAY - 1), TODAY - 1);
        assert!(clock.seen(TODAY + 20 * YEAR) < TODAY + 60);
        assert_eq!(clock.age(TODAY + 20 * YEAR), Duration::ZERO);
        assert!(clock.age(TODAY - DAY) >= Duration::from_secs(DAY + 50));
    }
}

//! How old something is, whatever happens to the node's clock.
//!
//! The clock of a node jumps: from 1970 to today when the node boots without a battery, years ahead when its time
//! server is wrong. So ages are not counted by it, except for times that other nodes or a registry must understand
//! (Unix seconds). Here time passes only while larder runs. The store writes down how much has passed, and the next
//! process goes on from there. Neither a jump nor the weeks that a node was off count as age.

use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

/// Seconds that have passed, counted on from where the last process stopped. The first process of a store begins with
/// the node's clock, so they look like Unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: u64,
    started: Instant,
}

impl Clock {
    /// A clock that reads `base` now.
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

    /// A moment that was read from a file. A moment in the future was written by another process with its own clock,
    /// and counts as now.
    pub fn seen(&self, at: u64) -> u64 {
        at.min(self.now())
    }

    /// How long ago `moment` was.
    pub fn age(&self, moment: u64) -> Duration {
        Duration::from_secs(self.now().saturating_sub(moment))
    }

    /// The time of `moment` in Unix seconds, by the node's clock as it goes now, for people. Every call gives the same
    /// second, whatever part of a second has passed.
    pub fn by_wall(&self, moment: u64) -> u64 {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall = wall.unwrap_or_default().as_secs_f64();
        let here = self.base as f64 + self.started.elapsed().as_secs_f64();
        (moment as f64 + (wall - here).round()).max(0.0) as u64
    }

    /// The moment of a time by the node's clock, in Unix seconds. A time in the future was written while that clock was
    /// wrong, and counts as now.
    pub fn of_wall(&self, at: u64) -> u64 {
        let age = unix_age(at).unwrap_or_default();
        self.now().saturating_sub(age.as_secs())
    }

    /// The present moment, as a file time.
    pub fn stamp(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.now())
    }

    /// The age of the file at `path`, which was `written` then (blocking). The kernel stamps files by the node's clock,
    /// which may be ahead of this one by all the time that the node was off. Such a file counts as new, and is stamped.
    pub fn age_of_file(&self, path: &Path, written: u64) -> Duration {
        if written > self.now() {
            // If this fails, the next look tries it again.
            let _ = File::open(path).and_then(|file| file.set_modified(self.stamp()));
        }
        self.age(written)
    }
}

/// Seconds by which nodes' clocks may differ, or be set forward or back, without effect.
pub const SKEW: u64 = 60;

/// The node's clock, in Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// How long ago `at` (Unix seconds) was by the node's clock. `None` if it is in the future: it was written while the
/// clock was wrong.
pub fn unix_age(at: u64) -> Option<Duration> {
    let now = unix_now();
    (at <= now + SKEW).then(|| Duration::from_secs(now.saturating_sub(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const YEAR: u64 = 365 * DAY;
    /// Some moment of 2026.
    const TODAY: u64 = 1_790_000_000;

    fn clock(base: u64, up: u64) -> Clock {
        let up = Duration::from_secs(up);
        Clock {
            base,
            started: Instant::now().checked_sub(up).unwrap(),
        }
    }

    #[test]
    fn a_file_gets_old_by_the_time_that_passes_here() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        let age = |clock: Clock| {
            let written = file.metadata().unwrap().modified().unwrap();
            let written = written.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            clock.age_of_file(&path, written.as_secs()).as_secs()
        };
        for (what, base, written, expected) in [
            ("before this process", TODAY, TODAY - DAY, DAY + 100),
            ("since it began", TODAY, TODAY + 40, 60),
            (
                "while the clock was years ahead",
                TODAY,
                TODAY + 20 * YEAR,
                0,
            ),
            ("on a node that was often off", TODAY - YEAR, TODAY, 0),
        ] {
            let times = SystemTime::UNIX_EPOCH + Duration::from_secs(written);
            file.set_modified(times).unwrap();
            let found = age(clock(base, 100));
            assert!(
                (expected..expected + 10).contains(&found),
                "{what}: {found}"
            );
            // The same a day later, in another process.
            let later = age(clock(base + DAY, 100));
            let expected = expected + DAY;
            assert!(
                (expected..expected + 10).contains(&later),
                "{what}: {later}"
            );
        }
    }

    #[test]
    fn a_moment_is_the_same_second_whenever_it_is_looked_at() {
        let clock = clock(TODAY, 50);
        let seen: std::collections::BTreeSet<_> =
            std::iter::repeat_with(|| clock.by_wall(TODAY + 7))
                .take_while(|_| clock.started.elapsed() < Duration::from_millis(51_100))
                .collect();
        // The node's clock may be set during the test, but the end of a second must change nothing.
        assert_eq!(seen.len(), 1, "{seen:?}");
        let now = clock.by_wall(clock.now());
        assert!(now.abs_diff(unix_now()) <= 1);
    }

    #[test]
    fn moments_pass_with_the_process() {
        let clock = clock(TODAY, 50);
        assert!((TODAY + 50..TODAY + 60).contains(&clock.now()));
        assert_eq!(clock.seen(TODAY - 1), TODAY - 1);
        assert!(clock.seen(TODAY + 20 * YEAR) < TODAY + 60);
        assert_eq!(clock.age(TODAY + 20 * YEAR), Duration::ZERO);
        assert!(clock.age(TODAY - DAY) >= Duration::from_secs(DAY + 50));
    }
}

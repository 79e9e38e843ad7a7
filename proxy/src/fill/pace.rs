//! How fast a stream's source is, and so how long its bytes gather in memory before they are written.
//!
//! A slow source brings some kilobytes at a time. Writing, hashing and announcing each piece switches threads several
//! times, which costs far more than the bytes do. So the pieces gather: up to [`BATCH`] bytes, and for a short time at
//! most. The kernel gathers them first, so that a thread is woken for many packets at once. The bytes of a fast source
//! fill batches by themselves, and are written as they come. Pure: the caller tells the time.

use std::time::Duration;

use tokio::time::Instant;

/// How many bytes are written and hashed together.
pub const BATCH: u64 = 256 << 10;

/// The longest time that a byte waits for others in memory, where a reader follows the stream, and where none does. As
/// long as that it may have waited in the kernel before.
const FOLLOWED: Duration = Duration::from_millis(20);
const AHEAD: Duration = Duration::from_millis(100);

/// The kernel wakes the reader of a slow source once so many bytes are here. At least twice as many must be to come: some
/// of them may be on their way from the connection to the stream already, and the end of a body is not waited for. They
/// are a few more than a batch, since TLS needs some of them for itself.
pub const AT_LEAST: u32 = BATCH as u32 + (16 << 10);

/// The longest time that fewer bytes of a member stay in the kernel. A member that is silent for longer is asked for a
/// sign of life.
const OF_A_MEMBER: Duration = Duration::from_millis(60);

/// The rate is measured over a time of at least this length.
const WINDOW: Duration = Duration::from_millis(20);

/// From this rate on, in bytes a second, the batches fill by themselves.
const FAST: f64 = 64e6;

/// The pace of one stream.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    bytes: u64,
    /// Bytes a second; a source counts as fast until it is known.
    rate: f64,
}

impl Pace {
    /// A stream that begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
            rate: f64::INFINITY,
        }
    }

    /// Notes that so many bytes have come.
    pub fn note(&mut self, now: Instant, bytes: u64) {
        self.bytes += bytes;
        let took = now.saturating_duration_since(self.since);
        if took >= WINDOW {
            self.rate = self.bytes as f64 / took.as_secs_f64();
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// Whether bytes come so slowly that one thread does all there is to do.
    pub fn is_slow(&self) -> bool {
        self.rate < FAST
    }

    /// How many bytes should wake the reader, where `left` bytes of the body are to come.
    pub fn at_least(&self, awaited: bool, left: u64) -> u32 {
        let gathers = self.is_slow() && !awaited && left >= 2 * u64::from(AT_LEAST);
        if gathers { AT_LEAST } else { 1 }
    }

    /// How long bytes may stay in the kernel.
    pub fn taken_within(&self, followed: bool, member: bool) -> Duration {
        let patience = self.patience(followed);
        if member {
            patience.min(OF_A_MEMBER)
        } else {
            patience
        }
    }

    /// How long the first byte of a batch waits for the others; zero from a fast source.
    pub fn patience(&self, followed: bool) -> Duration {
        match (self.is_slow(), followed) {
            (false, _) => Duration::ZERO,
            (true, true) => FOLLOWED,
            (true, false) => AHEAD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(bytes: u64, each: Duration, times: u32) -> Pace {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for turn in 1..=times {
            pace.note(start + each * turn, bytes);
        }
        pace
    }

    #[test]
    fn a_source_is_fast_until_it_is_known_to_be_slow() {
        let pace = after(1000, Duration::from_millis(1), 19);
        assert!(!pace.is_slow());
        assert_eq!(pace.patience(false), Duration::ZERO);
        let pace = after(1000, Duration::from_millis(1), 20);
        assert!(pace.is_slow());
        assert_eq!(pace.patience(true), FOLLOWED);
        assert_eq!(pace.patience(false), AHEAD);
    }

    #[test]
    fn the_kernel_gathers_where_nobody_waits_and_much_is_to_come() {
        let slow = after(1000, Duration::from_millis(1), 20);
        let fast = Pace::new(Instant::now());
        let much = 2 * u64::from(AT_LEAST);
        for (pace, awaited, left, expected) in [
            (&slow, false, much, AT_LEAST),
            (&slow, false, much - 1, 1),
            (&slow, true, much, 1),
            (&fast, false, much, 1),
        ] {
            assert_eq!(pace.at_least(awaited, left), expected, "{awaited} {left}");
        }
    }

    #[test]
    fn what_was_fast_long_ago_does_not_count() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.note(start + WINDOW, 10 << 20);
        assert!(!pace.is_slow());
        pace.note(start + WINDOW * 2, 1000);
        assert!(pace.is_slow());
        pace.note(start + WINDOW * 3, 10 << 20);
        assert!(!pace.is_slow());
    }
}

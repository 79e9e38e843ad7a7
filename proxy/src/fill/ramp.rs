//! How many streams at once: doubled while that makes the whole faster, halved when it does not.

use std::time::{Duration, Instant};

/// The most streams of one fill.
pub const MAX_STREAMS: usize = 8;

/// Blobs from this size are fetched in parallel.
pub const PARALLEL_FROM: u64 = 16 << 20;

/// Time between two looks at the rate. Three doublings fit into half a second.
pub const INTERVAL: Duration = Duration::from_millis(150);

/// A larger number of streams must bring this much more than the smaller one did, or it is not worth its connections.
const GAIN: f64 = 1.1;

/// Looks to wait after a step back before another try.
const REST: u32 = 20;

#[derive(Debug)]
pub struct Ramp {
    streams: usize,
    /// Bytes per second with half as many streams.
    before: Option<f64>,
    looked: Instant,
    bytes: u64,
    rest: u32,
}

impl Ramp {
    pub fn new(now: Instant) -> Self {
        Self {
            streams: 1,
            before: None,
            looked: now,
            bytes: 0,
            rest: 0,
        }
    }

    pub fn streams(&self) -> usize {
        self.streams
    }

    /// Takes a look: `bytes` have come in all until `now`.
    pub fn look(&mut self, now: Instant, bytes: u64) {
        let elapsed = now.saturating_duration_since(self.looked);
        if elapsed < INTERVAL {
            return;
        }
        let rate = (bytes - self.bytes) as f64 / elapsed.as_secs_f64();
        self.looked = now;
        self.bytes = bytes;
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        match self.before {
            Some(before) if rate < before * GAIN => {
                self.streams = (self.streams / 2).max(1);
                self.before = None;
                self.rest = REST;
            }
            _ if self.streams < MAX_STREAMS => {
                self.before = Some(rate);
                self.streams *= 2;
            }
            _ => self.before = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a source that gives `per` bytes a second to each stream and `total` at the most.
    fn run(per: f64, total: f64, looks: u32) -> Vec<usize> {
        let start = Instant::now();
        let mut ramp = Ramp::new(start);
        let mut bytes = 0.0;
        (1..=looks)
            .map(|i| {
                bytes += (per * ramp.streams() as f64).min(total) * INTERVAL.as_secs_f64();
                ramp.look(start + INTERVAL * i, bytes as u64);
                ramp.streams()
            })
            .collect()
    }

    #[test]
    fn a_limit_per_connection_is_multiplied_within_a_second() {
        let steps = run(50e6, 1e12, 7);
        assert_eq!(steps[2], MAX_STREAMS, "{steps:?}");
        assert_eq!(steps.last(), Some(&MAX_STREAMS));
    }

    #[test]
    fn a_limit_of_the_link_brings_it_back_to_one_stream() {
        let steps = run(100e6, 100e6, 10);
        assert_eq!(steps.last(), Some(&1), "{steps:?}");
    }

    #[test]
    fn as_many_streams_as_pay() {
        // Four streams saturate the link: eight are tried and given up.
        let steps = run(50e6, 200e6, 8);
        assert_eq!(steps.last(), Some(&4), "{steps:?}");
    }
}

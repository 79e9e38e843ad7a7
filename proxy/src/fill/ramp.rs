//! How many streams a fill has at once: the number rises quickly, and falls again where more streams bring nothing.
//!
//! Rates over a tenth of a second are noisy, and noise must never make a download slow. So the rise does not depend on
//! a gain at each step. Only after a second with all streams does the ramp look whether they were worth it.

use std::time::{Duration, Instant};

/// The most streams of one fill.
pub const MAX_STREAMS: usize = 8;

/// Blobs from this size are fetched in parallel.
pub const PARALLEL_FROM: u64 = 16 << 20;

/// Time between two looks at the rate. Three doublings fit into half a second.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// At this many bytes a second the processor is the limit, not the connection.
const ENOUGH: f64 = 500e6;

/// All streams together must bring this much more than the first one did alone.
const GAIN: f64 = 1.1;

/// How long the full number is tried before the ramp compares.
const TRIAL: Duration = Duration::from_secs(1);

/// Streams that are left where more did not pay, and for how long.
const FEW: usize = 2;
const REST: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Phase {
    /// Doubling at every look.
    Up,
    /// All streams run since then, when so many bytes had come.
    Trial(Instant, u64),
    /// The number is settled until then.
    Settled(Instant),
}

#[derive(Debug)]
pub struct Ramp {
    streams: usize,
    phase: Phase,
    /// Bytes per second of the first stream alone.
    alone: Option<f64>,
    looked: Instant,
    bytes: u64,
}

impl Ramp {
    pub fn new(now: Instant) -> Self {
        Self {
            streams: 1,
            phase: Phase::Up,
            alone: None,
            looked: now,
            bytes: 0,
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
        match self.phase {
            Phase::Up => {
                self.alone.get_or_insert(rate);
                if rate < ENOUGH {
                    self.streams = (self.streams * 2).min(MAX_STREAMS);
                }
                if self.streams == MAX_STREAMS {
                    self.phase = Phase::Trial(now, bytes);
                }
            }
            Phase::Trial(since, before) if now >= since + TRIAL => {
                let all = (bytes - before) as f64 / now.duration_since(since).as_secs_f64();
                if self.alone.is_some_and(|alone| all < alone * GAIN) {
                    self.streams = FEW;
                }
                self.phase = Phase::Settled(now + REST);
            }
            Phase::Settled(until) if now >= until => self.phase = Phase::Up,
            Phase::Trial(..) | Phase::Settled(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a source that gives `per` bytes a second to each stream and `total` at the most, with noise.
    fn run(per: f64, total: f64, looks: u32) -> Vec<usize> {
        let start = Instant::now();
        let mut ramp = Ramp::new(start);
        let mut bytes = 0.0;
        (1..=looks)
            .map(|i| {
                let noise = if i % 2 == 0 { 0.8 } else { 1.2 };
                let rate = (per * ramp.streams() as f64).min(total) * noise;
                bytes += rate * INTERVAL.as_secs_f64();
                ramp.look(start + INTERVAL * i, bytes as u64);
                ramp.streams()
            })
            .collect()
    }

    #[test]
    fn a_limit_per_connection_is_multiplied_within_a_second() {
        let steps = run(50e6, 1e12, 60);
        assert_eq!(steps[..3], [2, 4, 8]);
        assert_eq!(steps.last(), Some(&MAX_STREAMS), "{steps:?}");
    }

    #[test]
    fn a_limit_of_the_link_brings_it_down_to_a_few() {
        let steps = run(100e6, 100e6, 40);
        assert_eq!(steps.last(), Some(&FEW), "{steps:?}");
    }

    #[test]
    fn a_source_faster_than_the_processor_gets_one_stream() {
        let steps = run(2e9, 2e9, 20);
        assert!(steps.iter().all(|streams| *streams == 1), "{steps:?}");
    }
}

//! How often one registry is asked about guesses: so many a minute, and not at all for a while after it gave no answer.

use std::time::{Duration, Instant};

/// The most questions at once, and a minute. Each is a few kilobytes.
pub const BURST: u32 = 30;
pub const PER_MINUTE: u32 = 30;

/// How long the registry is left alone after a question without an answer: at first, and at the most.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_mins(10);

#[derive(Clone, Debug)]
pub struct Pace {
    /// Questions that may be asked now.
    room: f64,
    at: Instant,
    not_before: Option<Instant>,
    failures: u32,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self {
            room: f64::from(BURST),
            at: now,
            not_before: None,
            failures: 0,
        }
    }

    /// Takes room for a question, or says when there will be some.
    pub fn admit(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Err(at);
        }
        let per_second = f64::from(PER_MINUTE) / 60.0;
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.room = (self.room + passed * per_second).min(f64::from(BURST));
        self.at = now;
        if self.room >= 1.0 {
            self.room -= 1.0;
            return Ok(());
        }
        let missing = Duration::from_secs_f64((1.0 - self.room) / per_second);
        Err(now + missing + Duration::from_millis(1))
    }

    /// Whether the pace has all its room and no pause, so that a new pace would say the same.
    pub fn is_rested(&self, now: Instant) -> bool {
        let full = Duration::from_secs(60 * u64::from(BURST) / u64::from(PER_MINUTE));
        self.not_before.is_none_or(|at| at <= now) && now.saturating_duration_since(self.at) >= full
    }

    /// Takes note that the registry gave no answer. `left_alone` is how long it asked to be left alone, if it said so.
    pub fn failed(&mut self, now: Instant, left_alone: Option<Duration>, jitter: f64) {
        let pause = PAUSE
            .saturating_mul(1 << self.failures.min(10))
            .min(PAUSE_MAX);
        let pause = pause.mul_f64(0.75 + 0.5 * jitter);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + left_alone.unwrap_or_default().max(pause));
    }

    pub fn answered(&mut self) {
        self.failures = 0;
    }
}

//! How an endpoint fares: a circuit breaker, the silence that a rate limit asks for, and a budget for retries.
//!
//! ```text
//!             FAILURES failures in a row              after a pause, one request
//!   Closed ─────────────────────────────▶ Open ─────────────────────────────▶ Half-open (one probe)
//!     ▲                                    ▲                                        │
//!     │             success                │ failure: twice the pause               │
//!     └────────────────────────────────────┴────────────────────────────────────────┘
//! ```
//!
//! An open breaker only changes who is asked first: a request that nothing else can answer goes through and is the
//! probe (promise P14). A silence is kept by everyone, since the registry asked for it (promise P15).

use std::time::{Duration, Instant};

use super::view::Quota;

/// Failures in a row that open the breaker.
const FAILURES: u32 = 5;

const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// An open breaker is told of for this long after its pause, and then only once a probe has failed again. Longer than the
/// five minutes after which a kubelet tries again, so that a registry that stays down is seen to.
const TOLD: Duration = Duration::from_mins(6);

/// A probe that says nothing for this long is taken for lost, and another may go.
const PROBE: Duration = Duration::from_secs(10);

/// The silence after a limit that names no time. Doubles while limits follow each other.
const SILENCE_FIRST: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// A `Retry-After` longer than this is honoured for this long only: it would be a mistake or an attack.
const SILENCE_ASKED_MAX: Duration = Duration::from_hours(6);

/// Retries per second and at once, for all fills of an endpoint together.
const RETRIES_PER_SECOND: f64 = 20.0;
const RETRIES_AT_ONCE: f64 = 40.0;

/// Whether an endpoint may be asked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Ask.
    Go,
    /// The breaker is open: ask only if nothing else can answer.
    Avoid,
    /// The endpoint wants to be left alone for this long.
    Silent(Duration),
}

#[derive(Debug)]
pub struct Health {
    failures: u32,
    pause: Duration,
    open_until: Option<Instant>,
    probing_since: Option<Instant>,
    silent_until: Option<Instant>,
    silence: Duration,
    retries: f64,
    refilled: Instant,
    /// What it last said of the requests that it allows, for people, and until when that may hold.
    pub quota: Option<(Quota, Instant)>,
}

impl Health {
    pub fn new(now: Instant) -> Self {
        Self {
            failures: 0,
            pause: PAUSE_FIRST,
            open_until: None,
            probing_since: None,
            silent_until: None,
            silence: SILENCE_FIRST,
            retries: RETRIES_AT_ONCE,
            refilled: now,
            quota: None,
        }
    }

    /// May a request go now? The first one after a pause is the probe.
    pub fn admit(&mut self, now: Instant) -> Admission {
        if let Some(until) = self.silent_until
            && now < until
        {
            return Admission::Silent(until - now);
        }
        let Some(until) = self.open_until else {
            return Admission::Go;
        };
        let probing = self.probing_since.is_some_and(|since| now < since + PROBE);
        if now < until || probing {
            return Admission::Avoid;
        }
        self.probing_since = Some(now);
        Admission::Go
    }

    /// Whether the breaker is open, for people: not for ever where the credential that failed is never shown again.
    pub fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until + TOLD)
    }

    /// How long the endpoint still wants to be left alone.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.silent_until
            .filter(|until| *until > now)
            .map(|until| until - now)
    }

    /// An answer came, be it a refusal.
    pub fn answered(&mut self) {
        self.failures = 0;
        self.pause = PAUSE_FIRST;
        self.open_until = None;
        self.probing_since = None;
        self.silence = SILENCE_FIRST;
    }

    /// No answer came, or a server's failure. `jitter` is 0..1 and spreads the nodes of a cluster.
    pub fn failed(&mut self, now: Instant, jitter: f64) {
        self.failures += 1;
        let probe = self.probing_since.take().is_some();
        if self.failures < FAILURES && !probe {
            return;
        }
        if self.open_until.is_some_and(|until| now < until) {
            return;
        }
        self.open_until = Some(now + self.pause.mul_f64(0.75 + 0.5 * jitter));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// The endpoint limits requests.
    pub fn limited(&mut self, now: Instant, retry_after: Option<Duration>) {
        let silence = retry_after.map_or(self.silence, |asked| asked.min(SILENCE_ASKED_MAX));
        if retry_after.is_none() {
            self.silence = (self.silence * 2).min(SILENCE_MAX);
        }
        let until = now + silence;
        self.silent_until = Some(self.silent_until.map_or(until, |known| known.max(until)));
        self.probing_since = None;
    }

    /// How long a retry has to wait for its turn.
    pub fn retry_delay(&mut self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.retries = (self.retries + elapsed * RETRIES_PER_SECOND).min(RETRIES_AT_ONCE) - 1.0;
        if self.retries >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-self.retries / RETRIES_PER_SECOND)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn opens_after_failures_and_closes_after_a_good_probe() {
        let start = Instant::now();
        let mut health = Health::new(start);
        for _ in 0..FAILURES - 1 {
            health.failed(start, 0.5);
            assert_eq!(health.admit(start), Admission::Go);
        }
        health.failed(start, 0.5);
        assert_eq!(health.admit(start), Admission::Avoid);
        let later = start + PAUSE_FIRST;
        assert_eq!(health.admit(later), Admission::Go, "the probe");
        assert_eq!(health.admit(later), Admission::Avoid, "only one probe");
        health.answered();
        assert_eq!(health.admit(later), Admission::Go);
    }

    #[test]
    fn an_outage_that_nobody_asks_about_again_is_not_told_of_for_ever() {
        let now = Instant::now();
        let mut health = Health::new(now);
        for _ in 0..FAILURES {
            health.failed(now, 0.5);
        }
        assert!(health.is_open(now) && health.is_open(now + TOLD));
        let later = now + PAUSE_FIRST + TOLD;
        assert!(!health.is_open(later));
        // The next request is the probe all the same, and its failure is told.
        assert_eq!(health.admit(later), Admission::Go);
        health.failed(later, 0.5);
        assert!(health.is_open(later));
    }

    #[test]
    fn a_failed_probe_doubles_the_pause_up_to_its_bound() {
        let mut now = Instant::now();
        let mut health = Health::new(now);
        for _ in 0..FAILURES {
            health.failed(now, 0.5);
        }
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let begin = now;
            while health.admit(now) != Admission::Go {
                now += SECOND / 4;
            }
            pauses.push((now - begin).as_secs());
            health.failed(now, 0.5);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_lost_probe_does_not_close_the_endpoint_for_ever() {
        let now = Instant::now();
        let mut health = Health::new(now);
        for _ in 0..FAILURES {
            health.failed(now, 0.5);
        }
        assert_eq!(health.admit(now + PAUSE_MAX), Admission::Go);
        assert_eq!(health.admit(now + PAUSE_MAX + PROBE), Admission::Go);
    }

    #[test]
    fn silence_is_kept_as_long_as_was_asked() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.limited(now, Some(7 * SECOND));
        assert_eq!(
            health.admit(now + 2 * SECOND),
            Admission::Silent(5 * SECOND)
        );
        // A shorter one that comes later does not shorten it.
        health.limited(now, Some(SECOND));
        assert_eq!(
            health.admit(now + 2 * SECOND),
            Admission::Silent(5 * SECOND)
        );
        assert_eq!(health.admit(now + 7 * SECOND), Admission::Go);
        health.limited(now, Some(SECOND * 1_000_000));
        assert_eq!(health.admit(now + SILENCE_ASKED_MAX), Admission::Go);
    }

    #[test]
    fn silence_without_a_time_doubles_until_an_answer() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.limited(now, None);
        assert_eq!(health.admit(now), Admission::Silent(SECOND));
        health.limited(now, None);
        assert_eq!(health.admit(now), Admission::Silent(2 * SECOND));
        health.answered();
        let later = now + 10 * SECOND;
        health.limited(later, None);
        assert_eq!(health.admit(later), Admission::Silent(SECOND));
    }

    #[test]
    fn retries_are_spread_when_many_want_one() {
        let now = Instant::now();
        let mut health = Health::new(now);
        let delays: Vec<Duration> = (0..60).map(|_| health.retry_delay(now)).collect();
        assert_eq!(delays[0], Duration::ZERO);
        assert_eq!(delays[39], Duration::ZERO);
        assert_eq!(delays[59], SECOND);
        assert_eq!(health.retry_delay(now + 10 * SECOND), Duration::ZERO);
    }
}

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
//! probe (promise P14).
//!
//! A silence is kept by everyone, since the registry asked for it (promise P15). But the time is often a constant of a
//! page that stands there for seconds. So after a minute one request may go, as a probe. If the registry asks for silence
//! again, the pause before the next probe doubles, up to the time that it said; if it answers, the silence is over.

use std::time::{Duration, Instant};

use super::{failure::Limit, view::Quota};

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

/// How long an asked silence is kept before a probe may go. Doubles while probes confirm it.
const PROBE_AFTER: Duration = Duration::from_mins(1);

/// Where another larder probes, it is asked so much later how that went.
const PUT_OFF: Duration = Duration::from_secs(10);

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
    /// Ask: the endpoint wants to be left alone, and this is the one request that sees whether it still does.
    Probe,
    /// The endpoint wants to be left alone.
    Silent(Silent),
}

/// What is told of a silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Silent {
    /// For this long still.
    pub left: Duration,
    /// So long until the next probe may go.
    pub probe_in: Duration,
    pub why: Limit,
}

/// A silence that an endpoint asked for.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Instant,
    until: Instant,
    /// When the next probe may go, and the pause before it.
    probe_at: Instant,
    pause: Duration,
    why: Limit,
}

#[derive(Debug)]
pub struct Health {
    failures: u32,
    pause: Duration,
    open_until: Option<Instant>,
    probing_since: Option<Instant>,
    silence: Option<Silence>,
    /// The next silence, should no time be said.
    unsaid: Duration,
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
            silence: None,
            unsaid: SILENCE_FIRST,
            retries: RETRIES_AT_ONCE,
            refilled: now,
            quota: None,
        }
    }

    /// May a request go now? The first one after a pause is the probe.
    pub fn admit(&mut self, now: Instant) -> Admission {
        if let Some(silent) = self.silent(now) {
            if !silent.probe_in.is_zero() || self.is_probing(now) {
                return Admission::Silent(silent);
            }
            self.probing_since = Some(now);
            return Admission::Probe;
        }
        let Some(until) = self.open_until else {
            return Admission::Go;
        };
        if now < until || self.is_probing(now) {
            return Admission::Avoid;
        }
        self.probing_since = Some(now);
        Admission::Go
    }

    /// Whether the breaker is open, for people: not for ever where the credential that failed is never shown again.
    pub fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until + TOLD)
    }

    fn is_probing(&self, now: Instant) -> bool {
        self.probing_since.is_some_and(|since| now < since + PROBE)
    }

    /// Whether and how the endpoint still wants to be left alone.
    pub fn silent(&self, now: Instant) -> Option<Silent> {
        let silence = self.silence.filter(|silence| now < silence.until)?;
        Some(Silent {
            left: silence.until - now,
            probe_in: silence.probe_at.saturating_duration_since(now),
            why: silence.why,
        })
    }

    /// How long ago the silence began.
    pub fn silenced(&self, now: Instant) -> Duration {
        self.silence.map_or(Duration::ZERO, |silence| {
            now.saturating_duration_since(silence.since)
        })
    }

    /// The probe that was about to go is another larder's business.
    pub fn put_off(&mut self, now: Instant) {
        self.probing_since = None;
        if let Some(silence) = &mut self.silence {
            silence.probe_at = now + PUT_OFF;
        }
    }

    /// An answer came, be it a refusal. Only a probe's ends a silence: another may have been asked before it began.
    pub fn answered(&mut self, probe: bool) {
        self.failures = 0;
        self.pause = PAUSE_FIRST;
        self.open_until = None;
        self.probing_since = None;
        self.unsaid = SILENCE_FIRST;
        if probe {
            self.silence = None;
        }
    }

    /// No answer came, or a server's failure. `jitter` is 0..1 and spreads the nodes of a cluster.
    pub fn failed(&mut self, now: Instant, jitter: f64) {
        self.failures += 1;
        let probe = self.probing_since.take().is_some();
        if let Some(silence) = &mut self.silence
            && probe
        {
            // Nothing was learned: the next probe goes after the same pause.
            silence.probe_at = now + silence.pause;
        }
        if self.failures < FAILURES && !probe {
            return;
        }
        if self.open_until.is_some_and(|until| now < until) {
            return;
        }
        self.open_until = Some(now + self.pause.mul_f64(0.75 + 0.5 * jitter));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// The endpoint wants to be left alone, for `retry_after` if it has said so. What a probe is told counts from now on;
    /// what others are told, that were asked before, can only make it longer.
    pub fn limited(
        &mut self,
        now: Instant,
        retry_after: Option<Duration>,
        why: Limit,
        probe: bool,
    ) {
        let asked = retry_after.map_or(self.unsaid, |asked| asked.min(SILENCE_ASKED_MAX));
        if retry_after.is_none() {
            self.unsaid = (self.unsaid * 2).min(SILENCE_MAX);
        }
        let until = now + asked;
        let before = self.silence.filter(|silence| now < silence.until);
        self.silence = Some(match before {
            None => Silence {
                since: now,
                until,
                probe_at: now + PROBE_AFTER,
                pause: PROBE_AFTER,
                why,
            },
            Some(silence) if probe => {
                let pause = silence.pause * 2;
                Silence {
                    since: silence.since,
                    // Who names no time this time has not taken back what it said before.
                    until: if retry_after.is_some() {
                        until
                    } else {
                        until.max(silence.until)
                    },
                    probe_at: now + pause,
                    pause,
                    why,
                }
            }
            Some(silence) => Silence {
                until: until.max(silence.until),
                ..silence
            },
        });
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
        health.answered(false);
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

    fn left(admission: Admission) -> Option<Duration> {
        match admission {
            Admission::Silent(silent) => Some(silent.left),
            _ => None,
        }
    }

    #[test]
    fn silence_is_kept_as_long_as_was_asked() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.limited(now, Some(7 * SECOND), Limit::Quota, false);
        assert_eq!(left(health.admit(now + 2 * SECOND)), Some(5 * SECOND));
        // A shorter one that comes later does not shorten it.
        health.limited(now, Some(SECOND), Limit::Quota, false);
        assert_eq!(left(health.admit(now + 2 * SECOND)), Some(5 * SECOND));
        // Nor does an answer to what was asked before.
        health.answered(false);
        assert_eq!(left(health.admit(now + 2 * SECOND)), Some(5 * SECOND));
        assert_eq!(health.admit(now + 7 * SECOND), Admission::Go);
        health.limited(now, Some(SECOND * 1_000_000), Limit::Quota, false);
        assert_eq!(health.admit(now + SILENCE_ASKED_MAX), Admission::Go);
    }

    #[test]
    fn silence_without_a_time_doubles_until_an_answer() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.limited(now, None, Limit::Quota, false);
        assert_eq!(left(health.admit(now)), Some(SECOND));
        health.limited(now, None, Limit::Quota, false);
        assert_eq!(left(health.admit(now)), Some(2 * SECOND));
        health.answered(false);
        let later = now + 10 * SECOND;
        health.limited(later, None, Limit::Quota, false);
        assert_eq!(left(health.admit(later)), Some(SECOND));
    }

    const HOUR: Duration = Duration::from_hours(1);
    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_confirmed_silence_doubles_the_pause_up_to_the_time_said() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.limited(start, Some(HOUR), Limit::Unavailable, false);
        let (mut now, mut probes) = (start, Vec::new());
        while now < start + HOUR {
            match health.admit(now) {
                Admission::Probe => {
                    probes.push((now - start).as_secs() / 60);
                    assert!(left(health.admit(now)).is_some(), "only one probe");
                    // It says the time that is left, as a server does that is down until a certain hour.
                    let said = start + HOUR - now;
                    health.limited(now, Some(said), Limit::Unavailable, true);
                }
                Admission::Silent(silent) => assert_eq!(silent.left, start + HOUR - now),
                other => panic!("{other:?}"),
            }
            now += SECOND;
        }
        assert_eq!(probes, [1, 3, 7, 15, 31]);
        assert_eq!(health.admit(now), Admission::Go);
    }

    #[test]
    fn an_answered_probe_ends_the_silence_and_a_lost_one_does_not() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.limited(start, Some(HOUR), Limit::Unavailable, false);
        assert!(left(health.admit(start + 59 * SECOND)).is_some());
        assert_eq!(health.admit(start + MINUTE), Admission::Probe);
        // It says nothing: another may go.
        assert!(left(health.admit(start + MINUTE + SECOND)).is_some());
        let now = start + MINUTE + PROBE;
        assert_eq!(health.admit(now), Admission::Probe);
        // It fails: that confirms nothing, and the next one waits as long as it did.
        health.failed(now, 0.5);
        assert!(left(health.admit(now + 59 * SECOND)).is_some());
        assert_eq!(health.admit(now + MINUTE), Admission::Probe);
        health.answered(true);
        assert_eq!(health.admit(now + MINUTE), Admission::Go);
    }

    #[test]
    fn a_probe_that_is_another_larders_is_put_off_a_little() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.limited(start, Some(HOUR), Limit::Quota, false);
        let now = start + MINUTE;
        assert_eq!(health.admit(now), Admission::Probe);
        assert_eq!(health.silenced(now), MINUTE);
        health.put_off(now);
        assert!(left(health.admit(now)).is_some());
        assert_eq!(health.admit(now + PUT_OFF), Admission::Probe);
    }

    #[test]
    fn what_a_probe_is_told_counts() {
        let start = Instant::now();
        let now = start + MINUTE;
        for (told, until) in [
            (Some(2 * HOUR), now + 2 * HOUR),
            (Some(MINUTE), now + MINUTE),
            (None, start + HOUR),
        ] {
            let mut health = Health::new(start);
            health.limited(start, Some(HOUR), Limit::Unavailable, false);
            assert_eq!(health.admit(now), Admission::Probe);
            health.limited(now, told, Limit::Quota, true);
            assert_eq!(left(health.admit(now)), Some(until - now), "{told:?}");
        }
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

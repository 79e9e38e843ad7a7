//! The health of an endpoint: a circuit breaker, the silence after a rate limit, and a budget for retries.
//!
//! ```text
//!             FAILURES failures in a row              after a pause, one request
//!   Closed ─────────────────────────────▶ Open ─────────────────────────────▶ Half-open (one probe)
//!     ▲                                    ▲                                        │
//!     │             success                │ failure: twice the pause               │
//!     └────────────────────────────────────┴────────────────────────────────────────┘
//! ```
//!
//! An open breaker only changes which endpoint is asked first. If no other endpoint can answer, a request still goes
//! through and is the probe (promise P14).
//!
//! A silence binds every request, since the registry asked for it (promise P15). But the stated time is often a
//! constant on an error page that is shown for seconds. So after a minute one request may go, as a probe. If the
//! registry asks for silence again, the pause before the next probe doubles, up to the stated time. If it answers, the
//! silence is over.

use std::time::{Duration, Instant};

use super::{failure::Limit, view::Quota};

/// Failures in a row that open the breaker.
const FAILURES: u32 = 5;

const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long after its pause an open breaker is still shown to people; after that, only once a probe has failed again.
/// This is longer than the five minutes after which a kubelet tries again, so a registry that stays down is shown as
/// such.
const SHOWN: Duration = Duration::from_mins(6);

/// A probe without a result for this long counts as lost, and another one may go.
const PROBE: Duration = Duration::from_secs(10);

/// The silence after a limit without a stated time. It doubles while limits follow each other.
const SILENCE_FIRST: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// A longer `Retry-After` is honoured for this long only, as it must be a mistake or an attack.
const SILENCE_ASKED_MAX: Duration = Duration::from_hours(6);

/// How long a silence lasts before the first probe. Doubles while probes confirm the silence.
const PROBE_AFTER: Duration = Duration::from_mins(1);

/// While another larder probes, this one waits so long before it asks for the result.
const PUT_OFF: Duration = Duration::from_secs(10);

/// Retries per second, and in one burst, for all fills at an endpoint together.
const RETRIES_PER_SECOND: f64 = 20.0;
const RETRIES_AT_ONCE: f64 = 40.0;

/// Whether an endpoint may be asked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Ask.
    Go,
    /// The breaker is open: ask only if no other endpoint can answer.
    Avoid,
    /// Ask: the endpoint requested silence, and this one request finds out whether it still wants it.
    Probe,
    /// Do not ask: the endpoint requested silence.
    Silent(Silent),
}

/// The state of a silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Silent {
    /// The time until the silence ends.
    pub left: Duration,
    /// The time until the next probe may go.
    pub probe_in: Duration,
    pub why: Limit,
}

/// A silence that an endpoint requested.
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
    /// The length of the next silence for which no time is stated.
    unsaid: Duration,
    retries: f64,
    refilled: Instant,
    /// The quota that the endpoint last stated, to be shown to people, and until when it may be valid.
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

    /// Whether a request may go now. The first one after a pause is the probe.
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

    /// Whether the breaker is shown as open, which ends even if the failed credential is never shown again.
    pub fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until + SHOWN)
    }

    /// How long the breaker stays open.
    pub fn open_for(&self, now: Instant) -> Option<Duration> {
        let left = self.open_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn is_probing(&self, now: Instant) -> bool {
        self.probing_since.is_some_and(|since| now < since + PROBE)
    }

    /// The silence, if the endpoint still wants it.
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

    /// Postpones this larder's probe, since another larder probes.
    pub fn put_off(&mut self, now: Instant) {
        self.probing_since = None;
        if let Some(silence) = &mut self.silence {
            silence.probe_at = now + PUT_OFF;
        }
    }

    /// Records an answer, even a refusal. Only the answer to a probe ends a silence: another request may have been sent
    /// before the silence began.
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

    /// Records a missing answer or a server error. `jitter` (0 to 1) spreads the nodes of a cluster.
    pub fn failed(&mut self, now: Instant, jitter: f64) {
        self.failures += 1;
        let probe = self.probing_since.take().is_some();
        if let Some(silence) = &mut self.silence
            && probe
        {
            // The probe showed nothing, so the next one goes after the same pause.
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

    /// Records that the endpoint requested silence, for `retry_after` if stated. The answer to a probe sets the time
    /// anew. Other requests were sent before it, so their answers can only prolong the silence.
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
                    // An answer without a time does not shorten an earlier stated time.
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

    /// How long a retry has to wait, according to the budget.
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
mod tests;

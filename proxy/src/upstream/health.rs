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
//! An open breaker only changes which endpoint is asked first: a request that nothing else can answer goes through and is the
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

/// An open breaker is shown to people for this long after its pause, and then only once a probe has failed again. Longer
/// than the five minutes after which a kubelet tries again, so that a registry that stays down is shown as such.
const SHOWN: Duration = Duration::from_mins(6);

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

/// What is known of a silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Silent {
    /// For this long still.
    pub left: Duration,
    /// For this long no probe may go.
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

    /// The endpoint wants to be left alone, for `retry_after` if it has said so. The answer to a probe counts from now
    /// on; the answers to other requests, which were sent before, can only make it longer.
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
                    // An answer without a time takes back nothing that an earlier one said.
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
mod tests;

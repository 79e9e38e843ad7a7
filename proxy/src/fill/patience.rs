//! How long a failing source is asked again, and with which pauses: pure, without a clock.
//!
//! A fill and a blob that is passed on follow the same rule: a source that brings nothing for [`IDLE`] stalls, failures
//! are borne for [`ERRORS`], stalls for [`STALLS`], and the pauses between two attempts grow.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

/// A stream that brings nothing for this long is given up and asked for again.
pub const IDLE: Duration = Duration::from_secs(5);

/// Readers with headers are not given up before their source has failed for this long (promise P14).
const ERRORS: Duration = Duration::from_secs(5);

/// The same where the source stalls instead of failing (promise P12).
pub(super) const STALLS: Duration = Duration::from_secs(20);

/// A jitter that leaves pauses as they are.
pub const EVEN: f64 = 0.5;

/// The pauses between two attempts, and from when failures count.
#[derive(Clone, Copy, Debug)]
struct Rule {
    first: Duration,
    most: Duration,
    errors: Count,
}

/// Since when failures are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Count {
    FirstFailure,
    LastByte,
}

/// Several streams may wait for the same source, so the pauses grow from next to nothing. A slow answer of one stream
/// is no failure of the others: the time begins with the first failure.
const FILL: Rule = Rule {
    first: Duration::from_millis(50),
    most: Duration::from_secs(1),
    errors: Count::FirstFailure,
};

/// One client waits for one stream, and each attempt goes to the next endpoint: the pauses do not grow. The client has
/// waited since the last byte, so the time begins there.
const PASSAGE: Rule = Rule {
    first: Duration::from_millis(200),
    most: Duration::from_millis(200),
    errors: Count::LastByte,
};

/// What follows from a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The source, or another, is asked again after a pause.
    AskAgain,
    GiveUp,
}

/// When to ask again and when to stop asking.
#[derive(Debug)]
pub struct Patience {
    rule: Rule,
    /// Bytes that are present. What comes a second time, from a source without ranges, is no progress.
    present: u64,
    /// The last progress.
    since: Instant,
    /// The first failure after that.
    failing: Option<Instant>,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Patience {
    /// The patience of a fill.
    pub fn of_fill(now: Instant) -> Self {
        Self::new(FILL, now)
    }

    /// The patience with a blob that is passed on.
    pub fn of_passage(now: Instant) -> Self {
        Self::new(PASSAGE, now)
    }

    fn new(rule: Rule, now: Instant) -> Self {
        Self {
            rule,
            present: 0,
            since: now,
            failing: None,
            pause: rule.first,
            not_before: None,
        }
    }

    /// Notes that so many bytes are present. More than before is progress.
    pub fn note(&mut self, now: Instant, present: u64) {
        if present > self.present {
            self.present = present;
            self.progressed(now);
        }
    }

    /// Something has come, or no reader wants anything: earlier failures say nothing of the next.
    pub fn progressed(&mut self, now: Instant) {
        self.since = now;
        self.failing = None;
        self.pause = self.rule.first;
    }

    /// The bytes were wrong, and the blob is begun anew, from nothing. The pauses go on growing.
    pub fn restarted(&mut self, now: Instant) {
        self.present = 0;
        self.since = now;
        self.failing = None;
    }

    /// An attempt has failed. A stall has taken its time already: only the time since the last progress counts then, so
    /// that the other sources still get theirs.
    pub fn failed(&mut self, now: Instant, stalled: bool) -> Next {
        let first = *self.failing.get_or_insert(now);
        let failing = match self.rule.errors {
            Count::FirstFailure => first,
            Count::LastByte => self.since,
        };
        let errors = !stalled && now.duration_since(failing) >= ERRORS;
        if errors || now.duration_since(self.since) >= STALLS {
            Next::GiveUp
        } else {
            Next::AskAgain
        }
    }

    /// The pause before the next attempt: from half to one and a half of what is due, as `jitter` (0 to 1) says. The
    /// next one is twice as long, up to the longest.
    pub fn pause(&mut self, jitter: f64) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.rule.most);
        pause.mul_f64(0.5 + jitter)
    }

    /// Nothing is asked before `at`.
    pub fn hold_until(&mut self, at: Instant) {
        self.not_before = Some(at);
    }

    /// Until when nothing is asked, if that is still to come.
    pub fn held(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }
}

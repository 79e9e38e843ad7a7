//! When a token is fetched, renewed, used on, or not asked for: pure decisions (docs/identity.md has them as a table).
//!
//! Owns the times of one token and of its failures. Leaves to others how a token is fetched.

use std::time::{Duration, Instant};

/// The first pause after a failure, doubled with each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that larder chooses.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// The longest pause that a server may ask for.
const ASKED_MAX: Duration = Duration::from_hours(1);
/// The longest life of a token, whatever its server says.
const LIFETIME_MAX: Duration = Duration::from_hours(24);
/// The spare time before a token's end: a request that begins now should not arrive with an expired token.
const SPARE: Duration = Duration::from_secs(5);
/// The longest time before its end at which a token is renewed, if the server gives out the same token until then.
const BEFORE_END: Duration = Duration::from_mins(4);

/// When a token is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Early {
    /// In the second half of its life, so that nodes that started together ask at different times.
    Half,
    /// Shortly before its end. The server keeps the token, and would answer an earlier question with the same one.
    End,
}

/// What a request for the token is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Use the token.
    Use,
    /// Use the token, and renew it beside that.
    Renew,
    /// There is no token: wait for one.
    Fetch,
    /// There is no token, and the server must not be asked yet: the last failure is the answer.
    Fail,
}

/// What one failure means for the next question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Refrain {
    /// The pause that the server has asked for.
    pub asked: Option<Duration>,
}

#[derive(Debug)]
struct Life {
    until: Instant,
    usable_until: Instant,
    renew_at: Instant,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    /// The end of the pause that the server has asked for. A person's question does not override it.
    asked_until: Option<Instant>,
}

/// The times and failures of one token.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    life: Option<Life>,
    failures: u32,
    pause: Option<Pause>,
}

impl Renewal {
    /// What to do now.
    pub(super) fn next(&self, now: Instant) -> Next {
        let paused = self.pause.as_ref().is_some_and(|pause| now < pause.until);
        match &self.life {
            Some(life) if now < life.usable_until => {
                if now >= life.renew_at && !paused {
                    Next::Renew
                } else {
                    Next::Use
                }
            }
            _ if paused => Next::Fail,
            _ => Next::Fetch,
        }
    }

    /// A token came that lives for `lifetime`. `dice` is from 0 to 1.
    pub(super) fn fetched(&mut self, now: Instant, lifetime: Duration, early: Early, dice: f64) {
        let lifetime = lifetime.min(LIFETIME_MAX);
        let renewed_after = match early {
            Early::Half => lifetime.mul_f64(0.5 + 0.3 * dice),
            Early::End => {
                let before = (lifetime / 2).min(BEFORE_END).mul_f64(0.5 + 0.4 * dice);
                lifetime.saturating_sub(before)
            }
        };
        self.life = Some(Life {
            until: now + lifetime,
            usable_until: now + lifetime.saturating_sub(SPARE.min(lifetime / 4)),
            renew_at: now + renewed_after,
        });
        self.failures = 0;
        self.pause = None;
    }

    /// No token came. The current one stays in use until its end.
    pub(super) fn failed(&mut self, now: Instant, refrain: Refrain, dice: f64) {
        let doubled = PAUSE.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        let own = doubled.min(PAUSE_MAX).mul_f64(0.5 + 0.5 * dice);
        let asked = refrain.asked.map(|asked| asked.min(ASKED_MAX));
        self.pause = Some(Pause {
            until: now + own.max(asked.unwrap_or_default()),
            asked_until: asked.map(|asked| now + asked),
        });
    }

    /// A person asks: larder's own pause is dropped, the server's stays.
    pub(super) fn hurry(&mut self) {
        if let Some(pause) = self.pause.take() {
            self.pause = pause.asked_until.map(|until| Pause {
                until: until.min(pause.until),
                asked_until: Some(until),
            });
        }
    }

    /// How much longer the token is good.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let life = self.life.as_ref().filter(|life| now < life.usable_until)?;
        Some(life.until.saturating_duration_since(now))
    }

    /// How much longer the server is not asked.
    pub(super) fn paused(&self, now: Instant) -> Option<Duration> {
        let until = self.pause.as_ref()?.until;
        (now < until).then(|| until - now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_used_renewed_in_its_second_half_and_fetched_after_its_end() {
        let start = Instant::now();
        for (early, dice, renewed) in [
            (Early::Half, 0.0, 1800),
            (Early::Half, 1.0, 2880),
            (Early::End, 0.0, 3480),
            (Early::End, 1.0, 3384),
        ] {
            let mut renewal = Renewal::default();
            assert_eq!(renewal.next(start), Next::Fetch);
            renewal.fetched(start, Duration::from_hours(1), early, dice);
            for (at, next) in [
                (0, Next::Use),
                (renewed - 1, Next::Use),
                (renewed, Next::Renew),
                (3594, Next::Renew),
                (3595, Next::Fetch),
            ] {
                assert_eq!(
                    renewal.next(after(start, at)),
                    next,
                    "{early:?} {dice} {at}"
                );
            }
        }
    }

    /// The old token is used while its renewal fails. After its end, the failure is the answer until the pause is over.
    #[test]
    fn a_failure_costs_a_pause_and_not_the_token() {
        let start = Instant::now();
        let mut renewal = Renewal::default();
        renewal.fetched(start, 100 * SECOND, Early::Half, 0.0);
        renewal.failed(after(start, 90), Refrain::default(), 1.0);
        assert_eq!(renewal.next(after(start, 90)), Next::Use);
        assert_eq!(renewal.next(after(start, 91)), Next::Renew);
        assert_eq!(renewal.left(after(start, 91)), Some(9 * SECOND));
        renewal.failed(after(start, 94), Refrain::default(), 1.0);
        assert_eq!(renewal.next(after(start, 95)), Next::Fail);
        assert_eq!(renewal.left(after(start, 95)), None);
        assert_eq!(renewal.next(after(start, 96)), Next::Fetch);
    }

    #[test]
    fn the_servers_wish_counts_also_for_people() {
        let start = Instant::now();
        let mut renewal = Renewal::default();
        renewal.failed(start, Refrain::default(), 1.0);
        assert_eq!(renewal.next(start), Next::Fail);
        renewal.hurry();
        assert_eq!(renewal.next(start), Next::Fetch);
        let asked = Some(30 * SECOND);
        renewal.failed(start, Refrain { asked }, 1.0);
        renewal.hurry();
        assert_eq!(renewal.next(after(start, 29)), Next::Fail);
        assert_eq!(renewal.next(after(start, 30)), Next::Fetch);
        // The server has asked for less than larder's own pause after so many failures.
        for _ in 0..10 {
            let asked = Some(5 * SECOND);
            renewal.failed(start, Refrain { asked }, 1.0);
        }
        assert_eq!(renewal.next(after(start, 59)), Next::Fail);
        renewal.hurry();
        assert_eq!(renewal.next(after(start, 4)), Next::Fail);
        assert_eq!(renewal.next(after(start, 5)), Next::Fetch);
        let asked = Some(Duration::from_hours(1000));
        renewal.failed(start, Refrain { asked }, 1.0);
        assert_eq!(renewal.next(after(start, 3600)), Next::Fetch);
    }

    proptest! {
        /// In any order of events: a token is never used at its end or after it, and after a failure larder asks again
        /// within a minute, unless the server has asked for more.
        #[test]
        fn no_token_outlives_itself(
            events in prop::collection::vec((0_u64..5000, any::<bool>(), 0_u64..100_000, 0.0..1.0_f64), 0..50)
        ) {
            let start = Instant::now();
            let (mut now, mut ends, mut renewal) = (start, None, Renewal::default());
            for (pass, comes, lifetime, dice) in events {
                now += Duration::from_secs(pass);
                let next = renewal.next(now);
                let used = matches!(next, Next::Use | Next::Renew);
                prop_assert!(!used || ends.is_some_and(|ends| now < ends));
                if comes {
                    let lifetime = Duration::from_secs(lifetime);
                    let early = if dice < 0.5 { Early::Half } else { Early::End };
                    renewal.fetched(now, lifetime, early, dice);
                    ends = Some(now + lifetime.min(LIFETIME_MAX));
                } else {
                    renewal.failed(now, Refrain::default(), dice);
                    let later = renewal.next(now + PAUSE_MAX);
                    prop_assert!(later != Next::Fail);
                }
            }
        }
    }
}

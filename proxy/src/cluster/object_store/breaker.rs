//! Whether the store is asked at all: a store that fails repeatedly is left alone for a while.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// After so many failures in a row the store is left alone.
const FAILURES: u32 = 3;

/// The longest pause is so many times the first.
const LONGEST: u32 = 12;

#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
    /// The first pause.
    first: Duration,
}

#[derive(Debug)]
struct State {
    failures: u32,
    /// The next pause.
    pause: Duration,
    /// The store is left alone until then, and further until a probe is answered.
    resting: Option<Instant>,
    probing: bool,
}

impl State {
    fn new(first: Duration) -> Self {
        Self {
            failures: 0,
            pause: first,
            resting: None,
            probing: false,
        }
    }
}

impl Breaker {
    /// Lets the store be asked. Once it has failed repeatedly, it is left alone for `first`, then for longer.
    pub(super) fn new(first: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(first)),
            first,
        })
    }

    /// May the store be asked? If not, how long to wait before this is worth asking again.
    pub(super) fn permit(self: &Arc<Self>, now: Instant) -> Result<Permit, Duration> {
        let mut state = self.state();
        let mut probe = false;
        if let Some(until) = state.resting {
            let left = until.saturating_duration_since(now);
            if !left.is_zero() {
                return Err(left);
            }
            if state.probing {
                return Err(Duration::from_millis(100));
            }
            state.probing = true;
            probe = true;
        }
        Ok(Permit {
            breaker: Arc::clone(self),
            probe,
        })
    }

    /// How much longer the store is left alone.
    pub(super) fn resting(&self, now: Instant) -> Option<Duration> {
        let until = self.state().resting?;
        Some(until.saturating_duration_since(now))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request to the store. A permit that is dropped without a result says nothing about the store.
#[derive(Debug)]
pub(super) struct Permit {
    breaker: Arc<Breaker>,
    probe: bool,
}

impl Permit {
    /// Notes that the first bytes have come. After a probe, other requests may ask again, but one more failure ends
    /// that: a store that answers and then stalls is as bad as one that does not answer.
    pub(super) fn answered(&mut self) {
        if std::mem::take(&mut self.probe) {
            let mut state = self.breaker.state();
            state.probing = false;
            state.resting = None;
            state.failures = FAILURES - 1;
        }
    }

    /// Notes that the request succeeded.
    pub(super) fn succeeded(mut self) {
        self.probe = false;
        *self.breaker.state() = State::new(self.breaker.first);
    }

    /// Notes that the request failed.
    pub(super) fn failed(mut self, now: Instant) {
        let mut state = self.breaker.state();
        if std::mem::take(&mut self.probe) {
            state.probing = false;
            state.failures = FAILURES;
        } else if state.resting.is_some() {
            // This request began before the pause did, and is not counted again.
            return;
        } else {
            state.failures += 1;
        }
        if state.failures >= FAILURES {
            state.resting = Some(now + state.pause);
            state.pause = (state.pause * 2).min(self.breaker.first * LONGEST);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(5);

    fn failing(breaker: &Arc<Breaker>, times: u32, now: Instant) {
        for _ in 0..times {
            breaker.permit(now).unwrap().failed(now);
        }
    }

    #[test]
    fn three_failures_in_a_row_and_a_doubling_pause() {
        let (breaker, mut now) = (Breaker::new(FIRST), Instant::now());
        failing(&breaker, 2, now);
        breaker.permit(now).unwrap().succeeded();
        failing(&breaker, 2, now);
        assert!(breaker.permit(now).is_ok(), "three, but not in a row");
        failing(&breaker, 1, now);
        for pause in [5, 10, 20, 40, 60, 60] {
            let pause = Duration::from_secs(pause);
            assert_eq!(breaker.permit(now).unwrap_err(), pause);
            assert_eq!(breaker.resting(now), Some(pause));
            now += pause;
            breaker.permit(now).unwrap().failed(now);
        }
    }

    #[test]
    fn one_probe_at_a_time() {
        let (breaker, mut now) = (Breaker::new(FIRST), Instant::now());
        let late = breaker.permit(now).unwrap();
        failing(&breaker, 3, now);
        late.failed(now);
        let left = breaker.permit(now).unwrap_err();
        assert_eq!(left, FIRST, "the late one counts nothing");
        now += FIRST;
        let probe = breaker.permit(now).unwrap();
        assert!(breaker.permit(now).is_err());
        drop(probe);
        let mut probe = breaker.permit(now).unwrap();
        probe.answered();
        breaker.permit(now).unwrap().failed(now);
        let left = breaker.permit(now).unwrap_err();
        assert_eq!(left, FIRST * 2, "answered, and failed in the end");
        probe.succeeded();
        failing(&breaker, 2, now);
        assert!(breaker.permit(now).is_ok());
    }
}

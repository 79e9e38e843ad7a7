//! Whether the store is asked at all: one that fails repeatedly is left alone for a while.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// So many failures in a row, and the store is left alone.
const FAILURES: u32 = 3;

/// For how long at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug)]
struct State {
    failures: u32,
    /// The next pause.
    pause: Duration,
    /// Left alone until then, and further until a probe has succeeded.
    resting: Option<Instant>,
    probing: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            failures: 0,
            pause: FIRST_PAUSE,
            resting: None,
            probing: false,
        }
    }
}

impl Breaker {
    /// May the store be asked? If not, how long to wait before this is worth asking again.
    pub(super) fn permit(self: &Arc<Self>) -> Result<Permit, Duration> {
        let mut state = self.state();
        let mut probe = false;
        if let Some(until) = state.resting {
            let left = until.saturating_duration_since(Instant::now());
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
    pub(super) fn resting(&self) -> Option<Duration> {
        let until = self.state().resting?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One question to the store. Dropped without a word, it says nothing about the store.
#[derive(Debug)]
pub(super) struct Permit {
    breaker: Arc<Breaker>,
    probe: bool,
}

impl Permit {
    /// The first bytes are there. Others may ask again, but one more failure ends that: a store that answers and then
    /// stalls is as bad as one that does not answer.
    pub(super) fn answered(&mut self) {
        if std::mem::take(&mut self.probe) {
            let mut state = self.breaker.state();
            state.probing = false;
            state.resting = None;
            state.failures = FAILURES - 1;
        }
    }

    /// All went well.
    pub(super) fn succeeded(mut self) {
        self.probe = false;
        *self.breaker.state() = State::default();
    }

    /// It did not.
    pub(super) fn failed(mut self) {
        let mut state = self.breaker.state();
        if std::mem::take(&mut self.probe) {
            state.probing = false;
            state.failures = FAILURES;
        } else if state.resting.is_some() {
            // One that was asked before the pause began: it is counted already.
            return;
        } else {
            state.failures += 1;
        }
        if state.failures >= FAILURES {
            state.resting = Some(Instant::now() + state.pause);
            state.pause = (state.pause * 2).min(LONGEST_PAUSE);
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

    fn failing(breaker: &Arc<Breaker>, times: u32) {
        for _ in 0..times {
            breaker.permit().unwrap().failed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_in_a_row_and_a_doubling_pause() {
        let breaker = Arc::new(Breaker::default());
        failing(&breaker, 2);
        breaker.permit().unwrap().succeeded();
        failing(&breaker, 2);
        assert!(breaker.permit().is_ok(), "three, but not in a row");
        failing(&breaker, 1);
        for pause in [5, 10, 20, 40, 60, 60] {
            let pause = Duration::from_secs(pause);
            assert_eq!(breaker.permit().unwrap_err(), pause);
            assert_eq!(breaker.resting(), Some(pause));
            tokio::time::advance(pause).await;
            breaker.permit().unwrap().failed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time() {
        let breaker = Arc::new(Breaker::default());
        let late = breaker.permit().unwrap();
        failing(&breaker, 3);
        late.failed();
        assert_eq!(
            breaker.permit().unwrap_err(),
            FIRST_PAUSE,
            "the late one counts nothing"
        );
        tokio::time::advance(FIRST_PAUSE).await;
        let probe = breaker.permit().unwrap();
        assert!(breaker.permit().is_err());
        drop(probe);
        let mut probe = breaker.permit().unwrap();
        probe.answered();
        breaker.permit().unwrap().failed();
        assert_eq!(
            breaker.permit().unwrap_err(),
            FIRST_PAUSE * 2,
            "answered, and failed in the end"
        );
        probe.succeeded();
        failing(&breaker, 2);
        assert!(breaker.permit().is_ok());
    }
}

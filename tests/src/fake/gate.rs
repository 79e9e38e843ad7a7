//! A gate holds answers back until the test lets them through, so that "the upstream has sent only
//! its first MB" is a state and not a matter of timing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How long [`Gate::reached`] waits.
const DEADLINE: Duration = Duration::from_mins(1);

/// A handle on one gate; clones share the gate. Every answer that passes through it sends so many bytes of its body and
/// then waits there.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Body bytes that each answer may send.
    limit: u64,
    /// Answers that wait at the gate now.
    waiting: usize,
}

impl Gate {
    /// A gate that stops each answer after `bytes` of its body.
    pub fn new(bytes: u64) -> Self {
        let state = State {
            limit: bytes,
            waiting: 0,
        };
        Self {
            state: Arc::new(watch::Sender::new(state)),
        }
    }

    /// Lets everything through, now and later.
    pub fn open(&self) {
        self.let_through(u64::MAX);
    }

    /// Lets each answer send `bytes` of its body in all.
    pub fn let_through(&self, bytes: u64) {
        self.state.send_modify(|state| state.limit = bytes);
    }

    /// How many answers wait at the gate.
    pub fn waiting(&self) -> usize {
        self.state.borrow().waiting
    }

    /// Waits until `answers` answers wait at the gate; panics after a minute.
    pub async fn reached(&self, answers: usize) {
        let mut state = self.state.subscribe();
        let reached = state.wait_for(|state| state.waiting >= answers);
        assert!(
            tokio::time::timeout(DEADLINE, reached).await.is_ok(),
            "{} of {answers} answers have come to the gate",
            self.waiting()
        );
    }

    /// Waits until more than `sent` bytes may be sent and says how many may be.
    pub(super) async fn pass(&self, sent: u64) -> u64 {
        let limit = self.state.borrow().limit;
        if limit > sent {
            return limit;
        }
        let _standing = Standing::at(self);
        let mut state = self.state.subscribe();
        match state.wait_for(|state| state.limit > sent).await {
            Ok(state) => state.limit,
            Err(_) => u64::MAX,
        }
    }
}

/// Counts an answer as waiting for as long as it lives.
struct Standing<'a>(&'a Gate);

impl<'a> Standing<'a> {
    fn at(gate: &'a Gate) -> Self {
        gate.state.send_modify(|state| state.waiting += 1);
        Self(gate)
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.waiting -= 1);
    }
}

//! An orderly shutdown: a signal that every task watches, and guards that show which tasks still work. Also whether
//! this larder should get requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{mpsc, watch};

/// Whether this larder should get requests. Clones share the state.
#[derive(Clone, Default, Debug)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on it should not, because it is about to stop. Requests are still answered while the ports are open.
    pub fn withdraw(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The side that decides to stop.
#[derive(Debug)]
pub struct Drain {
    signal: watch::Sender<bool>,
    done: mpsc::Receiver<()>,
    guard: mpsc::Sender<()>,
}

/// The side that works until it is asked to stop. Clone one into each task; the drain is over when all are dropped.
#[derive(Clone, Debug)]
pub struct Watch {
    signal: watch::Receiver<bool>,
    _guard: mpsc::Sender<()>,
}

impl Drain {
    /// A drain and the watch that belongs to it.
    pub fn new() -> (Self, Watch) {
        let (signal, watching) = watch::channel(false);
        let (guard, done) = mpsc::channel(1);
        let watch = Watch {
            signal: watching,
            _guard: guard.clone(),
        };
        (
            Self {
                signal,
                done,
                guard,
            },
            watch,
        )
    }

    /// Tells all tasks to stop, and waits until all have.
    pub async fn drain(self) {
        let Self {
            signal,
            mut done,
            guard,
        } = self;
        drop(guard);
        let _ = signal.send(true);
        // This returns when the last guard is dropped. Nothing is ever sent.
        let _ = done.recv().await;
    }
}

impl Watch {
    /// Returns when it is time to stop.
    pub async fn stopped(&mut self) {
        // An error means that the [`Drain`] is gone, which means to stop, too.
        let _ = self.signal.wait_for(|stop| *stop).await;
    }
}

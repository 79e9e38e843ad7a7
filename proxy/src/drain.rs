//! Shutting down in order: a signal that every task watches, and guards that say which tasks still work; and whether
//! this larder should be sent anything.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{mpsc, watch};

/// Whether this larder is to be sent requests. Clones say the same.
#[derive(Clone, Default, Debug)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// It is not, from now on: it is about to stop. A client that asks all the same is answered as long as ports are
    /// open.
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
    /// Both ends.
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

    /// Tells everyone to stop and waits until all have.
    pub async fn drain(self) {
        let Self {
            signal,
            mut done,
            guard,
        } = self;
        drop(guard);
        let _ = signal.send(true);
        // Ends when the last guard is dropped: nothing is ever sent.
        let _ = done.recv().await;
    }
}

impl Watch {
    /// Returns when it is time to stop.
    pub async fn stopped(&mut self) {
        // An error means that the other side is gone, which is a stop too.
        let _ = self.signal.wait_for(|stop| *stop).await;
    }
}

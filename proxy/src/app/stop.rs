//! The signals that a daemon is sent.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that mean the end.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    /// Asks for the configuration to be read again. Without a listener, the signal would end the process.
    pub(super) hang_up: Option<Signal>,
}

impl Stop {
    /// Listens for them from now on.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: Some(signal(SignalKind::hangup())?),
        })
    }

    /// Waits for one of them, also one that came before this was called.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

//! The signals that the daemon handles.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask the daemon to stop, and the one for a reload.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    /// Asks for the configuration to be read again. Without a listener, the signal would end the process.
    pub(super) hang_up: Option<Signal>,
}

impl Stop {
    /// Starts to listen for the signals.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: Some(signal(SignalKind::hangup())?),
        })
    }

    /// Waits for a signal to stop, even one that arrived before this call.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

//! How far a long piece of work on the node tier has come, for whoever watches it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use larder_shared::admin::Progress;

/// Counted by who works, looked at by who waits. Work that nobody waits for any more is to stop.
#[derive(Debug, Default)]
pub struct Counts {
    blobs: AtomicU64,
    bytes: AtomicU64,
    of_blobs: AtomicU64,
    of_bytes: AtomicU64,
    stopped: AtomicBool,
}

impl Counts {
    /// So much more is to be done.
    pub fn expect(&self, blobs: u64, bytes: u64) {
        self.of_blobs.fetch_add(blobs, Relaxed);
        self.of_bytes.fetch_add(bytes, Relaxed);
    }

    /// So much more is done.
    pub fn add(&self, blobs: u64, bytes: u64) {
        self.blobs.fetch_add(blobs, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Bytes that have to be done again.
    pub fn take_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    pub fn progress(&self) -> Progress {
        Progress {
            blobs: self.blobs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            of_blobs: self.of_blobs.load(Relaxed),
            of_bytes: self.of_bytes.load(Relaxed),
        }
    }

    /// Nobody waits for it any more.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }
}

//! The progress of a long piece of work on the node tier, for callers that watch it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use larder_shared::admin::Progress;

/// The working thread counts, and the waiting caller looks. Work for which no caller waits any more has to stop.
#[derive(Debug, Default)]
pub struct Counts {
    blobs: AtomicU64,
    bytes: AtomicU64,
    of_blobs: AtomicU64,
    of_bytes: AtomicU64,
    stopped: AtomicBool,
}

impl Counts {
    /// Adds to the work that is to be done.
    pub fn expect(&self, blobs: u64, bytes: u64) {
        self.of_blobs.fetch_add(blobs, Relaxed);
        self.of_bytes.fetch_add(bytes, Relaxed);
    }

    /// Adds to the work that is done.
    pub fn add(&self, blobs: u64, bytes: u64) {
        self.blobs.fetch_add(blobs, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Takes back bytes that have to be done again.
    pub fn take_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// How far the work has come by now.
    pub fn progress(&self) -> Progress {
        Progress {
            blobs: self.blobs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            of_blobs: self.of_blobs.load(Relaxed),
            of_bytes: self.of_bytes.load(Relaxed),
        }
    }

    /// Tells the work to stop: no caller waits for it any more.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Whether the work has to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }
}

//! How far a long piece of work on the node tier has come, for those that watch it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use larder_shared::admin::Progress;

/// The thread that works counts, and the one that waits looks. Work for which no caller waits any more is to stop.
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

    /// How far the work has come by now.
    pub fn progress(&self) -> Progress {
        Progress {
            blobs: self.blobs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            of_blobs: self.of_blobs.load(Relaxed),
            of_bytes: self.of_bytes.load(Relaxed),
        }
    }

    /// No caller waits for it any more.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Whether the work is to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }
}

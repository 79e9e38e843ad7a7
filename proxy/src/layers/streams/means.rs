//! What all streaming layers share, and what is known of all their reads.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{pull::Pull, sys::disk};

/// What every streaming layer needs.
#[derive(Debug)]
pub struct Means {
    pub pull: Arc<Pull>,
    /// Permits to decode a span.
    pub decoding: Semaphore,
    /// Number of reads that wait for bytes.
    pub waiting: AtomicU64,
    /// When a read last wanted bytes that were not here.
    pub wanted: Mutex<Instant>,
}

impl Means {
    pub fn note_wanted(&self) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = Instant::now();
    }

    /// When a read last wanted bytes that were not here. `None` while a read waits.
    pub fn quiet_since(&self) -> Option<Instant> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        (self.waiting.load(Ordering::Relaxed) == 0).then_some(*wanted)
    }
}

/// A read that waits for bytes.
pub struct Waits<'a>(&'a Means);

impl<'a> Waits<'a> {
    pub fn new(means: &'a Means) -> Self {
        means.waiting.fetch_add(1, Ordering::Relaxed);
        Self(means)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A range of a file, from the page cache if it is there.
pub async fn read_file(file: &Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    if let Ok(read) = disk::read_cached(file, &mut bytes, range.start)
        && read == bytes.len()
    {
        return Ok(bytes.into());
    }
    let file = Arc::clone(file);
    let read = move || {
        file.read_exact_at(&mut bytes, range.start)?;
        io::Result::Ok(bytes.into())
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

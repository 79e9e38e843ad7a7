//! How a record learns what its log says: once, on a thread that may wait for the disk.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use super::{Known, RepositoryRecord, lock, log::append};
use crate::{store::layout::Layout, sys::Calls};

/// Whether a record knows what its log says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reading {
    /// No thread has begun to read the log. New lines wait in memory.
    Not,
    UnderWay,
    Done,
}

impl RepositoryRecord {
    /// What the log says. A log that is mostly history is rewritten.
    fn parsed(&self, layout: &Layout, path: &Path) -> Known {
        let text = fs::read(path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                self.unreadable.store(true, Ordering::Relaxed);
            }
            Vec::new()
        });
        let torn = text.last().is_some_and(|last| *last != b'\n');
        let (known, lines) = Known::read(&text);
        let live = known.lines().count();
        if lines > 64 && lines > 4 * live {
            let _ = layout.write_atomic(path, &known.text(), false);
        } else if torn {
            // The next line must not be joined to the torn one.
            let _ = append(path, b"\n");
        }
        known
    }

    /// Reads the log, if it is not read yet (blocking). What the log says is older than what was learned without it.
    /// Another larder's log is not read: its owner goes on writing, so what it says now would be old when it is used.
    pub(super) fn read(&self) {
        if self.is_read() || !self.layout.claim().is_held() {
            return;
        }
        {
            let _one = lock(&self.log.writing);
            if self.is_read() {
                return;
            }
            let mut all = self.parsed(&self.layout, &self.log.path);
            let mut known = lock(&self.known);
            let mut waiting = self.log.lines.waiting();
            *waiting = all.merge(&waiting);
            if all.holds_nothing() {
                waiting.clear();
            }
            drop(waiting);
            *known = all;
            self.reading.send_replace(Reading::Done);
        }
        self.note_held();
        self.flush();
    }

    pub(super) fn is_read(&self) -> bool {
        *self.reading.borrow() == Reading::Done
    }

    /// Whether no thread has begun to read the log. If so, the caller has to read it.
    pub(super) fn is_to_be_read(&self) -> bool {
        self.layout.claim().is_held()
            && self.reading.send_if_modified(|reading| {
                let first = *reading == Reading::Not;
                if first {
                    *reading = Reading::UnderWay;
                }
                first
            })
    }

    /// Whether the record must stay in memory: its log is being read, or it has lines that wait.
    pub(super) fn stays(&self) -> bool {
        *self.reading.borrow() == Reading::UnderWay || !self.log.lines.waiting().is_empty()
    }

    /// Reads the log on a thread that `calls` gives it, unless another thread does. Returns when it is read.
    pub(in crate::store) async fn ready(self: Arc<Self>, calls: Calls) {
        if self.is_to_be_read() {
            let record = Arc::clone(&self);
            // The read goes on when no caller waits for it any more.
            tokio::spawn(async move { calls.to_its_end(move || record.read()).await });
        }
        let mut reading = self.reading.subscribe();
        let _ = reading.wait_for(|reading| *reading == Reading::Done).await;
    }

    /// Whether there is nothing to wait for: the log is read, or it is another larder's.
    pub(in crate::store) fn is_ready(&self) -> bool {
        self.is_read() || !self.layout.claim().is_held()
    }
}

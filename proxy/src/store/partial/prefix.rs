//! The hash of a partial. It follows the contiguous prefix, and takes in each byte once, on the way in.
//!
//! A piece that was just written at the end of the prefix waits here in memory for its turn. Bytes that came out of
//! order are read back from the page cache. One caller at a time hashes, for as long as there is something to hash. So
//! no thread has to be found between one piece and the next.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Condvar, Mutex, PoisonError},
};

use bytes::Bytes;
use larder_shared::{Hasher, Range};
use tokio::sync::OwnedSemaphorePermit;

use super::{Sums, lock};

/// Bytes read back at a time.
const READ_BACK: u64 = 1 << 20;

/// Bytes of one stream that were written together.
#[derive(Debug)]
pub struct Piece {
    pub start: u64,
    pub chunks: Vec<Bytes>,
    /// The permit for its memory, released when the piece is dropped.
    pub room: Option<OwnedSemaphorePermit>,
}

impl Piece {
    /// The bytes' place in the blob.
    pub fn range(&self) -> Range {
        let len: u64 = self.chunks.iter().map(|c| c.len() as u64).sum();
        Range::new(self.start, self.start + len)
    }
}

/// What is to be hashed next.
#[derive(Debug)]
enum Next {
    Memory(Piece),
    File(Range),
}

pub(super) struct Prefix {
    /// The hasher, and how many bytes it has seen. The thread that hashes works on a copy and puts it back, so the lock
    /// is never held for long.
    hashed: Mutex<(Hasher, u64)>,
    /// The checksums, if they have followed from the first byte on. Only the thread that hashes adds to them.
    sums: Mutex<Option<Sums>>,
    queue: Mutex<Queue>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    next: VecDeque<Next>,
    /// Where the hash will be when all of `next` is hashed.
    end: u64,
    running: bool,
    /// Why a read failed, until a caller gets the error.
    failed: Option<io::Error>,
}

impl std::fmt::Debug for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prefix({})", lock(&self.hashed).1)
    }
}

impl Prefix {
    /// The hasher has seen the first `at` bytes.
    pub(super) fn new(hasher: Hasher, at: u64) -> Self {
        let queue = Queue {
            end: at,
            ..Queue::default()
        };
        Self {
            hashed: Mutex::new((hasher, at)),
            sums: Mutex::new((at == 0).then(Sums::default)),
            queue: Mutex::new(queue),
            idle: Condvar::new(),
        }
    }

    /// The hasher as it is, and how many bytes it has seen.
    pub(super) fn midstate(&self) -> (Hasher, u64) {
        lock(&self.hashed).clone()
    }

    /// The checksums of all that was hashed.
    pub(super) fn take_sums(&self) -> Option<Sums> {
        lock(&self.sums).take()
    }

    /// Why a read failed since the last call.
    pub(super) fn failure(&self) -> Option<io::Error> {
        lock(&self.queue).failed.take()
    }

    /// Takes in a piece that was just written, if it belongs to the prefix. `present_to` gives the end of the present
    /// run that holds a byte. Returns whether the caller has to call [`Self::follow`].
    pub(super) fn push(&self, piece: Piece, present_to: impl Fn(u64) -> u64) -> bool {
        let mut queue = lock(&self.queue);
        let range = piece.range();
        // A piece behind a gap is read back when the gap is closed. So is a piece that overlaps with what is queued.
        if queue.end <= range.start && range.start <= present_to(queue.end) {
            let before = Range::new(queue.end, range.start);
            if !before.is_empty() {
                queue.next.push_back(Next::File(before));
            }
            queue.end = range.end;
            queue.next.push_back(Next::Memory(piece));
        }
        !queue.running
    }

    /// Hashes until nothing is left to hash. While another caller hashes, it returns at once, or with `wait` waits for
    /// its turn.
    pub(super) fn follow(
        &self,
        file: &File,
        present_to: impl Fn(u64) -> u64,
        wait: bool,
    ) -> io::Result<()> {
        let mut queue = lock(&self.queue);
        while queue.running {
            if !wait {
                return Ok(());
            }
            queue = self
                .idle
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.running = true;
        loop {
            let next = queue.next.pop_front().or_else(|| {
                let rest = Range::new(queue.end, present_to(queue.end));
                (!rest.is_empty()).then(|| {
                    queue.end = rest.end;
                    Next::File(rest)
                })
            });
            let done = match next {
                Some(next) => {
                    drop(queue);
                    let done = self.take(file, &next);
                    // Releases the piece's memory.
                    drop(next);
                    queue = lock(&self.queue);
                    done.map(|()| true)
                }
                None => Ok(false),
            };
            if matches!(done, Ok(true)) {
                continue;
            }
            if let Err(error) = &done {
                // The next thread begins where this one stopped.
                queue.next.clear();
                queue.end = lock(&self.hashed).1;
                queue.failed = Some(io::Error::new(error.kind(), error.to_string()));
            }
            queue.running = false;
            self.idle.notify_all();
            return done.map(|_| ());
        }
    }

    fn take(&self, file: &File, next: &Next) -> io::Result<()> {
        match next {
            Next::Memory(piece) => {
                let (mut hasher, _) = self.midstate();
                for chunk in &piece.chunks {
                    hasher.update(chunk);
                }
                if let Some(sums) = &mut *lock(&self.sums) {
                    for chunk in &piece.chunks {
                        sums.update(chunk);
                    }
                }
                *lock(&self.hashed) = (hasher, piece.range().end);
            }
            Next::File(range) => {
                let mut buffer = vec![0; range.len().min(READ_BACK) as usize];
                let mut at = range.start;
                while at < range.end {
                    let part = &mut buffer[..(range.end - at).min(READ_BACK) as usize];
                    file.read_exact_at(part, at)?;
                    let (mut hasher, _) = self.midstate();
                    hasher.update(part);
                    if let Some(sums) = &mut *lock(&self.sums) {
                        sums.update(part);
                    }
                    at += part.len() as u64;
                    *lock(&self.hashed) = (hasher, at);
                }
            }
        }
        Ok(())
    }
}

//! Reads of one file that are under way, and whether one of them hangs.
//!
//! A disk may begin to hang while a file is open. Then only a read that does not return shows it. Such a read cannot be
//! ended, so no reader should begin another.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{HANGS, Hung};

/// The reads of one open file.
#[derive(Default, Debug)]
pub(super) struct Reads(Mutex<UnderWay>);

#[derive(Default, Debug)]
struct UnderWay {
    begun: Vec<Instant>,
    /// The store was told that the file hangs. It counts the hang until `hung` is dropped.
    told: bool,
    hung: Option<Hung>,
}

impl UnderWay {
    fn is_late(&self, now: Instant) -> bool {
        let late = |begun: &Instant| now.saturating_duration_since(*begun) >= HANGS;
        self.begun.iter().any(late)
    }
}

/// One read under way, until dropped.
#[derive(Debug)]
pub(super) struct Read<'a> {
    reads: &'a Reads,
    begun: Instant,
}

impl Reads {
    pub(super) fn begin(&self) -> Read<'_> {
        self.begin_at(Instant::now())
    }

    pub(super) fn begin_at(&self, begun: Instant) -> Read<'_> {
        self.lock().begun.push(begun);
        Read { reads: self, begun }
    }

    pub(super) fn are_under_way(&self) -> bool {
        !self.lock().begun.is_empty()
    }

    /// How long the oldest of them has been under way.
    pub(super) fn oldest(&self) -> Option<Duration> {
        let oldest = self.lock().begun.iter().min().copied();
        oldest.map(|begun| begun.elapsed())
    }

    /// Whether a read should have returned long ago. The first caller that finds one calls `tell`, which tells the
    /// store. The returned guard is kept until no read is late any more.
    pub(super) fn are_late(&self, tell: impl FnOnce() -> Option<Hung>) -> bool {
        let mut reads = self.lock();
        let late = reads.is_late(Instant::now());
        if late && !reads.told {
            reads.told = true;
            reads.hung = tell();
        }
        late
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        let mut reads = self.reads.lock();
        if let Some(own) = reads.begun.iter().position(|begun| *begun == self.begun) {
            reads.begun.swap_remove(own);
        }
        if !reads.is_late(Instant::now()) {
            reads.told = false;
            reads.hung = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_does_not_return_is_late_until_it_does() {
        let reads = Reads::default();
        let long_ago = Instant::now().checked_sub(2 * HANGS).unwrap();
        let told = std::cell::Cell::new(0);
        let late = || {
            reads.are_late(|| {
                told.set(told.get() + 1);
                None
            })
        };
        assert!(!late() && !reads.are_under_way());
        let young = reads.begin();
        assert!(!late() && reads.are_under_way());
        let (old, older) = (reads.begin_at(long_ago), reads.begin_at(long_ago));
        assert!(late() && late());
        assert_eq!(told.get(), 1, "the store is told once");
        // A read that returns says nothing about reads that do not.
        drop((young, older));
        assert!(late());
        drop(old);
        assert!(!late() && !reads.are_under_way());
        let again = reads.begin_at(long_ago);
        assert!(late());
        assert_eq!(told.get(), 2, "it hangs again");
        drop(again);
    }
}

//! Lines on their way to an append-only file, in the order in which they were said.
//!
//! Owns what is not written yet, and that a write which failed half way spoils nothing. Whose file it is, and that one
//! writes at a time, is the business of who owns the file.

use std::{
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Bytes that wait for a disk that takes nothing. What is said beyond them is in memory alone.
const MOST: usize = 256 << 10;

/// Lines that wait.
#[derive(Default, Debug)]
pub struct Journal {
    waiting: Mutex<Vec<u8>>,
    /// The file may end in a part of a line.
    torn: AtomicBool,
}

impl Journal {
    /// What is waiting.
    pub fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line, with its end.
    pub fn push(&self, line: &[u8]) {
        self.waiting().extend_from_slice(line);
    }

    /// Has `append` write what is waiting. What it does not write whole waits for the next time (blocking).
    pub fn write(&self, append: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut text = std::mem::take(&mut *self.waiting());
        if text.is_empty() {
            return Ok(());
        }
        if self.torn.load(Ordering::Relaxed) && text[0] != b'\n' {
            text.insert(0, b'\n');
        }
        let appended = append(&text);
        self.torn.store(appended.is_err(), Ordering::Relaxed);
        if appended.is_err() {
            let mut waiting = self.waiting();
            if text.len() + waiting.len() <= MOST {
                text.append(&mut waiting);
                *waiting = text;
            }
        }
        appended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    #[test]
    fn what_was_not_written_whole_is_written_later_in_order_on_lines_of_its_own() {
        let journal = Journal::default();
        let mut file = Vec::new();
        journal.push(b"first\n");
        let half = journal.write(|text| {
            file.extend_from_slice(&text[..3]);
            Err(full())
        });
        assert!(half.is_err());
        journal.push(b"second\n");
        journal.write(|_| Err(full())).unwrap_err();
        let append = |text: &[u8]| {
            file.extend_from_slice(text);
            Ok(())
        };
        journal.write(append).unwrap();
        assert_eq!(file, b"fir\nfirst\nsecond\n");
        journal.write(|_| panic!("nothing is waiting")).unwrap();
    }

    #[test]
    fn a_disk_that_takes_nothing_does_not_fill_the_memory() {
        let journal = Journal::default();
        for _ in 0..1000 {
            journal.push(&[b'x'; 1000]);
            journal.write(|_| Err(full())).unwrap_err();
        }
        assert!(journal.waiting().len() <= MOST);
    }
}

//! Lines on their way to an append-only file, in the order in which they were pushed.
//!
//! Owns the lines that are not written yet, and makes sure that a write which failed half way spoils no line. The owner
//! of the file names it, and lets only one thread write at a time.

use std::{
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// The most bytes of single lines that wait while the disk takes none.
const MOST: usize = 256 << 10;

/// Lines that wait to be written.
#[derive(Default, Debug)]
pub struct Journal {
    waiting: Mutex<Vec<u8>>,
    /// The file may end in a part of a line.
    torn: AtomicBool,
    /// Bytes of the snapshot with which `waiting` begins; 0 if it has none.
    anew: AtomicUsize,
}

impl Journal {
    /// The bytes that wait to be written.
    pub fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one line, with its newline. If too much waits, `all` replaces it by a snapshot of everything that is known,
    /// this line included. So a disk that hangs costs at most twice the memory of what is known, and many lines share
    /// one snapshot. The caller holds the lock on what `all` reads, so that no other line is pushed in between.
    pub fn push(&self, line: &[u8], all: impl FnOnce() -> Vec<u8>) {
        {
            let mut waiting = self.waiting();
            let most = MOST + self.anew.load(Ordering::Relaxed);
            if waiting.len() + line.len() <= most {
                waiting.extend_from_slice(line);
                return;
            }
        }
        let all = all();
        let mut waiting = self.waiting();
        self.anew.store(all.len(), Ordering::Relaxed);
        *waiting = all;
    }

    /// Lets `append` write the bytes that wait (blocking). If it fails, all of them wait for the next call.
    pub fn write(&self, append: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let (mut text, anew) = {
            let mut waiting = self.waiting();
            let anew = self.anew.swap(0, Ordering::Relaxed);
            (std::mem::take(&mut *waiting), anew)
        };
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
            // A snapshot that was pushed meanwhile includes these lines.
            if self.anew.load(Ordering::Relaxed) == 0 {
                text.append(&mut waiting);
                *waiting = text;
                self.anew.store(anew, Ordering::Relaxed);
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
        let push = |line: &[u8]| journal.push(line, || panic!("there is room"));
        push(b"first\n");
        let half = journal.write(|text| {
            file.extend_from_slice(&text[..3]);
            Err(full())
        });
        assert!(half.is_err());
        push(b"second\n");
        journal.write(|_| Err(full())).unwrap_err();
        let append = |text: &[u8]| {
            file.extend_from_slice(text);
            Ok(())
        };
        journal.write(append).unwrap();
        assert_eq!(file, b"fir\nfirst\nsecond\n");
        journal.write(|_| panic!("nothing is waiting")).unwrap();
    }

    /// A snapshot of all that the pusher knows: numbers, of which the newest is last.
    fn known(up_to: usize) -> Vec<u8> {
        format!("all up to {up_to}\n").into_bytes()
    }

    #[test]
    fn a_disk_that_takes_nothing_does_not_fill_the_memory_and_nothing_is_lost() {
        let journal = Journal::default();
        for number in 0..1000 {
            journal.push(&[b'x'; 1000], || known(number));
            journal.write(|_| Err(full())).unwrap_err();
            assert!(journal.waiting().len() <= MOST);
        }
        let mut file = Vec::new();
        let append = |text: &[u8]| {
            file.extend_from_slice(text);
            Ok(())
        };
        journal.push(b"the last\n", || known(1000));
        journal.write(append).unwrap();
        assert!(file.starts_with(b"\nall up to "), "{}", file.len());
    }

    /// However much waits, a full disk loses no line, and a write needs no new line to try again.
    #[test]
    fn what_a_full_disk_did_not_take_is_written_by_the_next_write() {
        let journal = Journal::default();
        for _ in 0..2 {
            journal.push(&vec![b'x'; MOST - 10], || vec![b'y'; 4 * MOST]);
            journal.write(|_| Err(full())).unwrap_err();
        }
        let mut more = 0;
        let said = std::cell::Cell::new(0);
        for _ in 0..100 {
            journal.push(b"more\n", || {
                said.set(said.get() + 1);
                vec![b'z'; 4 * MOST]
            });
            more += 5;
            journal.write(|_| Err(full())).unwrap_err();
        }
        assert!(said.get() <= 1, "everything was said {} times", said.get());
        let mut file = Vec::new();
        let append = |text: &[u8]| {
            file.extend_from_slice(text);
            Ok(())
        };
        journal.write(append).unwrap();
        assert!(file.len() >= 4 * MOST, "{} and {more}", file.len());
        journal.write(|_| panic!("nothing is waiting")).unwrap();
    }

    #[test]
    fn a_write_that_hangs_does_not_fill_the_memory_and_nothing_is_lost() {
        let journal = Journal::default();
        journal.push(b"first\n", || panic!("there is room"));
        let mut file = Vec::new();
        let hangs = |text: &[u8]| {
            for number in 0..1000 {
                journal.push(&[b'x'; 1000], || known(number));
                assert!(journal.waiting().len() <= MOST + 100);
            }
            file.extend_from_slice(text);
            Ok(())
        };
        journal.write(hangs).unwrap();
        let append = |text: &[u8]| {
            file.extend_from_slice(text);
            Ok(())
        };
        journal.write(append).unwrap();
        let text = String::from_utf8(file).unwrap();
        let (all, later) = text
            .strip_prefix("first\nall up to ")
            .unwrap()
            .split_once('\n')
            .unwrap();
        let said: usize = all.parse().unwrap();
        assert_eq!(said + 1 + later.len() / 1000, 1000);
    }

    #[test]
    fn what_is_said_anew_leaves_room_for_what_comes_then() {
        let journal = Journal::default();
        let told = std::cell::Cell::new(0);
        let much = || {
            told.set(told.get() + 1);
            vec![b'y'; 4 * MOST]
        };
        for _ in 0..2 * MOST / 1000 {
            journal.push(&[b'x'; 1000], much);
        }
        assert!(told.get() <= 2, "{} times", told.get());
    }
}

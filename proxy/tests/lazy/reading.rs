//! Readers that compare what they read with what is there.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::{
    daemon::{self, FILES},
    setup::{Setup, until},
};

/// Reads a file whole, past what the kernel has kept. It panics over bytes that are not the file's.
pub fn read(path: &Path, number: u64) -> io::Result<()> {
    let file = File::open(path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut at = 0;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let length = file.read_at(&mut buffer, at)?;
        if length == 0 {
            break;
        }
        let end = at + length as u64;
        let wanted = daemon::content(number, at..end);
        assert!(buffer[..length] == wanted, "{number} at {at}");
        at = end;
    }
    assert_eq!(at, daemon::length(number));
    Ok(())
}

/// Readers in threads of their own. Errors are counted, wrong bytes are panics.
pub struct Readers {
    stop: Arc<AtomicBool>,
    pub read: Arc<AtomicU64>,
    pub failed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// So many, which read at random.
    pub fn start(setup: &Setup, readers: u64) -> Self {
        let (stop, read, failed) = (Arc::default(), Arc::default(), Arc::default());
        let mut started = Self {
            stop,
            read,
            failed,
            threads: Vec::new(),
        };
        for reader in 0..readers {
            let files = setup.files();
            let (stop, read, failed) = (
                Arc::clone(&started.stop),
                Arc::clone(&started.read),
                Arc::clone(&started.failed),
            );
            let mut random = fastrand::Rng::with_seed(reader);
            started.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = random.u64(1..FILES);
                    match self::read(&files.join(daemon::name(number)), number) {
                        Ok(()) => read.fetch_add(1, Ordering::Relaxed),
                        Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                    };
                }
            }));
        }
        started
    }

    /// Waits until so many more files have been read.
    pub fn more(&self, files: u64) {
        let wanted = self.read.load(Ordering::Relaxed) + files;
        until("the readers go on", || {
            self.read.load(Ordering::Relaxed) >= wanted
        });
    }

    /// Ends them, and gives how many files were read and how many reads failed.
    pub fn end(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("right bytes");
        }
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        (count(&self.read), count(&self.failed))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

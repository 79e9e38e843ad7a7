//! Readers that compare what they read with the made-up content.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::{
    daemon::{self, FILES},
    setup::{Process, Setup, until},
};

/// Reads a whole file, without the page cache. Panics over wrong bytes.
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

/// Environment of the readers' process: the number of readers, and the directory that they read.
pub const READERS: &str = "LARDER_TEST_READERS";
pub const FILES_AT: &str = "LARDER_TEST_FILES";

/// Many threads that read at random. Errors are counted; wrong bytes panic. They run in a process of their own, because
/// some kernels cannot bear a process with many threads that starts others.
pub struct Readers {
    process: Process,
    said: PathBuf,
}

impl Readers {
    /// Starts so many readers.
    pub fn start(setup: &Setup, readers: u64) -> Self {
        let mut command = setup.again("as_readers");
        command
            .env(READERS, readers.to_string())
            .env(FILES_AT, setup.files());
        let said = setup.said().to_owned();
        let process = setup.started(&mut command);
        Self { process, said }
    }

    /// How many files were read, and how many reads failed.
    pub fn counts(&self) -> (u64, u64) {
        let counts = self.said.join(format!("read-{}", self.process.pid()));
        let counts = fs::read_to_string(counts).unwrap_or_default();
        let mut counts = counts.split(' ').map(|count| count.parse().unwrap_or(0));
        let mut next = || counts.next().unwrap_or(0);
        (next(), next())
    }

    /// Waits until this many more files have been read.
    pub fn more(&self, files: u64) {
        let wanted = self.counts().0 + files;
        until("the readers go on", || self.counts().0 >= wanted);
    }

    /// Ends the readers, and returns the counts.
    pub fn end(self) -> (u64, u64) {
        let stop = self.said.join(format!("stop-{}", self.process.pid()));
        fs::write(stop, "").expect("a file");
        let Self { process, said } = self;
        let pid = process.pid();
        let log = process.log_at();
        let status = process.ended();
        let log = fs::read_to_string(log).unwrap_or_default();
        assert!(status.success(), "wrong bytes: {log}");
        let counts = fs::read_to_string(said.join(format!("read-{pid}"))).expect("counts");
        let counts: Vec<u64> = counts.split(' ').map(|n| n.parse().expect(n)).collect();
        (counts[0], counts[1])
    }
}

/// Reads until it is told to stop.
pub fn run(readers: u64) {
    let at = |name| PathBuf::from(std::env::var_os(name).expect(name));
    let (files, said) = (at(FILES_AT), at(daemon::SAID));
    let pid = std::process::id();
    let (read, failed, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let tell = || {
        let counts = [&read, &failed].map(|count| count.load(Ordering::Relaxed));
        let new = said.join(format!("new-{pid}"));
        fs::write(&new, format!("{} {}", counts[0], counts[1])).expect("a file");
        fs::rename(new, said.join(format!("read-{pid}"))).expect("a file");
    };
    std::thread::scope(|scope| {
        for reader in 0..readers {
            let (files, read, failed, stop) = (&files, &read, &failed, &stop);
            let mut random = fastrand::Rng::with_seed(reader);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = random.u64(1..FILES);
                    match self::read(&files.join(daemon::name(number)), number) {
                        Ok(()) => read.fetch_add(1, Ordering::Relaxed),
                        Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        while !said.join(format!("stop-{pid}")).exists() {
            tell();
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    tell();
}

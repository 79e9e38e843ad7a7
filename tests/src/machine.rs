//! A machine with another clock, time that passes at once, and a disk that is slow, hangs or is full. It also lists
//! what was made durable. A small library between the program and the kernel does this; the C compiler that the crates
//! below need anyway builds it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::node::NodeBuilder;

/// A node's view of the machine. Changes take effect at once.
#[derive(Debug)]
pub struct Machine {
    dir: TempDir,
    knobs: File,
    /// Seconds that the test has let pass at once.
    passed: AtomicI64,
}

impl Machine {
    /// The machine as it really is.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/machine/machine.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(dir.path().join("machine.so"))
            .arg(source)
            .status();
        assert!(built.expect("a C compiler").success());
        fs::write(dir.path().join("done"), "").expect("a file");
        let knobs = File::create_new(dir.path().join("knobs")).expect("a file");
        knobs.set_len(56).expect("our own file");
        Self {
            dir,
            knobs,
            passed: AtomicI64::new(0),
        }
    }

    /// The environment that makes a program run on this machine.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("LD_PRELOAD", self.dir.path().join("machine.so")),
            ("LARDER_TEST_MACHINE", self.dir.path().to_owned()),
        ]
    }

    /// Puts a node on this machine.
    pub fn runs(&self, node: NodeBuilder) -> NodeBuilder {
        let add = |node: NodeBuilder, (name, value)| node.env(name, value);
        self.environment().into_iter().fold(node, add)
    }

    /// Sets its clock so many seconds ahead, or behind if negative.
    pub fn set_clock(&self, ahead: i64) {
        self.turn(0, ahead);
    }

    /// Lets time pass at once, for everything that counts it. Work under way meanwhile is late.
    pub fn pass(&self, time: Duration) {
        let time = time.as_secs() as i64;
        let passed = self.passed.fetch_add(time, Ordering::SeqCst) + time;
        self.turn(16, passed);
    }

    /// Makes each read of a MiB or more take so long.
    pub fn slow_down(&self, reads: Duration) {
        self.turn(8, reads.as_micros() as i64);
    }

    /// Makes every read of this file hang, for as long as the guard lives. Other files are read as before.
    pub fn hang(&self, file: &Path) -> Hanging<'_> {
        let inode = fs::metadata(file).expect("a file").ino();
        self.turn(24, inode as i64);
        Hanging {
            machine: self,
            at: 24,
        }
    }

    /// Makes every removal below a directory `partial` fail, for as long as the guard lives.
    pub fn keep_partials(&self) -> Hanging<'_> {
        self.turn(32, 1);
        Hanging {
            machine: self,
            at: 32,
        }
    }

    /// Makes the disk refuse an operation below a directory `layers` for lack of room, for as long as the guard lives.
    pub fn refuse(&self, what: Refused) -> Hanging<'_> {
        self.turn(40, what as i64);
        Hanging {
            machine: self,
            at: 40,
        }
    }

    /// Makes long writes below a directory `layers` wait, for as long as the guard lives.
    pub fn hold_writes(&self) -> Hanging<'_> {
        self.turn(48, 1);
        Hanging {
            machine: self,
            at: 48,
        }
    }

    /// The renames and syncs so far, in order.
    pub fn done(&self) -> Vec<(String, PathBuf)> {
        let text = fs::read_to_string(self.dir.path().join("done")).expect("a list");
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .map(|(what, path)| (what.to_owned(), PathBuf::from(path)))
            .collect()
    }

    fn turn(&self, at: u64, to: i64) {
        let done = self.knobs.write_all_at(&to.to_ne_bytes(), at);
        done.expect("our own file");
    }
}

/// The operation that a full disk refuses.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    /// The write of a record, which is JSON.
    Record = 1,
    /// The sync of a new file.
    Sync = 2,
    /// The rename that gives a ready file its name.
    Name = 3,
}

/// A disk that hangs or refuses, until this is dropped.
#[derive(Debug)]
pub struct Hanging<'a> {
    machine: &'a Machine,
    at: u64,
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        self.machine.turn(self.at, 0);
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

//! A small file system of its own for one test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::real::skipped;

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// Mounts one of so many MiB, or says on standard error why `test` is skipped.
    pub fn mount(test: &str, mib: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skipped(test, "mounting a tmpfs takes root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("larder-tmpfs-").tempdir();
        let dir = dir.expect("a temporary directory");
        let options = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "larder-test"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            skipped(test, "a tmpfs cannot be mounted here");
            return None;
        }
        Some(Self { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a file of so many bytes, as another program would.
    pub fn fill(&self, bytes: usize) -> PathBuf {
        let path = self.path().join("of-another-program");
        std::fs::write(&path, vec![1; bytes]).expect("a file");
        path
    }

    /// Makes a file that takes all the free room.
    pub fn fill_up(&self) -> PathBuf {
        let path = self.path().join("something-else");
        let mut file = std::fs::File::create(&path).expect("a file");
        let block = vec![1; 1 << 16];
        while file.write_all(&block).is_ok() {}
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a node that still runs is killed later, and then nothing uses it any more.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

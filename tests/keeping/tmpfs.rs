//! A small file system of its own for one test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use larder_tests::real::skipped;
use tempfile::TempDir;

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// Mounts one of so many MiB, or says on standard error why `test` is skipped.
    pub(crate) fn mount(test: &str, mib: u64) -> Option<Self> {
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

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file that takes all the room there is.
    pub(crate) fn fill_up(&self) -> PathBuf {
        let path = self.path().join("something-else");
        let mut file = std::fs::File::create(&path).expect("a file");
        let block = vec![1; 1 << 16];
        while file.write_all(&block).is_ok() {}
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a node that still runs is killed later, and then nothing holds it any more.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

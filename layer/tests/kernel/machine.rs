//! Mounting a tree before its tar, and extracting with GNU tar.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use larder_layer::{Index, build};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::directory::Directory;

/// A file system that is unmounted when it is dropped.
pub struct Mounted {
    pub at: PathBuf,
    _file: tempfile::NamedTempFile,
    _dir: tempfile::TempDir,
}

impl Mounted {
    /// Mounts `[tree][tar]` as one file.
    pub fn new(tree: &[u8], tar: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [tree, tar].concat()).unwrap();
        let at = dir.path().to_owned();
        let mut mounted = mount(
            file.path(),
            &at,
            "erofs",
            MountFlags::RDONLY,
            None::<&std::ffi::CStr>,
        );
        if mounted == Err(rustix::io::Errno::NOTBLK) {
            // Before 6.12, Linux mounts no regular file without a loop device.
            let status = Command::new("mount")
                .args(["-t", "erofs", "-o", "ro,loop"])
                .arg(file.path())
                .arg(&at)
                .status();
            mounted = if status.unwrap().success() {
                Ok(())
            } else {
                Err(rustix::io::Errno::INVAL)
            };
        }
        mounted
            .expect("mount, which needs root and EROFS; scripts/test runs these tests with sudo");
        Self {
            at,
            _file: file,
            _dir: dir,
        }
    }

    pub fn read(&self) -> Directory {
        Directory::read(&self.at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.at, UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", self.at.display());
        }
    }
}

/// The index of a tar, opened again.
pub fn index(tar: &[u8]) -> Index {
    let mut file = Vec::new();
    build(&mut &tar[..], &mut file).unwrap_or_else(|error| panic!("{error}"));
    Index::open(&mut Cursor::new(file)).expect("an index that was just built")
}

/// The files that the kernel shows for a tar with its index.
pub fn mounted(tar: &[u8]) -> Directory {
    let index = index(tar);
    check_with_fsck(index.tree(), tar);
    Mounted::new(index.tree(), tar).read()
}

/// The files that GNU tar extracts.
pub fn extracted(tar: &[u8]) -> Directory {
    let dir = tempfile::tempdir().unwrap();
    extract(tar, dir.path());
    Directory::read(dir.path())
}

pub fn extract(tar: &[u8], to: &Path) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), tar).unwrap();
    let output = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner"])
        // For a symlink that leads elsewhere, GNU tar makes a placeholder first. In the end it takes any file with the
        // placeholder's inode number and time for it, even if a later entry replaced the link. This option avoids
        // placeholders.
        .arg("--absolute-names")
        // A directory's times are set after all entries in it, wherever its own entry stands.
        .args(["--delay-directory-restore", "-xpf"])
        .arg(file.path())
        .arg("-C")
        .arg(to)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// fsck.erofs as a second reader, if it is new enough for blocks of 512 bytes.
fn check_with_fsck(tree: &[u8], tar: &[u8]) {
    let program = std::env::var("LARDER_FSCK_EROFS").unwrap_or_else(|_| "fsck.erofs".to_owned());
    let Ok(version) = Command::new(&program).arg("--version").output() else {
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let number = version.split_whitespace().last().unwrap_or_default();
    let mut parts = number
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (1, 7) {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), [tree, tar].concat()).unwrap();
    let output = Command::new(program)
        .arg("--extract")
        .arg(file.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "fsck.erofs: {output:?}");
}

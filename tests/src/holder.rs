//! A real `larder hold` process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Result;
use nix::mount::{MntFlags, umount2};

use crate::node::larder_program;

/// `larder hold`. Dropping it kills the process and takes its mount away.
#[derive(Debug)]
pub struct Holder {
    directory: PathBuf,
    child: Child,
    /// No other holder has taken its place.
    last: bool,
}

impl Holder {
    /// Starts a holder that mounts below this directory. Its log is there too.
    pub fn start(directory: &Path) -> Result<Self> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
        let child = Command::new(larder_program())
            .args(["hold", "--seen-here", "--directory"])
            .arg(directory)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self {
            directory: directory.to_owned(),
            child,
            last: true,
        })
    }

    /// `kill -9`
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Another holder has taken its place, and goes on with the mount.
    pub fn is_followed(mut self) {
        self.last = false;
    }

    /// Removes the mount, as a reboot does.
    pub fn take_mount_away(&self) -> Result<()> {
        umount2(&self.directory.join("files"), MntFlags::MNT_DETACH)?;
        Ok(())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.last {
            return;
        }
        let _ = umount2(&self.directory.join("files"), MntFlags::MNT_DETACH);
    }
}

//! Processes: ending a child together with everything that it started, and telling another to look at its files.

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::process::{Child, Command};

/// A child that leads a process group of its own. When this goes before the child has ended, the whole group is killed.
#[derive(Debug)]
pub struct Group(Child);

impl Group {
    /// Starts `command`.
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        command.process_group(0).kill_on_drop(true);
        command.spawn().map(Self)
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Kills the group, unless its leader has ended and been waited for.
    pub fn kill(&self) {
        // There is an id only as long as the leader is not reaped, so it cannot be another process's by now.
        if let Some(id) = self.0.id() {
            // It fails only if the group is gone, which is what is wanted.
            let _ = killpg(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// Sends SIGHUP, by which daemons read their configuration again.
///
/// # Errors
/// There is no such process, or this one may not signal it.
pub fn hang_up(process: i32) -> std::io::Result<()> {
    Ok(kill(Pid::from_raw(process), Signal::SIGHUP)?)
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

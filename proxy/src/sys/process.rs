//! Processes: this one's limits, ending a child together with everything that it started, and asking another process to
//! read its files again.

use std::time::{Duration, SystemTime};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill, killpg},
    },
    unistd::Pid,
};
use tokio::process::{Child, Command};

/// A child that leads its own process group. If this is dropped before the child has ended, the whole group is killed.
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
        // There is an id only until the leader is reaped, so the id cannot belong to another process by now.
        if let Some(id) = self.0.id() {
            // This fails only if the group is gone already.
            let _ = killpg(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// Sends SIGHUP, on which daemons read their configuration again.
///
/// # Errors
/// There is no such process, or this one may not signal it.
pub fn hang_up(process: i32) -> std::io::Result<()> {
    Ok(kill(Pid::from_raw(process), Signal::SIGHUP)?)
}

/// Ticks a second in `/proc`, on every Linux that larder is built for.
const TICKS: f64 = 100.0;

/// When a process started.
///
/// # Errors
/// There is no such process.
pub fn started(process: i32) -> std::io::Result<SystemTime> {
    let unreadable = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    // The second field is the name, which may contain anything. The 22nd is the start, in ticks since the boot.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(unreadable)?;
    let ticks: Option<f64> = fields
        .split_whitespace()
        .nth(19)
        .and_then(|f| f.parse().ok());
    let up: Option<f64> = uptime
        .split_whitespace()
        .next()
        .and_then(|f| f.parse().ok());
    let age = ticks.zip(up).map(|(ticks, up)| up - ticks / TICKS);
    let age = age.ok_or_else(unreadable)?.max(0.0);
    let now = SystemTime::now();
    now.checked_sub(Duration::from_secs_f64(age))
        .ok_or_else(unreadable)
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How many files this process may have open, and how far it may raise that limit itself.
pub fn open_files() -> std::io::Result<(u64, u64)> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?)
}

/// Raises the limit of open files as far as this process may. The default of 1024 exists for the sake of programs that
/// use select(2).
pub fn raise_open_files() -> std::io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

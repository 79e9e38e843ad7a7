//! A mount namespace with a holder and with daemons that can be killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

use crate::daemon;

/// The longest wait for something that takes milliseconds on a quiet machine.
const PATIENCE: Duration = Duration::from_mins(1);
const GLANCE: Duration = Duration::from_millis(5);

/// Waits until a condition holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(GLANCE);
    }
}

/// A directory with shared mounts, in a mount namespace of this thread and of the processes that it starts.
pub struct Setup {
    /// The directory: a file system of its own.
    dir: TempDir,
    said: TempDir,
    running: std::cell::Cell<u32>,
}

/// A process that is killed when it is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Setup {
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace, which needs root");
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).expect("a private namespace");
        let dir = tempfile::Builder::new().prefix("larder-hold-").tempdir();
        let dir = dir.expect("a directory");
        mount(
            Some("larder-test"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .expect("a tmpfs");
        let setup = Self {
            dir,
            said: tempfile::tempdir().expect("a directory"),
            running: std::cell::Cell::new(0),
        };
        setup.spread(MsFlags::MS_SHARED);
        setup
    }

    /// Sets how mounts in the directory propagate.
    pub fn spread(&self, how: MsFlags) {
        let none = None::<&str>;
        mount(none, self.dir.path(), none, how, none).expect("it is a mount");
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir().join("socket")
    }

    pub fn files(&self) -> PathBuf {
        self.dir().join("files")
    }

    pub fn made(&self, number: u64) -> PathBuf {
        self.files().join(daemon::name(number))
    }

    pub fn said(&self) -> &Path {
        self.said.path()
    }

    /// Says a word to the daemons.
    pub fn say(&self, word: &str) {
        fs::write(self.said().join(word), "").expect("a file");
    }

    pub fn unsay(&self, word: &str) {
        fs::remove_file(self.said().join(word)).expect("it was said");
    }

    /// The command `larder hold`.
    pub fn hold(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command
            .args(["hold", "--directory"])
            .arg(self.dir())
            .args(arguments)
            .env_remove("LARDER_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Starts a holder, and waits until it holds.
    pub fn holder(&self, arguments: &[&str]) -> Process {
        let holder = self.started(&mut self.hold(arguments));
        until("the holder holds", || {
            let log = holder.log();
            ["mounted at=", "taken over", "waited for"]
                .iter()
                .any(|word| log.contains(word))
        });
        holder
    }

    /// Starts a daemon, and does not wait for it.
    pub fn starting(&self, delay: u64) -> Process {
        let mut command = self.again("as_daemon");
        command
            .env(daemon::SOCKET, self.socket())
            .env(daemon::DELAY, delay.to_string());
        self.started(&mut command)
    }

    /// The command that starts this program again as `what`.
    pub fn again(&self, what: &str) -> Command {
        let program = std::env::current_exe().expect("a program");
        let mut command = Command::new(program);
        command
            .args(["--exact", what, "--nocapture"])
            .env(daemon::SAID, self.said())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts a daemon, and waits until it serves.
    pub fn daemon(&self, delay: u64) -> Process {
        let daemon = self.starting(delay);
        self.until_told(&daemon, "held true");
        daemon
    }

    /// Waits until a daemon's last report begins with this word.
    pub fn until_told(&self, daemon: &Process, word: &str) {
        until(&format!("the daemon tells {word}"), || {
            let told = daemon::told(self.said(), daemon.pid());
            let mut lines = told.lines().rev();
            let last = lines.find(|line| !line.starts_with("read"));
            last.is_some_and(|last| last.starts_with(word))
        });
    }

    pub fn started(&self, command: &mut Command) -> Process {
        let number = self.running.get();
        self.running.set(number + 1);
        let log = self.said().join(format!("log-{number}"));
        let err = fs::File::create(&log).expect("a log");
        let child = command.stderr(err).spawn().expect("it starts");
        Process { child, log }
    }

    /// Number of mounts where the files are.
    pub fn mounted(&self) -> usize {
        let mounts = larder::sys::mounts::mounts().expect("mountinfo");
        let here = |mount: &&larder::sys::mounts::Mount| mount.point == self.files();
        mounts.iter().filter(here).count()
    }

    /// The mount there: its source, which is unique, and the minor number of its device.
    pub fn connection(&self) -> Option<(String, u32)> {
        let mounts = larder::sys::mounts::mounts().expect("mountinfo");
        let here = mounts.iter().rfind(|mount| mount.point == self.files())?;
        Some((here.source.clone(), here.device.1))
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(self.said()).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if name.to_string_lossy().starts_with("log-") {
                    let log = fs::read_to_string(entry.path()).unwrap_or_default();
                    eprintln!("{}:\n{log}", name.display());
                }
            }
        }
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log_at(&self) -> PathBuf {
        self.log.clone()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn says(&self, words: &str) {
        until(&format!("it says {words:?}"), || self.log().contains(words));
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        until("it is dead", || !self.is_running());
    }

    /// Waits until it ends by itself.
    pub fn ended(mut self) -> ExitStatus {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("it ended")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

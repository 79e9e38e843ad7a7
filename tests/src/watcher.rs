//! A real `larder runtime` process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::node::larder_program;
use crate::schemas::assert_schema;

/// A limit for what takes milliseconds on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(10);

/// `larder runtime` with its own directory for the file. Dropping it kills the process, and prints its log if the test
/// is failing.
#[derive(Debug)]
pub struct Watcher {
    dir: TempDir,
    child: Child,
}

/// `larder runtime` for this socket and this file.
pub fn command(socket: &Path, file: &Path) -> Command {
    let mut command = Command::new(larder_program());
    command
        .arg("runtime")
        .arg("--socket")
        .arg(socket)
        .arg("--file")
        .arg(file);
    command.env_remove("LARDER_LOG").stdin(Stdio::null());
    command
}

/// Runs it with `--once`, and gives its output.
pub fn once(socket: &Path, file: &Path) -> Output {
    let ended = command(socket, file)
        .args(["--once", "--every", "1s"])
        .output();
    ended.expect("larder starts")
}

impl Watcher {
    /// Starts it with further arguments.
    pub fn start(socket: &Path, arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("larder-watch-")
            .tempdir()
            .expect("a directory");
        Self::start_in(dir, socket, arguments)
    }

    fn start_in(dir: TempDir, socket: &Path, arguments: &[&str]) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.path().join("log"));
        let child = command(socket, &dir.path().join("runtime.json"))
            .args(arguments)
            .stderr(log.expect("a log"))
            .spawn()
            .expect("larder starts");
        Self { dir, child }
    }

    /// Kills it by `kill -9`, and starts it again with the same directory.
    #[must_use]
    pub fn killed_and_started(mut self, socket: &Path, arguments: &[&str]) -> Self {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
        let dir = std::mem::replace(&mut self.dir, TempDir::new().expect("a directory"));
        drop(self);
        Self::start_in(dir, socket, arguments)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that it writes.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("runtime.json")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// What is in its directory, besides the log.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path())
            .expect("the directory")
            .flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name != "log").collect();
        names.sort();
        names
    }

    /// The file's content; `None` while there is no file. It must be whole, readable by every user, and of the
    /// documented shape.
    pub fn report(&self) -> Option<Value> {
        let bytes = fs::read(self.file()).ok()?;
        let report = serde_json::from_slice(&bytes).expect("a file is never half written");
        assert_schema(&report, "runtime");
        let mode = fs::metadata(self.file()).ok()?.permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        Some(report)
    }

    /// Waits until the file's content is as wanted, and gives it.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.report();
            if let Some(report) = report.as_ref().filter(|report| wanted(report)) {
                return report.clone();
            }
            self.look(what, deadline, || format!("{report:#?}")).await;
        }
    }

    /// Waits until the log has these words.
    pub async fn says(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            self.look(words, deadline, String::new).await;
        }
    }

    /// Waits until the condition holds.
    pub async fn holds(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            self.look(what, deadline, String::new).await;
        }
    }

    async fn look(&mut self, what: &str, deadline: Instant, seen: impl Fn() -> String) {
        let ended = self.child.try_wait().expect("a child");
        assert_eq!(ended, None, "it ended:\n{}", self.log());
        let late = Instant::now() > deadline;
        assert!(
            !late,
            "{what}: not within {PATIENCE:?}\n{}\n{}",
            seen(),
            self.log()
        );
        tokio::time::sleep(GLANCE).await;
    }

    /// Stops it in the middle of its work: its file stays as it is.
    pub fn freeze(&self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGSTOP).expect("it runs");
    }

    /// Asks it to end, as a supervisor does.
    pub fn terminate(mut self) {
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )
        .expect("it runs");
        let status = self.child.wait().expect("it ended");
        assert!(status.success(), "{status}\n{}", self.log());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the watcher's log:\n{}", self.log());
        }
    }
}

/// The entries of a report's list in which a field has this value.
pub fn entries<'a>(report: &'a Value, list: &str, field: &str, is: &str) -> Vec<&'a Value> {
    let all = report[list].as_array().expect("a list").iter();
    all.filter(|entry| entry[field] == is).collect()
}

/// A directory for sockets, whose paths may have at most 107 bytes.
pub fn directory() -> TempDir {
    let made = tempfile::Builder::new().prefix("larder-socket-").tempdir();
    made.expect("a directory")
}

/// Runs a program as the user `nobody`.
pub fn as_nobody(program: &OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program);
    command
}

//! Child processes: started, awaited, and ended by their process id.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A long-running child whose output goes to a log file. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, with standard output appended to `stdout` and standard error to `log`.
    pub(super) fn start(
        name: &'static str,
        command: &mut Command,
        stdout: &Path,
        log: &Path,
    ) -> Result<Self> {
        let append = |path: &Path| -> Result<File> {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("opening {}", path.display()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(append(stdout)?)
            .stderr(append(log)?)
            .spawn()
            .with_context(|| format!("starting {name}; scripts/test installs it"))?;
        Ok(Self {
            name,
            child,
            log: log.to_owned(),
        })
    }

    /// The process id, valid until the daemon has been ended.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it has exited by itself.
    pub(super) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// What it has written to its log so far.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `ready`, and fails early, with the end of the log, if the process exits first.
    pub(super) async fn ready(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready(self) {
            if let Some(status) = self.exited()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log_end());
            }
            ensure!(
                Instant::now() < deadline,
                "{} was not ready within {limit:?}:\n{}",
                self.name,
                self.log_end()
            );
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Asks it to end, and kills it when it has not ended within `grace`.
    pub(super) fn end(&mut self, grace: Duration) {
        if self.signal(Signal::SIGTERM) {
            let deadline = Instant::now() + grace;
            while Instant::now() < deadline {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(LOOK);
            }
            self.kill();
        }
    }

    /// `kill -9`, and waits until the process is gone.
    pub(super) fn kill(&mut self) {
        if self.signal(Signal::SIGKILL) {
            // It has been killed: the only error left is that it has been waited for already.
            let _ = self.child.wait();
        }
    }

    fn signal(&mut self, signal: Signal) -> bool {
        // try_wait first: after it has been waited for, the id may belong to another process.
        matches!(self.child.try_wait(), Ok(None))
            && kill(Pid::from_raw(self.child.id().cast_signed()), signal).is_ok()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end(Duration::from_secs(10));
    }
}

/// Runs a client to its end, at most `limit`; then it is killed and the call fails.
pub async fn run(command: &mut tokio::process::Command, limit: Duration) -> Result<Output> {
    let shown = format!("{:?}", command.as_std());
    command.stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("not done within {limit:?}: {shown}"))?
        .with_context(|| format!("starting {shown}; scripts/test installs what the tests need"))
}

/// The standard output of a client that exited with 0; any other end is an error with both outputs.
pub fn succeeded(output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(stdout)
}

/// Waits until `condition` holds, at most `limit`; `what` names it in the error.
pub async fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        ensure!(Instant::now() < deadline, "{what}: not within {limit:?}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// A loopback port that nothing listens on, below the range the kernel gives to outgoing
/// connections, so that nothing takes it by chance before its user binds it.
pub fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let port = fastrand::u16(20_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 20000 and 32000 on 127.0.0.1")
}

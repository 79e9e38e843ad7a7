//! Starts the real program on free ports with its own store, talks to it as the CLI and an operator would, and stops it
//! in every way that a process can be stopped.

mod builder;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

pub use self::builder::{NodeBuilder, larder_program};
use crate::hosts::Host;
use crate::http::{self, Response};

/// How long a start may take.
const START: Duration = Duration::from_secs(30);
/// How long an end may take once it was asked for.
const END: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// A running node. Dropping it kills the process, and prints its log if the test is failing.
#[derive(Debug)]
pub struct Node {
    setup: NodeBuilder,
    /// The node's own files: store, socket, log, home.
    dir: TempDir,
    store: PathBuf,
    child: Child,
    exited: Option<ExitStatus>,
    registry: String,
    telemetry: String,
    ready_after: Duration,
}

impl Node {
    /// What to start.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// `http://127.0.0.1:PORT` of the registry, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.registry)
    }

    /// `127.0.0.1:PORT` of the registry.
    pub fn addr(&self) -> &str {
        &self.registry
    }

    /// `127.0.0.1:PORT` of metrics and probes.
    pub fn telemetry(&self) -> &str {
        &self.telemetry
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// The store's directory.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The configuration file, if there is one.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("larder.toml")
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How often a thread of the process has given up the processor because it had no work.
    pub fn turns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a process");
        let of = |task: fs::DirEntry| -> Option<u64> {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse().ok()
        };
        tasks.flatten().filter_map(of).sum()
    }

    /// How long the last start took, from spawning to the first answer of the admin socket.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Kills it at once, as a crash would, and waits until it is gone.
    pub async fn kill9(&mut self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.wait().await
    }

    /// Asks it to end in order. Returns at once; see [`Node::wait`].
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends any signal, unless it has ended already.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let pid = Pid::from_raw(self.child.id().cast_signed());
            kill(pid, signal).expect("a child can be signalled");
        }
    }

    /// Waits until the process has ended; panics, with its log, after 20 s.
    pub async fn wait(&mut self) -> ExitStatus {
        self.wait_for(END).await
    }

    /// The same with another time limit.
    pub async fn wait_for(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}",
                self.log()
            );
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("a child can be waited for");
        }
        self.exited
    }

    /// Starts it again with the same store and ports; ends it in order first if it still runs.
    pub async fn restart(&mut self) {
        self.terminate();
        self.wait().await;
        let listen = [self.registry.clone(), self.telemetry.clone()];
        let start = Instant::now();
        self.child = self.setup.spawn(self.dir.path(), &self.store, &listen);
        self.exited = None;
        self.become_ready(start).await;
    }

    async fn become_ready(&mut self, start: Instant) {
        loop {
            let asked = tokio::time::timeout(START, self.ask("/status"));
            if let Ok(Ok(status)) = asked.await {
                let address = |name: &str| {
                    let address = status["listen"][name].as_str();
                    address.map_or_else(|| panic!("no {name} address in {status}"), str::to_owned)
                };
                self.registry = address("registry");
                self.telemetry = address("telemetry");
                self.ready_after = start.elapsed();
                return;
            }
            if let Some(status) = self.ended() {
                panic!("larder ended at once, {status}:\n{}", self.log());
            }
            let late = start.elapsed() > START;
            assert!(
                !late,
                "larder is not ready after {START:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Bytes that wait unread in the kernel for the registry port, and the number of open connections there. When
    /// nothing is unread, larder has read the request of each of these connections, and is answering it.
    pub fn unread_and_open(&self) -> (u64, usize) {
        let (_, port) = self.registry.rsplit_once(':').expect("a port");
        let local = format!("0100007F:{:04X}", port.parse::<u16>().expect("a port"));
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's sockets");
        let (mut unread, mut open) = (0, 0);
        for line in table.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // "sl local remote state tx:rx …"; 01 is established.
            if fields.get(1) == Some(&&*local) && fields[3] == "01" {
                let (_, received) = fields[4].split_once(':').expect("tx:rx");
                unread += u64::from_str_radix(received, 16).expect("a number");
                open += 1;
            }
        }
        (unread, open)
    }

    /// GETs a path of the admin socket and gives the JSON there; panics, with the log, otherwise.
    pub async fn admin(&self, path: &str) -> Value {
        match self.ask(path).await {
            Ok(json) => json,
            Err(error) => panic!("admin {path}: {error:#}\n{}", self.log()),
        }
    }

    async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.admin_request("GET", path, Bytes::new()).await?;
        anyhow::ensure!(
            response.status == 200,
            "{}: {}",
            response.status,
            response.text()
        );
        Ok(serde_json::from_slice(&response.body)?)
    }

    /// Sends any request to the admin socket.
    pub async fn admin_request(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response> {
        let stream = UnixStream::connect(self.socket()).await;
        let request = ::http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "larder")
            .body(Full::new(body))?;
        let stream = http::exchange(stream.context("no admin socket")?, request).await?;
        Ok(stream.rest().await)
    }

    /// Runs the program with these arguments against this node, which it finds by `LARDER_SOCKET`,
    /// and waits for it.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.setup.command(self.dir.path());
        command.args(arguments).env("LARDER_SOCKET", self.socket());
        output(command).await
    }

    /// Its standard error and output since the first start.
    pub fn log(&self) -> String {
        log_in(self.dir.path())
    }

    /// Runs a future where the node's addresses are: in its host, or here.
    pub fn near<T, F>(&self, future: F) -> BoxFuture<'_, T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        match self.host() {
            Some(host) => Box::pin(host.run(future)),
            None => Box::pin(future),
        }
    }

    /// The host it runs in, if it was given one.
    pub fn host(&self) -> Option<&Host> {
        self.setup.place()
    }

    /// The metrics page.
    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.telemetry);
        let page = self.near(async move { http::get(&url, &[]).await }).await;
        match page {
            Ok(page) if page.status == 200 => page.text(),
            other => panic!("no metrics, {other:?}:\n{}", self.log()),
        }
    }

    /// The value of one sample of the metrics page, with its labels as on the page: `name{label="value"}`. `None` when
    /// it is missing.
    pub async fn metric(&self, sample: &str) -> Option<f64> {
        let page = self.metrics().await;
        let mut lines = page.lines().filter_map(|line| line.rsplit_once(' '));
        lines.find(|(name, _)| *name == sample)?.1.parse().ok()
    }

    /// The sum of all samples of this name, whatever their labels; 0 when there is none.
    pub async fn metric_sum(&self, name: &str) -> f64 {
        let page = self.metrics().await;
        let lines = page.lines().filter_map(|line| line.rsplit_once(' '));
        let of_name = |sample: &str| {
            let labels = sample.strip_prefix(name);
            labels.is_some_and(|labels| labels.is_empty() || labels.starts_with('{'))
        };
        let values = lines.filter(|(sample, _)| of_name(sample));
        values
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // Neither fails for a child that has not been waited for.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A start that fails has already printed its log.
        if std::thread::panicking() && !self.ready_after.is_zero() {
            eprintln!("--- log of larder at {} ---\n{}", self.registry, self.log());
        }
    }
}

/// Runs a command to its end without blocking the tasks of the test.
async fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let output = tokio::time::timeout(END, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} does not end"));
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn log_in(dir: &Path) -> String {
    let log = std::fs::read(dir.join("log")).unwrap_or_default();
    String::from_utf8_lossy(&log).into_owned()
}

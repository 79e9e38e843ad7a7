//! The settings that start a node.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Node;
use crate::fake::FakeRegistry;
use crate::hosts::Host;

/// Variables that would change what the program does, or send its traffic elsewhere.
const FOREIGN: [&str; 10] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
];

/// Collects a node's settings.
#[derive(Clone, Debug, Default)]
pub struct NodeBuilder {
    program: Option<PathBuf>,
    upstreams: Vec<(String, String)>,
    config: Option<String>,
    shipped_min_free: bool,
    store: Option<PathBuf>,
    environment: Vec<(String, OsString)>,
    arguments: Vec<String>,
    log_level: Option<String>,
    host: Option<Host>,
}

impl NodeBuilder {
    /// A fake registry under its own `127.0.0.1:PORT`, by `--upstream`.
    #[must_use]
    pub fn upstream(self, fake: &FakeRegistry) -> Self {
        self.upstream_at(&fake.host(), &fake.url())
    }

    /// Any registry under any name, by `--upstream NAME=URL`.
    #[must_use]
    pub fn upstream_at(mut self, name: &str, url: &str) -> Self {
        self.upstreams.push((name.to_owned(), url.to_owned()));
        self
    }

    /// The configuration file's text.
    #[must_use]
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// Leaves `[store] min_free` to larder, and writes no configuration file without [`config`](Self::config).
    /// Otherwise `min_free` is 0 unless the configuration sets it: a test must not depend on how full this machine's
    /// disk is.
    #[must_use]
    pub fn shipped_min_free(mut self) -> Self {
        self.shipped_min_free = true;
        self
    }

    /// A store that outlives the node. By default the node has its own.
    #[must_use]
    pub fn store(mut self, dir: impl Into<PathBuf>) -> Self {
        self.store = Some(dir.into());
        self
    }

    /// One more variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// One more argument of `larder serve`.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// `--log LEVEL`; `debug` otherwise. An empty level leaves it to the configuration.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        self.log_level = Some(level.to_owned());
        self
    }

    /// Another program than the one that [`larder_program`] finds.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Runs in this host. Its registry and telemetry ports are on the host's own loopback address, see [`Node::near`].
    #[must_use]
    pub fn host(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        self
    }

    /// The host it runs in, if any.
    pub(super) fn place(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// Starts it and waits until it answers; panics, with its log, if it does not within 10 s.
    pub async fn start(self) -> Node {
        let dir = tempfile::Builder::new()
            .prefix("larder-node-")
            .tempdir()
            .expect("a temporary directory");
        let own = || dir.path().join("store");
        let store = self.store.clone().unwrap_or_else(own);
        if let Some(config) = self.file() {
            fs::write(dir.path().join("larder.toml"), config).expect("a configuration file");
        }
        let any = "127.0.0.1:0".to_owned();
        let start = Instant::now();
        let child = self.spawn(dir.path(), &store, &[any.clone(), any.clone()]);
        let mut node = Node {
            setup: self,
            dir,
            store,
            child,
            exited: None,
            registry: any.clone(),
            telemetry: any,
            ready_after: Duration::ZERO,
        };
        node.become_ready(start).await;
        node
    }

    /// The configuration file, if it has one.
    fn file(&self) -> Option<String> {
        const MIN_FREE: &str = "min_free = \"0\"\n";
        let config = self.config.clone().unwrap_or_default();
        if self.shipped_min_free || config.contains("min_free") {
            return self.config.clone();
        }
        // Without a `[store]` the section comes last, so that the other lines keep their numbers.
        Some(match config.split_once("[store]\n") {
            Some((before, store)) => format!("{before}[store]\n{MIN_FREE}{store}"),
            None => format!("{config}\n[store]\n{MIN_FREE}"),
        })
    }

    /// Starts `larder serve` in `dir`, listening for the registry and for telemetry.
    pub(super) fn spawn(&self, dir: &Path, store: &Path, listen: &[String; 2]) -> Child {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .expect("a log file");
        let [registry, telemetry] = listen;
        let mut command = self.command(dir);
        command
            .arg("serve")
            .arg("--store")
            .arg(store)
            .args(["--listen", registry, "--telemetry", telemetry])
            .arg("--socket")
            .arg(dir.join("admin.sock"));
        let level = self.log_level.as_deref().unwrap_or("debug");
        if !level.is_empty() {
            command.args(["--log", level]);
        }
        if self.file().is_some() {
            command.arg("--config").arg(dir.join("larder.toml"));
        }
        for (name, url) in &self.upstreams {
            command.arg("--upstream").arg(format!("{name}={url}"));
        }
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log);
        let child = command.spawn();
        child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
    }

    /// The program in this node's environment, without the caller's registries, proxies or home.
    pub(super) fn command(&self, dir: &Path) -> Command {
        let program = self.program.clone().unwrap_or_else(larder_program);
        let mut command = match &self.host {
            Some(host) => host.exec(program),
            None => Command::new(program),
        };
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("LARDER_") || FOREIGN.contains(&&*text) {
                command.env_remove(&name);
            }
        }
        command.env("HOME", dir).current_dir(dir);
        let own = self.environment.iter();
        command.envs(own.map(|(name, value)| (name, value)));
        command
    }
}

/// The program to test: `LARDER_BIN`, or `larder` where cargo puts it, beside the directory of the
/// test executables. Panics when it has not been built.
pub fn larder_program() -> PathBuf {
    let program = std::env::var_os("LARDER_BIN").map_or_else(
        || {
            let test = std::env::current_exe().expect("the path of this executable");
            let deps = test.parent().expect("a directory");
            deps.with_file_name("larder")
        },
        PathBuf::from,
    );
    assert!(
        program.is_file(),
        "{} is not there: run `cargo build -p larder` first, or set LARDER_BIN",
        program.display()
    );
    program
}

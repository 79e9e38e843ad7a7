//! A containerd of the test's own, with the CRI plugin on.

mod on_node;
mod ready_files;
mod release;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub use self::release::Release;
use super::cri::CriClient;
use super::process::{Daemon, run, succeeded};

const START: Duration = Duration::from_secs(30);
/// An image that cannot be pulled.
const NO_PAUSE: &str = "pause.invalid/pause:none";
const CTR: Duration = Duration::from_mins(5);

/// One containerd: root, state, socket and `certs.d` in a temporary directory, removed on drop.
#[derive(Debug)]
pub struct Containerd {
    // The daemon ends before the directory is removed: fields are dropped in order.
    daemon: Daemon,
    release: Release,
    snapshotter: &'static str,
    /// The network namespace of its node, if it is on one.
    namespace: Option<String>,
    dir: TempDir,
}

impl Containerd {
    /// Starts containerd without a pause image: it pulls and runs images, but no pods.
    pub async fn start(release: Release) -> Result<Self> {
        Self::start_in(release, None, |dir, snapshotter| {
            release.config_toml(dir, snapshotter, NO_PAUSE, Some(&dir.join("certs.d")))
        })
        .await
    }

    /// Starts containerd with `pause` as the image of pod sandboxes. Such pods use the network of this machine.
    pub async fn start_with_pause(release: Release, pause: &str) -> Result<Self> {
        Self::start_in(release, None, |dir, snapshotter| {
            release.config_toml(dir, snapshotter, pause, Some(&dir.join("certs.d")))
        })
        .await
    }

    /// Starts containerd as a package configures it: without a setting for registries.
    pub async fn start_stock(release: Release) -> Result<Self> {
        Self::start_in(release, None, |dir, snapshotter| {
            release.config_toml(dir, snapshotter, NO_PAUSE, None)
        })
        .await
    }

    async fn start_in(
        release: Release,
        namespace: Option<String>,
        config_toml: impl FnOnce(&Path, &str) -> String,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("containerd-").tempdir()?;
        let snapshotter = if overlay_mounts(dir.path())? {
            "overlayfs"
        } else {
            "native"
        };
        let config = config_toml(dir.path(), snapshotter);
        if namespace.is_some() {
            on_node::prepare(dir.path(), &config)?;
        } else {
            std::fs::create_dir(dir.path().join("certs.d"))?;
            std::fs::write(dir.path().join("config.toml"), config)?;
        }
        let containerd = Self {
            daemon: launched(release, dir.path(), namespace.as_deref()).await?,
            release,
            snapshotter,
            namespace,
            dir,
        };
        // The socket opens before the plugins serve.
        succeeded(&containerd.ctr(&["version"]).await?)?;
        Ok(containerd)
    }

    /// Ends it and starts it again, with its present configuration.
    pub async fn restart(&mut self) -> Result<()> {
        self.daemon.end(Duration::from_secs(10));
        self.daemon = launched(self.release, self.dir.path(), self.namespace.as_deref()).await?;
        succeeded(&self.ctr(&["version"]).await?)?;
        Ok(())
    }

    /// Which one it is.
    pub fn release(&self) -> Release {
        self.release
    }

    /// Its configuration, read when it starts.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Everything that is its own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The absolute path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    /// Its `certs.d`, which CRI pulls read and `ctr --hosts-dir` takes.
    pub fn hosts_dir(&self) -> PathBuf {
        if self.namespace.is_some() {
            return self.on_this_machine(Path::new(on_node::CERTS));
        }
        self.dir.path().join("certs.d")
    }

    /// "overlayfs", or "native" where the machine refuses overlay mounts.
    pub fn snapshotter(&self) -> &'static str {
        self.snapshotter
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Writes `certs.d/<registry>/hosts.toml`; "_default" names the file for all other registries. containerd reads it
    /// again on every pull.
    pub fn write_hosts(&self, registry: &str, toml: &str) -> Result<()> {
        let dir = self.hosts_dir().join(registry);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("hosts.toml"), toml)?;
        Ok(())
    }

    /// Runs `ctr` against it, in a namespace of its own: in "k8s.io" the CRI plugin adds names to
    /// every image, and removing an image would not remove its content.
    pub async fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        let mut ctr = tokio::process::Command::from(self.release.command("ctr")?);
        ctr.arg("--address").arg(self.socket());
        ctr.args(["--namespace", "tests"]).args(arguments);
        run(&mut ctr, CTR).await
    }

    /// `ctr images pull` through `certs.d`, with further `options` before the image's name.
    pub async fn ctr_pull(&self, image: &str, options: &[&str]) -> Result<Output> {
        let hosts = self.hosts_dir();
        let hosts = hosts.to_str().context("temporary directory not UTF-8")?;
        let mut arguments = vec!["images", "pull", "--hosts-dir", hosts];
        arguments.extend(["--snapshotter", self.snapshotter]);
        arguments.extend(self.release.pull_options());
        arguments.extend(options);
        arguments.push(image);
        self.ctr(&arguments).await
    }

    /// Runs the image's own command in a container until it exits, and returns what it printed.
    pub async fn run_image(&self, image: &str) -> Result<String> {
        self.run_in_image(image, &[]).await
    }

    /// The same with a command, unless it is empty.
    pub async fn run_in_image(&self, image: &str, command: &[&str]) -> Result<String> {
        let id = format!("run-{:016x}", fastrand::u64(..));
        let runc_root = self.dir.path().join("runc");
        let runc_root = runc_root
            .to_str()
            .context("temporary directory not UTF-8")?;
        let mut arguments = vec!["run", "--rm", "--snapshotter", self.snapshotter];
        arguments.extend(["--runc-root", runc_root, image, &id]);
        arguments.extend(command);
        let output = self.ctr(&arguments).await?;
        succeeded(&output).with_context(|| format!("running {image}"))
    }

    /// Starts the image's own command in a container of this name, and leaves it running.
    pub async fn start_image(&self, image: &str, container: &str) -> Result<()> {
        let runc = self.dir.path().join("runc");
        let runc = runc.to_str().context("temporary directory not UTF-8")?;
        let options = ["run", "--detach", "--snapshotter", self.snapshotter];
        let started = self
            .ctr(&[&options[..], &["--runc-root", runc, image, container]].concat())
            .await?;
        succeeded(&started).with_context(|| format!("starting {image}"))?;
        Ok(())
    }

    /// Removes an image and waits until its content is collected.
    pub async fn remove(&self, image: &str) -> Result<()> {
        succeeded(&self.ctr(&["images", "rm", "--sync", image]).await?)?;
        Ok(())
    }

    /// The committed content with this sha256 digest ("sha256:…"), as it lies in the store.
    pub fn blob(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let hex = digest.strip_prefix("sha256:").context("not sha256")?;
        match std::fs::read(self.content().join("blobs/sha256").join(hex)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes received so far of the largest download under way, 0 when there is none.
    pub fn ingested(&self) -> u64 {
        let Ok(ingests) = std::fs::read_dir(self.content().join("ingest")) else {
            return 0;
        };
        ingests
            .flatten()
            .filter_map(|one| std::fs::metadata(one.path().join("data")).ok())
            .map(|meta| meta.len())
            .max()
            .unwrap_or(0)
    }

    /// Connects to its CRI service.
    pub async fn cri(&self) -> Result<CriClient> {
        CriClient::connect(&self.socket()).await
    }

    /// Its content store.
    pub fn content(&self) -> PathBuf {
        self.dir
            .path()
            .join("root/io.containerd.content.v1.content")
    }

    /// Ends the shims and containers that a failed test has left: they are not children of
    /// containerd and would outlive it.
    fn end_tasks(&self) {
        let tasks = self.dir.path().join("state/io.containerd.runtime.v2.task");
        for namespace in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            for task in std::fs::read_dir(namespace.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                for file in ["init.pid", "shim.pid"] {
                    let pid = std::fs::read_to_string(task.path().join(file))
                        .ok()
                        .and_then(|pid| pid.trim().parse().ok());
                    if let Some(pid) = pid.filter(|&pid: &i32| pid > 1) {
                        // A process that is gone already is the wanted outcome.
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
            }
        }
    }

    /// Unmounts what is still mounted below the directory, so that it can be removed.
    fn unmount(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(target).starts_with(self.dir.path()) {
                // A refusal shows as a directory that stays; there is no test to fail now.
                let _ = Command::new("umount").arg("--lazy").arg(target).status();
            }
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.end_tasks();
        self.daemon.end(Duration::from_secs(10));
        self.unmount();
    }
}

/// Starts the program with the configuration in `dir` and waits until it listens.
async fn launched(release: Release, dir: &Path, namespace: Option<&str>) -> Result<Daemon> {
    let log = dir.join("containerd.log");
    let mut command = if let Some(namespace) = namespace {
        on_node::command(release, dir, namespace)?
    } else {
        let mut command = release.command("containerd")?;
        command.arg("--config").arg(dir.join("config.toml"));
        command
    };
    let mut daemon = Daemon::start("containerd", &mut command, &log, &log)?;
    let socket = dir.join("containerd.sock");
    daemon
        .ready(START, |_| UnixStream::connect(&socket).is_ok())
        .await?;
    Ok(daemon)
}

/// Tries whether the kernel mounts an overlay on this file system.
fn overlay_mounts(dir: &Path) -> Result<bool> {
    let at = dir.join("overlay-probe");
    for part in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir_all(at.join(part))?;
    }
    let shown = at.display();
    let options = format!("lowerdir={shown}/lower,upperdir={shown}/upper,workdir={shown}/work");
    let merged = at.join("merged");
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(&merged)
        .output()?
        .status
        .success();
    if mounted {
        let unmounted = Command::new("umount").arg(&merged).output()?;
        ensure!(
            unmounted.status.success(),
            "cannot unmount the overlay probe"
        );
    }
    Ok(mounted)
}

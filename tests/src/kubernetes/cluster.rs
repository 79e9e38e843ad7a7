//! A real Kubernetes of several nodes, by `scripts/kube`: API server, kubelets, containerd 2, in networks of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::real::{CriClient, Requests, run, succeeded};

/// The name that begins the directories of clusters; the process id follows.
const PREFIX: &str = "larder-kube-";
/// How long one command may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often a condition is looked at. Each look is a process.
const GLANCE: Duration = Duration::from_millis(200);

/// How many clusters this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A running cluster. Dropping it ends it.
#[derive(Debug)]
pub struct Cluster {
    state: PathBuf,
}

impl Cluster {
    /// Starts a cluster with the nodes n1, n2 and so on. Takes root, and the programs of `scripts/kube build`.
    pub async fn up(nodes: usize) -> Result<Self> {
        Self::started(nodes, &[]).await
    }

    /// The same, where each node has its own disk of this size, such as `4G`.
    pub async fn with_disks(nodes: usize, size: &str) -> Result<Self> {
        Self::started(nodes, &["--disk", size]).await
    }

    /// The same, with another Kubernetes than the newest.
    pub async fn with_version(nodes: usize, version: &str) -> Result<Self> {
        Self::started(nodes, &["--version", version]).await
    }

    async fn started(nodes: usize, more: &[&str]) -> Result<Self> {
        sweep();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        // From here on a failure takes the cluster down.
        let cluster = Self {
            state: std::env::temp_dir().join(name),
        };
        let nodes = nodes.to_string();
        let up = ["up", "--nodes", &nodes];
        cluster.kube(&[&up[..], more].concat()).await?;
        Ok(cluster)
    }

    /// Adds nodes until there are so many.
    pub async fn grow(&self, nodes: usize) -> Result<()> {
        self.kube(&["up", "--nodes", &nodes.to_string()]).await?;
        Ok(())
    }

    /// Removes a node, as if it were switched off and its object deleted.
    pub async fn remove(&self, node: &str) -> Result<()> {
        self.kube(&["remove", node]).await?;
        Ok(())
    }

    /// Ends some of its programs, such as `registry` or `n1/containerd`.
    pub async fn stop(&self, programs: &[&str]) -> Result<()> {
        self.kube(&[&["stop"], programs].concat()).await?;
        Ok(())
    }

    /// Starts them again.
    pub async fn start(&self, programs: &[&str]) -> Result<()> {
        self.kube(&[&["start"], programs].concat()).await?;
        Ok(())
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.state
    }

    /// The output of a command beside the cluster; an error with that output when it fails.
    pub async fn beside(&self, words: &[&str]) -> Result<String> {
        self.kube(&[&["run"], words].concat()).await
    }

    /// kubectl's output.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.beside(&[&["kubectl"], arguments].concat()).await
    }

    /// helm's output.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.beside(&[&["helm"], arguments].concat()).await
    }

    /// The output of a command on a node.
    pub async fn on(&self, node: &str, arguments: &[&str]) -> Result<String> {
        self.kube(&[&["node", node], arguments].concat()).await
    }

    /// An object, or a list of them, as `kubectl get` gives it.
    pub async fn get(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["get", "--output", "json"], arguments].concat();
        Ok(serde_json::from_str(&self.kubectl(&arguments).await?)?)
    }

    /// The items of a list.
    pub async fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let list = self.get(arguments).await?;
        Ok(list["items"].as_array().context("no list")?.clone())
    }

    /// Passes objects to kubectl in a file: `kubectl WORDS --filename FILE`.
    pub async fn give(&self, words: &[&str], objects: &[Value]) -> Result<String> {
        let mut text = String::new();
        for object in objects {
            text = text + &object.to_string() + "\n---\n";
        }
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        let path = file.path().to_str().context("not UTF-8")?;
        self.kubectl(&[words, &["--filename", path]].concat()).await
    }

    /// Creates or changes objects.
    pub async fn apply(&self, objects: &[Value]) -> Result<()> {
        self.give(&["apply"], objects).await?;
        Ok(())
    }

    /// Waits until `condition` gives a value; `what` names it in the error.
    pub async fn until<T>(
        &self,
        what: &str,
        condition: impl AsyncFn() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = condition().await? {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let pods = self.kubectl(&["get", "pods,events", "--all-namespaces"]);
                bail!("{what}: not in time\n{}", pods.await.unwrap_or_default());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The runtime of a node.
    pub async fn cri(&self, node: &str) -> Result<CriClient> {
        let file = self.state.join("run").join(format!("{node}-containerd"));
        let recorded = std::fs::read_to_string(&file).context("a node that runs")?;
        let pid = recorded.split(' ').next().context("a process id")?;
        // The socket is in the node's own file systems.
        let socket = format!("/proc/{pid}/root/run/containerd/containerd.sock");
        CriClient::connect(Path::new(&socket)).await
    }

    /// Pushes the only image of an OCI layout. The registry has to be one of `scripts/kube`.
    pub async fn push(&self, layout: &Path, image: &str) -> Result<()> {
        let (from, to) = (
            format!("oci:{}", layout.display()),
            format!("docker://{image}"),
        );
        let mut words = vec!["skopeo", "--insecure-policy", "copy", "--quiet"];
        words.push("--preserve-digests");
        if image.starts_with("private.test/") {
            words.push("--dest-creds=alice:wonderland");
        }
        words.extend([from.as_str(), to.as_str()]);
        self.beside(&words).await?;
        Ok(())
    }

    /// The requests that `registry` or `private` has answered until now. It logs a request after the answer.
    pub fn requests(&self, registry: &str) -> Result<Requests> {
        let log = self.state.join("log").join(format!("{registry}.log"));
        Ok(Requests::of_log(&std::fs::read_to_string(log)?))
    }

    async fn kube(&self, words: &[&str]) -> Result<String> {
        let mut command = script(&self.state, words);
        let output = run(&mut command, PATIENCE).await?;
        succeeded(&output).with_context(|| format!("scripts/kube {}", words.join(" ")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        down(&self.state);
    }
}

fn script(
    state: &Path,
    words: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> tokio::process::Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kube");
    let mut command = tokio::process::Command::new(path);
    command.arg("--state").arg(state).args(words);
    command
}

/// Takes a cluster down. `scripts/kube` bounds its own time.
fn down(state: &Path) {
    if state.exists() {
        let mut command = script(state, ["down"]);
        match command.as_std_mut().output() {
            Ok(output) if output.status.success() => {}
            other => eprintln!("the cluster in {} stays: {other:?}", state.display()),
        }
    }
}

/// Takes down the clusters of killed tests.
fn sweep() {
    let entries = std::fs::read_dir(std::env::temp_dir());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        if let Some((id, _)) = process
            && entry.path().is_dir()
            && !Path::new("/proc").join(id).exists()
        {
            down(&entry.path());
        }
    }
}

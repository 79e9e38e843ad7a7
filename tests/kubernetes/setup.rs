//! A cluster with larder's images and small applications in its registries.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use larder_tests::image::{Executable, LayerSpec, oci_layout, packed, with_file};
use larder_tests::kubernetes::Cluster;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

/// larder's namespace.
pub(crate) const SYSTEM: &str = "larder-system";
pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/larder");
/// How long a rollout may take.
pub(crate) const TIMEOUT: &str = "--timeout=180s";

/// Two clusters at a time. Each waits most of the time, for kubelets and for Helm; more than two would compete for the
/// processor.
pub(crate) async fn one_of_two() -> SemaphorePermit<'static> {
    static TWO: Semaphore = Semaphore::const_new(2);
    TWO.acquire().await.expect("nobody closes it")
}

/// A cluster, and a directory for the files that it gets.
pub(crate) struct Setup {
    cluster: Cluster,
    dir: tempfile::TempDir,
    began: Instant,
}

impl Deref for Setup {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Setup {
    pub(crate) async fn new(nodes: usize) -> Result<Self> {
        Self::of(Cluster::up(nodes)).await
    }

    /// The same with nodes that have a disk of their own of this size.
    pub(crate) async fn with_disks(nodes: usize, size: &str) -> Result<Self> {
        Self::of(Cluster::with_disks(nodes, size)).await
    }

    /// The same with another version of Kubernetes than the newest.
    pub(crate) async fn with_version(nodes: usize, version: &str) -> Result<Self> {
        Self::of(Cluster::with_version(nodes, version)).await
    }

    async fn of(cluster: impl Future<Output = Result<Cluster>>) -> Result<Self> {
        let began = Instant::now();
        let setup = Self {
            cluster: cluster.await?,
            dir: tempfile::tempdir()?,
            began,
        };
        setup.note("the cluster is up");
        Ok(setup)
    }

    /// Writes a step and its time to the test's output.
    pub(crate) fn note(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// larder's image with the authority of the cluster's registries, as `scripts/image --authorities` packs it.
    /// Different versions have different digests and the same program.
    pub(crate) fn larder_layout(&self, version: &str) -> Result<PathBuf> {
        let layout = self.dir.path().join(version);
        let authorities = std::fs::read(self.cluster.dir().join("pki/authorities.pem"))?;
        let file = "etc/ssl/certs/ca-certificates.crt";
        with_file(&packed(version), &layout, file, authorities)?;
        Ok(layout)
    }

    /// Pushes larder's image.
    pub(crate) async fn push_larder(&self, version: &str) -> Result<()> {
        let layout = self.larder_layout(version)?;
        let image = format!("registry.test/larder:{version}");
        self.cluster.push(&layout, &image).await
    }

    /// Pushes an image of two layers, whose program waits: `registry.test/NAME:v1` or the like. Each seed gives another
    /// image.
    pub(crate) async fn push_app(&self, image: &str, seed: u64) -> Result<()> {
        let layout = self.dir.path().join(format!("app-{seed}"));
        let layers = [
            LayerSpec::new(seed, 700_000),
            LayerSpec::new(seed + 1000, 100),
        ];
        let executable = Executable {
            host_path: self.cluster.dir().join("bin/wait"),
            // No two images share a layer: a runtime would not ask for a layer that it has.
            image_path: format!("wait-{seed}"),
        };
        oci_layout(&layout, "app", &layers, Some(&executable))?;
        self.cluster.push(&layout, image).await
    }

    /// `helm install` with default values, except for the image and for `min_free`: the fill of this machine's disk
    /// must not matter.
    pub(crate) async fn install(&self, settings: &[&str]) -> Result<String> {
        let mut words = vec!["install", "larder", CHART, "--create-namespace"];
        words.extend(["--namespace", SYSTEM, TIMEOUT]);
        words.extend([
            "--set",
            "image.repository=registry.test/larder,image.tag=one",
        ]);
        words.extend(["--set-string", "config.store.min_free=0"]);
        words.extend(settings);
        self.cluster.helm(&words).await
    }

    /// Waits until a pod runs, or its image cannot be pulled. Gives the reason in that case.
    pub(crate) async fn outcome(&self, pod: &str) -> Result<Result<(), String>> {
        let look = async || {
            let pod = self.cluster.get(&["pod", pod]).await?;
            Ok(outcome(&pod))
        };
        self.cluster.until(&format!("the pod {pod}"), look).await
    }

    /// Runs a pod on a node, waits until it runs, and removes it.
    pub(crate) async fn runs(&self, name: &str, node: &str, image: &str) -> Result<()> {
        self.cluster.apply(&[pod(name, node, image)]).await?;
        let outcome = self.outcome(name).await?;
        anyhow::ensure!(outcome.is_ok(), "{image} on {node}: {outcome:?}");
        self.remove_pod(name).await
    }

    pub(crate) async fn remove_pod(&self, name: &str) -> Result<()> {
        let now = ["delete", "pod", name, "--force", "--grace-period=0"];
        self.cluster.kubectl(&now).await?;
        Ok(())
    }

    /// Removes an image from a node's runtime, with its content.
    pub(crate) async fn forget(&self, node: &str, image: &str) -> Result<()> {
        let cri = self.cluster.cri(node).await?;
        if let Some(there) = cri.image_status(image).await? {
            cri.remove_image(&there.id).await?;
        }
        Ok(())
    }

    /// The pod of larder on a node.
    pub(crate) async fn larder_on(&self, node: &str) -> Result<Value> {
        let of_node = format!("--field-selector=spec.nodeName={node}");
        let label = "--selector=app.kubernetes.io/component=node";
        let pods = ["pods", "--namespace", SYSTEM, label, &of_node];
        let pods = self.cluster.list(&pods).await?;
        pods.into_iter().next().context("no larder there")
    }

    /// The sum of a metric's samples of larder on a node: those with this label, or all.
    pub(crate) async fn metric(&self, node: &str, name: &str, label: &str) -> Result<f64> {
        let pod = self.larder_on(node).await?;
        let ip = pod["status"]["podIP"].as_str().context("an address")?;
        let url = format!("http://{ip}:7421/metrics");
        let page = self.cluster.beside(&["curl", "-sf", &url]).await?;
        let samples = page.lines().filter_map(|line| line.rsplit_once(' '));
        let of_name = samples.filter(|(sample, _)| {
            let labels = sample.strip_prefix(name);
            labels.is_some_and(|labels| {
                (labels.is_empty() || labels.starts_with('{')) && labels.contains(label)
            })
        });
        Ok(of_name
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum())
    }

    /// How many requests for content containerd itself has sent to a registry, without larder.
    pub(crate) fn direct(&self, registry: &str) -> Result<usize> {
        let requests = self.cluster.requests(registry)?.content_gets();
        Ok(requests.from_agent("containerd/").len())
    }

    /// Every file below a node's `/etc/containerd`, with a checksum of its content.
    pub(crate) async fn runtime_files(&self, node: &str) -> Result<String> {
        let all =
            "find /etc/containerd | sort; find /etc/containerd -type f -exec sha256sum {} + | sort";
        self.cluster.on(node, &["sh", "-c", all]).await
    }
}

/// The outcome of a pod's image pull: `None` while it is open.
pub(crate) fn outcome(pod: &Value) -> Option<Result<(), String>> {
    let state = &pod["status"]["containerStatuses"][0]["state"];
    if state["running"].is_object() {
        return Some(Ok(()));
    }
    let waiting = &state["waiting"];
    match waiting["reason"].as_str()? {
        "ContainerCreating" | "PodInitializing" => None,
        reason => Some(Err(format!("{reason}: {}", waiting["message"]))),
    }
}

/// A pod that always pulls its image, whatever the node has.
pub(crate) fn pod(name: &str, node: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": template(image)["spec"].as_object().map(|spec| {
            let mut spec = spec.clone();
            spec.insert("nodeName".to_owned(), json!(node));
            spec
        }),
    })
}

/// The template of such pods.
pub(crate) fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "app"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": image, "imagePullPolicy": "Always"}],
        },
    })
}

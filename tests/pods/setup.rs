//! A node with a registry behind it, and everything that the chart needs to be rendered for it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::{FakeRegistry, Seen};
use larder_tests::hosts::{Host, Names, Net};
use larder_tests::http;
use larder_tests::image::{build_waiting, packed};
use larder_tests::kubernetes::{Chart, Kubelet, Objects, RunningPod};
use larder_tests::real::{Release, run};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// The registry's name, which a name server knows.
pub(crate) const REGISTRY: &str = "reg.test";

/// One test at a time: two nodes with containerd and pods would only slow each other down.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// Host 0 is the node, host 1 another machine of its network.
pub(crate) struct Setup {
    pub(crate) kubelet: Kubelet,
    pub(crate) fake: FakeRegistry,
    pub(crate) net: Net,
    _names: Names,
}

/// Puts the only image of a layout into the registry, byte for byte, and gives its digest.
fn push(fake: &FakeRegistry, layout: &Path, repository: &str, tag: &str) -> Result<String> {
    let blob = |digest: &str| {
        let path = layout.join("blobs").join(digest.replace(':', "/"));
        std::fs::read(&path).with_context(|| path.display().to_string())
    };
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .context("a digest")?;
    let bytes = blob(digest)?;
    let manifest: Value = serde_json::from_slice(&bytes)?;
    let layers = manifest["layers"].as_array().context("layers")?;
    for part in layers.iter().chain([&manifest["config"]]) {
        fake.put_blob(
            repository,
            blob(part["digest"].as_str().context("a digest")?)?,
        );
    }
    let media_type = manifest["mediaType"].as_str().context("a type")?;
    let put = fake.put_manifest(repository, Some(tag), media_type, bytes);
    ensure!(put == digest, "{put} is not {digest}");
    Ok(put)
}

impl Setup {
    /// A node whose containerd already has a file for the registry, as an administrator may have written it.
    pub(crate) async fn new(release: Release) -> Result<Self> {
        let net = Net::new(2);
        let fake = FakeRegistry::start_in(net.upstream()).await;
        build_waiting(&fake, "pause", "1", &[])?;
        let mut names = Names::start_in(net.upstream()).await;
        let std::net::IpAddr::V4(upstream) = net.upstream().address() else {
            anyhow::bail!("not IPv4");
        };
        names.set(REGISTRY, &[upstream]).await;
        let pause = format!("{REGISTRY}/pause:1");
        let kubelet = Kubelet::new(release, net.host(0), &pause, net.upstream().address()).await?;
        // containerd 1.6 ignores a hosts file that has only a `server`.
        let url = fake.url();
        let own = format!(
            "# Ours.\nserver = \"{url}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        kubelet.containerd.write_hosts(REGISTRY, &own)?;
        Ok(Self {
            kubelet,
            fake,
            net,
            _names: names,
        })
    }

    pub(crate) fn node(&self) -> &Host {
        self.net.host(0)
    }

    /// Puts an image of larder into the registry. Different versions have different digests and the same program.
    pub(crate) fn push_larder(&self, version: &str) -> Result<String> {
        push(&self.fake, &packed(version), "larder", version)
    }

    /// The chart for this node.
    pub(crate) fn chart(&self, version: &str) -> Chart {
        let (_, port) = self
            .fake
            .url()
            .rsplit_once(':')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .expect("a port");
        let endpoint = format!("http://{REGISTRY}:{port}");
        Chart::default()
            .set(
                "image",
                &json!({"repository": format!("{REGISTRY}/larder"), "tag": version}),
            )
            .set("runtime.registries", &json!([REGISTRY]))
            .set(
                "config",
                &json!({
                    "upstreams": {REGISTRY: {"endpoints": [endpoint]}},
                    // The fill of this machine's disk must not matter.
                    "store": {"min_free": "0"},
                }),
            )
    }

    /// Runs the pod of a DaemonSet until it is ready.
    pub(crate) async fn run(&mut self, objects: &Objects, daemon_set: &str) -> Result<RunningPod> {
        self.kubelet
            .run(objects.daemon_set(daemon_set), objects)
            .await
    }

    /// Pulls through the runtime, as for a pod.
    pub(crate) async fn pull(&self, image: &str) -> Result<String> {
        Ok(self
            .kubelet
            .cri
            .pull(&format!("{REGISTRY}/{image}"))
            .await?)
    }

    /// Requests that containerd itself has sent to the registry, without larder.
    pub(crate) fn direct(&self) -> Vec<Seen> {
        let requests = self.fake.requests();
        requests.into_iter().filter(by_containerd).collect()
    }

    /// larder's requests to the registry, except those that resolve tags.
    pub(crate) fn fetches(&self) -> Vec<Seen> {
        let requests = self.fake.requests();
        let fetch = |seen: &Seen| seen.method == "GET" && !by_containerd(seen);
        requests.into_iter().filter(fetch).collect()
    }

    /// The sum of a metric's samples on the pod's metrics page.
    pub(crate) async fn metric(&self, pod: &RunningPod, name: &str) -> Result<f64> {
        let url = format!("http://{}:7421/metrics", pod.ip);
        let page = self
            .node()
            .run(async move { http::get(&url, &[]).await })
            .await?;
        let text = page.text();
        let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        let of_name = samples.filter(|(sample, _)| {
            let labels = sample.strip_prefix(name);
            labels.is_some_and(|labels| labels.is_empty() || labels.starts_with('{'))
        });
        Ok(of_name
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum())
    }
}

fn by_containerd(seen: &Seen) -> bool {
    seen.headers
        .iter()
        .any(|(name, value)| name == "user-agent" && value.starts_with("containerd/"))
}

/// Runs curl in the network of a process.
pub(crate) async fn curl_from(pid: u32, arguments: &[&str]) -> Result<Output> {
    let mut curl = Command::new("nsenter");
    curl.arg(format!("--net=/proc/{pid}/ns/net"));
    curl.args(["curl", "--silent", "--show-error", "--max-time", "10"]);
    curl.args(["--write-out", "\n%{http_code}"]).args(arguments);
    for proxy in [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ] {
        curl.env_remove(proxy);
    }
    run(&mut curl.into(), Duration::from_secs(30)).await
}

/// curl's exit code for a connection that is refused.
pub(crate) const REFUSED: Option<i32> = Some(7);

//! A node's kubelet: makes the volumes, pulls the images, runs init containers and then the others, probes them, and
//! ends them, all by the CRI.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{
    Objects,
    chart::NAMESPACE,
    pod::{self, Status},
};
use crate::hosts::Host;
use crate::http;
use crate::real::{Containerd, CriClient, Release};

/// How long a pod may take to be ready, and an init container to end.
const PATIENCE: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(20);

/// The kubelet of one host, over a containerd there.
#[derive(Debug)]
pub struct Kubelet {
    pub containerd: Containerd,
    pub cri: CriClient,
    host: Host,
    dns: IpAddr,
    pods: u32,
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct RunningPod {
    pub ip: String,
    /// A process in the pod's network.
    pub pid: u32,
    sandbox: String,
    /// By name.
    containers: Vec<(String, String)>,
    template: Value,
    logs: PathBuf,
}

impl RunningPod {
    /// A container's id.
    pub fn container(&self, name: &str) -> &str {
        let found = self.containers.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no container {name}")).1
    }

    /// The log of a container, or of an init container.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.logs.join(format!("{name}.log"))).unwrap_or_default()
    }
}

impl Kubelet {
    /// A kubelet on `host`, over a containerd of this release. Pods ask `dns` for names.
    pub async fn new(
        release: Release,
        host: &Host,
        pause: &str,
        dns: IpAddr,
    ) -> anyhow::Result<Self> {
        let containerd = Containerd::start_on(release, host, pause).await?;
        Ok(Self {
            cri: containerd.cri().await?,
            containerd,
            host: host.clone(),
            dns,
            pods: 0,
        })
    }

    /// Runs a pod until it is ready: images, volumes, sandbox, init containers, containers, probes.
    pub async fn run(&mut self, template: &Value, objects: &Objects) -> anyhow::Result<RunningPod> {
        self.pods += 1;
        let uid = format!("pod-{}", self.pods);
        let dir = self.containerd.dir().join("pods").join(&uid);
        let logs = dir.join("logs");
        fs::create_dir_all(&logs)?;
        let volumes = self.volumes(template, objects, &dir)?;
        let mut status = Status {
            name: format!("larder-{}", self.pods),
            uid,
            namespace: NAMESPACE.to_owned(),
            host_ip: self.host.address().to_string(),
            node_name: "node-1".to_owned(),
            pod_ip: String::new(),
        };
        let spec = &template["spec"];
        let list = |key: &str| spec[key].as_array().cloned().unwrap_or_default();
        let (inits, containers) = (list("initContainers"), list("containers"));
        for container in inits.iter().chain(&containers) {
            let image = container["image"].as_str().expect("an image");
            let always = container["imagePullPolicy"] == "Always";
            if always || self.cri.image_status(image).await?.is_none() {
                self.cri.pull(image).await?;
            }
        }
        let logged = logs.to_str().expect("UTF-8");
        let config = pod::sandbox(template, &status, logged, &self.dns.to_string());
        let sandbox = self.cri.run_pod(&config).await?;
        let (ip, pid) = self.cri.pod_network(&sandbox).await?;
        status.pod_ip = if ip.is_empty() {
            status.host_ip.clone()
        } else {
            ip
        };
        let mut running = RunningPod {
            ip: status.pod_ip.clone(),
            pid,
            sandbox,
            containers: Vec::new(),
            template: template.clone(),
            logs,
        };
        for container in &inits {
            let made = pod::container(container, template, &status, &volumes);
            let id = self
                .cri
                .start_container(&running.sandbox, &made, &config)
                .await?;
            let (code, reason) = self.until_exited(&id).await?;
            let name = container["name"].as_str().expect("a name");
            anyhow::ensure!(code == 0, "{name}: {code} {reason}\n{}", running.log(name));
        }
        for container in &containers {
            let made = pod::container(container, template, &status, &volumes);
            let id = self
                .cri
                .start_container(&running.sandbox, &made, &config)
                .await?;
            let name = container["name"].as_str().expect("a name").to_owned();
            running.containers.push((name, id));
        }
        for container in &containers {
            self.until_ready(container, &running).await?;
        }
        Ok(running)
    }

    /// Ends a pod as the kubelet does when it is deleted, and removes it.
    pub async fn stop(&self, pod: &RunningPod) -> anyhow::Result<()> {
        let grace = pod.template["spec"]["terminationGracePeriodSeconds"].as_i64();
        for (_, container) in &pod.containers {
            self.cri
                .stop_container(container, grace.unwrap_or(30))
                .await?;
        }
        self.cri.stop_pod(&pod.sandbox).await?;
        self.cri.remove_pod(&pod.sandbox).await?;
        Ok(())
    }

    async fn until_exited(&self, container: &str) -> anyhow::Result<(i32, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.cri.exited(container).await? {
                return Ok(end);
            }
            anyhow::ensure!(Instant::now() < deadline, "an init container does not end");
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The probes come from the node's network, as the kubelet's do.
    async fn until_ready(&self, container: &Value, pod: &RunningPod) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let probe = container[probe].clone();
            loop {
                let (asked, ports, ip) =
                    (probe.clone(), container["ports"].clone(), pod.ip.clone());
                let passed = self
                    .host
                    .run(async move { passes(&asked, &ports, &ip).await });
                if probe.is_null() || passed.await {
                    break;
                }
                let name = container["name"].as_str().unwrap_or_default();
                let ended = self.cri.exited(pod.container(name)).await?;
                anyhow::ensure!(
                    ended.is_none() && Instant::now() < deadline,
                    "{name} {ended:?} does not pass {probe}:\n{}",
                    pod.log(name)
                );
                tokio::time::sleep(GLANCE).await;
            }
        }
        Ok(())
    }

    /// Makes the pod's volumes. Paths of the node are its containerd's paths.
    fn volumes(
        &self,
        template: &Value,
        objects: &Objects,
        dir: &Path,
    ) -> anyhow::Result<HashMap<String, PathBuf>> {
        let mut made = HashMap::new();
        for volume in template["spec"]["volumes"].as_array().into_iter().flatten() {
            let name = volume["name"].as_str().expect("a name");
            let at = dir.join("volumes").join(name);
            if let Some(path) = volume["hostPath"]["path"].as_str() {
                let real = self.containerd.on_this_machine(Path::new(path));
                let kind = volume["hostPath"]["type"].as_str();
                match kind {
                    Some("DirectoryOrCreate") => fs::create_dir_all(&real)?,
                    _ => anyhow::ensure!(real.exists(), "{path}, {kind:?}, is not there"),
                }
                made.insert(name.to_owned(), PathBuf::from(path));
                continue;
            }
            fs::create_dir_all(&at)?;
            // The kubelet's modes.
            fs::set_permissions(&at, fs::Permissions::from_mode(0o777))?;
            if let Some(map) = volume["configMap"]["name"].as_str() {
                let data = objects.get("ConfigMap", map)["data"].clone();
                for (key, value) in data.as_object().into_iter().flatten() {
                    fs::write(at.join(key), value.as_str().unwrap_or_default())?;
                }
            } else if let Some(secret) = volume["secret"]["secretName"].as_str() {
                let secret = objects.get("Secret", secret);
                for (key, value) in secret["data"].as_object().into_iter().flatten() {
                    let bytes = BASE64.decode(value.as_str().unwrap_or_default().as_bytes())?;
                    fs::write(at.join(key), bytes)?;
                }
                for (key, value) in secret["stringData"].as_object().into_iter().flatten() {
                    fs::write(at.join(key), value.as_str().unwrap_or_default())?;
                }
            } else {
                anyhow::ensure!(volume["emptyDir"].is_object(), "{volume} is not understood");
            }
            made.insert(name.to_owned(), at);
        }
        Ok(made)
    }
}

/// Whether a probe passes now.
async fn passes(probe: &Value, ports: &Value, pod: &str) -> bool {
    let port = |said: &Value| -> u16 {
        let named = ports
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p["name"] == *said);
        let number = named.map_or(said, |port| &port["containerPort"]);
        u16::try_from(number.as_u64().expect("a port")).expect("a port")
    };
    let address = |action: &Value| -> SocketAddr {
        let ip = action["host"].as_str().unwrap_or(pod);
        SocketAddr::new(ip.parse().expect("an address"), port(&action["port"]))
    };
    if probe["tcpSocket"].is_object() {
        return TcpStream::connect(address(&probe["tcpSocket"]))
            .await
            .is_ok();
    }
    let action = &probe["httpGet"];
    assert!(action.is_object(), "{probe} is not understood");
    let url = format!(
        "http://{}{}",
        address(action),
        action["path"].as_str().unwrap_or("/")
    );
    let asked = tokio::time::timeout(Duration::from_secs(5), http::get(&url, &[])).await;
    asked.is_ok_and(|answer| answer.is_ok_and(|answer| (200..400).contains(&answer.status)))
}

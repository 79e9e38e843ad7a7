//! Real containerd, 1.6 and 2.x.

use anyhow::{Context as _, Result};
use larder_tests::fake::FakeRegistry;
use larder_tests::image::{Image, LayerSpec, build_waiting, build_waiting_index};
use larder_tests::real::cri::{
    ContainerConfig, ContainerMetadata, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, SecurityProfile,
};
use larder_tests::real::{Containerd, CriClient, Release, refusal, skipped, succeeded};
use serde_json::Value;

use larder_tests::watcher::{Watcher, entries};

const REGISTRY: &str = "registry.example";

/// A containerd, the registry that it pulls from, and what is in it.
struct Setup {
    containerd: Containerd,
    cri: CriClient,
    fake: FakeRegistry,
    /// The index of `app:v1`.
    index: String,
    app: Image,
}

impl Setup {
    async fn new(release: Release) -> Result<Self> {
        let fake = FakeRegistry::start().await;
        build_waiting(&fake, "pause", "1", &[])?;
        let layers = [LayerSpec::new(1, 100_000), LayerSpec::new(2, 1_000)];
        let (index, app) = build_waiting_index(&fake, "app", "v1", &layers)?;
        let pause = format!("{REGISTRY}/pause:1");
        let containerd = Containerd::start_with_pause(release, &pause).await?;
        let url = fake.url();
        let hosts = format!(
            "server = \"{url}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        containerd.write_hosts(REGISTRY, &hosts)?;
        Ok(Self {
            cri: containerd.cri().await?,
            containerd,
            fake,
            index,
            app,
        })
    }

    fn watcher(&self, every: &str) -> Watcher {
        Watcher::start(&self.containerd.socket(), &["--every", every])
    }

    /// Runs a pod with one container of this image. Gives the ids of sandbox and container.
    async fn run(&self, image: &str, mounts: Vec<Mount>) -> Result<(String, String)> {
        let logs = self.containerd.dir().join("pod-logs");
        std::fs::create_dir_all(&logs)?;
        let node = NamespaceOption {
            network: 2,
            pid: 1,
            ipc: 0,
        };
        let unconfined = SecurityProfile { profile_type: 1 };
        let pod = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "pod".to_owned(),
                uid: format!("{:016x}", fastrand::u64(..)),
                namespace: "default".to_owned(),
            }),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(node),
                    seccomp: Some(unconfined.clone()),
                    ..LinuxSandboxSecurityContext::default()
                }),
            }),
            ..PodSandboxConfig::default()
        };
        let sandbox = self.cri.run_pod(&pod).await?;
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
            }),
            mounts,
            log_path: "main.log".to_owned(),
            linux: Some(LinuxContainerConfig {
                resources: None,
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(node),
                    seccomp: Some(unconfined),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        };
        let container = container.with_image(image);
        let container = self.cri.start_container(&sandbox, &container, &pod).await?;
        Ok((sandbox, container))
    }
}

/// The image with this name in a namespace.
fn image<'a>(report: &'a Value, namespace: &str, name: &str) -> Option<&'a Value> {
    let images = entries(report, "images", "namespace", namespace);
    let named = |image: &&Value| {
        image["names"]
            .as_array()
            .is_some_and(|names| names.contains(&name.into()))
    };
    images.into_iter().find(named)
}

fn user<'a>(report: &'a Value, kind: &str, id: &str) -> Option<&'a Value> {
    let users = entries(report, "users", "id", id);
    users.into_iter().find(|user| user["kind"] == kind)
}

/// The image's parts belong to this machine's manifest in the index.
fn assert_is_app(found: &Value, setup: &Setup) {
    assert_eq!(found["target"], setup.index.as_str());
    assert_eq!(found["manifest"], setup.app.manifest_digest.as_str());
    assert_eq!(found["config"], setup.app.config_digest.as_str());
    let layers: Vec<&str> = setup
        .app
        .layers
        .iter()
        .map(|layer| layer.digest.as_str())
        .collect();
    assert_eq!(found["layers"], serde_json::json!(layers));
    assert!(found["updated"].is_u64(), "{found}");
}

/// Makes of each function one test for containerd 1.6 and one for 2.x.
macro_rules! with_each_containerd {
    ([$($name:ident),+ $(,)?]) => {
        with_each_containerd!(@in containerd_1, One, [$($name),+]);
        with_each_containerd!(@in containerd_2, Two, [$($name),+]);
    };
    (@in $module:ident, $release:ident, [$($name:ident),+]) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> anyhow::Result<()> {
                if let Some(why) = super::refusal() {
                    super::skipped(concat!(module_path!(), "::", stringify!($name)), why);
                    return Ok(());
                }
                super::$name(super::Release::$release).await
            })+
        }
    };
}

with_each_containerd!([
    everything_of_every_namespace_is_told,
    what_runs_is_known_after_its_image_was_deleted,
    an_event_leads_to_a_new_file_at_once,
    a_runtime_that_restarts_is_found_again,
]);

async fn everything_of_every_namespace_is_told(release: Release) -> Result<()> {
    let setup = Setup::new(release).await?;
    let by_tag = format!("{REGISTRY}/app:v1");
    let by_digest = format!("{REGISTRY}/app@{}", setup.index);
    setup.cri.pull(&by_tag).await?;
    succeeded(&setup.containerd.ctr_pull(&by_digest, &[]).await?)?;
    let (sandbox, container) = setup.run(&by_tag, Vec::new()).await?;
    setup.containerd.start_image(&by_digest, "plain").await?;

    let mut watcher = setup.watcher("1s");
    let all = |report: &Value| user(report, "container", &container).is_some();
    let report = watcher.until("the container", all).await;
    assert_eq!(report["runtime"]["name"], "containerd");
    let found = image(&report, "k8s.io", &by_tag).context("by tag")?;
    assert_is_app(found, &setup);
    // The CRI plugin has given it names by digest too.
    assert!(image(&report, "k8s.io", &by_digest).is_some(), "{found}");
    assert_is_app(
        image(&report, "tests", &by_digest).context("by digest")?,
        &setup,
    );

    let running = user(&report, "container", &container).context("the container")?;
    assert_eq!(running["namespace"], "k8s.io");
    assert_eq!(running["digest"], setup.app.config_digest.as_str());
    assert!(running["created"].is_u64());
    let paused = user(&report, "sandbox", &sandbox).context("the sandbox")?;
    let pause = image(&report, "k8s.io", &format!("{REGISTRY}/pause:1")).context("pause")?;
    let known = [&pause["target"], &pause["config"]];
    assert!(known.contains(&&paused["digest"]), "{paused} {pause}");
    let plain = user(&report, "container", "plain").context("ctr's container")?;
    assert_eq!(plain["digest"], setup.index.as_str());

    let layer = setup.app.layers[0].digest.as_str();
    for namespace in ["k8s.io", "tests"] {
        let blobs = entries(&report, "content", "digest", layer).into_iter();
        let of_it: Vec<_> = blobs
            .filter(|blob| blob["namespace"] == namespace)
            .collect();
        assert_eq!(of_it.len(), 1, "{namespace}");
        assert_eq!(of_it[0]["size"], setup.app.layers[0].content.len());
        let label = format!("containerd.io/distribution.source.{REGISTRY}");
        assert_eq!(of_it[0]["labels"][label.as_str()], "app");
        assert!(of_it[0]["created"].is_u64());
        // The first layer's chain id is its diff id, which is its digest: the layer is not compressed.
        let snapshots = entries(&report, "snapshots", "name", layer).into_iter();
        let own: Vec<_> = snapshots
            .filter(|one| one["namespace"] == namespace)
            .collect();
        assert_eq!(own.len(), 1, "{namespace}: {:#}", report["snapshots"]);
        assert_eq!(own[0]["snapshotter"], setup.containerd.snapshotter());
    }
    // Containers use the image's last layer as their parent.
    let of_container = entries(&report, "snapshots", "name", &container);
    assert!(
        of_container.iter().any(|one| one["parent"].is_string()),
        "{:#}",
        report["snapshots"]
    );
    watcher.terminate();
    Ok(())
}

async fn what_runs_is_known_after_its_image_was_deleted(release: Release) -> Result<()> {
    let setup = Setup::new(release).await?;
    let name = format!("{REGISTRY}/app:v1");
    let id = setup.cri.pull(&name).await?;
    succeeded(&setup.containerd.ctr_pull(&name, &[]).await?)?;
    let (_, container) = setup.run(&name, Vec::new()).await?;
    setup.containerd.start_image(&name, "plain").await?;
    let mut watcher = setup.watcher("1s");
    let both = |report: &Value| {
        image(report, "k8s.io", &name).is_some() && image(report, "tests", &name).is_some()
    };
    watcher.until("both images", both).await;

    setup.cri.remove_image(&id).await?;
    setup.containerd.remove(&name).await?;
    let neither = |report: &Value| {
        image(report, "k8s.io", &name).is_none() && image(report, "tests", &name).is_none()
    };
    let report = watcher.until("no image", neither).await;
    let running = user(&report, "container", &container).context("the container")?;
    assert_eq!(running["digest"], setup.app.config_digest.as_str());
    let plain = user(&report, "container", "plain").context("ctr's container")?;
    assert_eq!(
        plain["digest"],
        setup.index.as_str(),
        "it was known when the name led there"
    );
    Ok(())
}

async fn an_event_leads_to_a_new_file_at_once(release: Release) -> Result<()> {
    let setup = Setup::new(release).await?;
    let name = format!("{REGISTRY}/app:v1");
    // Only an event makes the watcher ask again.
    let mut watcher = setup.watcher("1h");
    watcher.until("a file", |_| true).await;
    setup.cri.pull(&name).await?;
    watcher
        .until("the image", |report| {
            image(report, "k8s.io", &name).is_some()
        })
        .await;
    let (_, container) = setup.run(&name, Vec::new()).await?;
    watcher
        .until("the container", |report| {
            user(report, "container", &container).is_some()
        })
        .await;
    // In a new namespace.
    succeeded(&setup.containerd.ctr_pull(&name, &[]).await?)?;
    watcher
        .until("the other namespace", |report| {
            image(report, "tests", &name).is_some()
        })
        .await;
    setup.containerd.remove(&name).await?;
    watcher
        .until("its end", |report| image(report, "tests", &name).is_none())
        .await;
    drop(setup.fake);
    Ok(())
}

async fn a_runtime_that_restarts_is_found_again(release: Release) -> Result<()> {
    let mut setup = Setup::new(release).await?;
    let name = format!("{REGISTRY}/app:v1");
    let mut watcher = setup.watcher("2s");
    watcher.until("a file", |_| true).await;
    setup.containerd.restart().await?;
    setup.cri = setup.containerd.cri().await?;
    setup.cri.pull(&name).await?;
    watcher
        .until("the image", |report| {
            image(report, "k8s.io", &name).is_some()
        })
        .await;
    watcher.says("the runtime answers again").await;
    Ok(())
}

/// containerd mounts images from 2.1 on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_a_pod_mounts_is_in_use() -> Result<()> {
    if let Some(why) = refusal() {
        skipped("an_image_that_a_pod_mounts_is_in_use", why);
        return Ok(());
    }
    let setup = Setup::new(Release::Two).await?;
    let (app, data) = (format!("{REGISTRY}/app:v1"), format!("{REGISTRY}/data:v1"));
    let volume = build_waiting(&setup.fake, "data", "v1", &[LayerSpec::new(9, 1_000)])?;
    setup.cri.pull(&app).await?;
    // The kubelet names the image by the id that the pull gave.
    let pulled = setup.cri.pull(&data).await?;
    let (_, container) = setup
        .run(&app, vec![Mount::of_image("/data", &pulled)])
        .await?;
    let mut watcher = setup.watcher("1s");
    let used = |report: &Value| user(report, "image-volume", &container).is_some();
    let report = watcher.until("the volume", used).await;
    let found = user(&report, "image-volume", &container).context("the volume")?;
    assert_eq!(found["digest"], volume.config_digest.as_str());
    assert_eq!(found["namespace"], "k8s.io");
    Ok(())
}

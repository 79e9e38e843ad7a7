//! A real containerd that pulled an image straight from its registry before larder came, and the real watcher, which
//! reports it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::FakeRegistry;
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::members::{Cluster, Door};
use larder_tests::node::Node;
use larder_tests::real::{Containerd, Release, refusal, skipped, succeeded};
use larder_tests::scene::{Compared, compare, files};
use larder_tests::watcher::{Watcher, entries};

use super::outage::{PASSWORD, USER, gets_nothing, strangers_get_nothing};
use super::{copied_nothing, held, retried, until, until_proven};

const REPOSITORY: &str = "team/app";

/// Within this time other members learn what a node has.
const SPREAD: Duration = Duration::from_secs(10);

/// Whether this machine cannot run containerd; if so, says it.
fn refused(test: &str) -> bool {
    let why = refusal();
    if let Some(why) = why {
        skipped(test, why);
    }
    why.is_some()
}

/// A node's runtime, which had an image before larder came.
struct Runtime {
    containerd: Containerd,
    watcher: Watcher,
    /// The image's name in the runtime.
    name: String,
}

impl Runtime {
    /// containerd pulls the image by its tag; then the watcher starts and reports it.
    async fn with(
        release: Release,
        fake: &FakeRegistry,
        image: &Image,
        options: &[&str],
    ) -> Result<Self> {
        let containerd = Containerd::start(release).await?;
        let name = format!("{}/{REPOSITORY}:v1", fake.host());
        let options = [&["--plain-http"], options].concat();
        succeeded(&containerd.ctr_pull(&name, &options).await?)?;
        let mut watcher = Watcher::start(&containerd.socket(), &["--every", "1s"]);
        let target = &image.manifest_digest;
        let listed = |report: &_| !entries(report, "images", "target", target).is_empty();
        watcher.until("the image", listed).await;
        Ok(Self {
            containerd,
            watcher,
            name,
        })
    }

    /// The lines of a configuration that lead larder here.
    fn config(&self) -> String {
        let (file, content) = (self.watcher.file(), self.containerd.content());
        format!(
            "[runtime]\nfile = \"{}\"\ncontent = \"{}\"\n",
            file.display(),
            content.display()
        )
    }
}

fn image(fake: &FakeRegistry) -> Image {
    let layers = [LayerSpec::new(1, 3_000_000), LayerSpec::new(2, 50_000)];
    build(fake, REPOSITORY, "v1", &layers)
}

/// A node's disk holds only what larder knows of the image, which is far less than the image.
fn keeps_little(node: &Node, image: &Image) -> Result<()> {
    copied_nothing(node);
    let mut bytes = 0;
    for file in files(node.store()) {
        bytes += std::fs::metadata(file)?.len();
    }
    ensure!(
        bytes < image.size() / 50,
        "{bytes} bytes in the store, for an image of {}",
        image.size()
    );
    Ok(())
}

async fn another_node_pulls_what_containerd_had(release: Release) -> Result<()> {
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let runtime = Runtime::with(release, &fake, &image, &[]).await?;
    fake.reset_counts();
    let cluster = Cluster::of(3)
        .upstream(&fake)
        .config_of(0, &runtime.config())
        .start()
        .await;
    // The tag, the manifest, the configuration, two layers.
    until_proven(cluster.node(0), 5).await;
    for layer in &image.layers {
        ensure!(
            fake.blob_bytes_sent(&layer.digest) <= 2 * 4096,
            "it was downloaded"
        );
    }
    fake.stop().await;
    // One node pulls by tag, which is a HEAD, the other by digest: neither knows anything from the other's pull.
    for (number, reference) in [(1, "v1"), (2, &*image.manifest_digest)] {
        let door = cluster.door(number, &fake, REPOSITORY);
        retried(SPREAD, || door.pull(reference, &image)).await;
    }
    // A runtime without any of the image.
    let another = Containerd::start(release).await?;
    let mirror = format!(
        "[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
        cluster.node(1).url()
    );
    another.write_hosts(&fake.host(), &mirror)?;
    succeeded(&another.ctr_pull(&runtime.name, &[]).await?)?;
    for layer in &image.layers {
        let came = another.blob(&layer.digest)?.context("a layer")?;
        ensure!(came == layer.content.read(0..layer.content.len()));
    }
    keeps_little(cluster.node(0), &image)
}

/// A private image, pulled with a pod's secret before larder came. The runtime asks for its tag once more through
/// larder, with that secret. From then on only the secret opens the image, on every node, also without the registry.
async fn a_private_image_opens_for_the_proven_credential_alone(release: Release) -> Result<()> {
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    fake.require_bearer(REPOSITORY, &[(USER, PASSWORD)]);
    let user = format!("{USER}:{PASSWORD}");
    let runtime = Runtime::with(release, &fake, &image, &["--user", &user]).await?;
    let cluster = Cluster::of(2)
        .upstream(&fake)
        .config_of(0, &runtime.config())
        .start()
        .await;
    let holder = cluster.node(0);
    until("hashed", 4, || held(holder, "adopted")).await;
    for number in 0..2 {
        let door = cluster.door(number, &fake, REPOSITORY);
        gets_nothing("before it is proven", &door, &image).await;
    }
    let door = cluster.door(0, &fake, REPOSITORY);
    let own = door.login(USER, PASSWORD, "v1").await;
    let own = own.map_err(anyhow::Error::msg)?;
    let head = own.answer(own.call("HEAD", "manifests/v1")).await;
    ensure!(head.map_err(anyhow::Error::msg)?.status == 200);
    until("proven", 4, || super::answers(holder, "proven")).await;
    fake.stop().await;
    for number in [1, 0] {
        let door = cluster.door(number, &fake, REPOSITORY);
        let with_secret = door.clone().login(USER, PASSWORD, "v1").await;
        let with_secret = with_secret.map_err(anyhow::Error::msg)?;
        for reference in ["v1", &*image.manifest_digest] {
            retried(SPREAD, || with_secret.pull(reference, &image)).await;
        }
        strangers_get_nothing(&format!("on node {number}"), &door, &image).await;
    }
    keeps_little(holder, &image)
}

/// containerd's own collector removes the files, before the watcher's report says so, and while larder sends one of
/// them.
async fn what_containerd_collects_is_a_miss(release: Release) -> Result<()> {
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let runtime = Runtime::with(release, &fake, &image, &[]).await?;
    let node = Node::builder()
        .upstream(&fake)
        .config(runtime.config())
        .start()
        .await;
    until_proven(&node, 5).await;
    let door = Door::of(&node, &fake.host(), REPOSITORY);
    fake.reset_counts();
    let layer = &image.layers[0];
    let open = door.open(&format!("blobs/{}", layer.digest), &[]).await;
    let mut open = open.map_err(anyhow::Error::msg)?;
    runtime.watcher.freeze();
    runtime.containerd.remove(&runtime.name).await?;
    ensure!(
        runtime.containerd.blob(&layer.digest)?.is_none(),
        "it is collected"
    );
    let came = compare(&mut open, &layer.content, 0..layer.content.len()).await;
    assert_eq!(came, Compared::whole(layer.content.len()));
    assert_eq!(fake.requests().len(), 0);
    door.pull("v1", &image).await.map_err(anyhow::Error::msg)?;
    assert!(fake.blob_bytes_sent(&layer.digest) >= layer.content.len());
    Ok(())
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
                if super::refused(concat!(module_path!(), "::", stringify!($name))) {
                    return Ok(());
                }
                super::$name(larder_tests::real::Release::$release).await
            })+
        }
    };
}

with_each_containerd!([
    another_node_pulls_what_containerd_had,
    a_private_image_opens_for_the_proven_credential_alone,
    what_containerd_collects_is_a_miss,
]);

//! Real containerd, which has pulled an image straight from its registry before larder came.

use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::fake::FakeRegistry;
use larder_tests::holding::Holding;
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::members::{Cluster, Door};
use larder_tests::node::Node;
use larder_tests::real::{Containerd, Release, refusal, skipped, succeeded};
use larder_tests::scene::{Compared, compare};

use super::{copied_nothing, until_proven};

const REPOSITORY: &str = "team/app";

/// Whether this machine cannot run containerd, which is said.
fn refused(test: &str) -> bool {
    let why = refusal();
    if let Some(why) = why {
        skipped(test, why);
    }
    why.is_some()
}

/// A containerd that has pulled the image by its tag, and what it says of its content.
async fn pulled(
    release: Release,
    fake: &FakeRegistry,
    image: &Image,
) -> Result<(Containerd, Holding, String)> {
    let containerd = Containerd::start(release).await?;
    let name = format!("{}/{REPOSITORY}:v1", fake.host());
    succeeded(&containerd.ctr_pull(&name, &["--plain-http"]).await?)?;
    let mut holding = Holding::of(&containerd.content());
    let listed = succeeded(&containerd.ctr(&["content", "ls"]).await?)?;
    for line in listed.lines().skip(1) {
        let mut columns = line.split('\t').map(str::trim);
        let digest = columns.next().context("a digest")?;
        let labels = columns.next_back().unwrap_or_default();
        let labels: Vec<_> = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .collect();
        holding.list(digest, &labels);
    }
    holding.name(&name, &image.manifest_digest, image);
    holding.tell();
    Ok((containerd, holding, name))
}

fn image(fake: &FakeRegistry) -> Image {
    let layers = [LayerSpec::new(1, 3_000_000), LayerSpec::new(2, 50_000)];
    build(fake, REPOSITORY, "v1", &layers)
}

async fn another_node_pulls_what_containerd_had(release: Release) -> Result<()> {
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let (_containerd, holding, _) = pulled(release, &fake, &image).await?;
    let cluster = Cluster::of(2)
        .upstream(&fake)
        .config_of(0, &holding.config())
        .start()
        .await;
    // The tag, the manifest, the configuration, two layers.
    until_proven(cluster.node(0), 5).await;
    fake.stop().await;
    for reference in ["v1", &*image.manifest_digest] {
        let door = cluster.door(1, &fake, REPOSITORY);
        super::retried(Duration::from_secs(10), || door.pull(reference, &image)).await;
    }
    copied_nothing(cluster.node(0));
    Ok(())
}

/// containerd's own collector takes the files away, before its report says so and while one is sent.
async fn what_containerd_collects_is_a_miss(release: Release) -> Result<()> {
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let (containerd, holding, name) = pulled(release, &fake, &image).await?;
    let node = Node::builder()
        .upstream(&fake)
        .config(holding.config())
        .start()
        .await;
    until_proven(&node, 5).await;
    let door = Door::of(&node, &fake.host(), REPOSITORY);
    fake.reset_counts();
    let layer = &image.layers[0];
    let open = door.open(&format!("blobs/{}", layer.digest), &[]).await;
    let mut open = open.map_err(anyhow::Error::msg)?;
    containerd.remove(&name).await?;
    assert!(!holding.path(&layer.digest).exists(), "it is collected");
    let came = compare(&mut open, &layer.content, 0..layer.content.len()).await;
    assert_eq!(came, Compared::whole(layer.content.len()));
    assert_eq!(fake.requests().len(), 0);
    door.pull("v1", &image).await.map_err(anyhow::Error::msg)?;
    assert!(fake.blob_bytes_sent(&layer.digest) >= layer.content.len());
    Ok(())
}

macro_rules! with_each_containerd {
    ($($module:ident = $release:ident),+) => {$(
        mod $module {
            use larder_tests::real::Release;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn another_node_pulls_what_containerd_had() -> anyhow::Result<()> {
                if super::refused(concat!(module_path!(), "::pulls")) {
                    return Ok(());
                }
                super::another_node_pulls_what_containerd_had(Release::$release).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn what_containerd_collects_is_a_miss() -> anyhow::Result<()> {
                if super::refused(concat!(module_path!(), "::collects")) {
                    return Ok(());
                }
                super::what_containerd_collects_is_a_miss(Release::$release).await
            }
        }
    )+};
}
with_each_containerd!(containerd_1 = One, containerd_2 = Two);

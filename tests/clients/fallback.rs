//! A mirror that is down or dies: containerd goes on at the registry (P12).

use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::real::{succeeded, until};

use crate::image::Layout;
use crate::setup::{Setup, refused};

#[tokio::test]
async fn a_mirror_that_is_down_costs_nothing_but_the_cache() -> Result<()> {
    if refused("a_mirror_that_is_down_costs_nothing_but_the_cache") {
        return Ok(());
    }
    let mut setup = Setup::named(Layout::multi(3_000_000)?).await?;
    let containerd = setup.containerd_with_fallback().await?;
    setup.mirror.kill();
    let cri = containerd.cri().await?;
    cri.pull(&setup.by_tag()).await?;
    setup.check_content(&containerd, setup.image.native()?)?;
    let direct = setup.upstream_requests().await?.from_agent("containerd/");
    assert!(!direct.content_gets().is_empty(), "{direct:?}");
    Ok(())
}

const LAYER: usize = 200_000_000;

/// The layer is too large for the sockets' buffers to hide the death, and containerd resumes at
/// the byte reached: the registry sends it the rest, not the whole.
#[tokio::test]
async fn a_mirror_killed_in_the_middle_of_a_layer_is_replaced_by_the_registry() -> Result<()> {
    if refused("a_mirror_killed_in_the_middle_of_a_layer_is_replaced_by_the_registry") {
        return Ok(());
    }
    let mut setup = Setup::named(Layout::single(LAYER)?).await?;
    let containerd = setup.containerd_with_fallback().await?;
    let image = setup.by_tag();
    let cri = containerd.cri().await?;
    let pull = tokio::spawn(async move { cri.pull(&image).await });
    until(
        "a third of the layer in containerd",
        Duration::from_mins(1),
        || containerd.ingested() >= LAYER as u64 / 3,
    )
    .await?;
    setup.mirror.kill();
    let reached = containerd.ingested();
    assert!(reached < LAYER as u64, "killed too late: {reached}");

    pull.await?.context("the pull that lost its mirror")?;
    setup.check_content(&containerd, setup.image.native()?)?;
    let resumed = setup
        .upstream_requests()
        .await?
        .from_agent("containerd/")
        .only(|one| one.path.contains("/blobs/") && one.status == 206);
    assert!(!resumed.is_empty(), "no range was asked for");
    assert!(
        resumed.bytes() < LAYER as u64 * 3 / 4,
        "{} bytes came again",
        resumed.bytes()
    );
    Ok(())
}

/// `ctr` reads the same files by a path of its own.
#[tokio::test]
async fn ctr_without_a_mirror_pulls_from_the_registry() -> Result<()> {
    if refused("ctr_without_a_mirror_pulls_from_the_registry") {
        return Ok(());
    }
    let mut setup = Setup::named(Layout::single(3_000_000)?).await?;
    let containerd = setup.containerd_with_fallback().await?;
    setup.mirror.kill();
    succeeded(&containerd.ctr_pull(&setup.by_digest(), &[]).await?)?;
    setup.check_content(&containerd, setup.image.native()?)
}

//! A mirror that is down, or goes down: containerd continues with the registry itself (P12).

use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::real::{Release, succeeded, until};

use crate::image::Layout;
use crate::setup::{Setup, with_each_containerd};

with_each_containerd!([
    a_mirror_that_is_down_costs_nothing_but_the_cache,
    ctr_without_a_mirror_pulls_from_the_registry,
    a_mirror_that_is_told_to_end_while_an_image_is_pulled_costs_nothing,
]);

async fn a_mirror_that_is_down_costs_nothing_but_the_cache(release: Release) -> Result<()> {
    let mut setup = Setup::named(Layout::multi(3_000_000)?).await?;
    let containerd = setup.containerd_with_fallback(release).await?;
    setup.mirror.kill();
    let cri = containerd.cri().await?;
    cri.pull(&setup.by_tag()).await?;
    setup.check_content(&containerd, setup.image.native()?)?;
    let direct = setup.upstream_requests().await?.from_agent("containerd/");
    assert!(!direct.content_gets().is_empty(), "{direct:?}");
    Ok(())
}

/// `ctr` reads the same files by a path of its own.
async fn ctr_without_a_mirror_pulls_from_the_registry(release: Release) -> Result<()> {
    let mut setup = Setup::named(Layout::single(3_000_000)?).await?;
    let containerd = setup.containerd_with_fallback(release).await?;
    setup.mirror.kill();
    succeeded(&containerd.ctr_pull(&setup.by_digest(), &[]).await?)?;
    setup.check_content(&containerd, setup.image.native()?)
}

/// A layer of many pieces, sent at the speed of a good link: the mirror has some seconds of work left when SIGTERM
/// comes.
const LAYER: usize = 200_000_000;

/// An upgrade or a drain of the node sends SIGTERM in the middle of a layer.
async fn a_mirror_that_is_told_to_end_while_an_image_is_pulled_costs_nothing(
    release: Release,
) -> Result<()> {
    let mut setup = Setup::named(Layout::single(LAYER)?).await?;
    let containerd = setup.containerd_with_fallback(release).await?;
    let image = setup.by_tag();
    let cri = containerd.cri().await?;
    let pull = tokio::spawn(async move { cri.pull(&image).await });
    until(
        "a tenth of the layer in containerd",
        Duration::from_mins(1),
        || containerd.ingested() >= LAYER as u64 / 10,
    )
    .await?;
    setup.mirror.terminate();
    pull.await?
        .context("the pull during which it was told to end")?;
    setup.check_content(&containerd, setup.image.native()?)?;
    assert!(setup.mirror.ended().await, "it ends by itself, and well");
    // A pull without the mirror works as well.
    let fresh = setup.containerd_with_fallback(release).await?;
    fresh.cri().await?.pull(&setup.by_digest()).await?;
    setup.check_content(&fresh, setup.image.native()?)
}

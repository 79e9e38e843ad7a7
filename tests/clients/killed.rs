//! A mirror that dies in the middle of a layer (P12).
//!
//! Parallel layer fetch is left out: once a layer has begun, containerd asks only its first host for the later pieces.

use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::real::{Release, until};

use crate::image::Layout;
use crate::setup::{Setup, with_containerd};

with_containerd!(
    containerd_1 = One, containerd_2 = Two, containerd_2_local = TwoLocal;
    [a_mirror_killed_in_the_middle_of_a_layer_is_replaced_by_the_registry]
);

const LAYER: usize = 200_000_000;

/// The layer is too large for the sockets' buffers to hide the mirror's death. containerd resumes at the byte reached:
/// the registry sends it the rest, not the whole.
async fn a_mirror_killed_in_the_middle_of_a_layer_is_replaced_by_the_registry(
    release: Release,
) -> Result<()> {
    let mut setup = Setup::named(Layout::single(LAYER)?).await?;
    let containerd = setup.containerd_with_fallback(release).await?;
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

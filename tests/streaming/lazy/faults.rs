//! What is not as it should be while an image comes: what a container reads is right, or an error, and the log says what to do.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use larder_tests::fake::{Fault, Match};
use larder_tests::tmpfs::Tmpfs;

use super::node::{FIRST, Lazy, PATIENCE};
use crate::setup::refused;

/// Nothing of what comes can be kept any more, and everything is read all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_fills_up_a_container_reads_from_memory() -> Result<()> {
    let test = "on_a_disk_that_fills_up_a_container_reads_from_memory";
    if refused(test) {
        return Ok(());
    }
    let Some(disk) = Tmpfs::mount(test, 64) else {
        return Ok(());
    };
    let lazy = Lazy::on(2, "", "", Some(disk.path())).await?;
    let (lazy, gate) = lazy.gate().await?;
    let mut more = fs::File::create(disk.path().join("more"))?;
    while more.write_all(&[1; 4096]).is_ok() {}
    gate.open();
    lazy.run_and_compare().await?;
    lazy.run_and_compare().await?;
    // Only the trees have room.
    let layers = lazy.layers().await;
    ensure!(
        layers
            .iter()
            .all(|layer| layer["streams"] == true && layer["bytes"].as_u64() < Some(200_000)),
        "{layers:#?}"
    );
    Ok(())
}

/// The registry sends a wrong byte once. It is not believed, and the span is fetched past what is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_byte_reaches_no_container() -> Result<()> {
    if refused("a_wrong_byte_reaches_no_container") {
        return Ok(());
    }
    let mut lazy = Lazy::new(2).await?;
    lazy.pull().await?;
    lazy.cluster.node_mut(FIRST).kill9().await;
    let layer = &lazy.image.image.layers[0];
    let wrong = Match::blob().reference(&layer.digest).times(1);
    let armed = lazy.fake.fault(wrong, Fault::WrongBytes { at: 1000 });
    lazy.run_and_compare().await?;
    ensure!(armed.hits() == 1, "the fault was not met");
    let log = lazy.second().log();
    ensure!(
        log.contains("these are not the bytes of the layer that the index knows"),
        "{log}"
    );
    Ok(())
}

/// The registry is gone for longer than a read waits: an error, and the next container is right when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_source_a_read_fails_late_and_the_next_one_is_right() -> Result<()> {
    if refused("without_any_source_a_read_fails_late_and_the_next_one_is_right") {
        return Ok(());
    }
    let (lazy, gate) = Lazy::gated(1).await?;
    lazy.fake.stop().await;
    gate.open();
    let began = Instant::now();
    let said = lazy.containerd.run_image(&lazy.name()).await;
    ensure!(said.is_err(), "a container ran without its layers");
    ensure!(
        began.elapsed() > Duration::from_secs(50),
        "it failed early: {:?}",
        began.elapsed()
    );
    lazy.fake.start_again().await;
    lazy.run_and_compare().await
}

/// An image that will have no room as ready files is not begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_larger_than_the_tier_is_pulled_as_ever() -> Result<()> {
    if refused("an_image_larger_than_the_tier_is_pulled_as_ever") {
        return Ok(());
    }
    let lazy = Lazy::on(2, "", "max_size = \"3MB\"", None).await?;
    lazy.pull().await?;
    ensure!(lazy.links().is_empty(), "{:?}", lazy.links());
    let log = lazy.second().log();
    ensure!(log.contains("there is no room"), "{log}");
    lazy.run_and_compare().await
}

/// The image is removed while it comes, and pulled again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_was_removed_starts_again() -> Result<()> {
    if refused("an_image_that_was_removed_starts_again") {
        return Ok(());
    }
    let (lazy, gate) = Lazy::gated(1).await?;
    let before: BTreeSet<_> = lazy.links().into_iter().collect();
    lazy.until_referenced().await?;
    lazy.containerd.remove(&lazy.name()).await?;
    // No snapshot refers to the links any more.
    let deadline = Instant::now() + PATIENCE;
    while lazy
        .layers()
        .await
        .iter()
        .any(|layer| layer["referenced_by"] != 0)
    {
        ensure!(Instant::now() < deadline, "{:#?}", lazy.layers().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    gate.open();
    lazy.pull().await?;
    ensure!(lazy.downloaded()?.is_empty(), "{:?}", lazy.downloaded()?);
    lazy.run_and_compare().await?;
    let after: BTreeSet<_> = lazy.links().into_iter().collect();
    ensure!(before == after, "{before:?} {after:?}");
    Ok(())
}

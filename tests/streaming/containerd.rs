//! Real containerd 2.4, whose erofs snapshotter mounts ready files, with runc. The files are made here: what the runtime does
//! with them does not depend on how they came.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::real::until;

use super::setup::{NAME, Setup, refused};

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ready_is_neither_downloaded_nor_unpacked_and_needs_nobody() -> Result<()> {
    if refused("what_is_ready_is_neither_downloaded_nor_unpacked_and_needs_nobody") {
        return Ok(());
    }
    let mut setup = Setup::new().await?;
    setup.offer_all()?;
    setup.pull().await?;
    assert_eq!(setup.downloaded()?, [] as [usize; 0]);
    setup.run_and_compare().await?;
    setup.fake.stop().await;
    setup.run_and_compare().await?;
    setup.node.kill9().await;
    setup.run_and_compare().await?;
    setup.containerd.reboot().await?;
    setup.run_and_compare().await?;
    Ok(())
}

/// Layers below the first one that is missing are mounted as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_is_not_ready_is_pulled_beside_those_that_are() -> Result<()> {
    if refused("a_layer_that_is_not_ready_is_pulled_beside_those_that_are") {
        return Ok(());
    }
    let setup = Setup::new().await?;
    setup.offer(0)?;
    setup.offer(1)?;
    setup.pull().await?;
    assert_eq!(setup.downloaded()?, [2, 3, 4]);
    setup.run_and_compare().await?;
    let ready = setup.image.diff_ids[..2].iter().cloned().collect();
    assert_eq!(setup.referred()?, ready);
    Ok(())
}

/// What the watcher reports decides which files may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watcher_tells_which_ready_files_are_referred_to() -> Result<()> {
    if refused("the_watcher_tells_which_ready_files_are_referred_to") {
        return Ok(());
    }
    let setup = Setup::new().await?;
    setup.offer_all()?;
    assert_eq!(setup.referred()?, BTreeSet::new());
    let cri = setup.containerd.cri().await?;
    let pulled = cri.pull(NAME).await?;
    assert_eq!(setup.referred()?, setup.all());
    // Another namespace has snapshots of its own.
    setup.pull().await?;
    assert_eq!(setup.downloaded()?, [] as [usize; 0]);
    cri.remove_image(&pulled).await?;
    assert_eq!(setup.referred()?, setup.all());
    setup.containerd.remove(NAME).await?;
    // containerd removes the snapshots of the CRI's image in its own time.
    until("no snapshot refers to a file", PATIENCE, || {
        setup.referred().is_ok_and(|found| found.is_empty())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watcher_tells_what_pulls_and_unpacks() -> Result<()> {
    if refused("the_watcher_tells_what_pulls_and_unpacks") {
        return Ok(());
    }
    let setup = Setup::new().await?;
    let report = setup.report()?;
    assert_eq!(report["snapshotter"], "erofs");
    let plugins = report["plugins"].as_array().context("plugins")?;
    let works = |kind: &str, id: &str| {
        let mut named = plugins
            .iter()
            .filter(|plugin| plugin["kind"] == kind && plugin["id"] == id);
        named.next().map(|plugin| plugin["trouble"].is_null())
    };
    assert_eq!(works("io.containerd.snapshotter.v1", "erofs"), Some(true));
    assert_eq!(works("io.containerd.differ.v1", "walking"), Some(true));
    assert_eq!(works("io.containerd.transfer.v1", "local"), Some(true));
    Ok(())
}

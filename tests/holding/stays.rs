//! Age evicts nothing that a container uses.

use super::{DAY, MB, Watched};

#[tokio::test]
async fn an_image_that_runs_is_whole_after_ten_days_and_another_is_gone() {
    let node = Watched::with("").await;
    let used = node.pull("team/used", 1, MB).await;
    let unused = node.pull("team/unused", 2, MB).await;
    for days in [5, 5] {
        node.uses(&[&used]).await;
        node.machine.pass(days * DAY);
    }
    node.uses(&[&used]).await;
    node.round().await;
    assert!(node.is_whole(&used), "{}", node.scene.node.log());
    node.until_gone(&unused).await;
    // That has a use: a pull succeeds without the registry.
    node.scene.fake.stop().await;
    node.pull_again("team/used", &used).await;
    assert!(node.is_whole(&used));
}

/// The end of a container counts as a use: its image is evicted one ttl after it.
#[tokio::test]
async fn an_image_expires_a_ttl_after_its_container_ended() {
    let mut node = Watched::with("").await;
    let used = node.pull("team/used", 1, MB).await;
    node.uses(&[&used]).await;
    node.machine.pass(6 * DAY);
    node.uses(&[&used]).await;
    node.uses(&[]).await;
    node.machine.pass(6 * DAY);
    node.round().await;
    assert!(node.is_whole(&used), "{}", node.scene.node.log());
    node.restart().await;
    node.round().await;
    assert!(node.is_whole(&used), "{}", node.scene.node.log());
    node.machine.pass(2 * DAY);
    node.until_gone(&used).await;
}

/// A container may end while larder is down.
#[tokio::test]
async fn a_use_that_ended_while_larder_was_down_counts_until_then() {
    let mut node = Watched::with("").await;
    let used = node.pull("team/used", 1, MB).await;
    node.uses(&[&used]).await;
    node.machine.pass(6 * DAY);
    node.uses(&[&used]).await;
    node.scene.node.terminate();
    node.scene.node.wait().await;
    node.write(&node.report(&[]).to_string());
    node.scene.node.restart().await;
    node.uses(&[]).await;
    node.machine.pass(3 * DAY);
    node.round().await;
    assert!(node.is_whole(&used), "{}", node.scene.node.log());
    // This has reached the disk.
    node.restart().await;
    node.round().await;
    assert!(node.is_whole(&used), "{}", node.scene.node.log());
}

//! An image starts before it is here, is right while it comes, and needs nobody when it is whole.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::node::{FIRST, Lazy, PATIENCE, SECOND};
use crate::setup::refused;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_runs_before_it_is_here_and_needs_nobody_when_it_is_whole() -> Result<()> {
    if refused("an_image_runs_before_it_is_here_and_needs_nobody_when_it_is_whole") {
        return Ok(());
    }
    let mut lazy = Lazy::new(3).await?;
    lazy.pull().await?;
    ensure!(lazy.downloaded()?.is_empty(), "{:?}", lazy.downloaded()?);
    let layers = lazy.layers().await;
    ensure!(
        layers.len() == lazy.image.diff_ids.len()
            && layers.iter().all(|layer| layer["streams"] == true),
        "{layers:#?}"
    );
    lazy.run_and_compare().await?;
    lazy.until_whole().await?;
    lazy.run_and_compare().await?;
    // From here on nothing of larder is needed, nor of the registry.
    lazy.fake.stop().await;
    lazy.cluster.node_mut(FIRST).kill9().await;
    lazy.cluster.node_mut(SECOND).kill9().await;
    lazy.holder.kill9()?;
    lazy.run_and_compare().await?;
    std::sync::Arc::get_mut(&mut lazy.containerd)
        .expect("no container is being started")
        .reboot()
        .await?;
    lazy.run_and_compare().await?;
    Ok(())
}

/// What a start reads is fetched ahead of the next one, before a container asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_reads_is_learnt_and_fetched_ahead_of_the_next_one() -> Result<()> {
    if refused("what_a_start_reads_is_learnt_and_fetched_ahead_of_the_next_one") {
        return Ok(());
    }
    let mut lazy = Lazy::new(1).await?;
    lazy.pull().await?;
    lazy.run_and_compare().await?;
    let orders = lazy.second().store().join("orders");
    let learnt = || fs::read_dir(&orders).is_ok_and(|mut found| found.next().is_some());
    lazy.until("what the start read is written down", |_| learnt())
        .await?;
    lazy.forget_all_but_orders().await?;
    lazy.pull().await?;
    ensure!(lazy.downloaded()?.is_empty(), "{:?}", lazy.downloaded()?);
    let deadline = Instant::now() + PATIENCE;
    // The layers' trees take some kB; no container reads anything.
    while lazy
        .layers()
        .await
        .iter()
        .any(|layer| layer["streams"] != true || layer["bytes"].as_u64() < Some(300_000))
    {
        ensure!(Instant::now() < deadline, "{:#?}", lazy.layers().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lazy.run_and_compare().await
}

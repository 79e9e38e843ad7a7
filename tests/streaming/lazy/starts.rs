//! An image starts before it is here, is right while it comes, and needs nobody when it is whole.

use anyhow::{Result, ensure};

use super::node::{FIRST, Lazy, SECOND};
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

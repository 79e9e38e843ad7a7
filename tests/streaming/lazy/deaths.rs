//! Whatever dies while a container reads what is not here: what it reads is right, or an error.

use std::fs;

use anyhow::{Result, ensure};
use larder_tests::fake::Gate;
use larder_tests::scene::files;

use super::node::{Lazy, SECOND};
use crate::setup::refused;

/// Starts a container of the image, and does something while a read of it waits for the registry. What the container said.
async fn while_a_read_waits(
    lazy: &mut Lazy,
    gate: Gate,
    meanwhile: impl AsyncFnOnce(&mut Lazy) -> Result<()>,
) -> Result<Result<String>> {
    let name = lazy.name();
    let containerd = std::sync::Arc::clone(&lazy.containerd);
    let running = tokio::spawn(async move { containerd.run_image(&name).await });
    gate.reached(1).await;
    meanwhile(lazy).await?;
    gate.open();
    Ok(running.await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_and_started_answers_what_waited() -> Result<()> {
    if refused("a_daemon_that_is_killed_and_started_answers_what_waited") {
        return Ok(());
    }
    let (mut lazy, gate) = Lazy::gated(3).await?;
    let said = while_a_read_waits(&mut lazy, gate, async |lazy| {
        lazy.cluster.node_mut(SECOND).kill9().await;
        lazy.cluster.node_mut(SECOND).restart().await;
        Ok(())
    });
    let said = said.await?;
    let said = lazy.logging(said)?;
    lazy.compare(&said)?;
    lazy.until_whole().await?;
    // What was mounted goes on over the same connection, also after one more restart.
    lazy.cluster.node_mut(SECOND).kill9().await;
    lazy.cluster.node_mut(SECOND).restart().await;
    lazy.run_and_compare().await
}

/// The operator switches streaming off in the middle: nothing more is offered, and a container that runs notices nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_mode_off_what_is_mounted_is_served_and_becomes_whole() -> Result<()> {
    if refused("with_the_mode_off_what_is_mounted_is_served_and_becomes_whole") {
        return Ok(());
    }
    let (mut lazy, gate) = Lazy::gated(3).await?;
    let said = while_a_read_waits(&mut lazy, gate, async |lazy| {
        lazy.until_referenced().await?;
        let file = lazy.second().config_file();
        let config = fs::read_to_string(&file)?;
        fs::write(&file, config.replace("mode = \"lazy\"", "mode = \"off\""))?;
        lazy.cluster.node_mut(SECOND).kill9().await;
        lazy.cluster.node_mut(SECOND).restart().await;
        Ok(())
    });
    let said = said.await?;
    let said = lazy.logging(said)?;
    lazy.compare(&said)?;
    lazy.until_whole().await?;
    lazy.run_and_compare().await?;
    // Without the image no snapshot refers to its layers, and nothing of them stays.
    lazy.containerd.remove(&lazy.name()).await?;
    lazy.until("the directory is empty", |lazy| {
        files(&lazy.offered()).is_empty()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_killed_alone_changes_nothing_and_the_next_one_takes_over() -> Result<()> {
    if refused("a_holder_that_is_killed_alone_changes_nothing_and_the_next_one_takes_over") {
        return Ok(());
    }
    let (mut lazy, gate) = Lazy::gated(3).await?;
    let said = while_a_read_waits(&mut lazy, gate, async |lazy| {
        lazy.holder.kill9()?;
        let come = |lazy: &Lazy| lazy.holder.log().matches("a daemon has come").count();
        let before = come(lazy);
        lazy.start_holder()?;
        lazy.until("the next holder has the connection", |lazy| {
            come(lazy) > before
        })
        .await?;
        // It lives on with the next holder alone.
        lazy.cluster.node_mut(SECOND).kill9().await;
        lazy.cluster.node_mut(SECOND).restart().await;
        Ok(())
    });
    let said = said.await?;
    let said = lazy.logging(said)?;
    lazy.compare(&said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_both_are_killed_reads_fail_and_the_next_container_is_right() -> Result<()> {
    if refused("when_both_are_killed_reads_fail_and_the_next_container_is_right") {
        return Ok(());
    }
    let (mut lazy, gate) = Lazy::gated(3).await?;
    let said = while_a_read_waits(&mut lazy, gate, async |lazy| {
        lazy.cluster.node_mut(SECOND).kill9().await;
        lazy.holder.kill9()
    });
    // Nobody has the connection: the container cannot have seen everything.
    ensure!(said.await?.is_err(), "a container ran without its layers");
    lazy.start_holder()?;
    lazy.restart_second().await?;
    lazy.run_and_compare().await
}

/// A node that was switched off in the middle: a container waits for larder, and is then right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reboot_a_layer_that_was_not_whole_is_served_again() -> Result<()> {
    if refused("after_a_reboot_a_layer_that_was_not_whole_is_served_again") {
        return Ok(());
    }
    let (mut lazy, gate) = Lazy::gated(3).await?;
    lazy.cluster.node_mut(SECOND).kill9().await;
    lazy.holder.kill9()?;
    lazy.take_mounts_away()?;
    std::sync::Arc::get_mut(&mut lazy.containerd)
        .expect("no container is being started")
        .reboot()
        .await?;
    let early = lazy.containerd.run_image(&lazy.name()).await;
    ensure!(early.is_err(), "a layer was mounted that is not there");
    gate.open();
    lazy.start_holder()?;
    lazy.restart_second().await?;
    lazy.run_and_compare().await?;
    lazy.until_whole().await
}

/// A read waits for the registry as long as it is away for a short time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_goes_away_and_comes_back_costs_time_alone() -> Result<()> {
    if refused("a_registry_that_goes_away_and_comes_back_costs_time_alone") {
        return Ok(());
    }
    let (mut lazy, gate) = Lazy::gated(3).await?;
    let said = while_a_read_waits(&mut lazy, gate, async |lazy| {
        lazy.fake.stop().await;
        let said = |lazy: &Lazy| {
            lazy.second()
                .log()
                .contains("a mounted layer waits for bytes")
        };
        lazy.until("it is said", said).await?;
        lazy.fake.start_again().await;
        Ok(())
    });
    let said = said.await?;
    let said = lazy.logging(said)?;
    lazy.compare(&said)
}

//! Members by Helm: every node can pull what one kubelet has pulled, while the registry is down, also a node that joins
//! later.

use anyhow::{Result, ensure};

use crate::setup::{SYSTEM, Setup, TIMEOUT, one_of_two, pod};

const APP: &str = "registry.test/team/app:v1";
const TOOL: &str = "registry.test/team/tool:v1";

/// Waits until larder runs on so many nodes.
async fn on_all(setup: &Setup, nodes: usize) -> Result<()> {
    let ready = async || {
        let found = setup
            .get(&["daemonset", "larder", "--namespace", SYSTEM])
            .await?;
        let status = &found["status"];
        Ok(
            (status["numberReady"] == nodes && status["desiredNumberScheduled"] == nodes)
                .then_some(()),
        )
    };
    setup.until("larder on all nodes", ready).await
}

/// Waits until larder on a node sees so many other members that answer.
async fn others(setup: &Setup, node: &str, count: f64) -> Result<()> {
    let known = async || {
        let found = setup.metric(node, "larder_members", "state=\"ok\"").await?;
        Ok(((found - count).abs() < 0.5).then_some(()))
    };
    setup
        .until(&format!("{count} others, as {node} sees them"), known)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_never_pulled_it_run_an_image_while_its_registry_is_down() -> Result<()> {
    let _machine = one_of_two().await;
    let setup = Setup::new(2).await?;
    setup.push_larder("one").await?;
    setup.push_app(APP, 1).await?;
    setup.push_app(TOOL, 2).await?;
    setup
        .install(&["--set", "peers.enabled=true", "--wait"])
        .await?;
    for node in ["n1", "n2"] {
        others(&setup, node, 1.0).await?;
    }
    setup.note("installed, the members know each other");
    // One kubelet pulls the image, once.
    setup.runs("first", "n1", APP).await?;
    setup.runs("first-tool", "n2", TOOL).await?;

    setup.note("pulled once");
    setup.stop(&["registry"]).await?;
    setup.runs("second", "n2", APP).await?;
    setup.start(&["registry"]).await?;

    setup.note("pulled by another node, without the registry");
    // A node joins. Only its first pull, of larder's own image, needs the registry.
    setup.grow(3).await?;
    on_all(&setup, 3).await?;
    others(&setup, "n3", 2.0).await?;
    setup.note("a node has joined");
    setup.stop(&["registry"]).await?;
    setup.runs("third", "n3", APP).await?;
    setup.runs("third-tool", "n3", TOOL).await?;

    setup.note("it has pulled, without the registry");
    // A node leaves: its pods move, and their image is still available.
    setup.kubectl(&["cordon", "n3"]).await?;
    setup
        .kubectl(&["create", "deployment", "app", "--image", APP])
        .await?;
    setup
        .kubectl(&["rollout", "status", "deployment/app", TIMEOUT])
        .await?;
    setup.kubectl(&["uncordon", "n3"]).await?;
    let drain = ["--ignore-daemonsets", "--delete-emptydir-data", TIMEOUT];
    setup
        .kubectl(&[&["drain", "n1"], &drain[..]].concat())
        .await?;
    setup
        .kubectl(&["rollout", "status", "deployment/app", TIMEOUT])
        .await?;
    let pods = setup.list(&["pods", "--selector=app=app"]).await?;
    ensure!(
        pods.iter().all(|pod| pod["spec"]["nodeName"] != "n1"),
        "{pods:?}"
    );
    setup.note("a node is drained");
    setup.remove("n1").await?;
    setup.note("a node is gone");
    // The removed node stays a member until Kubernetes has noticed.
    for node in ["n2", "n3"] {
        setup.forget(node, TOOL).await?;
        setup.runs(&format!("later-{node}"), node, TOOL).await?;
    }
    setup.note("those that stay have pulled");
    // No member has this image, and the pod's status says so.
    setup
        .apply(&[pod("nowhere", "n2", "registry.test/team/none:v1")])
        .await?;
    let nowhere = setup.outcome("nowhere").await?;
    ensure!(nowhere.is_err(), "an image that nobody has");
    Ok(())
}

//! The watcher as the chart runs it: a second container, which has the runtime's socket.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::image::{LayerSpec, build};
use larder_tests::kubernetes::RunningPod;
use larder_tests::real::Release;
use larder_tests::schemas::assert_schema;
use serde_json::{Value, json};

use crate::setup::{REGISTRY, Setup, alone};

/// Waits until the file names an image.
async fn until_named(file: &Path, image: &str, pod: &RunningPod) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        if let Ok(bytes) = std::fs::read(file) {
            let report: Value = serde_json::from_slice(&bytes)?;
            let images = report["images"].as_array().context("images")?;
            let named = |one: &Value| {
                one["names"]
                    .as_array()
                    .is_some_and(|names| names.contains(&image.into()))
            };
            if images.iter().any(named) {
                return Ok(report);
            }
        }
        ensure!(
            Instant::now() < deadline,
            "{image} is not named:\n{}",
            pod.log("watch")
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchers_container_tells_what_the_node_runs_and_finds_a_restarted_runtime()
-> Result<()> {
    let _machine = alone().await;
    let mut setup = Setup::new(Release::Two).await?;
    setup.push_larder("one")?;
    let dir = setup.kubelet.containerd.dir().to_owned();
    let watch = json!({"enabled": true, "socket": dir.join("containerd.sock")});
    let objects = setup.chart("one").set("runtime.watch", &watch).render();
    let pod = setup.run(&objects, "larder").await?;
    let file = dir.join("pods/pod-1/volumes/runtime-report/runtime.json");
    let own = format!("{REGISTRY}/larder:one");
    let report = until_named(&file, &own, &pod).await?;
    assert_schema(&report, "runtime");
    // The pod's own containers and sandbox use their images.
    let users = report["users"].as_array().context("users")?;
    for (kind, id) in [
        ("container", pod.container("larder")),
        ("container", pod.container("watch")),
    ] {
        let is =
            |user: &&Value| user["kind"] == kind && user["id"] == id && user["digest"].is_string();
        ensure!(
            users.iter().any(|user| is(&user)),
            "{id}: {users:#?}\n{}",
            pod.log("watch")
        );
    }
    ensure!(
        users.iter().any(|user| user["kind"] == "sandbox"),
        "{users:#?}"
    );

    // The daemon can read the file but not write it, and cannot reach the socket.
    let exec = async |container: &str, command: &[&str]| {
        setup
            .kubelet
            .cri
            .exec(pod.container(container), command)
            .await
    };
    let (code, said) = exec(
        "larder",
        &[
            "larder",
            "runtime",
            "--once",
            "--file",
            "/run/larder-runtime/runtime.json",
            "--socket",
            dir.join("containerd.sock").to_str().context("UTF-8")?,
        ],
    )
    .await?;
    ensure!(code == 1 && said.contains("there is no socket"), "{said}");
    let before = std::fs::read(&file)?;
    ensure!(!before.is_empty());

    setup.kubelet.containerd.restart().await?;
    setup.kubelet.cri = setup.kubelet.containerd.cri().await?;
    build(&setup.fake, "app", "v1", &[LayerSpec::new(1, 100_000)]);
    setup.pull("app:v1").await?;
    until_named(&file, &format!("{REGISTRY}/app:v1"), &pod).await?;
    Ok(())
}

//! The whole way, with nothing made by the test: containerd pulls an image, larder makes its layers ready, and the next pull
//! mounts them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::FakeRegistry;
use larder_tests::image::build_compressed;
use larder_tests::node::{Node, larder_program};
use larder_tests::real::{Containerd, until};
use serde_json::Value;

use super::setup::{NAME, REGISTRY, Setup, refused};

/// Layers are made ready when the machine has nothing else to do.
const PATIENCE: Duration = Duration::from_mins(3);

/// Where containerd looks for a layer.
fn place(directory: &Path, diff_id: &str) -> std::path::PathBuf {
    let hex = diff_id.trim_start_matches("sha256:");
    directory
        .join("sha256")
        .join(&hex[..2])
        .join(format!("{hex}.erofs"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pulled_once_is_mounted_by_the_next_pull() -> Result<()> {
    if refused("what_was_pulled_once_is_mounted_by_the_next_pull") {
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("layers-").tempdir()?;
    let (layers, report) = (dir.path().join("layers"), dir.path().join("runtime.json"));
    let containerd = Containerd::start_with_ready_files(&layers).await?;
    let _watcher = tokio::process::Command::new(larder_program())
        .args(["runtime", "--every", "1s", "--socket"])
        .arg(containerd.socket())
        .arg("--file")
        .arg(&report)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let fake = FakeRegistry::start().await;
    let image = build_compressed(&fake, "team/app", "v1", 1, 3)?;
    let config = format!(
        "[store]\nmin_free = \"0\"\n[runtime]\nfile = {report:?}\ncontent = \"off\"\n[streaming]\nmode = \"ready\"\n\
         min_layer = \"0\"\ndirectory = {layers:?}\n"
    );
    let node = Node::builder()
        .upstream_at(REGISTRY, &fake.url())
        .config(config)
        .start()
        .await;
    let setup = Setup::of(fake, node, image, containerd, dir)?;

    setup.pull().await?;
    setup.run_and_compare().await?;
    let is_ready = || {
        setup
            .image
            .diff_ids
            .iter()
            .all(|one| place(&layers, one).is_file())
    };
    until("all layers are ready", PATIENCE, is_ready)
        .await
        .with_context(|| setup.node.log())?;
    let name = NAME;
    setup.containerd.remove(name).await?;
    for layer in &setup.image.image.layers {
        ensure!(
            setup.containerd.blob(&layer.digest)?.is_none(),
            "it is collected"
        );
    }

    setup.pull().await?;
    for layer in &setup.image.image.layers {
        ensure!(
            setup.containerd.blob(&layer.digest)?.is_none(),
            "{} was downloaded",
            layer.digest
        );
    }
    setup.run_and_compare().await?;
    assert_eq!(setup.referred()?, setup.all());
    let referred = |layers: &Value| {
        let all = layers["layers"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        all.len() == setup.image.diff_ids.len() && all.iter().all(|one| one["referenced_by"] == 1)
    };
    for _ in 0..600 {
        if referred(&setup.node.admin("/layers").await) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let layers = setup.node.admin("/layers").await;
    ensure!(referred(&layers), "{layers:#}");

    // A node that has all it needs.
    let config = setup.containerd.config_file();
    let config = config.to_str().context("UTF-8")?;
    let doctor = setup
        .node
        .cli(&["doctor", "--json", "--containerd-config", config])
        .await;
    let diagnosis: Value = serde_json::from_slice(&doctor.stdout)?;
    let findings = diagnosis["findings"].as_array().context("findings")?;
    let ours: Vec<_> = findings
        .iter()
        .filter(|one| one["check"] == "streaming")
        .collect();
    ensure!(ours.len() >= 10, "{ours:#?}");
    ensure!(ours.iter().all(|one| one["severity"] == "ok"), "{ours:#?}");

    // And without everybody.
    let mut setup = setup;
    setup.fake.stop().await;
    setup.node.kill9().await;
    setup.containerd.reboot().await?;
    setup.run_and_compare().await
}

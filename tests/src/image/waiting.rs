//! Images with a program that waits: a container runs until it is ended, and needs nothing.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Image, LayerSpec, OCI, OCI_INDEX, assemble, contents, host_architecture, tar};
use crate::fake::{Algorithm, Content, FakeRegistry};

/// Compiles the program, statically.
fn program() -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("wait.c");
    let main = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
    std::fs::write(&source, main)?;
    let program = dir.path().join("wait");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-Os", "-s", "-o"])
        .arg(&program)
        .arg(&source);
    let output = cc
        .output()
        .context("starting cc; scripts/test installs it")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(std::fs::read(&program)?)
}

fn assembled(layers: &[LayerSpec]) -> Result<Image> {
    let mut contents = contents(layers);
    contents.push(tar::archive("wait", 0o755, Content::bytes(program()?)));
    Ok(assemble(&OCI, contents, host_architecture(), Some("/wait")))
}

/// Pushes an image for this machine.
pub fn build_waiting(
    fake: &FakeRegistry,
    repository: &str,
    tag: &str,
    layers: &[LayerSpec],
) -> Result<Image> {
    let image = assembled(layers)?;
    image.push(fake, repository, Algorithm::Sha256, Some(tag));
    Ok(image)
}

/// Pushes an index: first an image for another platform, which this machine does not pull, then one for this machine.
/// Gives the digest of the index and the image for this machine.
pub fn build_waiting_index(
    fake: &FakeRegistry,
    repository: &str,
    tag: &str,
    layers: &[LayerSpec],
) -> Result<(String, Image)> {
    let foreign = if host_architecture() == "s390x" {
        "amd64"
    } else {
        "s390x"
    };
    let other = assemble(&OCI, contents(layers), foreign, None);
    let own = assembled(layers)?;
    let manifests = [(&other, foreign), (&own, host_architecture())];
    let manifests = manifests.map(|(image, architecture)| {
        image.push(fake, repository, Algorithm::Sha256, None);
        let mut descriptor = image.descriptor();
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    });
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    let digest = fake.put_manifest(repository, Some(tag), OCI_INDEX, index.to_string());
    Ok((digest, own))
}

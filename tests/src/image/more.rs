//! Adds a layer to an existing image.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{OCI_LAYER, tar};
use crate::fake::{Algorithm, Content};

/// Writes to the layout `to` the only image of the layout `from`, with one more layer: this file, which replaces an
/// earlier file of that path. Gives the manifest's digest.
pub fn with_file(from: &Path, to: &Path, path: &str, bytes: Vec<u8>) -> Result<String> {
    let blobs = "blobs/sha256";
    fs::create_dir_all(to.join(blobs))?;
    for entry in fs::read_dir(from.join(blobs))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(blobs).join(entry.file_name()))?;
    }
    let read = |digest: &Value| -> Result<Value> {
        let digest = digest.as_str().context("a digest")?;
        let path = to.join("blobs").join(digest.replace(':', "/"));
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    };
    let put = |bytes: Vec<u8>| -> Result<(String, usize)> {
        let size = bytes.len();
        let digest = Content::bytes(bytes.clone()).digest(Algorithm::Sha256);
        fs::write(to.join("blobs").join(digest.replace(':', "/")), bytes)?;
        Ok((digest, size))
    };
    let mut index: Value = serde_json::from_slice(&fs::read(from.join("index.json"))?)?;
    let mut manifest = read(&index["manifests"][0]["digest"])?;
    let mut config = read(&manifest["config"]["digest"])?;

    let archive = tar::archive(path, 0o644, Content::bytes(bytes));
    let (layer, size) = put(archive.read(0..archive.len()))?;
    let diffs = config["rootfs"]["diff_ids"].as_array_mut();
    diffs.context("layers")?.push(json!(layer));
    if let Some(history) = config["history"].as_array_mut() {
        history.push(json!({"created_by": "one more layer"}));
    }
    let (digest, config_size) = put(config.to_string().into_bytes())?;
    manifest["config"]["digest"] = json!(digest);
    manifest["config"]["size"] = json!(config_size);
    let layers = manifest["layers"].as_array_mut().context("layers")?;
    layers.push(json!({"mediaType": OCI_LAYER, "digest": layer, "size": size}));
    let (digest, size) = put(manifest.to_string().into_bytes())?;
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(size);
    fs::write(to.join("index.json"), index.to_string())?;
    fs::write(to.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(digest)
}

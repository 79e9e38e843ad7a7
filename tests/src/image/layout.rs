//! OCI image layouts on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{
    Executable, Image, LayerSpec, OCI, OCI_INDEX, assemble, contents, host_architecture, tar,
};
use crate::fake::Content;

/// Writes into `dir` an OCI image layout with one image under `name`, for `skopeo copy oci:DIR:NAME …`. Layers are
/// written as they are computed, whatever their size. An executable becomes one more layer, the last one.
pub fn oci_layout(
    dir: &Path,
    name: &str,
    layers: &[LayerSpec],
    executable: Option<&Executable>,
) -> io::Result<Image> {
    let mut contents = contents(layers);
    let mut entry_point = None;
    if let Some(Executable {
        host_path,
        image_path,
    }) = executable
    {
        let program = Content::bytes(fs::read(host_path)?);
        contents.push(tar::archive(image_path, 0o755, program));
        entry_point = Some(format!("/{image_path}"));
    }
    let image = assemble(&OCI, contents, host_architecture(), entry_point.as_deref());

    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let write = |digest: &str, content: &Content| {
        let hex = digest.trim_start_matches("sha256:");
        let mut file = BufWriter::new(File::create(blobs.join(hex))?);
        for piece in content.pieces(0..content.len()) {
            file.write_all(&piece)?;
        }
        file.flush()
    };
    for layer in &image.layers {
        write(&layer.digest, &layer.content)?;
    }
    write(&image.config_digest, &Content::bytes(image.config.clone()))?;
    let manifest = Content::bytes(image.manifest.clone());
    write(&image.manifest_digest, &manifest)?;

    let mut descriptor = image.descriptor();
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]});
    fs::write(dir.join("index.json"), index.to_string())?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(image)
}

/// The layout of larder's image of this version, "one" or "two", which scripts/test packs from its build. Panics
/// without it.
pub fn packed(version: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this executable");
    let beside = test
        .ancestors()
        .map(|dir| dir.join("images").join(version).join("oci"));
    let mut found = beside.filter(|layout| layout.join("index.json").is_file());
    let missing = "no image: scripts/test packs it, by scripts/image --debug";
    found.next().expect(missing)
}

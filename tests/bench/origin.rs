//! The content: files laid out as a registry's paths, so that any web server is a registry for pulls.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use larder_tests::fake::{Algorithm, Content, digest_of};
use larder_tests::image::OCI_MANIFEST;
use serde_json::{Value, json};

/// `<dir>/v2/<repository>/{blobs,manifests}/<digest>`.
#[derive(Debug)]
pub struct Origin {
    dir: PathBuf,
    seed: u64,
}

impl Origin {
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, seed: 1000 })
    }

    /// The document root.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts a blob of `size` bytes that do not compress and gives its digest.
    pub fn put_synthetic(&self, repository: &str, seed: u64, size: u64) -> Result<String> {
        let content = Content::synthetic(seed, size);
        let digest = content.digest(Algorithm::Sha256);
        let mut file =
            BufWriter::with_capacity(1 << 20, self.create(repository, "blobs", &digest)?);
        for piece in content.pieces(0..size) {
            file.write_all(&piece)?;
        }
        file.flush()?;
        Ok(digest)
    }

    /// Puts a blob that is a number and then zeros, as a hole: cheap to make by the hundred.
    pub fn put_sparse(&self, repository: &str, number: u64, size: u64) -> Result<String> {
        let head = Bytes::from(number.to_be_bytes().to_vec());
        let zeros = Content::zeros(size - head.len() as u64);
        let content = Content::concat(&[Content::bytes(head.clone()), zeros]);
        let digest = content.digest(Algorithm::Sha256);
        let mut file = self.create(repository, "blobs", &digest)?;
        file.write_all(&head)?;
        file.set_len(size)?;
        Ok(digest)
    }

    /// Puts a manifest of these layers, digest and size each, with its configuration. Gives the
    /// digests of both.
    pub fn put_manifest(
        &self,
        repository: &str,
        layers: &[(String, u64)],
    ) -> Result<(String, String)> {
        let ids: Vec<_> = layers.iter().map(|(digest, _)| digest).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": ids},
        })
        .to_string();
        let config_digest = self.put_bytes(repository, "blobs", config.as_bytes())?;
        let layers: Vec<_> = layers
            .iter()
            .map(|(digest, size)| descriptor("layer.v1.tar", digest, *size))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("config.v1+json", &config_digest, config.len() as u64),
            "layers": layers,
        })
        .to_string();
        let digest = self.put_bytes(repository, "manifests", manifest.as_bytes())?;
        Ok((digest, config_digest))
    }

    /// Puts a manifest of seven layers, which are not there themselves, and gives its digest.
    pub fn put_sample_manifest(&mut self, repository: &str) -> Result<String> {
        let mut layers = Vec::new();
        for _ in 0..7 {
            self.seed += 1;
            layers.push((digest_of(&self.seed.to_be_bytes()), self.seed * 40_000));
        }
        Ok(self.put_manifest(repository, &layers)?.0)
    }

    /// Lays a blob out as docker-registry stores it, the very file under another name.
    pub fn lay_out_for_registry(&self, data: &Path, repository: &str, digest: &str) -> Result<()> {
        let hex = digest.trim_start_matches("sha256:");
        let root = data.join("docker/registry/v2");
        let blob = root.join("blobs/sha256").join(&hex[..2]).join(hex);
        fs::create_dir_all(&blob)?;
        let file = self.path(repository, "blobs", digest);
        fs::hard_link(&file, blob.join("data")).context("linking the blob")?;
        let link = root.join("repositories").join(repository);
        let link = link.join("_layers/sha256").join(hex);
        fs::create_dir_all(&link)?;
        fs::write(link.join("link"), digest)?;
        Ok(())
    }

    fn put_bytes(&self, repository: &str, kind: &str, bytes: &[u8]) -> Result<String> {
        let digest = digest_of(bytes);
        self.create(repository, kind, &digest)?.write_all(bytes)?;
        Ok(digest)
    }

    fn create(&self, repository: &str, kind: &str, digest: &str) -> Result<File> {
        let path = self.path(repository, kind, digest);
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        File::create(&path).with_context(|| format!("making {}", path.display()))
    }

    /// The file of a blob.
    pub fn blob(&self, repository: &str, digest: &str) -> PathBuf {
        self.path(repository, "blobs", digest)
    }

    fn path(&self, repository: &str, kind: &str, digest: &str) -> PathBuf {
        self.dir.join("v2").join(repository).join(kind).join(digest)
    }
}

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    let media_type = format!("application/vnd.oci.image.{kind}");
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

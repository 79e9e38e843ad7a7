//! Images made from seeds, small or of many gigabytes: pushed into a fake registry, or written to disk
//! as an OCI image layout for tools that push into real ones. Layers are real tar archives, so that a
//! real runtime can unpack them.

mod compressed;
mod large;
mod layout;
mod more;
mod tar;
mod waiting;

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};

pub use self::compressed::{Compressed, build_compressed};
pub use self::large::{ALL, FEW, Large, READER, TOGETHER, Told, build_large};
pub use self::layout::{oci_layout, packed};
pub use self::more::with_file;
pub use self::waiting::{build_waiting, build_waiting_index};
use crate::fake::{Algorithm, Content, FakeRegistry};

/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A layer with one file of bytes that do not compress.
#[derive(Clone, Copy, Debug)]
pub struct LayerSpec {
    /// What the file's bytes are computed from.
    pub seed: u64,
    /// The file's length in bytes; the layer is 1.5 to 2 KiB longer.
    pub size: u64,
}

impl LayerSpec {
    /// A file of `size` bytes from `seed`.
    pub fn new(seed: u64, size: u64) -> Self {
        Self { seed, size }
    }

    fn content(self) -> Content {
        let path = format!("layer-{}", self.seed);
        tar::archive(&path, 0o644, Content::synthetic(self.seed, self.size))
    }
}

/// A program to put into an image as its entry point.
#[derive(Clone, Debug)]
pub struct Executable {
    /// The program's path on this machine. It must be statically linked, since nothing else is in the image.
    pub host_path: PathBuf,
    /// Its path in the image, without a slash in front.
    pub image_path: String,
}

/// One layer of an image: uncompressed, so that its digest is also its diff ID, unless its image says otherwise.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The archive's digest.
    pub digest: String,
    /// The archive; `content.read(range)` gives any part of it.
    pub content: Content,
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's media type.
    pub media_type: &'static str,
    /// The manifest.
    pub manifest: Bytes,
    /// The digest that the manifest is known by.
    pub manifest_digest: String,
    /// The configuration.
    pub config: Bytes,
    /// Its digest.
    pub config_digest: String,
    /// In order, the lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Bytes that a pull of it fetches.
    pub fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.content.len()).sum();
        layers + (self.manifest.len() + self.config.len()) as u64
    }

    fn descriptor(&self) -> Value {
        descriptor(
            self.media_type,
            &self.manifest_digest,
            self.manifest.len() as u64,
        )
    }

    pub fn push(
        &self,
        fake: &FakeRegistry,
        repository: &str,
        algorithm: Algorithm,
        tag: Option<&str>,
    ) {
        fake.put_blob(repository, self.config.clone());
        for layer in &self.layers {
            fake.put_blob_under(repository, &layer.digest, &layer.content);
        }
        let manifest = self.manifest.clone();
        fake.put_manifest_as(repository, algorithm, tag, self.media_type, manifest);
    }
}

/// An image for two platforms.
#[derive(Clone, Debug)]
pub struct Index {
    /// The index.
    pub bytes: Bytes,
    /// Its digest.
    pub digest: String,
    /// For amd64 and arm64, in this order.
    pub images: [Image; 2],
}

/// Pushes an OCI image.
pub fn build(fake: &FakeRegistry, repository: &str, tag: &str, layers: &[LayerSpec]) -> Image {
    let image = assemble(&OCI, contents(layers), host_architecture(), None);
    image.push(fake, repository, Algorithm::Sha256, Some(tag));
    image
}

/// Pushes a docker schema 2 image.
pub fn build_docker(
    fake: &FakeRegistry,
    repository: &str,
    tag: &str,
    layers: &[LayerSpec],
) -> Image {
    let image = assemble(&DOCKER, contents(layers), host_architecture(), None);
    image.push(fake, repository, Algorithm::Sha256, Some(tag));
    image
}

/// Pushes an OCI image whose manifest is known by a sha512 digest only.
pub fn build_sha512(
    fake: &FakeRegistry,
    repository: &str,
    tag: &str,
    layers: &[LayerSpec],
) -> Image {
    let mut image = assemble(&OCI, contents(layers), host_architecture(), None);
    image.manifest_digest = Content::bytes(image.manifest.clone()).digest(Algorithm::Sha512);
    image.push(fake, repository, Algorithm::Sha512, Some(tag));
    image
}

/// Pushes an index of two images. The arm64 image has the same layers with the seeds one higher.
pub fn build_index(
    fake: &FakeRegistry,
    repository: &str,
    tag: &str,
    layers: &[LayerSpec],
) -> Index {
    let next: Vec<_> = layers
        .iter()
        .map(|layer| LayerSpec::new(layer.seed + 1, layer.size))
        .collect();
    let images = [
        assemble(&OCI, contents(layers), "amd64", None),
        assemble(&OCI, contents(&next), "arm64", None),
    ];
    let manifests = [(&images[0], "amd64"), (&images[1], "arm64")].map(|(image, architecture)| {
        image.push(fake, repository, Algorithm::Sha256, None);
        let mut descriptor = image.descriptor();
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    });
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    let bytes = Bytes::from(index.to_string());
    let digest = fake.put_manifest(repository, Some(tag), OCI_INDEX, bytes.clone());
    Index {
        bytes,
        digest,
        images,
    }
}

/// Pushes an artifact without a tag that refers to `subject`, as an SBOM or a signature does, and
/// gives its manifest digest. Its one blob is `payload`.
pub fn build_artifact(
    fake: &FakeRegistry,
    repository: &str,
    subject: &Image,
    artifact_type: &str,
    payload: &str,
) -> String {
    let empty = fake.put_blob(repository, "{}");
    let blob = fake.put_blob(repository, payload.to_owned());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": descriptor(EMPTY, &empty, 2),
        "layers": [descriptor(artifact_type, &blob, payload.len() as u64)],
        "subject": subject.descriptor(),
        "annotations": {"org.example.payload": payload},
    });
    fake.put_manifest(repository, None, OCI_MANIFEST, manifest.to_string())
}

/// Pushes a signature of `subject` in the old way, found by its tag, and gives the tag: `sha256-<hex>.sig`.
pub fn build_signature(fake: &FakeRegistry, repository: &str, subject: &Image) -> String {
    let tag = format!("{}.sig", subject.manifest_digest.replace(':', "-"));
    let payload = format!("signed {}", subject.manifest_digest);
    let content = Content::bytes(payload);
    let image = assemble(&OCI, vec![content], host_architecture(), None);
    image.push(fake, repository, Algorithm::Sha256, Some(&tag));
    tag
}

struct Format {
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

const OCI: Format = Format {
    manifest: OCI_MANIFEST,
    config: OCI_CONFIG,
    layer: OCI_LAYER,
};

const DOCKER: Format = Format {
    manifest: DOCKER_MANIFEST,
    config: DOCKER_CONFIG,
    layer: DOCKER_LAYER,
};

fn contents(layers: &[LayerSpec]) -> Vec<Content> {
    layers.iter().map(|layer| layer.content()).collect()
}

fn assemble(
    format: &Format,
    layers: Vec<Content>,
    architecture: &str,
    entry_point: Option<&str>,
) -> Image {
    let layers: Vec<_> = layers
        .into_iter()
        .map(|content| Layer {
            digest: content.digest(Algorithm::Sha256),
            content,
        })
        .collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.digest.clone()).collect();
    assemble_from(format, layers, &diff_ids, architecture, entry_point)
}

fn assemble_from(
    format: &Format,
    layers: Vec<Layer>,
    diff_ids: &[String],
    architecture: &str,
    entry_point: Option<&str>,
) -> Image {
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": entry_point.map_or(json!({}), |path| json!({"Entrypoint": [path]})),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = Bytes::from(config.to_string());
    let config_digest = Content::bytes(config.clone()).digest(Algorithm::Sha256);
    let descriptors: Vec<_> = layers
        .iter()
        .map(|layer| descriptor(format.layer, &layer.digest, layer.content.len()))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": format.manifest,
        "config": descriptor(format.config, &config_digest, config.len() as u64),
        "layers": descriptors,
    });
    let manifest = Bytes::from(manifest.to_string());
    Image {
        media_type: format.manifest,
        manifest_digest: Content::bytes(manifest.clone()).digest(Algorithm::Sha256),
        manifest,
        config,
        config_digest,
        layers,
    }
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// This machine's architecture by Go's name, which images use.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

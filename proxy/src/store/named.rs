//! What a manifest names, as far as the node tier cares: digests and their lengths.

use larder_shared::Digest;

/// A descriptor.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Named {
    pub digest: Digest,
    pub size: Option<u64>,
    /// The platform that a manifest of an index is for.
    pub platform: Option<Platform>,
}

/// What an index says of a manifest's platform.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

/// The descriptors of a manifest or an index. Bytes that are neither name nothing.
#[derive(Clone, Default, Debug, serde::Deserialize)]
pub struct Names {
    config: Option<Named>,
    #[serde(default)]
    layers: Vec<Named>,
    #[serde(default)]
    blobs: Vec<Named>,
    /// Of an index: one for each platform.
    #[serde(default)]
    pub manifests: Vec<Named>,
}

impl Names {
    pub fn of(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// The configuration of an image.
    pub fn config(&self) -> Option<&Digest> {
        self.config.as_ref().map(|named| &named.digest)
    }

    /// The configuration's descriptor.
    pub fn config_blob(&self) -> Option<&Named> {
        self.config.as_ref()
    }

    /// The layers, the lowest first.
    pub fn layers(&self) -> impl Iterator<Item = &Named> {
        self.layers.iter()
    }

    /// Everything but manifests: the configuration, the layers, an artifact's blobs.
    pub fn leaves(&self) -> impl Iterator<Item = &Named> {
        self.config.iter().chain(&self.layers).chain(&self.blobs)
    }

    /// All descriptors, those of manifests included.
    pub fn all(&self) -> impl Iterator<Item = &Named> {
        self.leaves().chain(&self.manifests)
    }
}

/// The digests that a manifest names with a length, and those lengths.
pub fn sizes(bytes: &[u8]) -> Vec<(Digest, u64)> {
    let names = Names::of(bytes);
    let told = names
        .all()
        .filter_map(|named| Some((named.digest, named.size?)));
    told.collect()
}

//! The content of the node tier, as people see it: images, and the blobs behind them.

use serde::{Deserialize, Serialize};

use super::ReadyLayers;
use crate::digest::Digest;

/// `GET /images`: every image of which this node has the manifest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Images {
    pub images: Vec<Image>,
}

/// One manifest or index that a repository holds, and that a tag points to or no other manifest here stands above.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Image {
    /// The registry as images name it: `docker.io`, `ghcr.io`, `127.0.0.1:5000`.
    pub registry: String,
    pub repository: String,
    pub digest: Digest,
    /// The tags that pointed here when they were last asked about.
    pub tags: Vec<String>,
    pub media_type: String,
    /// What the manifests name, themselves included, and how much of it is here. Other images may share it. Platforms of
    /// an index do not count unless their manifest is here, or none is.
    pub bytes: u64,
    pub present_bytes: u64,
    pub blobs: u64,
    pub present_blobs: u64,
    pub pinned: bool,
    /// Whether a container of this node uses it, or did when that was last known: it is not evicted by age.
    #[serde(default)]
    pub in_use: bool,
    /// Whether the repository is open to anonymous clients, as far as is known.
    pub public: bool,
    /// Seconds since 1970; when one of its manifests was last asked for.
    pub last_used: u64,
    /// Its ready layers, on a node that offers any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<ReadyLayers>,
}

/// `GET /blobs`: every committed blob, manifests included.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Blobs {
    pub blobs: Vec<Blob>,
}

/// One committed blob.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Blob {
    pub digest: Digest,
    pub bytes: u64,
    /// Seconds since 1970.
    pub last_used: u64,
    pub pinned: bool,
    /// `REGISTRY/REPOSITORY`, each that is proven to hold it.
    pub repositories: Vec<String>,
}

//! Ready layers, as people see them.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// `GET /layers`: every ready file, and what is not offered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Layers {
    /// `off`, `ready`
    pub mode: String,
    pub directory: String,
    /// Why nothing new is offered, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub layers: Vec<Layer>,
    /// Images of this node of which not all layers are offered.
    pub not_offered: Vec<NotOffered>,
}

/// One ready file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Layer {
    /// The digest of the layer's tar, by which the runtime finds it.
    pub diff_id: Digest,
    /// The layer as it was pushed, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Digest>,
    /// An image that has it: `REGISTRY/REPOSITORY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Why it may be offered: `public`, `shared`, `private`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<String>,
    /// What of it takes room here.
    pub bytes: u64,
    /// It is not whole here: what a container reads of it is fetched when it reads.
    #[serde(default)]
    pub streams: bool,
    /// What it takes when it is whole, as far as that is known.
    #[serde(default)]
    pub whole_bytes: u64,
    /// `offered`; `in-use`: snapshots refer to it; `aside`: on its way out, no runtime finds it.
    pub state: String,
    /// Why it is to go, if it is: `room`, `expired`, `withdrawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes: Option<String>,
    /// Snapshots that refer to it, by the watcher's latest report.
    pub referenced_by: u64,
    /// Seconds since 1970; when it was made, or a snapshot last referred to it.
    pub last_used: u64,
}

/// An image, and why not all of it is offered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotOffered {
    pub image: String,
    pub why: String,
}

/// How far the runtime mounts an image's layers instead of pulling them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReadyLayers {
    /// Layers of the manifests that are on this node, and how many of them are offered.
    pub layers: u64,
    pub ready: u64,
    /// Those that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Digest>,
    /// Why not all are, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl ReadyLayers {
    /// Whether the image has layers, and all of them are offered.
    pub const fn are_all(&self) -> bool {
        self.layers > 0 && self.ready == self.layers
    }
}

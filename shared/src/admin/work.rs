//! Work that takes time: its progress, and its result.
//!
//! `POST /pull`, `/verify` and `/gc` answer with lines of JSON, an [`Event`] each. Progress comes several times a
//! second; the last line is `done` or `failed`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// One line of the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<T> {
    Progress(Progress),
    /// The last line, when it went well.
    Done(T),
    /// The last line otherwise.
    Failed(Failed),
}

/// How far it has come.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub blobs: u64,
    pub bytes: u64,
    /// What there is to do in all, as far as is known. It may grow.
    pub of_blobs: u64,
    pub of_bytes: u64,
}

/// Why it was given up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    pub error: String,
}

/// `POST /gc`, `/pin`, `/unpin`, `/evict`: what was taken out, pinned or let go.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Acted {
    pub blobs: u64,
    pub bytes: u64,
}

/// `POST /verify`: what was hashed again, and what had rotted.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verified {
    pub blobs: u64,
    pub bytes: u64,
    pub rotten: Vec<Digest>,
}

/// `POST /pull?ref=…`: an image that is in the node tier now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PulledImage {
    /// `REGISTRY/REPOSITORY:TAG` or `@DIGEST`, as it was understood.
    pub image: String,
    pub digest: Digest,
    pub media_type: String,
    /// `os/architecture[/variant]` of what was chosen from an index; empty for an image that has none.
    pub platforms: Vec<String>,
    /// Everything that belongs to it, manifests included.
    pub blobs: u64,
    pub bytes: u64,
    /// What of that was not here before.
    pub fetched_blobs: u64,
    pub fetched_bytes: u64,
}

/// What `larder pull --json` prints: the images that are in the node tier now, and those that could not be pulled.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PulledImages {
    pub images: Vec<PulledImage>,
    pub failed: Vec<FailedPull>,
}

/// An image that could not be pulled.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FailedPull {
    /// The name that the request had.
    pub image: String,
    /// Why, and what to do.
    pub error: String,
}

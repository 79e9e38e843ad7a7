//! The admin API's wire types: written by the daemon, read by the CLI and by people's scripts (`--json`).

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// `GET /status`: this node at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub uptime_seconds: u64,
    pub listen: Listen,
    pub store: StoreStatus,
    pub fills: Vec<FillStatus>,
    pub upstreams: Vec<UpstreamStatus>,
    /// Bytes sent to clients, by where they came from.
    pub served: Served,
}

/// The addresses that were really bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listen {
    pub registry: String,
    pub telemetry: Option<String>,
    /// The peer port, if there is one.
    #[serde(default)]
    pub peers: Option<String>,
}

/// The node tier.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    pub path: String,
    pub blobs: u64,
    pub bytes: u64,
    /// What `max_size` comes to now.
    pub max_bytes: u64,
    /// Free bytes on the file system.
    pub free_bytes: u64,
    /// `ready`, or why larder is a plain proxy for now.
    pub state: String,
}

/// One fill under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FillStatus {
    pub digest: Digest,
    pub present_bytes: u64,
    pub size_bytes: Option<u64>,
    pub readers: usize,
}

/// An upstream that was used or configured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpstreamStatus {
    pub registry: String,
    pub endpoints: Vec<String>,
    /// What is wrong with the node's own credentials for it, a line each with the mend.
    #[serde(default)]
    pub findings: Vec<String>,
}

/// Body bytes that went to clients.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Served {
    pub requests: u64,
    pub node_bytes: u64,
    pub upstream_bytes: u64,
}

/// `POST /pin`, `/unpin`, `/evict`, `/gc`: what was pinned, let go or taken out.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Acted {
    pub blobs: u64,
    pub bytes: u64,
}

/// `POST /verify`: what was hashed again, and what had rotted.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Verified {
    pub blobs: u64,
    pub bytes: u64,
    pub rotten: Vec<Digest>,
}

/// `GET /explain?ref=…`: what a pull would do, step by step, without transferring the image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    pub image: String,
    pub steps: Vec<Step>,
}

/// One step of a pull.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// `name`, `access`, `tag`, `manifest`, `blobs`, `upstream`
    pub step: String,
    /// A short word: `hit`, `miss`, `public`, `unreachable` …
    pub outcome: String,
    /// Why, for a person.
    pub detail: String,
}

//! The admin API's wire types: written by the daemon, read by the CLI and by people's scripts (`--json`).

mod content;
mod doctor;
mod explain;
mod layers;
#[cfg(test)]
mod schemas;
mod trace;
mod upstream;
mod work;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use content::{Blob, Blobs, Image, Images};
pub use doctor::{Check, Diagnosis, Finding, Severity};
pub use explain::{
    BlobSource, Expected, ExpectedBlob, Explanation, PullOutcome, Step, StepName, StepOutcome,
};
pub use layers::{Layer, Layers, NotOffered, ReadyLayers};
pub use trace::TraceEvent;
pub use upstream::{Endpoint, RateLimit, Upstream, Upstreams};
pub use work::{Acted, Event, Failed, FailedPull, Progress, PulledImage, PulledImages, Verified};

use crate::digest::Digest;

/// The header that gives the daemon's version in every answer of the admin socket.
pub const VERSION_HEADER: &str = "larder-version";

/// `GET /status`: this node at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Status {
    pub version: String,
    pub uptime_seconds: u64,
    pub listen: Listen,
    pub store: StoreStatus,
    pub fills: Vec<FillStatus>,
    pub upstreams: Vec<UpstreamStatus>,
    /// Bytes sent to clients, by where they came from.
    pub served: Served,
    /// The container runtime, where a watcher reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeStatus>,
    /// The other nodes, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
    /// The object store, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStoreStatus>,
}

/// This node's container runtime, as its watcher reports it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RuntimeStatus {
    /// The watcher's file.
    pub file: String,
    /// `fresh`, `old`, `unreadable`, `newer`
    pub state: String,
    /// Why it is not known what is in use, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it has not been known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_seconds: Option<u64>,
    /// The runtime and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// What uses images: containers, sandboxes, image volumes.
    pub users: u64,
}

/// The cluster, as this node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClusterStatus {
    pub members: Vec<MemberStatus>,
    /// Bytes of blobs that came from other members, and that went to them.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Members that gave wrong bytes, so far.
    pub distrusted: u64,
    /// The copies of what is used, if the cluster makes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<CopiesStatus>,
}

/// The copies for which this node decides, as it sees them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CopiesStatus {
    /// So many living members should hold what is used.
    pub wanted: u64,
    /// Digests that fewer hold, by the reason: `coming`, `declined`, `members`, `missing`, `private`.
    pub lacking: BTreeMap<String, u64>,
    /// More than a third of the members is missing, so nothing is copied.
    pub held_back: bool,
    /// Copies that this node has yet to fetch.
    pub waiting: u64,
}

/// One member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemberStatus {
    /// `IP:PORT`
    pub address: String,
    /// Whether it is this node.
    pub own: bool,
    /// `ok`, `avoided` after a failure, `distrusted` after wrong bytes.
    pub state: String,
}

/// The object store, as this node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ObjectStoreStatus {
    pub url: String,
    /// Blobs and records that wait to be written, and their bytes.
    pub waiting: u64,
    pub waiting_bytes: u64,
    /// Written since the start; found there already; given up.
    pub written: u64,
    pub already_there: u64,
    pub dropped: u64,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// The addresses that were really bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listen {
    pub registry: String,
    pub telemetry: Option<String>,
    /// One more address of metrics and health, without the status page.
    #[serde(default)]
    pub exposed: Option<String>,
    /// The peer port, if there is one.
    #[serde(default)]
    pub peers: Option<String>,
}

/// The node tier.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StoreStatus {
    pub path: String,
    pub blobs: u64,
    pub bytes: u64,
    /// Bytes on disk of blobs that are not whole: on their way, left by a reader that ended, or this node's share of what
    /// others pull. They count within the bounds.
    #[serde(default)]
    pub partial_bytes: u64,
    /// What `max_size` comes to now.
    pub max_bytes: u64,
    /// Free bytes on the file system.
    pub free_bytes: u64,
    /// Blobs that containers of this node use, and their bytes.
    #[serde(default)]
    pub in_use_blobs: u64,
    #[serde(default)]
    pub in_use_bytes: u64,
    /// Bytes that are never evicted: pinned, or in use here and whole nowhere else.
    #[serde(default)]
    pub kept_bytes: u64,
    /// What new content may take beside them. A larger blob is passed on and not kept. Absent where nothing is kept so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_bytes: Option<u64>,
    /// What `min_free` comes to now.
    #[serde(default)]
    pub min_free_bytes: u64,
    /// What the tier may hold now: at most `max_bytes`, and so that `min_free_bytes` stay free. 0: it keeps nothing,
    /// because other files fill the file system. Absent while the disk does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// `ready`, or why larder is a plain proxy for now.
    pub state: String,
}

/// Whether content that is never evicted leaves little room for new content: less than a twentieth. Most new content is
/// passed on then, and not kept.
pub const fn is_tight(kept_bytes: u64, room_bytes: u64) -> bool {
    kept_bytes > 0 && room_bytes < kept_bytes.saturating_add(room_bytes) / 20
}

/// One fill under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FillStatus {
    pub digest: Digest,
    pub present_bytes: u64,
    pub size_bytes: Option<u64>,
    pub readers: usize,
    /// `REGISTRY/REPOSITORY` through which its first reader asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

/// An upstream that was used or configured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UpstreamStatus {
    pub registry: String,
    pub endpoints: Vec<String>,
    /// What is wrong with the node's own credentials for it, a line each with the fix.
    #[serde(default)]
    pub findings: Vec<String>,
}

/// Body bytes that went to clients.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Served {
    pub requests: u64,
    pub node_bytes: u64,
    #[serde(default)]
    pub cluster_bytes: u64,
    pub upstream_bytes: u64,
}

/// What larder logs, in the notation of `tracing_subscriber::EnvFilter`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LogFilter {
    pub filter: String,
}

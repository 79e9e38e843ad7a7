//! The registries behind a node, and how they fare.

use serde::{Deserialize, Serialize};

use super::Finding;

/// `GET /upstreams`: every registry that is configured, or of which something is known here.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Upstreams {
    pub upstreams: Vec<Upstream>,
}

/// One registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Upstream {
    /// As images name it: `docker.io`, `ghcr.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// Whether the configuration names it.
    pub configured: bool,
    /// Repositories of it of which something is known here.
    pub repositories: u64,
    /// Which clients get the content that the node's own credentials open: `per-credential` or `shared`.
    pub access: String,
    /// In the order in which they are asked; the last is the origin.
    pub endpoints: Vec<Endpoint>,
    /// What is wrong with the node's own credentials for it, a line each with the fix. Never a secret.
    pub findings: Vec<String>,
    /// The cloud's identity with which its origin is asked: which, by which way, until when. Never a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// What a test connection found at each endpoint, and with the node's own credentials; only with `check`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Finding>,
}

/// One endpoint of a registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Endpoint {
    pub url: String,
    /// `ok`; `avoided` after failures, until a probe succeeds; `silent`, because it asked for no requests.
    pub state: String,
    /// For how many more seconds larder sends it no requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<u64>,
    /// The limits that it last reported, one for each kind of client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<RateLimit>,
}

/// How many requests a registry still allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RateLimit {
    /// Whether a credential was shown; anonymous clients have a quota of their own.
    pub credential: bool,
    pub limit: u64,
    pub remaining: u64,
}

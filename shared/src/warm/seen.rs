//! Images that container runtimes pulled or use, as members tell them to each other.

use serde::{Deserialize, Serialize};

use crate::{Digest, RegistryName, Repository, Tag};

/// An image that a node's container runtime has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenImage {
    pub registry: RegistryName,
    pub repository: Repository,
    pub digest: Digest,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// When it was last pulled or used, in Unix seconds.
    pub at: u64,
    /// How many nodes have it.
    #[serde(default)]
    pub nodes: u32,
    /// Whether a node knows that the registry serves the repository to everybody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
}

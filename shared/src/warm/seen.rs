//! What container runtimes pulled or use, as members tell it to each other.

use serde::{Deserialize, Serialize};

use crate::{Digest, RegistryName, Repository, Tag};

/// An image that the container runtime of a node has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenImage {
    pub registry: RegistryName,
    pub repository: Repository,
    pub digest: Digest,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// When it was last pulled or used, in Unix seconds.
    pub at: u64,
    /// On so many nodes.
    #[serde(default)]
    pub nodes: u32,
    /// A node knows that its registry serves the repository to everybody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
}

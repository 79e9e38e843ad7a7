//! Warm sets: the tags of a repository as its registry lists them, in the form that members give to each other.

mod pattern;
mod seen;
mod status;

use serde::{Deserialize, Serialize};

pub use pattern::{PatternError, TagPattern, Version};
pub use seen::SeenImage;
pub use status::{
    CommonImage, ImageState, ImageStatus, NodeStatus, SetImage, SetImages, SetStatus, SourceStatus,
    TagStatus,
};

use crate::{Digest, Tag};

/// How larder gets the list of a repository's tags.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ListBy {
    /// `tags/list`, with digests where the registry gives them.
    #[default]
    Auto,
    /// Google's Artifact Registry API.
    Gar,
    /// ECR's API.
    Ecr,
    /// Azure's API.
    Acr,
    /// The repository is never listed: only the tags that the configuration names are asked for.
    Off,
}

/// The tags of a repository, as its registry lists them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Listing {
    pub tags: Vec<ListedTag>,
    /// Whether every page was read.
    pub complete: bool,
}

/// One tag of a list, with the list's facts about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedTag {
    pub tag: Tag,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it was pushed, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<u64>,
}

/// A list, and where it comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub listing: Listing,
    /// When the registry was asked for it, in Unix seconds.
    pub at: u64,
    /// The member that asked the registry; absent where it was this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

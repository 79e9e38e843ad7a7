//! The status of a warm set: Cachemachine's keys, and larder's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET PATH/NAME`: a set, as this node sees it. The first seven keys are Cachemachine's.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SetStatus {
    pub name: String,
    /// Labels that a node must have.
    pub labels: BTreeMap<String, String>,
    /// What all nodes of the set hold whole.
    pub common_cache: Vec<CommonImage>,
    /// Every tag of the lists.
    pub all_images: Vec<SetImage>,
    /// Images of the set that all its nodes hold whole.
    pub available_images: Vec<SetImage>,
    /// The images of the set.
    pub desired_images: Vec<SetImage>,
    /// Images of the set that a node lacks.
    pub images_to_cache: Vec<SetImage>,
    /// Whether this node is one of the set's.
    pub matches: bool,
    /// The images on this node, in the order in which they come.
    pub images: Vec<ImageStatus>,
    /// Images that left the set and are still held.
    pub left: Vec<ImageStatus>,
    /// Where the images come from.
    pub sources: Vec<SourceStatus>,
    /// The nodes of the set that answer, and those that do not.
    pub nodes: Vec<NodeStatus>,
    /// When the oldest of the lists was made, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_at: Option<u64>,
    /// What is wrong with a list, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An image that all nodes hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CommonImage {
    pub image_url: String,
    pub image_hash: String,
    /// Its other tags.
    pub tags: Vec<String>,
}

/// An image of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SetImage {
    pub image_url: String,
    /// Empty where it is not known.
    pub image_hash: String,
    pub name: String,
}

/// One image on one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ImageStatus {
    /// `REGISTRY/NAME:TAG`, or with `@DIGEST`
    pub image: String,
    /// Empty where it is not known.
    pub digest: String,
    pub tags: Vec<String>,
    pub state: ImageState,
    /// Bytes of the image for this node's platforms, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes of it that are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present_bytes: Option<u64>,
    /// Why it belongs to the set.
    pub why: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far an image is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ImageState {
    Here,
    Coming,
    Waiting,
    NoRoom,
    Failed,
}

impl ImageState {
    pub const ALL: [Self; 5] = [
        Self::Here,
        Self::Coming,
        Self::Waiting,
        Self::NoRoom,
        Self::Failed,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Coming => "coming",
            Self::Waiting => "waiting",
            Self::NoRoom => "no-room",
            Self::Failed => "failed",
        }
    }
}

/// A source of a set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SourceStatus {
    /// `REGISTRY/NAME`, `images` or `seen`
    pub source: String,
    /// When its registry last answered, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_at: Option<u64>,
    /// The member that asked the registry, where it was another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_by: Option<String>,
    /// Why the list is old, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<u64>,
    /// Every tag, and why it was chosen or not.
    #[serde(default)]
    pub tags: Vec<TagStatus>,
}

/// One tag of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TagStatus {
    pub tag: String,
    pub chosen: bool,
    pub why: String,
}

/// A node, as far as a set is concerned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeStatus {
    /// Its address among the members, or `this node`.
    pub name: String,
    pub matches: bool,
    /// Images of the set that it lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `GET PATH/NAME/available` and `/desired`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SetImages {
    pub images: Vec<SetImage>,
    pub all: Vec<SetImage>,
}

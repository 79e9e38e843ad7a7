//! containerd's own services.

use std::collections::{BTreeMap, HashMap};

use super::Timestamp;

pub const VERSION: &str = "/containerd.services.version.v1.Version/Version";
pub const NAMESPACES: &str = "/containerd.services.namespaces.v1.Namespaces/List";
pub const IMAGES: &str = "/containerd.services.images.v1.Images/List";
pub const CONTAINERS: &str = "/containerd.services.containers.v1.Containers/ListStream";
pub const CONTENT: &str = "/containerd.services.content.v1.Content/List";
pub const READ: &str = "/containerd.services.content.v1.Content/Read";
pub const SNAPSHOTS: &str = "/containerd.services.snapshots.v1.Snapshots/List";
pub const PLUGINS: &str = "/containerd.services.introspection.v1.Introspection/Plugins";
pub const EVENTS: &str = "/containerd.services.events.v1.Events/Subscribe";

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VersionResponse {
    #[prost(string, tag = "1")]
    pub version: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Namespaces {
    #[prost(message, repeated, tag = "1")]
    pub namespaces: Vec<Namespace>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Namespace {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A list's filters: an item is listed if one of them matches.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Filters {
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Plugins {
    #[prost(message, repeated, tag = "1")]
    pub plugins: Vec<Plugin>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Plugin {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub id: String,
    /// Set if the plugin could not start.
    #[prost(message, optional, tag = "7")]
    pub init_err: Option<Refusal>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refusal {
    #[prost(string, tag = "2")]
    pub message: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Images {
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Image {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub target: Option<Descriptor>,
    #[prost(message, optional, tag = "8")]
    pub updated_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Descriptor {
    #[prost(string, tag = "2")]
    pub digest: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerMessage {
    #[prost(message, optional, tag = "1")]
    pub container: Option<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(map = "string, string", tag = "2")]
    pub labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    pub image: String,
    #[prost(message, optional, tag = "8")]
    pub created_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ContentList {
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<ContentInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ContentInfo {
    #[prost(string, tag = "1")]
    pub digest: String,
    #[prost(int64, tag = "2")]
    pub size: i64,
    #[prost(message, optional, tag = "3")]
    pub created_at: Option<Timestamp>,
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadRequest {
    #[prost(string, tag = "1")]
    pub digest: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadResponse {
    #[prost(bytes = "bytes", tag = "2")]
    pub data: bytes::Bytes,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SnapshotsRequest {
    #[prost(string, tag = "1")]
    pub snapshotter: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotList {
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<SnapshotInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub parent: String,
    #[prost(message, optional, tag = "4")]
    pub created_at: Option<Timestamp>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub labels: BTreeMap<String, String>,
}

/// An event. Its subject does not matter, only that something has changed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Envelope {
    #[prost(string, tag = "3")]
    pub topic: String,
}

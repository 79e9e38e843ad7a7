//! `runtime.json`: the images that a node's container runtime has and uses.
//!
//! `larder runtime` (the watcher) writes this file by rename, and the daemon reads it. The two share nothing else, and
//! the daemon sends nothing back. The file repeats what the runtime says: it proves no right of any caller.
//!
//! Times are Unix seconds of the node's clock. Within one version, fields may be added, and a reader ignores those that
//! it does not know. A reader that finds a newer version does not use the file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The version of the file that this larder writes and reads.
pub const VERSION: u32 = 1;

/// A longer file is not read. That of a node with thousands of images is a tenth as long.
pub const LONGEST: u64 = 16 << 20;

/// The fields that every version of the file has: enough to see whether the rest can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
}

/// The whole file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// When the runtime began to answer the questions of which this is the result.
    pub at: u64,
    /// The kernel's id of its boot (`/proc/sys/kernel/random/boot_id`), where the watcher runs: it tells whether the report is
    /// of this node, and of the time since it booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    pub runtime: Software,
    /// The snapshotter of what the kubelet pulls, where containerd's CRI plugin tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshotter: Option<String>,
    /// Every image of every namespace.
    pub images: Vec<Image>,
    /// What uses images now.
    pub users: Vec<User>,
    /// Empty where the runtime does not tell (CRI).
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// Those plugins of containerd that pull and unpack. Empty for other runtimes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Plugin>,
    /// What lies in the runtime's content store. Empty where there is none (CRI).
    #[serde(default)]
    pub content: Vec<Content>,
}

/// The runtime that was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Software {
    /// `containerd`, `cri-o`, or what the runtime calls itself.
    pub name: String,
    pub version: String,
}

/// A plugin of containerd: a snapshotter, a differ, or what pulls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Plugin {
    /// Such as `io.containerd.snapshotter.v1`.
    pub kind: String,
    /// Such as `erofs`.
    pub id: String,
    /// Why containerd does not use it, if it could not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// An image as the runtime lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Image {
    /// containerd's namespace, such as `k8s.io`; empty for CRI.
    pub namespace: String,
    /// `registry/repository:tag`, `registry/repository@digest`, or a config digest.
    pub names: Vec<String>,
    /// What the names point to: an index, a manifest, or, for CRI-O, the config.
    pub target: Digest,
    /// Other digests under which the runtime knows the image (CRI's `repoDigests`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Digest>,
    /// The manifest of this node's platform, as far as the runtime has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Digest>,
    /// In the order of the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Digest>,
    /// When the image last changed, where the runtime tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<u64>,
}

/// What uses an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct User {
    /// As in [`Image::namespace`].
    pub namespace: String,
    pub kind: UserKind,
    pub id: String,
    /// The image as the runtime names it here: one of [`Image::names`], or a name that is no longer listed.
    pub image: String,
    /// What the user runs, as far as it is known: the digest of an index, a manifest or a config. The runtime names it, or
    /// the name above led to it when the user was made. It may be an image that is no longer listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// When the user was made, where the runtime tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// The Kubernetes namespace of its pod, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_namespace: Option<String>,
}

/// Kinds of [`User`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum UserKind {
    Container,
    Sandbox,
    /// An image that a pod mounts as a volume.
    ImageVolume,
}

/// A snapshot: one unpacked layer, or a container's own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Snapshot {
    pub namespace: String,
    pub snapshotter: String,
    /// The key; of a committed snapshot, its chain id.
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
}

/// A blob in the runtime's content store. One that several namespaces share is listed once for each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Content {
    pub namespace: String,
    pub digest: Digest,
    pub size: u64,
    /// Such as `containerd.io/distribution.source.docker.io`. Anybody's manifest can cause one: a label nominates a
    /// repository and proves nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
}

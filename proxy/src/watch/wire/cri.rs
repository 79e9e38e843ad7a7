//! The Container Runtime Interface, version 1.

use std::collections::HashMap;

pub const VERSION: &str = "/runtime.v1.RuntimeService/Version";
pub const IMAGES: &str = "/runtime.v1.ImageService/ListImages";
pub const FILE_SYSTEMS: &str = "/runtime.v1.ImageService/ImageFsInfo";
pub const CONTAINERS: &str = "/runtime.v1.RuntimeService/ListContainers";
pub const CONTAINER_STATUS: &str = "/runtime.v1.RuntimeService/ContainerStatus";
pub const SANDBOXES: &str = "/runtime.v1.RuntimeService/ListPodSandbox";
pub const SANDBOX_STATUS: &str = "/runtime.v1.RuntimeService/PodSandboxStatus";

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VersionResponse {
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    #[prost(string, tag = "3")]
    pub runtime_version: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Images {
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Image {
    /// The digest of the config. CRI-O leaves out `sha256:`.
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ImageSpec {
    #[prost(string, tag = "1")]
    pub image: String,
    /// The image's name as the pod's specification has it.
    #[prost(string, tag = "18")]
    pub user_specified_image: String,
    /// The digest of a volume's image.
    #[prost(string, tag = "20")]
    pub image_ref: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Containers {
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "4")]
    pub image: Option<ImageSpec>,
    #[prost(string, tag = "5")]
    pub image_ref: String,
    /// In nanoseconds.
    #[prost(int64, tag = "7")]
    pub created_at: i64,
    #[prost(map = "string, string", tag = "8")]
    pub labels: HashMap<String, String>,
    /// Newer runtimes put here what `image_ref` held before.
    #[prost(string, tag = "10")]
    pub image_id: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerStatusRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerStatus {
    #[prost(message, repeated, tag = "14")]
    pub mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Mount {
    /// Set for an image that the pod mounts as a volume.
    #[prost(message, optional, tag = "9")]
    pub image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Sandbox>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Sandbox {
    #[prost(string, tag = "1")]
    pub id: String,
    /// In nanoseconds.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    #[prost(map = "string, string", tag = "5")]
    pub labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SandboxStatusRequest {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SandboxStatusResponse {
    /// `info` is a JSON document, in which both runtimes name the sandbox's image.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

/// The file systems of images. containerd lists that of its snapshotter for new images first.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FileSystems {
    #[prost(message, repeated, tag = "1")]
    pub of_images: Vec<FileSystem>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FileSystem {
    #[prost(message, optional, tag = "2")]
    pub id: Option<FileSystemId>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FileSystemId {
    #[prost(string, tag = "1")]
    pub mountpoint: String,
}

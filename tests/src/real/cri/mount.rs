//! What a container mounts.

use super::ImageSpec;

/// A directory or file of the node, or an image, in a container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Mount {
    #[prost(string, tag = "1")]
    pub container_path: String,
    #[prost(string, tag = "2")]
    pub host_path: String,
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    /// 1: the container sees the node's later mounts below it.
    #[prost(int32, tag = "5")]
    pub propagation: i32,
    #[prost(message, optional, tag = "9")]
    image: Option<ImageSpec>,
}

impl Mount {
    /// A directory or file of the node.
    pub fn of_node(container_path: String, host_path: String, readonly: bool) -> Self {
        Self {
            container_path,
            host_path,
            readonly,
            propagation: 0,
            image: None,
        }
    }

    /// An image as a volume, which containerd mounts from 2.1 on. The kubelet has pulled it before.
    pub fn of_image(container_path: &str, image: &str) -> Self {
        Self {
            image: Some(ImageSpec::new(image)),
            ..Self::of_node(container_path.to_owned(), String::new(), true)
        }
    }
}

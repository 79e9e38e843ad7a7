//! One registry behind two endpoints, a mirror and the origin, and a node that pulls from them.

use crate::fake::{Content, FakeRegistry};
use crate::node::{Node, NodeBuilder};

/// The node's name for the registry. It does not resolve: whatever arrives has come from an endpoint.
pub const REGISTRY: &str = "registry.test";

/// Two fakes and a node that knows them as endpoints of [`REGISTRY`], in this order.
#[derive(Debug)]
pub struct Mirrors {
    /// The mirror, asked first.
    pub first: FakeRegistry,
    /// The origin, asked last.
    pub second: FakeRegistry,
    /// The node.
    pub node: Node,
}

impl Mirrors {
    /// Starts all three.
    pub async fn new() -> Self {
        Self::with("", |node| node).await
    }

    /// As [`Mirrors::new`], with more sections in the configuration, and more settings of the node.
    pub async fn with(config: &str, more: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let builder = Node::builder().config(format!(
            "{config}\n[upstreams.\"{REGISTRY}\"]\nendpoints = [\"{}\", \"{}\"]\n",
            first.url(),
            second.url()
        ));
        let node = more(builder).start().await;
        Self {
            first,
            second,
            node,
        }
    }

    /// Puts the same blob behind both endpoints and gives its digest.
    pub fn put_content(&self, repository: &str, content: &Content) -> String {
        let digest = self.first.put_content(repository, content);
        self.second.put_blob_under(repository, &digest, content);
        digest
    }

    /// Puts the same manifest behind both endpoints and gives its digest.
    pub fn put_manifest(&self, repository: &str, tag: Option<&str>, manifest: &str) -> String {
        let media_type = crate::image::OCI_MANIFEST;
        let manifest = manifest.to_owned();
        self.second
            .put_manifest(repository, tag, media_type, manifest.clone());
        self.first
            .put_manifest(repository, tag, media_type, manifest)
    }

    /// A blob's URL at larder, as containerd asks for it.
    pub fn blob(&self, repository: &str, digest: &str) -> String {
        self.path(&format!("{repository}/blobs/{digest}"))
    }

    /// A manifest's URL at larder, as containerd asks for it.
    pub fn manifest(&self, repository: &str, reference: &str) -> String {
        self.path(&format!("{repository}/manifests/{reference}"))
    }

    fn path(&self, path: &str) -> String {
        format!("{}/v2/{path}?ns={REGISTRY}", self.node.url())
    }

    /// Body bytes of this blob that both endpoints have sent.
    pub fn blob_bytes_sent(&self, digest: &str) -> u64 {
        self.first.blob_bytes_sent(digest) + self.second.blob_bytes_sent(digest)
    }
}

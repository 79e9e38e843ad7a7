//! One fake registry and one larder in front of it, with which most scenarios begin, and the checks with which most of
//! them end.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fake::{Content, FakeRegistry};
use crate::http::{Broken, Stream};
use crate::members::Door;
use crate::node::{Node, NodeBuilder};

/// How long to wait for a condition.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often to check it.
const GLANCE: Duration = Duration::from_millis(2);

/// A registry, and a node that pulls from it under its own `127.0.0.1:PORT`.
#[derive(Debug)]
pub struct Scene {
    /// The registry.
    pub fake: FakeRegistry,
    /// The node.
    pub node: Node,
}

impl Scene {
    /// Starts both. The fake's redirects may be followed, too.
    pub async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    /// As [`Scene::new`], with more settings of the node.
    pub async fn with(more: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let fake = FakeRegistry::start().await;
        let cdn = fake.cdn_host();
        let builder = Node::builder()
            .upstream(&fake)
            .upstream_at(&cdn, &format!("http://{cdn}"));
        let node = more(builder).start().await;
        Self { fake, node }
    }

    /// A client's door to a repository.
    pub fn door(&self, repository: &str) -> Door {
        Door::of(&self.node, &self.fake.host(), repository)
    }

    /// A blob's URL at larder, as containerd asks for it.
    pub fn blob(&self, repository: &str, digest: &str) -> String {
        self.path(&format!("{repository}/blobs/{digest}"))
    }

    /// A manifest's URL at larder, as containerd asks for it.
    pub fn manifest(&self, repository: &str, reference: &str) -> String {
        self.path(&format!("{repository}/manifests/{reference}"))
    }

    /// `/v2/<path>?ns=<the fake>` at larder.
    pub fn path(&self, path: &str) -> String {
        format!("{}/v2/{path}?ns={}", self.node.url(), self.fake.host())
    }

    /// Whether the node tier holds this digest, verified.
    pub fn committed(&self, digest: &str) -> bool {
        committed(self.node.store(), digest)
    }

    /// Waits until the node tier holds this digest, verified.
    pub async fn until_committed(&self, digest: &str) {
        eventually(&format!("{digest} is committed"), || self.committed(digest)).await;
    }

    /// How many requests the fake has seen for bytes: GETs of manifests and blobs.
    pub fn fetches(&self) -> usize {
        use crate::fake::Kind::{Blob, Cdn, Manifest};
        self.fake
            .count(|seen| seen.method == "GET" && matches!(seen.kind, Blob | Cdn | Manifest))
    }

    /// Waits until no client reads from a running fill.
    pub async fn until_unread(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.node.admin("/status").await;
            let fills = status["fills"].as_array().cloned().unwrap_or_default();
            if fills.iter().all(|fill| fill["readers"] == 0) {
                return;
            }
            assert!(Instant::now() < deadline, "still reading: {status}");
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Waits until no fill runs.
    pub async fn until_idle(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.node.admin("/status").await;
            if status["fills"].as_array().is_some_and(Vec::is_empty) {
                return;
            }
            assert!(Instant::now() < deadline, "still filling: {status}");
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// Whether the store in `dir` holds this digest, verified.
pub fn committed(dir: &Path, digest: &str) -> bool {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    dir.join("blobs")
        .join(algorithm)
        .join(&hex[..2])
        .join(hex)
        .is_file()
}

/// All files below `dir`, in order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// Waits until the condition holds; panics, naming it, after a minute.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(GLANCE).await;
    }
}

/// The result of a body that was only compared with its right content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Body bytes that came.
    pub len: u64,
    /// Where it differs first, as an offset in the body.
    pub differs_at: Option<u64>,
    /// Why it was not whole.
    pub error: Option<Broken>,
}

impl Compared {
    /// `len` bytes came, all of them right, to a proper end.
    pub fn whole(len: u64) -> Self {
        Self {
            len,
            differs_at: None,
            error: None,
        }
    }
}

/// Reads a body of any length to its end and compares it with `range` of `content`, holding neither.
pub async fn compare(stream: &mut Stream, content: &Content, range: Range<u64>) -> Compared {
    let mut compared = Compared::whole(0);
    let mut pieces = content.pieces(range);
    let mut piece = bytes::Bytes::new();
    loop {
        let mut chunk = match stream.next_chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return compared,
            Err(error) => {
                compared.error = Some(error);
                return compared;
            }
        };
        while !chunk.is_empty() {
            if piece.is_empty() {
                piece = pieces.next().unwrap_or_default();
            }
            let take = piece.len().min(chunk.len());
            let mut pairs = piece[..take].iter().zip(&chunk[..take]);
            let differs = if take == 0 {
                Some(0)
            } else if piece[..take] == chunk[..take] {
                None
            } else {
                pairs.position(|(wanted, came)| wanted != came)
            };
            if let (None, Some(at)) = (compared.differs_at, differs) {
                compared.differs_at = Some(compared.len + at as u64);
            }
            // Every byte beyond the content's end is wrong.
            let took = if take == 0 { chunk.len() } else { take };
            compared.len += took as u64;
            drop(chunk.split_to(took));
            drop(piece.split_to(take));
        }
    }
}

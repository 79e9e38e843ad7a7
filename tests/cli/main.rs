//! The command line, run as people and scripts run it: every command against a live node, as text and as JSON, and what
//! it says when the daemon is not there, is busy, or is of another version.
//!
//! Texts are snapshots in `snapshots/`; after a change on purpose, `INSTA_UPDATE=always` writes them anew. JSON is held
//! against the schemas in `docs/schemas`.

mod absent;
mod content;
mod documents;
mod members;
mod pulling;
mod seeing;
mod terminal;
mod tier;
mod upstreams;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use assert_cmd::assert::{Assert, OutputAssertExt as _};
use larder_tests::fake::FakeRegistry;
use larder_tests::http;
use larder_tests::image::{self, Image, LayerSpec};
use larder_tests::node::{Node, NodeBuilder};
use larder_tests::scene::{committed, eventually};
use larder_tests::schemas::assert_schema;
use serde_json::Value;

/// Every node here knows its fake registry under this name, so that texts are the same each time.
const REGISTRY: &str = "registry.test";

/// A registry, and a node that pulls from it as `registry.test`.
struct Kitchen {
    fake: FakeRegistry,
    node: Node,
}

impl Kitchen {
    async fn new() -> Self {
        Self::with(|node| node).await
    }

    async fn with(more: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let fake = FakeRegistry::start().await;
        let builder = Node::builder().upstream_at(REGISTRY, &fake.url());
        let node = more(builder).start().await;
        Self { fake, node }
    }

    /// An image of two layers in the registry.
    fn put(&self, repository: &str, tag: &str, seed: u64) -> Image {
        let layers = [
            LayerSpec::new(seed, 100_000),
            LayerSpec::new(seed + 1, 2_000_000),
        ];
        image::build(&self.fake, repository, tag, &layers)
    }

    /// Pulls as the runtime does.
    async fn client_pulls(&self, repository: &str, tag: &str, image: &Image) {
        let layers = image.layers.iter().map(|layer| layer.digest.as_str());
        let blobs: Vec<_> = layers.chain([image.config_digest.as_str()]).collect();
        let base = format!("{}/v2/{repository}", self.node.url());
        let manifest = format!("{base}/manifests/{tag}?ns={REGISTRY}");
        let answer = http::get(&manifest, &[]).await.expect("an answer");
        assert_eq!(answer.status, 200);
        for digest in blobs {
            let url = format!("{base}/blobs/{digest}?ns={REGISTRY}");
            let answer = http::get_digest(&url, &[]).await.expect("an answer");
            assert_eq!(answer.digest, digest);
            self.until_committed(digest).await;
        }
        self.until_committed(&image.manifest_digest).await;
    }

    fn committed(&self, digest: &str) -> bool {
        committed(self.node.store(), digest)
    }

    async fn until_committed(&self, digest: &str) {
        eventually(&format!("{digest} is committed"), || self.committed(digest)).await;
    }

    /// Waits until so many blobs are listed.
    async fn until_listed(&self, blobs: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let listed = self.node.admin("/blobs").await;
            if listed["blobs"].as_array().map(Vec::len) == Some(blobs) {
                return;
            }
            assert!(Instant::now() < deadline, "not {blobs} blobs: {listed:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs a command to its end.
    async fn run(&self, arguments: &[&str]) -> Assert {
        self.node.cli(arguments).await.assert()
    }

    /// The text of a command that succeeds.
    async fn text(&self, arguments: &[&str]) -> String {
        stdout(&self.run(arguments).await.success())
    }

    /// The JSON of a command; it must match its schema.
    async fn json(&self, arguments: &[&str], schema: &str) -> Value {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let json = serde_json::from_str(&self.text(&with_json).await).expect("JSON");
        assert_schema(&json, schema);
        json
    }
}

fn stdout(assert: &Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stdout).into_owned()
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

/// All that a person sees of a command's end.
fn seen(output: &Output) -> String {
    format!(
        "exit code: {}\n--- stdout ---\n{}--- stderr ---\n{}",
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The `docs` folder.
fn documents() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Compares with a snapshot in which ports, places and times are the same each time.
macro_rules! assert_shown {
    ($text:expr) => {{
        let text = $text;
        let mut settings = insta::Settings::clone_current();
        for (pattern, instead) in $crate::VARYING {
            settings.add_filter(pattern, *instead);
        }
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(text));
    }};
}
use assert_shown;

/// Patterns of text that differs from run to run, and what replaces each.
const VARYING: &[(&str, &str)] = &[
    (r"127\.\d+\.\d+\.\d+:7422 *", "[member]  "),
    (r"MEMBER +STATE", "MEMBER  STATE"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"\d+ s ago( +|\n)", "[ago]  $1"),
    (r"\[ago\]   +", "[ago]  "),
    (r"\[ago\]  \n", "[ago]\n"),
    (r"/[^ ]*/larder-node-[^/ :]+", "[DIR]"),
    (r"up \d+ (s|min)", "up [time]"),
    (
        r"of at most [0-9.]+ [KMGT]iB; [0-9.]+ [KMGT]iB free on the file system, min_free is [0-9.]+ [KMGT]?i?B",
        "of at most [size]; [size] free on the file system, min_free is [size]",
    ),
    (r"(^|[^.0-9])\d+\.\d+\.\d+($|[^.0-9])", "$1[version]$2"),
    (r"sha256:[0-9a-f]{12,64}", "sha256:[hex]"),
];

//! Warm sets: the images of a set are on the node before a client asks, within the set's bounds, and its status is true
//! (promise P31).

mod choosing;
mod listing;
mod members;
mod room;
mod seen;
mod showing;
mod tags;
mod together;

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_tests::fake::{FakeRegistry, Kind};
use larder_tests::http;
use larder_tests::image::{self, Image, LayerSpec};
use larder_tests::node::Node;
use larder_tests::scene::{Scene, committed};
use serde_json::Value;

/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_mins(1);
const GLANCE: Duration = Duration::from_millis(20);

/// A set of the newest images of `labs/lab`, with more keys of the set, and of `[warm]`.
fn newest(fake: &FakeRegistry, warm: &str, set: &str, source: &str) -> String {
    format!(
        "[store]\nmin_free = \"0\"\n[warm]\nrefresh = \"1s\"\n{warm}\n[warm.sets.labs]\n{set}\n\
         [[warm.sets.labs.from]]\nrepository = \"{}/labs/lab\"\n{source}\n",
        fake.host()
    )
}

/// A registry with images of `labs/lab`, and a node that may warm them.
struct Labs {
    scene: Scene,
}

impl Labs {
    /// A registry with these tags, each of an image of its own, and a node with this configuration.
    async fn with(tags: &[&str], config: impl FnOnce(&FakeRegistry) -> String) -> Self {
        let scene = Scene::with(|node| node).await;
        let labs = Self { scene };
        for (seed, tag) in tags.iter().enumerate() {
            labs.put(tag, seed as u64);
        }
        labs.configure(&config(&labs.scene.fake));
        labs
    }

    /// An image of one small layer. Images of the same seed are the same.
    fn put(&self, tag: &str, seed: u64) -> Image {
        put(&self.scene.fake, tag, seed, 200_000)
    }

    fn node(&self) -> &Node {
        &self.scene.node
    }

    fn configure(&self, config: &str) {
        fs::write(self.node().config_file(), config).expect("a file");
    }

    async fn status(&self) -> Value {
        status(self.node()).await
    }

    /// Waits until the set's status is so.
    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(self.node(), what, is).await
    }

    /// Waits until the images of all these tags are here, and no other image.
    async fn until_here(&self, tags: &[&str]) -> Value {
        self.until(&format!("{tags:?} are here"), |status| {
            is_here(status, tags)
        })
        .await
    }
}

fn put(fake: &FakeRegistry, tag: &str, seed: u64, size: u64) -> Image {
    image::build(fake, "labs/lab", tag, &[LayerSpec::new(1000 + seed, size)])
}

/// The status of the set `labs`, as the admin socket has it.
async fn status(node: &Node) -> Value {
    match asked(node, "/warm?set=labs").await {
        (200, status) => status,
        // larder has not read the file yet.
        _ => Value::Null,
    }
}

/// The status and JSON of a path of the admin socket.
async fn asked(node: &Node, path: &str) -> (u16, Value) {
    let answer = node.admin_request("GET", path, Bytes::new()).await;
    let answer = answer.expect("an answer");
    let json = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status, json)
}

async fn until(node: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(node).await;
        if is(&status) {
            return status;
        }
        let late = Instant::now() > deadline;
        assert!(
            !late,
            "not within {PATIENCE:?}: {what}: {status:#}\n{}",
            node.log()
        );
        tokio::time::sleep(GLANCE).await;
    }
}

fn list<'a>(status: &'a Value, key: &str) -> &'a [Value] {
    status[key].as_array().map_or(&[], Vec::as_slice)
}

/// The first tags of the images in a list.
fn tags<'a>(status: &'a Value, key: &str) -> Vec<&'a str> {
    let images = list(status, key).iter();
    images
        .map(|image| image["tags"][0].as_str().unwrap_or_default())
        .collect()
}

fn is_here(status: &Value, tags: &[&str]) -> bool {
    let images = list(status, "images");
    let all_here = images.iter().all(|image| image["state"] == "here");
    all_here && self::tags(status, "images") == tags && status["error"].is_null()
}

/// Whether a node has an image whole.
fn has(node: &Node, image: &Image) -> bool {
    let layers = image.layers.iter().map(|layer| &layer.digest);
    let mut all = layers.chain([&image.config_digest, &image.manifest_digest]);
    all.all(|digest| committed(node.store(), digest))
}

/// GETs of blobs and manifests that the registry has seen.
fn fetches(fake: &FakeRegistry) -> usize {
    fake.count(|seen| {
        seen.method == "GET" && matches!(seen.kind, Kind::Blob | Kind::Cdn | Kind::Manifest)
    })
}

/// The status and JSON of a path of the telemetry port.
async fn shown(node: &Node, path: &str) -> (u16, Value) {
    let url = format!("http://{}{path}", node.telemetry());
    let answer = http::get(&url, &[]).await.expect("an answer");
    let json = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status, json)
}

//! Content that a node's containers use stays on the node: past its ttl, after the watcher's death, under pressure
//! (promise P28). The tests write the watcher's file.

mod order;
mod seen;
mod stays;
mod unknown;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use larder_tests::image::{self, Image, LayerSpec};
use larder_tests::machine::Machine;
use larder_tests::scene::Scene;
use serde_json::{Value, json};
use tempfile::TempDir;

const MB: u64 = 1_000_000;
const DAY: Duration = Duration::from_hours(24);

/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The kernel's id of this boot, as a watcher writes it.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.expect("a boot").trim().to_owned()
}

/// Now, in Unix seconds.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a time").as_secs()
}

/// A node with a watcher's file, on a machine where time passes at once.
struct Watched {
    machine: Machine,
    scene: Scene,
    dir: TempDir,
    /// The number of reports so far.
    reports: AtomicU64,
}

impl Watched {
    /// A node with these lines in its `[store]`.
    async fn with(store: &str) -> Self {
        let (machine, dir) = (Machine::new(), tempfile::tempdir().expect("a directory"));
        let file = dir.path().join("runtime.json");
        let config = format!(
            "[store]\nmin_free = \"0\"\n{store}\n[runtime]\nfile = \"{}\"\n",
            file.display()
        );
        let scene = Scene::with(|node| machine.runs(node).config(config)).await;
        Self {
            machine,
            scene,
            dir,
            reports: AtomicU64::new(0),
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("runtime.json")
    }

    /// Pushes an image with one layer of so many bytes, and has the runtime pull it.
    async fn pull(&self, repository: &str, seed: u64, size: u64) -> Image {
        let image = image::build(
            &self.scene.fake,
            repository,
            "v1",
            &[LayerSpec::new(seed, size)],
        );
        self.pull_again(repository, &image).await;
        for digest in digests(&image) {
            self.scene.until_committed(&digest).await;
        }
        self.scene.until_idle().await;
        image
    }

    async fn pull_again(&self, repository: &str, image: &Image) {
        let door = self.scene.door(repository);
        door.pull("v1", image).await.expect("the image");
    }

    /// The runtime's present report: containers that use these images, each named by its configuration's digest alone.
    fn report(&self, used: &[&Image]) -> Value {
        let users = used.iter().enumerate().map(|(i, image)| {
            json!({
                "namespace": "k8s.io", "kind": "container", "id": format!("c{i}"),
                "image": image.config_digest, "digest": image.config_digest,
            })
        });
        let number = self.reports.fetch_add(1, Ordering::Relaxed);
        json!({
            "version": 1, "at": now(), "boot": boot(),
            "runtime": { "name": "containerd", "version": format!("2.1.{number}") },
            "images": [], "users": users.collect::<Vec<_>>(),
        })
    }

    /// Replaces the file with this text, as the watcher does.
    fn write(&self, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.file()).expect("a file");
    }

    /// The runtime reports that these images are in use, and larder has read it.
    async fn uses(&self, used: &[&Image]) {
        let report = self.report(used);
        self.write(&report.to_string());
        // Each report has another version.
        let version = report["runtime"]["version"].as_str().expect("a version");
        let runtime = format!("containerd {version}");
        self.until("it is known what is used", |status| {
            status["runtime"]["state"] == "fresh" && status["runtime"]["runtime"] == *runtime
        })
        .await;
        let expected: Vec<&str> = used.iter().map(|image| &*image.manifest_digest).collect();
        self.until_in_use(&expected).await;
    }

    /// Waits until these manifests are in use, and no others.
    async fn until_in_use(&self, expected: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let images = self.scene.node.admin("/images").await;
            let images = images["images"].as_array().cloned().unwrap_or_default();
            let used = images.iter().filter(|image| image["in_use"] == true);
            let mut used: Vec<&str> = used.filter_map(|image| image["digest"].as_str()).collect();
            let mut expected = expected.to_vec();
            used.sort_unstable();
            expected.sort_unstable();
            if used == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{used:?}\n{}",
                self.scene.node.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `/status` is as wanted.
    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.scene.node.admin("/status").await;
            if is(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {status:#}\n{}",
                self.scene.node.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One round of eviction.
    async fn round(&self) {
        let done = self.scene.node.cli(&["gc"]).await;
        assert!(done.status.success(), "{done:?}");
    }

    /// Waits until an image is evicted: its manifest goes in the round after the content that it names.
    async fn until_gone(&self, image: &Image) {
        for _ in 0..5 {
            self.round().await;
            if self.here(image) == 0 {
                return;
            }
        }
        panic!(
            "{} of it are here\n{}",
            self.here(image),
            self.scene.node.log()
        );
    }

    /// How many blobs of an image are here: its manifest, configuration and layers.
    fn here(&self, image: &Image) -> usize {
        let all = digests(image);
        all.iter()
            .filter(|digest| self.scene.committed(digest))
            .count()
    }

    fn is_whole(&self, image: &Image) -> bool {
        self.here(image) == digests(image).len()
    }

    async fn restart(&mut self) {
        self.scene.node.terminate();
        self.scene.node.wait().await;
        self.scene.node.restart().await;
    }
}

fn digests(image: &Image) -> Vec<String> {
    let own = [image.manifest_digest.clone(), image.config_digest.clone()];
    let layers = image.layers.iter().map(|layer| layer.digest.clone());
    own.into_iter().chain(layers).collect()
}

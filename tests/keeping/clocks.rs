//! A clock that jumps evicts nothing (P21, P27).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use larder_tests::fake::Content;
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::machine::Machine;
use larder_tests::scene::{Scene, eventually};

use super::{MB, age, path, pull, whole};

const YEARS: i64 = 365 * 86_400;

/// Blobs on a node with a short ttl, and a round of keeping at the test's command.
struct Kept {
    machine: Machine,
    scene: Scene,
    blobs: Vec<(String, Content)>,
}

impl Kept {
    async fn with_clock(ahead: i64) -> Self {
        let machine = Machine::new();
        machine.set_clock(ahead);
        let config = "[store]\nttl = \"1h\"\nmin_free = \"0\"\n";
        let scene = Scene::with(|node| machine.runs(node).config(config).log_level("info")).await;
        let mut kept = Self {
            machine,
            scene,
            blobs: Vec::new(),
        };
        for seed in 0..3 {
            kept.add(seed).await;
        }
        kept
    }

    async fn add(&mut self, seed: u64) {
        let content = Content::synthetic(seed, MB);
        let digest = self.scene.fake.put_content("a/b", &content);
        let came = pull(&self.scene.blob("a/b", &digest), &content).await;
        assert_eq!(came, whole(&content));
        self.scene.until_committed(&digest).await;
        self.blobs.push((digest, content));
    }

    /// A round evicts nothing.
    async fn round(&self, when: &str) {
        let done = self.scene.node.cli(&["gc"]).await;
        assert!(done.status.success(), "{when}: {done:?}");
        for (digest, _) in &self.blobs {
            assert!(self.scene.committed(digest), "{when}");
        }
    }

    async fn restart(&mut self) {
        self.scene.node.terminate();
        self.scene.node.wait().await;
        self.scene.node.restart().await;
        let blobs = self.blobs.len() as u64;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.scene.node.admin("/status").await["store"]["blobs"] != blobs {
            assert!(tokio::time::Instant::now() < deadline, "they are gone");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_years_ahead_for_a_while_evicts_nothing() {
    let mut kept = Kept::with_clock(0).await;
    kept.round("before").await;
    kept.machine.set_clock(20 * YEARS);
    kept.round("ahead").await;
    kept.add(10).await;
    kept.round("ahead, with a new one").await;
    kept.machine.set_clock(0);
    kept.round("back").await;
    kept.machine.set_clock(20 * YEARS);
    kept.restart().await;
    kept.round("started ahead").await;
    kept.machine.set_clock(0);
    kept.restart().await;
    kept.round("started as it should be").await;
}

#[tokio::test]
async fn a_node_that_boots_in_the_past_keeps_what_it_has() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let boot = 2 * YEARS - now.expect("a time").as_secs() as i64;
    let mut kept = Kept::with_clock(boot).await;
    kept.round("in 1972").await;
    kept.machine.set_clock(0);
    kept.round("today").await;
    kept.add(10).await;
    kept.restart().await;
    kept.round("the next start").await;
    kept.machine.set_clock(boot);
    kept.restart().await;
    kept.round("in 1972 again").await;
}

/// larder still finds old blobs, whatever the clock shows meanwhile.
#[tokio::test]
async fn unused_content_expires_however_wrong_the_clock_is() {
    let mut kept = Kept::with_clock(0).await;
    kept.scene.node.terminate();
    kept.scene.node.wait().await;
    let (old, _) = kept.blobs.remove(0);
    let file = path(kept.scene.node.store(), &old);
    age(&file, Duration::from_hours(2));
    kept.machine.set_clock(-20 * YEARS);
    kept.scene.node.restart().await;
    let scene = &kept.scene;
    eventually("the old one goes", || !scene.committed(&old)).await;
    kept.round("the others stay").await;
}

/// A crash of the machine may leave the file empty that records how much time has passed.
#[tokio::test]
async fn a_store_whose_own_time_is_lost_evicts_nothing() {
    let mut kept = Kept::with_clock(0).await;
    for lost in ["", "17x", "\u{0}\u{0}\u{0}"] {
        kept.scene.node.terminate();
        kept.scene.node.wait().await;
        fs::write(kept.scene.node.store().join("clock"), lost).expect("our own file");
        kept.machine.set_clock(20 * YEARS);
        kept.scene.node.restart().await;
        kept.round("its time is lost").await;
        kept.machine.set_clock(0);
        kept.restart().await;
        kept.round("the next start").await;
    }
}

/// So larder makes the file durable before it replaces the one before.
#[tokio::test]
async fn the_stores_own_time_outlives_a_crash_of_the_machine() {
    let machine = Machine::new();
    let mut scene = Scene::with(|node| machine.runs(node)).await;
    let store = scene.node.store().to_owned();
    scene.node.terminate();
    scene.node.wait().await;
    let done = machine.done();
    let written =
        |(what, path): &(String, PathBuf)| what == "rename" && *path == store.join("clock");
    let named = done.iter().rposition(written).expect("a clock");
    let [before, after] = [&done[named - 1], &done[named + 1]];
    assert!(
        before.0 == "fsync" && before.1.starts_with(store.join("tmp")),
        "{done:?}"
    );
    assert_eq!(*after, ("fsync".to_owned(), store));
}

/// Content that was public under a wrong clock is still public, and an outage may come before a client asks again.
#[tokio::test]
async fn what_was_pulled_under_a_wrong_clock_outlives_an_outage() {
    let machine = Machine::new();
    machine.set_clock(20 * YEARS);
    let mut scene = Scene::with(|node| machine.runs(node).log_level("info")).await;
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, MB)]);
    let layer = &image.layers[0];
    let pulled = async |scene: &Scene| {
        for reference in ["v1", &image.manifest_digest] {
            let url = scene.manifest("a/b", reference);
            let answer = http::get(&url, &[]).await.expect("an answer");
            assert_eq!((answer.status, &answer.body), (200, &image.manifest));
        }
        let url = scene.blob("a/b", &layer.digest);
        assert_eq!(pull(&url, &layer.content).await, whole(&layer.content));
    };
    pulled(&scene).await;
    scene.until_committed(&layer.digest).await;
    scene.until_committed(&image.manifest_digest).await;
    machine.set_clock(0);
    scene.fake.stop().await;
    pulled(&scene).await;
    scene.node.terminate();
    scene.node.wait().await;
    scene.node.restart().await;
    pulled(&scene).await;
}

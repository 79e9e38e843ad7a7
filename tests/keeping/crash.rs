//! `kill -9` at any instant, again and again, over one store (P11).
//!
//! `LARDER_SEED` repeats the draws of a run (not the instants of a real machine), `LARDER_KILLS` sets the number of
//! kills.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use larder_tests::fake::Content;
use larder_tests::http;
use larder_tests::machine::Machine;
use larder_tests::node::Node;
use larder_tests::scene::{Scene, files};

use super::load::Load;
use super::{MB, path, pull, sound_blobs, whole};

/// The number of kills, unless `LARDER_KILLS` sets it.
const KILLS: u64 = 200;
/// Kills over one store. Then a new store begins, so that there is always something to fill.
const PER_STORE: u64 = 15;
const CLIENTS: u64 = 6;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_any_instant_cost_no_byte() {
    let seed = setting("LARDER_SEED", fastrand::u64(..));
    let kills = setting("LARDER_KILLS", KILLS);
    // Written past the test harness's capture: the seed repeats a failure.
    let _ = writeln!(
        std::io::stderr(),
        "crash: LARDER_SEED={seed} LARDER_KILLS={kills}"
    );
    let mut random = Rng::with_seed(seed);
    let (mut left, mut resumed) = (kills, 0.0);
    while left > 0 {
        let here = left.min(PER_STORE);
        resumed += one_store(&mut random, here).await;
        left -= here;
    }
    let _ = writeln!(std::io::stderr(), "crash: {resumed} partials were resumed");
    assert!(kills < KILLS || resumed > 0.0, "no kill hit a fill");
}

/// Gives how many partials were resumed.
async fn one_store(random: &mut Rng, kills: u64) -> f64 {
    let load = Load::new(random, 60).await;
    let mut node = Node::builder()
        .upstream(&load.fake)
        .log_level("info")
        .start()
        .await;
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut resumed = 0.0;
    for _ in 0..kills {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(load.clone().pull_until_dead(node.url(), random.u64(..))))
            .collect();
        tokio::time::sleep(Duration::from_millis(random.u64(5..150))).await;
        resumed += node
            .metric("larder_fills_resumed_total")
            .await
            .unwrap_or(0.0);
        node.kill9().await;
        for client in clients {
            client.await.expect("no panic");
        }
        let now: BTreeSet<_> = sound_blobs(node.store()).into_iter().collect();
        let lost: Vec<_> = kept.difference(&now).collect();
        assert!(lost.is_empty(), "committed before, and gone: {lost:?}");
        kept = now;
        node.restart().await;
        assert_eq!(files(&node.store().join("tmp")), [] as [PathBuf; 0]);
    }
    // Without the registry: committed blobs are served, and a request for any other blob gets an error.
    load.fake.stop().await;
    node.kill9().await;
    node.restart().await;
    for (digest, content) in &load.blobs {
        let url = load.url(&node.url(), digest);
        let head = http::head(&url, &[]).await.expect("an answer");
        if kept.contains(digest) {
            assert_eq!(pull(&url, content).await, whole(content));
            assert_eq!(head.status, 200);
        } else {
            assert!(
                head.status >= 500,
                "{} of {digest}, which is not here",
                head.status
            );
        }
    }
    // With the registry: every blob is served, and nothing is left over.
    load.fake.start_again().await;
    for (digest, content) in &load.blobs {
        assert_eq!(
            pull(&load.url(&node.url(), digest), content).await,
            whole(content)
        );
    }
    larder_tests::scene::eventually("all are committed", || {
        load.blobs
            .iter()
            .all(|(digest, _)| path(node.store(), digest).is_file())
    })
    .await;
    larder_tests::scene::eventually("no partial is left", || {
        files(&node.store().join("partial")).is_empty()
    })
    .await;
    resumed
}

/// A store that loses its version in a crash would be taken for one of another layout, and set aside.
#[tokio::test]
async fn the_version_is_on_disk_before_anything_else() {
    let machine = Machine::new();
    let mut scene = Scene::with(|node| machine.runs(node).log_level("info")).await;
    let store = scene.node.store().to_owned();
    let version = store.join("version");
    let done = machine.done();
    let at = |wanted: &dyn Fn(&str, &Path) -> bool| {
        let found = done.iter().position(|(what, path)| wanted(what, path));
        found.unwrap_or_else(|| panic!("{done:?}"))
    };
    let content = at(&|what, path| what == "fsync" && path.starts_with(store.join("tmp")));
    let named = at(&|what, path| what == "rename" && *path == version);
    let durable = at(&|what, path| what == "fsync" && *path == store);
    assert!(content < named && named < durable, "{done:?}");
    // An older larder may have lost its version.
    let content = Content::synthetic(1, MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    assert_eq!(pull(&url, &content).await, whole(&content));
    scene.until_committed(&digest).await;
    scene.node.kill9().await;
    fs::write(&version, "").expect("our own file");
    scene.node.restart().await;
    assert!(scene.committed(&digest), "it was set aside");
    assert_eq!(fs::read_to_string(&version).expect("a version"), "1");
}

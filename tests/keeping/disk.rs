//! Disks that are full, read-only, or gone: larder is a plain proxy for as long as that lasts (P22).

mod broken;
mod full;
mod unkept;

use std::time::{Duration, Instant};

use larder_tests::fake::Content;
use larder_tests::http;
use larder_tests::scene::Scene;
use larder_tests::tmpfs::Tmpfs;

use super::{MB, pull, whole};

/// More bytes than the file system below has.
const LARGE: u64 = 100 * MB;
const MIB: u64 = 64;

/// A node whose store is on a file system of 64 MiB.
async fn small(test: &str) -> Option<(Scene, Tmpfs)> {
    small_with(test, "").await
}

async fn small_with(test: &str, config: &str) -> Option<(Scene, Tmpfs)> {
    let tmpfs = Tmpfs::mount(test, MIB)?;
    let store = tmpfs.path().join("store");
    let scene = Scene::with(|node| node.store(store).config(config).log_level("info")).await;
    Some((scene, tmpfs))
}

/// Whether larder reports a failing disk: in its status, to the kubelet and in its metrics, once all three agree.
async fn is_failing(scene: &Scene) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    let ready = format!("http://{}/readyz", scene.node.telemetry());
    loop {
        let status = scene.node.admin("/status").await;
        let state = status["store"]["state"].as_str().expect("a state");
        let ready = http::get(&ready, &[]).await.expect("an answer");
        // A node that cannot keep blobs is still ready to serve.
        assert_eq!(ready.status, 200);
        let metric = scene.node.metric("larder_store_failing").await;
        let says = [
            state.contains("failing"),
            ready.text().contains("fails"),
            metric == Some(1.0),
        ];
        if says.iter().all(|one| *one == says[0]) {
            return says[0];
        }
        assert!(
            Instant::now() < deadline,
            "{state} / {} / {metric:?}",
            ready.text()
        );
    }
}

/// Pulls small blobs until one of them is kept, and larder reports no trouble.
async fn until_it_keeps_again(scene: &Scene) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut seed = 1_000_000;
    loop {
        seed += 1;
        let content = Content::synthetic(seed, 100_000);
        let digest = scene.fake.put_content("a/b", &content);
        assert_eq!(
            pull(&scene.blob("a/b", &digest), &content).await,
            whole(&content)
        );
        // larder does not keep a blob later that it passed on while the disk failed: the test pulls another one.
        let soon = Instant::now() + Duration::from_secs(1);
        while Instant::now() < soon {
            if !is_failing(scene).await && scene.committed(&digest) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(Instant::now() < deadline, "it never keeps anything again");
    }
}

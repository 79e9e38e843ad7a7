//! A large store: larder serves at once, whatever it holds (P11).

use std::fs;
use std::time::Duration;

use larder_tests::fake::{Content, digest_of};
use larder_tests::http;
use larder_tests::node::Node;
use larder_tests::scene::Scene;

use super::{path, pull, whole};

const BLOBS: u32 = 100_000;

/// Ext4 allows 65,000 names of one file.
const NAMES: u32 = 20_000;

#[tokio::test]
async fn a_hundred_thousand_blobs_do_not_delay_a_start() {
    let mut scene = Scene::with(|node| node.log_level("info")).await;
    let content = Content::synthetic(1, 100_000);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    assert_eq!(pull(&url, &content).await, whole(&content));
    scene.until_committed(&digest).await;
    scene.node.kill9().await;
    fill(&scene.node);
    scene.fake.stop().await;
    scene.node.restart().await;
    let ready = scene.node.ready_after();
    // At once, while they are still being counted.
    assert_eq!(pull(&url, &content).await, whole(&content));
    // The bound of the benchmark is 200 ms; this one allows for a debug build beside other tests.
    assert!(ready < Duration::from_secs(1), "{ready:?}");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let all = f64::from(BLOBS + 1);
    while scene.node.metric("larder_store_blobs").await != Some(all) {
        assert!(
            std::time::Instant::now() < deadline,
            "they are never all counted"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Names of digests that nobody has fetched open nothing.
    let stranger = scene.blob("a/b", &name(0));
    assert_eq!(
        http::get(&stranger, &[]).await.expect("an answer").status,
        503
    );
    assert_eq!(pull(&url, &content).await, whole(&content));
}

fn name(i: u32) -> String {
    digest_of(&i.to_le_bytes())
}

fn fill(node: &Node) {
    for shard in 0..=0xff {
        let dir = node.store().join(format!("blobs/sha256/{shard:02x}"));
        fs::create_dir_all(dir).expect("a directory");
    }
    let mut file = None;
    for i in 0..BLOBS {
        let path = path(node.store(), &name(i));
        match &file {
            Some(file) if i % NAMES != 0 => fs::hard_link(file, &path).expect("a link"),
            _ => {
                fs::write(&path, "a blob").expect("a file");
                file = Some(path);
            }
        }
    }
}

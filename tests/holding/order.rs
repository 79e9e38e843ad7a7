//! The order in which content is evicted when room is wanted, and content that is never evicted.

use larder_tests::fake::Content;
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::{Compared, compare};

use super::{MB, Watched, digests};

#[tokio::test]
async fn what_runs_stays_when_room_is_wanted_however_long_ago_it_was_pulled() {
    let node = Watched::with("max_size = \"20MB\"").await;
    let used = node.pull("team/used", 1, 8 * MB).await;
    let unused = node.pull("team/unused", 2, 8 * MB).await;
    node.uses(&[&used]).await;
    // It was used last, and is evicted all the same.
    node.pull_again("team/unused", &unused).await;
    let new = node.pull("team/new", 3, 8 * MB).await;
    node.round().await;
    assert!(node.is_whole(&used), "{}", node.scene.node.log());
    assert!(node.is_whole(&new));
    assert!(!node.scene.committed(&unused.layers[0].digest));
}

/// Pins, and images in use that no other member has, fill the tier. larder then passes new content on, and says why.
#[tokio::test]
async fn new_content_is_passed_on_when_what_stays_leaves_no_room() {
    let node = Watched::with("max_size = \"20MB\"").await;
    let used = node.pull("team/used", 1, 9 * MB).await;
    let pinned = node.pull("team/pinned", 2, 9 * MB).await;
    let image = format!("{}/team/pinned:v1", node.scene.fake.host());
    let done = node.scene.node.cli(&["pin", &image]).await;
    assert!(done.status.success(), "{done:?}");
    node.uses(&[&used]).await;
    node.round().await;
    let status = node.scene.node.admin("/status").await;
    let kept = status["store"]["kept_bytes"].as_u64().expect("a number");
    assert!((18 * MB..19 * MB).contains(&kept), "{status}");
    let room = status["store"]["room_bytes"].as_u64();
    assert_eq!(room, Some(20 * MB - kept));

    // Content that fits is kept. Other content still comes whole, for each client that asks.
    let [small, large] = [(10, MB), (11, 5 * MB)].map(|(seed, size)| {
        let content = Content::synthetic(seed, size);
        (node.scene.fake.put_content("team/new", &content), content)
    });
    for (digest, content) in [&small, &large, &large] {
        let url = node.scene.blob("team/new", digest);
        let mut stream = http::open(&url, &[]).await.expect("an answer");
        let compared = compare(&mut stream, content, 0..content.len()).await;
        assert_eq!(
            (stream.status, compared),
            (200, Compared::whole(content.len()))
        );
    }
    node.scene.until_committed(&small.0).await;
    node.scene.until_idle().await;
    node.round().await;
    assert!(!node.scene.committed(&large.0), "{}", node.scene.node.log());
    assert!(node.is_whole(&used) && node.is_whole(&pinned));
    assert!(status_is_ready(&node).await);

    // The container ends, and there is room again.
    node.uses(&[]).await;
    node.round().await;
    let image = image::build(
        &node.scene.fake,
        "team/last",
        "v1",
        &[LayerSpec::new(5, 5 * MB)],
    );
    node.pull_again("team/last", &image).await;
    for digest in digests(&image) {
        node.scene.until_committed(&digest).await;
    }
    node.round().await;
    assert!(node.is_whole(&pinned) && node.is_whole(&image));
    assert!(!node.is_whole(&used));
}

/// A full tier is no broken disk.
async fn status_is_ready(node: &Watched) -> bool {
    let status = node.scene.node.admin("/status").await;
    status["store"]["state"] == "ready"
}

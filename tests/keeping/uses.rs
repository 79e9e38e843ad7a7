//! The time of a blob's last use survives a restart, and a use costs no disk write of its own (P21).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use larder_tests::fake::Content;
use larder_tests::scene::{Scene, eventually};

use super::{MB, age, path, pull, whole};

#[tokio::test]
async fn a_use_outlives_a_restart() {
    let mut scene =
        Scene::with(|node| node.config("[store]\nmin_free = \"0\"\n").log_level("info")).await;
    let mut blobs = Vec::new();
    for seed in 0..3 {
        let content = Content::synthetic(seed, 5 * MB);
        let digest = scene.fake.put_content("a/b", &content);
        assert_eq!(
            pull(&scene.blob("a/b", &digest), &content).await,
            whole(&content)
        );
        scene.until_committed(&digest).await;
        blobs.push((digest, content));
    }
    scene.node.terminate();
    scene.node.wait().await;
    for (i, (digest, _)) in blobs.iter().enumerate() {
        age(
            &path(scene.node.store(), digest),
            Duration::from_hours(3 - i as u64),
        );
    }
    scene.node.restart().await;
    // The oldest blob is used. That costs no write now; larder writes it before it ends.
    let (digest, content) = &blobs[0];
    let file = path(scene.node.store(), digest);
    let before = fs::metadata(&file).expect("a blob");
    assert_eq!(
        pull(&scene.blob("a/b", digest), content).await,
        whole(content)
    );
    let after = fs::metadata(&file).expect("a blob");
    assert_eq!(
        (before.atime(), before.ctime_nsec()),
        (after.atime(), after.ctime_nsec())
    );
    scene.node.terminate();
    scene.node.wait().await;
    let after = fs::metadata(&file).expect("a blob");
    assert!(
        after.atime() > before.atime() + 3600,
        "the use was not written down"
    );
    assert_eq!(after.mtime(), before.mtime());
    // Now the second is the oldest.
    let config = "[store]\nmax_size = \"12MB\"\nmin_free = \"0\"\n";
    fs::write(scene.node.config_file(), config).expect("a file");
    scene.node.restart().await;
    eventually("one has gone", || {
        blobs
            .iter()
            .filter(|(digest, _)| scene.committed(digest))
            .count()
            == 2
    })
    .await;
    let here: Vec<bool> = blobs
        .iter()
        .map(|(digest, _)| scene.committed(digest))
        .collect();
    assert_eq!(here, [true, false, true]);
}

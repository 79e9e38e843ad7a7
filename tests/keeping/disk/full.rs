//! A disk without room: for one blob, because other files filled it, or from the start.

use std::fs;

use futures_util::future::join_all;
use larder_tests::fake::{Content, Match};
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::{Compared, Scene, compare, eventually, files};
use larder_tests::tmpfs::Tmpfs;

use super::{LARGE, MIB, is_failing, small, small_with, until_it_keeps_again};
use crate::{MB, pull, sound_blobs, whole};

/// larder frees no room for a blob that can never fit, and such a blob says nothing about the disk.
#[tokio::test]
async fn a_blob_larger_than_the_bound_is_passed_on_and_the_tier_goes_on() {
    let scene = Scene::with(|node| node.config("[store]\nmax_size = \"50MB\"")).await;
    let kept = Content::synthetic(7, MB);
    let kept_digest = scene.fake.put_content("a/b", &kept);
    assert_eq!(
        pull(&scene.blob("a/b", &kept_digest), &kept).await,
        whole(&kept)
    );
    scene.until_committed(&kept_digest).await;
    let content = Content::synthetic(1, LARGE);
    let digest = scene.fake.put_content("a/b", &content);
    for _ in 0..2 {
        let url = scene.blob("a/b", &digest);
        assert_eq!(pull(&url, &content).await, whole(&content));
    }
    assert!(!is_failing(&scene).await);
    assert!(scene.committed(&kept_digest), "it was evicted for nothing");
    assert!(!scene.committed(&digest));
}

#[tokio::test]
async fn a_blob_larger_than_the_disk_is_passed_on() {
    // The bound is larger than the disk, so only the disk can say that it is full.
    let bound = "[store]\nmax_size = \"1GiB\"";
    let test = "a_blob_larger_than_the_disk_is_passed_on";
    let Some((scene, _tmpfs)) = small_with(test, bound).await else {
        return;
    };
    let content = Content::synthetic(1, LARGE);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    assert!(!is_failing(&scene).await);
    // Cold, again while larder leaves the disk alone, and in ranges.
    assert_eq!(pull(&url, &content).await, whole(&content));
    assert!(is_failing(&scene).await);
    assert_eq!(pull(&url, &content).await, whole(&content));
    let ranges = [
        ("bytes=0-99", 0, 100),
        ("bytes=99000000-99000099", 99 * MB, 99 * MB + 100),
        ("bytes=30000000-59999999", 30 * MB, 60 * MB),
        ("bytes=70000000-", 70 * MB, LARGE),
        ("bytes=0-", 0, LARGE),
        ("bytes=-1000", LARGE - 1000, LARGE),
    ];
    join_all(ranges.map(|(range, start, end)| {
        let (url, content) = (&url, &content);
        async move {
            let stream = http::open(url, &[("range", range)]).await;
            let mut stream = stream.expect("an answer");
            let compared = compare(&mut stream, content, start..end).await;
            assert_eq!(
                (stream.status, compared),
                (206, Compared::whole(end - start)),
                "{range}"
            );
        }
    }))
    .await;
    let several = http::get(&url, &[("range", "bytes=0-9,50000000-50000009")]).await;
    let several = several.expect("an answer");
    assert_eq!((several.status, several.complete), (206, true));
    assert!(
        several
            .body
            .windows(10)
            .any(|bytes| bytes == content.read(50 * MB..50 * MB + 10))
    );
    // Several clients at once.
    let crowd = join_all((0..4).map(|_| pull(&url, &content))).await;
    assert!(
        crowd.iter().all(|pulled| *pulled == whole(&content)),
        "{crowd:?}"
    );
    // No partial stays, and a blob that fits is kept.
    scene.until_idle().await;
    eventually("no partial stays", || {
        files(&scene.node.store().join("partial")).is_empty()
    })
    .await;
    assert!(!scene.committed(&digest));
    until_it_keeps_again(&scene).await;
    sound_blobs(scene.node.store());
}

/// Another program fills the disk, before a pull and in the middle of one, and frees it again.
#[tokio::test]
async fn a_disk_that_others_fill_is_used_again_when_there_is_room() {
    let Some((scene, tmpfs)) =
        small("a_disk_that_others_fill_is_used_again_when_there_is_room").await
    else {
        return;
    };
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, 5 * MB)]);
    let kept = scene.blob("a/b", &image.layers[0].digest);
    assert_eq!(
        pull(&kept, &image.layers[0].content).await,
        whole(&image.layers[0].content)
    );
    scene.until_committed(&image.layers[0].digest).await;
    // In the middle of a pull.
    let content = Content::synthetic(2, 30 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let gate = scene.fake.gate(Match::blob().reference(&digest), 5 * MB);
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    stream
        .read_exactly(4_000_000)
        .await
        .expect("the first bytes");
    gate.reached(1).await;
    let foreign = tmpfs.fill_up();
    gate.open();
    let rest = compare(&mut stream, &content, 4 * MB..30 * MB).await;
    assert_eq!(rest, Compared::whole(26 * MB));
    eventually("no partial stays", || {
        files(&scene.node.store().join("partial")).is_empty()
    })
    .await;
    // A whole image, manifest included, on a disk that is full from the start.
    let _ = fs::remove_file(&foreign);
    let foreign = tmpfs.fill_up();
    let image = image::build(
        &scene.fake,
        "a/b",
        "v2",
        &[LayerSpec::new(3, 5 * MB), LayerSpec::new(4, 10)],
    );
    for _ in 0..2 {
        let pulled = scene.door("a/b").pull("v2", &image).await;
        pulled.expect("an image");
    }
    assert!(is_failing(&scene).await);
    fs::remove_file(foreign).expect("our own file");
    until_it_keeps_again(&scene).await;
    sound_blobs(scene.node.store());
}

/// An ordinary node's disk is 80 % full, where the kubelet stops removing images. larder keeps something there, and
/// never so much that the kubelet begins again, at 16 % free. From 83 % on larder keeps nothing, and says so.
#[tokio::test]
async fn the_default_bounds_keep_something_on_an_ordinary_disk_and_leave_the_kubelet_its_share() {
    let test = "the_default_bounds_keep_something_on_an_ordinary_disk";
    let Some(tmpfs) = Tmpfs::mount(test, MIB) else {
        return;
    };
    let store = tmpfs.path().join("store");
    let scene = Scene::with(|node| node.store(store).shipped_min_free().log_level("info")).await;
    let disk = (MIB as usize) << 20;
    tmpfs.fill(disk / 100 * 80);
    let mut digests = Vec::new();
    for seed in 0..8 {
        let content = Content::synthetic(seed, 500_000);
        let digest = scene.fake.put_content("a/b", &content);
        let pulled = pull(&scene.blob("a/b", &digest), &content).await;
        assert_eq!(pulled, whole(&content));
        digests.push(digest);
    }
    scene.until_idle().await;
    let store = async || {
        let gc = scene.node.cli(&["gc"]).await;
        assert!(gc.status.success(), "{gc:?}");
        scene.node.admin("/status").await["store"].clone()
    };
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    let now = store().await;
    let kept = digests.iter().filter(|digest| scene.committed(digest));
    assert!(kept.count() >= 2, "larder keeps too little: {now}");
    assert!(
        number(&now["free_bytes"]) >= (MIB << 20) / 100 * 16,
        "the kubelet would remove images: {now}"
    );
    let capacity = number(&now["capacity_bytes"]);
    assert!(
        (number(&now["bytes"])..2_100_000).contains(&capacity),
        "{now}"
    );
    // Other programs take more.
    tmpfs.fill(disk / 100 * 84);
    let now = store().await;
    assert_eq!(
        (&now["blobs"], &now["capacity_bytes"]),
        (&0.into(), &0.into()),
        "{now}"
    );
    let status = scene.node.cli(&["status"]).await;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        text.contains("keeps nothing, because other files"),
        "{text}"
    );
    let doctor = scene.node.cli(&["doctor"]).await;
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        text.contains("disk: ") && text.contains("keeps nothing"),
        "{text}"
    );
}

/// A node whose disk is full starts, and serves.
#[tokio::test]
async fn a_start_on_a_full_disk() {
    let Some((mut scene, tmpfs)) = small("a_start_on_a_full_disk").await else {
        return;
    };
    let content = Content::synthetic(1, 5 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    assert_eq!(pull(&url, &content).await, whole(&content));
    scene.until_committed(&digest).await;
    let foreign = tmpfs.fill_up();
    scene.node.kill9().await;
    scene.node.restart().await;
    assert_eq!(pull(&url, &content).await, whole(&content));
    let other = Content::synthetic(2, 8 * MB);
    let digest = scene.fake.put_content("a/b", &other);
    assert_eq!(
        pull(&scene.blob("a/b", &digest), &other).await,
        whole(&other)
    );
    fs::remove_file(foreign).expect("our own file");
    until_it_keeps_again(&scene).await;
}

/// The same without an earlier store: larder makes one when there is room.
#[tokio::test]
async fn a_first_start_on_a_full_disk() {
    let test = "a_first_start_on_a_full_disk";
    let Some(tmpfs) = Tmpfs::mount(test, MIB) else {
        return;
    };
    let foreign = tmpfs.fill_up();
    let store = tmpfs.path().join("store");
    let mut scene = Scene::with(|node| node.store(store).log_level("info")).await;
    assert!(is_failing(&scene).await);
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, 5 * MB)]);
    for _ in 0..2 {
        let head = http::head(&scene.manifest("a/b", "v1"), &[]).await;
        assert_eq!(head.expect("an answer").status, 200);
        let by_digest = scene.manifest("a/b", &image.manifest_digest);
        let answer = http::get(&by_digest, &[]).await.expect("an answer");
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
        let layer = &image.layers[0];
        let url = scene.blob("a/b", &layer.digest);
        assert_eq!(pull(&url, &layer.content).await, whole(&layer.content));
    }
    fs::remove_file(foreign).expect("our own file");
    until_it_keeps_again(&scene).await;
    sound_blobs(scene.node.store());
    // The new store works like any other.
    let content = Content::synthetic(2, MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    assert_eq!(pull(&url, &content).await, whole(&content));
    scene.until_committed(&digest).await;
    scene.node.kill9().await;
    scene.node.restart().await;
    scene.fake.stop().await;
    assert!(scene.committed(&digest));
    assert!(!is_failing(&scene).await);
}

//! Blobs that are damaged on disk: at most one wrong answer, then right ones, and larder reports the finding (P11).

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use larder_tests::fake::{Content, digest_of};
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::machine::Machine;
use larder_tests::scene::{Compared, Scene, compare, eventually};

use super::{MB, path, pull, whole, writable};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flip,
    Cut,
    Empty,
    Grow,
    Remove,
}

const DAMAGES: [Damage; 5] = [
    Damage::Flip,
    Damage::Cut,
    Damage::Empty,
    Damage::Grow,
    Damage::Remove,
];

fn damage(path: &Path, how: Damage) {
    let file = writable(path);
    let len = file.metadata().expect("a file").len();
    match how {
        Damage::Flip => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, len / 2).expect("a byte");
            file.write_all_at(&[!byte[0]], len / 2).expect("a byte");
        }
        Damage::Cut => file.set_len(len - len / 3).expect("our own file"),
        Damage::Empty => file.set_len(0).expect("our own file"),
        Damage::Grow => file.write_all_at(b"more", len).expect("our own file"),
        Damage::Remove => fs::remove_file(path).expect("our own file"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// larder has served it from disk, so it has the file open.
    Open,
    /// It was fetched and not asked for again.
    Kept,
    /// larder is started afterwards.
    Restarted,
}

/// Pulls the same content until an answer is right; gives how many were wrong. A short answer counts as wrong.
async fn wrong_answers(url: &str, digest: &str) -> usize {
    let mut wrong = 0;
    loop {
        let answer = http::get_digest(url, &[]).await.expect("an answer");
        assert_eq!(answer.status, 200);
        if answer.error.is_none() && answer.digest == digest {
            return wrong;
        }
        wrong += 1;
        assert!(wrong < 5, "wrong again and again");
    }
}

async fn check(size: Option<u64>, how: Damage, when: When) {
    let case = format!("{size:?} {how:?} {when:?}");
    let mut scene = Scene::with(|node| node.log_level("info")).await;
    let (digest, url) = if let Some(size) = size {
        let digest = scene
            .fake
            .put_content("a/b", &Content::synthetic(size, size));
        let url = scene.blob("a/b", &digest);
        (digest, url)
    } else {
        let digest =
            scene
                .fake
                .put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{\"schemaVersion\":2}");
        let url = scene.manifest("a/b", &digest);
        (digest, url)
    };
    assert_eq!(wrong_answers(&url, &digest).await, 0, "{case}");
    scene.until_committed(&digest).await;
    scene.until_idle().await;
    let path = path(scene.node.store(), &digest);
    match when {
        When::Open => assert_eq!(wrong_answers(&url, &digest).await, 0, "{case}"),
        When::Kept => {}
        When::Restarted => {
            scene.node.terminate();
            scene.node.wait().await;
        }
    }
    damage(&path, how);
    if when == When::Restarted {
        scene.node.restart().await;
    }
    // No check can show a flipped byte before a client has been served it.
    let most = usize::from(how == Damage::Flip && size.is_some());
    let mut wrong = 0;
    for _ in 0..3 {
        wrong += wrong_answers(&url, &digest).await;
    }
    assert!(wrong <= most, "{case}: {wrong} wrong answers");
    // larder serves a manifest from memory for as long as it runs. A blob that was removed while larder was down is
    // simply missing.
    let found = match (size, when, how) {
        (None, When::Open | When::Kept, _) | (_, When::Restarted, Damage::Remove) => return,
        _ => scene.node.metric("larder_store_rotten_blobs_total").await,
    };
    assert_eq!(found, Some(1.0), "{case}");
    let hex = &digest["sha256:".len()..];
    let log = scene.node.log();
    assert!(
        log.lines()
            .any(|line| line.contains("damaged") && line.contains(hex)),
        "{case}: {log}"
    );
    eventually("it is here again, and right", || {
        fs::read(&path).is_ok_and(|bytes| digest_of(&bytes) == digest)
    })
    .await;
}

async fn check_all(size: Option<u64>) {
    for when in [When::Open, When::Kept, When::Restarted] {
        join_all(DAMAGES.map(|how| check(size, how, when))).await;
    }
}

#[tokio::test]
async fn a_large_blob_that_rots() {
    check_all(Some(20 * MB)).await;
}

#[tokio::test]
async fn a_blob_that_rots() {
    check_all(Some(300_000)).await;
}

#[tokio::test]
async fn a_small_blob_that_rots() {
    check_all(Some(5000)).await;
}

#[tokio::test]
async fn a_manifest_that_rots() {
    check_all(None).await;
}

/// A client that comes while larder checks a blob waits for the result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_on_a_rotten_blob() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let digest = scene
        .fake
        .put_content("a/b", &Content::synthetic(1, 200 * MB));
    let url = scene.blob("a/b", &digest);
    assert_eq!(wrong_answers(&url, &digest).await, 0);
    scene.until_committed(&digest).await;
    scene.until_idle().await;
    damage(&path(scene.node.store(), &digest), Damage::Flip);
    let answer = http::get_digest(&url, &[]).await.expect("an answer");
    assert!(
        answer.error.is_none() && answer.digest != digest,
        "the one wrong answer"
    );
    eventually("its connection is closed", || {
        scene.node.unread_and_open() == (0, 0)
    })
    .await;
    let ask = || {
        let url = url.clone();
        tokio::spawn(async move { http::get_digest(&url, &[]).await.expect("an answer") })
    };
    let mut crowd = vec![ask()];
    eventually("it is looked at", || scene.node.unread_and_open() == (0, 1)).await;
    crowd.extend((0..7).map(|_| ask()));
    for client in crowd {
        let answer = client.await.expect("no panic");
        assert_eq!((answer.status, answer.error), (200, None));
        assert_eq!(answer.digest, digest);
    }
    assert_eq!(
        scene.node.metric("larder_store_rotten_blobs_total").await,
        Some(1.0)
    );
}

/// Without the registry a rotten blob is missing, and larder says that.
#[tokio::test]
async fn rot_in_an_outage_is_not_served_again() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let digest = scene.fake.put_content("a/b", &Content::synthetic(1, MB));
    let url = scene.blob("a/b", &digest);
    assert_eq!(wrong_answers(&url, &digest).await, 0);
    scene.until_committed(&digest).await;
    scene.until_idle().await;
    scene.fake.stop().await;
    damage(&path(scene.node.store(), &digest), Damage::Flip);
    let answer = http::get_digest(&url, &[]).await.expect("an answer");
    assert!(answer.digest != digest, "the one wrong answer");
    for _ in 0..3 {
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    scene.fake.start_again().await;
    assert_eq!(wrong_answers(&url, &digest).await, 0);
}

/// larder checks a blob first that is asked for again at once, and a slow disk makes that check long.
#[tokio::test]
async fn a_look_at_a_blob_on_a_slow_disk_keeps_no_client_waiting() {
    let machine = Machine::new();
    let scene = Scene::with(|node| machine.runs(node).log_level("info")).await;
    let content = Content::synthetic(1, 20 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    for _ in 0..2 {
        assert_eq!(pull(&url, &content).await, whole(&content));
        scene.until_committed(&digest).await;
    }
    // A check of the whole blob would take 40 s; a client waits for 5.
    machine.slow_down(Duration::from_secs(2));
    let open = tokio::time::timeout(Duration::from_secs(5), http::open(&url, &[]));
    let mut stream = open.await.expect("in time").expect("an answer");
    assert_eq!(stream.status, 200);
    let compared = compare(&mut stream, &content, 0..content.len()).await;
    assert_eq!(compared, Compared::whole(content.len()));
}

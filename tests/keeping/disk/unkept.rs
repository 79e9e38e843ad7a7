//! Bytes that larder passes on without keeping them are verified all the same (P9).

use std::fs;

use larder_tests::fake::{Content, Fault, Match, Request, digest_of};
use larder_tests::http;
use larder_tests::scene::{Scene, compare};

use super::{LARGE, small};
use crate::{MB, pull, whole};

/// larder verifies bytes that it passes on without keeping them.
#[tokio::test]
async fn wrong_bytes_end_short_without_a_disk_too() {
    let Some((scene, _tmpfs)) = small("wrong_bytes_end_short_without_a_disk_too").await else {
        return;
    };
    let content = Content::synthetic(1, LARGE);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let at = 90 * MB;
    let wrong = scene.fake.fault(Match::blob(), Fault::WrongBytes { at });
    for range in [None, Some("bytes=0-"), Some("bytes=80000000-")] {
        let start = if range == Some("bytes=80000000-") {
            80 * MB
        } else {
            0
        };
        let headers = range.map(|range| ("range", range));
        let stream = http::open(&url, headers.as_slice()).await;
        let mut stream = stream.expect("an answer");
        let compared = compare(&mut stream, &content, start..LARGE).await;
        assert_eq!(compared.differs_at, Some(at - start), "{range:?}");
        assert!(compared.error.is_some(), "{range:?}: it looked whole");
        assert!(
            compared.len <= LARGE - start - 65_536,
            "{range:?}: the tail was held back"
        );
    }
    wrong.lift();
    assert_eq!(pull(&url, &content).await, whole(&content));
    // Small blobs are verified before their first byte leaves.
    let content = Content::synthetic(2, 5000);
    let digest = scene.fake.put_content("a/b", &content);
    let wrong = scene.fake.fault(Match::blob(), Fault::WrongBytes { at: 1 });
    let answer = http::get(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    wrong.lift();
    assert_eq!(
        pull(&scene.blob("a/b", &digest), &content).await,
        whole(&content)
    );
}

/// The first bytes leave before there is a file. When no file ever exists, the digest still covers the very bytes that
/// were sent, not later bytes of the source (P9).
#[tokio::test]
async fn what_was_sent_before_the_disk_failed_is_checked_too() {
    let mut short = 0;
    for seed in 0..10 {
        let scene = Scene::with(|node| node.log_level("info")).await;
        let partial = scene.node.store().join("partial/sha256");
        fs::remove_dir_all(&partial).expect("an empty directory");
        fs::write(&partial, "in the way").expect("a file");
        let content = Content::synthetic(seed, 20 * MB);
        let digest = scene.fake.put_content("a/b", &content);
        let once = Match::blob().method("GET").times(1);
        scene.fake.fault(once, Fault::WrongBytes { at: 1000 });
        let answer = http::get(&scene.blob("a/b", &digest), &[]).await;
        let answer = answer.expect("an answer");
        let right = digest_of(&answer.body) == digest;
        assert!(right || !answer.complete, "a complete answer that is wrong");
        short += u32::from(!answer.complete);
    }
    assert!(short > 0, "the wrong bytes were never sent");
}

/// A blob larger than the tier may be is not kept. From its middle on, larder fetches it a second time for its digest.
/// The digest covers the sent bytes only if both fetches brought the same bytes (P9).
#[tokio::test]
async fn what_is_sent_from_the_middle_without_a_disk_is_checked_too() {
    let scene = Scene::with(|node| node.config("[store]\nmax_size = \"1MB\"\n")).await;
    let content = Content::synthetic(1, 3 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let range = [("range", "bytes=1000000-")];
    let sent = |request: &Request| {
        let range = request.header("range");
        range.is_some_and(|range| range.starts_with("bytes=1000000-"))
    };
    let wrong = Fault::WrongBytes { at: 2 * MB };
    let wrong = scene.fake.fault(Match::blob().when(sent).times(1), wrong);
    let answer = http::get(&url, &range).await.expect("an answer");
    assert_eq!(
        (wrong.hits(), answer.status, answer.complete),
        (1, 206, false)
    );
    let answer = http::get(&url, &range).await.expect("an answer");
    assert!(answer.complete && answer.body == content.read(MB..3 * MB));
}

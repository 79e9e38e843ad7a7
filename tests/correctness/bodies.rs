//! Blobs that do not match their digest, or are incomplete (promise P9).

use larder_tests::fake::{Content, Fault, Match, digest_of, expected};
use larder_tests::http::{self, Broken};
use larder_tests::scene::{Scene, files};

const LEN: u64 = 3_000_000;

/// The blob is right, complete, and then kept.
async fn assert_right(scene: &Scene, case: &str, seed: u64, digest: &str) {
    let answer = http::get(&scene.blob("a/b", digest), &[]).await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, answer.error), (200, None), "{case}");
    assert!(answer.body == expected(seed, 0..LEN), "{case}");
    scene.until_committed(digest).await;
}

/// A GET whose head promises the whole body gets less than that, and nothing is committed.
async fn assert_ends_short(scene: &Scene, case: &str, digest: &str, range: Option<&str>) {
    let range = range.map(|range| ("range", range));
    let url = scene.blob("a/b", digest);
    let answer = http::get(&url, range.as_slice()).await;
    let answer = answer.unwrap_or_else(|error| panic!("{case}: {error:#}"));
    assert!(!scene.committed(digest), "{case}");
    if answer.status == 503 {
        // larder knew before the head left that the blob is wrong.
        assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE", "{case}");
        return;
    }
    assert!(
        matches!(answer.status, 200 | 206),
        "{case}: {}",
        answer.text()
    );
    assert_eq!(answer.error, Some(Broken::Fin), "{case}");
    let told: u64 = answer
        .header("content-length")
        .expect("a length")
        .parse()
        .expect("a number");
    assert!((answer.body.len() as u64) < told, "{case}");
}

#[tokio::test]
async fn wrong_bytes_are_never_committed_and_never_complete() {
    let scene = Scene::new().await;
    for (seed, at) in [(1, 0), (2, 1_500_000), (3, LEN - 1), (4, LEN - 70_000)] {
        for (range, seed) in [
            (None, seed),
            (Some("bytes=0-"), seed + 10),
            (Some("bytes=500000-"), seed + 20),
        ] {
            let case = format!("wrong at {at}, {range:?}");
            let digest = scene.fake.put_blob_of("a/b", seed, LEN);
            scene.fake.fault(Match::blob(), Fault::WrongBytes { at });
            for _ in 0..2 {
                assert_ends_short(&scene, &case, &digest, range).await;
            }
            scene.fake.clear_faults();
            assert_right(&scene, &case, seed, &digest).await;
        }
    }
    // The wrong blob has left nothing behind.
    let partials = files(&scene.node.store().join("partial"));
    assert!(partials.is_empty(), "{partials:?}");
}

#[tokio::test]
async fn another_blob_under_the_digest() {
    let scene = Scene::new().await;
    let digest = Content::synthetic(1, LEN).digest(larder_tests::fake::Algorithm::Sha256);
    for size in [LEN, LEN - 1, LEN + 1, 100_000] {
        scene
            .fake
            .put_blob_under("a/b", &digest, &Content::synthetic(2, size));
        // Head and failure may fall into one write: even then the client must see the head.
        for _ in 0..5 {
            assert_ends_short(&scene, &format!("{size} other bytes"), &digest, None).await;
        }
    }
    scene
        .fake
        .put_blob_under("a/b", &digest, &Content::synthetic(1, LEN));
    assert_right(&scene, "the right one again", 1, &digest).await;
}

/// No reader of a wrong fill gets a complete body: all of them end short.
#[tokio::test]
async fn no_reader_of_a_wrong_fill_gets_it_whole() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, LEN);
    scene
        .fake
        .fault(Match::blob(), Fault::WrongBytes { at: 2_000_000 });
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut readers = Vec::new();
    for range in ["bytes=0-", "bytes=100000-", "bytes=2900000-", "lines=1"] {
        let stream = http::open(&scene.blob("a/b", &digest), &[("range", range)]).await;
        readers.push(stream.expect("an answer"));
    }
    gate.reached(1).await;
    gate.open();
    for reader in readers {
        assert_eq!(reader.rest().await.error, Some(Broken::Fin));
    }
    assert!(!scene.committed(&digest));
    scene.fake.clear_faults();
    assert_right(&scene, "after it", 1, &digest).await;
}

#[tokio::test]
async fn small_blobs_with_wrong_bytes_are_an_error_before_any_byte() {
    let scene = Scene::new().await;
    for (seed, size) in [(1, 1), (2, 1000), (3, 65_536)] {
        let digest = scene.fake.put_blob_of("a/b", seed, size);
        scene
            .fake
            .fault(Match::blob(), Fault::WrongBytes { at: size / 2 });
        let url = scene.blob("a/b", &digest);
        for range in [
            None,
            Some(("range", "bytes=0-0")),
            Some(("range", "bytes=0-")),
        ] {
            let answer = http::get(&url, range.as_slice()).await.expect("an answer");
            assert_eq!(answer.status, 503, "{size} {range:?}");
            assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE");
            assert!(!scene.committed(&digest));
        }
        scene.fake.clear_faults();
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(
            (answer.status, digest_of(&answer.body)),
            (200, digest.clone())
        );
        scene.until_committed(&digest).await;
    }
}

/// larder believes a registry's wrong length only for the request at hand.
#[tokio::test]
async fn wrong_lengths_do_no_lasting_harm() {
    let scene = Scene::new().await;
    let cases = [
        (1, 10, true),
        (2, -10, true),
        (3, 10, false),
        (4, -10, false),
        (5, 5_000_000, true),
    ];
    let cases = cases.map(async |(seed, by, whole)| {
        let case = format!("{by} bytes more, ranges ignored: {whole}");
        let digest = scene.fake.put_blob_of("a/b", seed, LEN);
        let blob = || Match::blob().reference(&digest);
        let mut faults = vec![scene.fake.fault(blob(), Fault::WrongLength(by))];
        if whole {
            faults.push(scene.fake.fault(blob(), Fault::IgnoreRange));
        }
        let answer = http::get(&scene.blob("a/b", &digest), &[])
            .await
            .expect("an answer");
        // Ranges show the true length, and so the blob may well be right.
        let right =
            answer.complete && answer.status == 200 && answer.body == expected(seed, 0..LEN);
        let short = matches!(answer.error, Some(Broken::Fin)) || answer.status == 503;
        assert!(
            short || (right && !whole),
            "{case}: {} {:?}",
            answer.status,
            answer.error
        );
        assert!(right || !scene.committed(&digest), "{case}");
        faults.iter().for_each(larder_tests::fake::Armed::lift);
        assert_right(&scene, &case, seed, &digest).await;
    });
    futures_util::future::join_all(cases).await;
}

/// Sources that break off and do not come back. larder retries a truncated or reset body for 5 s before it ends, a
/// stalled one for 20 s.
#[tokio::test]
async fn a_source_that_does_not_come_back_ends_the_body_by_fin() {
    let scene = Scene::new().await;
    let faults = [
        (
            Fault::TruncateAfter(1_000_000),
            Fault::TruncateAfter(0),
            5..9,
        ),
        (Fault::ResetAfter(1_000_000), Fault::ResetAfter(0), 5..9),
        (Fault::TruncateAfter(1_000_000), Fault::status(500), 5..9),
        (Fault::TruncateAfter(1_000_000), Fault::status(404), 5..9),
        (Fault::StallAfter(1_000_000), Fault::StallAfter(0), 19..27),
    ];
    let cases = faults
        .into_iter()
        .zip(1..)
        .map(async |((first, then, seconds), seed)| {
            let case = format!("{first:?}, then {then:?}");
            let digest = scene.fake.put_blob_of("a/b", seed, LEN);
            let blob = || Match::blob().reference(&digest);
            let from_start = |request: &larder_tests::fake::Request| {
                request
                    .header("range")
                    .is_some_and(|range| range.starts_with("bytes=0-"))
            };
            let armed = [
                scene.fake.fault(blob().when(from_start), first),
                scene
                    .fake
                    .fault(blob().when(move |request| !from_start(request)), then),
            ];
            let start = std::time::Instant::now();
            let answer = http::get(&scene.blob("a/b", &digest), &[])
                .await
                .expect("an answer");
            let took = start.elapsed().as_secs();
            assert_eq!(
                (answer.status, answer.error),
                (200, Some(Broken::Fin)),
                "{case}"
            );
            assert!(
                answer.body == expected(seed, 0..1_000_000),
                "{case}: {}",
                answer.body.len()
            );
            assert!(seconds.contains(&took), "{case}: {took} s");
            assert!(!scene.committed(&digest), "{case}");
            armed.iter().for_each(larder_tests::fake::Armed::lift);
            // The client resumes, as containerd does, and then pulls anew.
            let range = [("range", "bytes=1000000-")];
            let answer = http::get(&scene.blob("a/b", &digest), &range)
                .await
                .expect("an answer");
            assert_eq!((answer.status, answer.error), (206, None), "{case}");
            assert!(answer.body == expected(seed, 1_000_000..LEN), "{case}");
            assert_right(&scene, &case, seed, &digest).await;
            let sent = scene.fake.blob_bytes_sent(&digest);
            assert!(
                sent <= LEN + LEN / 20,
                "{case}: what had come was kept, {sent}"
            );
        });
    futures_util::future::join_all(cases).await;
}

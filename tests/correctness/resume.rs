//! When a stream breaks once, larder resumes it with a Range, and the client does not notice (promise P14).

use std::time::{Duration, Instant};

use larder_tests::fake::{Algorithm, Content, Fault, Gate, Match, Request};
use larder_tests::http;
use larder_tests::scene::{Compared, Scene, compare, eventually};

async fn assert_unnoticed(scene: &Scene, seed: u64, size: u64, fault: Fault, more: &[Fault]) {
    let case = format!("{size} bytes, {fault:?} {more:?}");
    let content = Content::synthetic(seed, size);
    let digest = scene
        .fake
        .put_content_as("a/b", Algorithm::Sha256, &content);
    let blob = || Match::blob().reference(&digest);
    let armed = scene.fake.fault(blob().times(1), fault);
    let more: Vec<_> = more
        .iter()
        .map(|fault| scene.fake.fault(blob(), fault.clone()))
        .collect();
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    assert_eq!(stream.status, 200, "{case}");
    assert_eq!(
        compare(&mut stream, &content, 0..size).await,
        Compared::whole(size),
        "{case}"
    );
    assert_eq!(armed.hits(), 1, "{case}");
    assert!(more.iter().all(|armed| armed.hits() > 0), "{case}");
    let sent = scene.fake.blob_bytes_sent(&digest);
    // A source without ranges has to send the beginning again.
    let most = if more.is_empty() {
        size + size / 20
    } else {
        2 * size
    };
    assert!(sent <= most, "{case}: {sent}");
    scene.until_committed(&digest).await;
}

#[tokio::test]
async fn one_break_is_not_noticed() {
    let scene = Scene::new().await;
    let mb = 1_000_000;
    let cases = [
        (3 * mb, Fault::TruncateAfter(mb)),
        (3 * mb, Fault::TruncateAfter(1)),
        (3 * mb, Fault::TruncateAfter(0)),
        (3 * mb, Fault::TruncateAfter(3 * mb - 1)),
        (3 * mb, Fault::ResetAfter(mb)),
        (3 * mb, Fault::StallAfter(mb)),
        (60 * mb, Fault::TruncateAfter(2 * mb)),
        (60 * mb, Fault::ResetAfter(2 * mb)),
        (60 * mb, Fault::StallAfter(2 * mb)),
    ];
    let cases = cases.into_iter().zip(1..);
    let cases = cases.map(|((size, fault), seed)| assert_unnoticed(&scene, seed, size, fault, &[]));
    futures_util::future::join_all(cases).await;
    // The same where the source answers every request with the whole blob.
    let whole = [Fault::IgnoreRange];
    assert_unnoticed(&scene, 20, 3 * mb, Fault::TruncateAfter(mb), &whole).await;
    assert_unnoticed(&scene, 21, 3 * mb, Fault::ResetAfter(mb), &whole).await;
}

/// larder resumes as often as needed, while every attempt brings some bytes.
#[tokio::test]
async fn many_breaks_are_not_noticed_either() {
    let scene = Scene::new().await;
    let size = 6_000_000;
    let content = Content::synthetic(1, size);
    let digest = scene
        .fake
        .put_content_as("a/b", Algorithm::Sha256, &content);
    let armed = scene
        .fake
        .fault(Match::blob(), Fault::TruncateAfter(300_000));
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    assert_eq!(
        compare(&mut stream, &content, 0..size).await,
        Compared::whole(size)
    );
    assert!(armed.hits() >= 20, "{}", armed.hits());
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent <= size + size / 20, "{sent}");
}

/// A registry that stops, and is back within 5 s.
#[tokio::test]
async fn a_restart_of_the_registry_is_not_noticed() {
    let scene = Scene::new().await;
    let size = 3_000_000;
    let content = Content::synthetic(1, size);
    let digest = scene
        .fake
        .put_content_as("a/b", Algorithm::Sha256, &content);
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    gate.reached(1).await;
    scene.fake.stop().await;
    gate.open();
    let first = stream.read_exactly(1_000_000).await.expect("what had come");
    assert!(*first == content.read(0..1_000_000));
    scene.fake.start_again().await;
    let rest = compare(&mut stream, &content, 1_000_000..size).await;
    assert_eq!(rest, Compared::whole(size - 1_000_000));
}

/// Waits until a fill has so many readers.
async fn until_read_by(scene: &Scene, readers: u64) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let status = scene.node.admin("/status").await;
        if status["fills"][0]["readers"].as_u64() == Some(readers) {
            return;
        }
        assert!(Instant::now() < deadline, "not {readers}: {status}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One repository fails for a moment, and another one supplies the blob. A client that pulls from the first repository
/// is served, since that is known to hold the blob.
#[tokio::test]
async fn a_failure_that_is_over_refuses_nobody() {
    let scene = Scene::new().await;
    let content = Content::synthetic(1, 3_000_000);
    let digest = scene.fake.put_content("a/b", &content);
    scene.fake.put_blob_under("c/d", &digest, &content);
    let [first, second] = ["a/b", "c/d"].map(|repository| scene.blob(repository, &digest));
    for url in [&first, &second] {
        let answer = http::get_digest(url, &[]).await.expect("an answer");
        assert_eq!(answer.digest, digest);
    }
    scene.until_idle().await;
    let hex = &digest["sha256:".len()..];
    let kept = format!("blobs/sha256/{}/{hex}", &hex[..2]);
    std::fs::remove_file(scene.node.store().join(kept)).expect("the blob");
    let of = |repository| Match::blob().repository(repository).method("GET");
    let held = Gate::new(0);
    scene
        .fake
        .fault(of("a/b").times(1), Fault::Hold(held.clone()));
    // By range, by range again, and plainly.
    scene.fake.fault(of("a/b").times(3), Fault::status(503));
    let gate = scene.fake.gate(of("c/d"), 1_000_000);
    let pull = |url: &str| {
        let url = url.to_owned();
        tokio::spawn(async move { http::get_digest(&url, &[]).await })
    };
    let mut readers = vec![pull(&first)];
    held.reached(1).await;
    readers.push(pull(&second));
    until_read_by(&scene, 2).await;
    held.open();
    gate.reached(1).await;
    readers.push(pull(&first));
    until_read_by(&scene, 3).await;
    gate.open();
    for reader in readers {
        let answer = reader.await.expect("no panic").expect("an answer");
        assert_eq!((answer.status, &answer.digest), (200, &digest));
    }
}

/// An old failure, for a reader that has left, does not shorten the time that the next reader waits.
#[tokio::test]
async fn an_old_failure_does_not_count() {
    let scene = Scene::new().await;
    let mb = 1_000_000;
    let content = Content::synthetic(1, 60 * mb);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let beyond = |start: u64| {
        Match::blob().when(move |request: &Request| {
            let range = request
                .header("range")
                .and_then(|r| r.strip_prefix("bytes="));
            let first = range.and_then(|range| range.split('-').next()?.parse::<u64>().ok());
            // Where a range fails, larder asks for the whole blob.
            first.is_none_or(|first| first > start)
        })
    };
    // A slow client reads bytes that have long arrived, so that the fill lives on.
    let mut slow = http::open(&url, &[("range", "bytes=0-29999999")])
        .await
        .expect("an answer");
    slow.read_exactly(1).await.expect("the first byte");
    eventually("it is all here", || {
        scene.fake.blob_bytes_sent(&digest) >= 30 * mb
    })
    .await;
    let failing = scene.fake.fault(beyond(29_000_000), Fault::status(500));
    let mut leaves = http::open(&url, &[("range", "bytes=29999990-50000000")])
        .await
        .expect("an answer");
    leaves.read_exactly(10).await.expect("what is here");
    eventually("it fails", || failing.hits() > 0).await;
    leaves.close();
    // Longer than larder's patience with errors.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    failing.lift();
    let once = scene
        .fake
        .fault(beyond(39_000_000).times(1), Fault::status(500));
    let later = http::get(&url, &[("range", "bytes=40000000-40000009")])
        .await
        .expect("an answer");
    assert_eq!((once.hits(), later.status, &later.error), (1, 206, &None));
    assert!(later.body == content.read(40 * mb..40 * mb + 10));
    drop(slow);
}

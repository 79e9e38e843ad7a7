//! Clients that pull the same content at once cause one download, and one that leaves disturbs no other (promise P5).

use std::time::Duration;

use larder_tests::fake::{Algorithm, Content, Fault, Gate, Match};
use larder_tests::http::{self, Stream};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::scene::{Compared, Scene, compare};

const MB: u64 = 1_000_000;

async fn open(url: &str) -> Stream {
    let stream = http::open(url, &[]).await.expect("an answer");
    assert_eq!(stream.status, 200);
    stream
}

/// 32 clients: one of them is slow, and one leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_on_a_cold_blob_causes_one_download() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let size = 600 * MB;
    let content = Content::synthetic(7, size);
    let digest = scene
        .fake
        .put_content_as("a/b", Algorithm::Sha256, &content);
    let url = scene.blob("a/b", &digest);
    let crowd: Vec<_> = (0..30)
        .map(|_| {
            let (url, content) = (url.clone(), content.clone());
            tokio::spawn(async move { compare(&mut open(&url).await, &content, 0..size).await })
        })
        .collect();
    let slow = {
        let (url, content) = (url.clone(), content.clone());
        let (hurry, mut hurried) = tokio::sync::oneshot::channel::<()>();
        let reading = tokio::spawn(async move {
            let mut stream = open(&url).await;
            let mut read = 0;
            // About 1 MB/s, until the others are done.
            while hurried.try_recv().is_err() {
                let bytes = stream.read_exactly(10_000).await.expect("10 kB");
                assert!(*bytes == content.read(read..read + 10_000));
                read += 10_000;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let rest = compare(&mut stream, &content, read..size).await;
            (read, rest)
        });
        (hurry, reading)
    };
    let mut leaves = open(&url).await;
    let bytes = leaves.read_exactly(10 * MB as usize).await.expect("10 MB");
    assert!(*bytes == content.read(0..10 * MB));
    leaves.close();
    for client in crowd {
        assert_eq!(client.await.expect("no panic"), Compared::whole(size));
    }
    slow.0.send(()).expect("it still reads");
    let (read, rest) = slow.1.await.expect("no panic");
    assert!(read < size, "it was not slow");
    assert_eq!(rest, Compared::whole(size - read));
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent >= size && sent <= size + size / 50, "{sent} of {size}");
    scene.until_committed(&digest).await;
}

#[tokio::test]
async fn when_all_leave_a_whole_fill_still_completes() {
    let scene = Scene::new().await;
    // Larger than all that may be under way when the clients leave.
    let size = 300 * MB;
    let digest = scene.fake.put_blob_of("a/b", 1, size);
    let gate = scene.fake.gate(Match::blob(), 2 * MB);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut stream = open(&scene.blob("a/b", &digest)).await;
        stream.read_exactly(MB as usize).await.expect("1 MB");
        clients.push(stream);
    }
    gate.reached(1).await;
    clients.into_iter().for_each(Stream::close);
    scene.until_unread().await;
    assert!(!scene.committed(&digest));
    gate.open();
    scene.until_committed(&digest).await;
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent >= size && sent <= size + size / 50, "{sent} of {size}");
    scene.fake.stop().await;
    let answer = http::get_digest(&scene.blob("a/b", &digest), &[]).await;
    let answer = answer.expect("an answer");
    assert_eq!(
        (answer.status, answer.error, answer.digest),
        (200, None, digest)
    );
}

#[tokio::test]
async fn a_crowd_on_a_manifest_asks_once() {
    let scene = Scene::new().await;
    scene
        .fake
        .put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{}");
    let by_digest = scene.fake.put_manifest("a/b", None, OCI_MANIFEST, "{ }");
    for (reference, text) in [("v1", "{}"), (&*by_digest, "{ }")] {
        scene.fake.reset_counts();
        let gate = Gate::new(0);
        let armed = scene
            .fake
            .fault(Match::manifest(), Fault::Hold(gate.clone()));
        let url = scene.manifest("a/b", reference);
        let crowd: Vec<_> = (0..16)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move { http::get(&url, &[]).await.expect("an answer") })
            })
            .collect();
        gate.reached(1).await;
        gate.open();
        armed.lift();
        for client in crowd {
            let answer = client.await.expect("no panic");
            assert_eq!((answer.status, answer.text()), (200, text.to_owned()));
        }
        // A client that came too late to share the request finds the manifest here.
        assert_eq!(scene.fetches(), 1, "{reference}");
    }
}

/// While larder asks one of two repositories whether it holds the blob, the other repository's fill ends.
#[tokio::test]
async fn a_blob_that_comes_while_a_right_to_it_is_proven_is_not_fetched_again() {
    let scene = Scene::new().await;
    let content = Content::synthetic(1, MB);
    let digest = scene.fake.put_content("a/b", &content);
    scene.fake.put_blob_under("c/d", &digest, &content);
    // A fill is under way, so the other repository has to prove that it holds the blob. The gate makes that slow.
    let under_way = scene.fake.gate(Match::blob().repository("a/b"), 100_000);
    let proof = Gate::new(0);
    scene.fake.fault(
        Match::blob().repository("c/d").method("GET"),
        Fault::Hold(proof.clone()),
    );
    let first = scene.blob("a/b", &digest);
    let first = tokio::spawn(async move { http::get_digest(&first, &[]).await });
    under_way.reached(1).await;
    let second = scene.blob("c/d", &digest);
    let second = tokio::spawn(async move { http::get_digest(&second, &[]).await });
    proof.reached(1).await;
    under_way.open();
    let first = first.await.expect("no panic").expect("an answer");
    assert_eq!((first.status, &first.digest), (200, &digest));
    scene.until_committed(&digest).await;
    scene.until_idle().await;
    proof.open();
    let second = second.await.expect("no panic").expect("an answer");
    assert_eq!((second.status, &second.digest), (200, &digest));
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent <= MB * 102 / 100, "{sent}");
    let proofs = scene.fake.count(|seen| seen.repository == "c/d");
    assert_eq!(proofs, 1, "once is enough");
}

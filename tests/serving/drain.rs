//! SIGTERM: bodies in flight finish, new connections are refused, the end is a success.

use std::time::Duration;

use larder_tests::fake::{Algorithm, Content, Match};
use larder_tests::http;
use larder_tests::scene::{Compared, Scene, compare};

const LEN: u64 = 30_000_000;

/// Waits until nobody accepts connections at this address any more.
async fn refused(url: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let Err(error) = http::get(url, &[]).await else {
            assert!(tokio::time::Instant::now() < deadline, "still answered");
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        // A connection of the old queue may be closed without an answer.
        let cause = error.root_cause().downcast_ref::<std::io::Error>();
        if cause.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{error:#}");
    }
}

#[tokio::test]
async fn bodies_in_flight_finish() {
    let mut scene = Scene::new().await;
    let content = Content::synthetic(1, LEN);
    let cold = scene
        .fake
        .put_content_as("a/b", Algorithm::Sha256, &content);
    let warm = scene.fake.put_blob_of("a/b", 2, LEN);
    let answer = http::get_digest(&scene.blob("a/b", &warm), &[]).await;
    assert_eq!(answer.expect("an answer").digest, warm);
    scene.until_committed(&warm).await;

    // One that is still coming in, and one that waits for its client.
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut growing = http::open(&scene.blob("a/b", &cold), &[])
        .await
        .expect("an answer");
    gate.reached(1).await;
    let mut stored = http::open(&scene.blob("a/b", &warm), &[])
        .await
        .expect("an answer");
    let (ping, blob) = (
        format!("{}/v2/", scene.node.url()),
        scene.blob("a/b", &cold),
    );
    scene.node.terminate();
    refused(&ping).await;
    assert!(scene.node.ended().is_none(), "it waits for its clients");
    gate.open();
    assert_eq!(
        compare(&mut growing, &content, 0..LEN).await,
        Compared::whole(LEN)
    );
    let second = Content::synthetic(2, LEN);
    assert_eq!(
        compare(&mut stored, &second, 0..LEN).await,
        Compared::whole(LEN)
    );
    assert_eq!(scene.node.wait().await.code(), Some(0));
    assert!(http::get(&blob, &[]).await.is_err());

    // What was pulled meanwhile is kept, or at least gone on with.
    scene.fake.clear_faults();
    scene.fake.reset_counts();
    scene.node.restart().await;
    let answer = http::get_digest(&scene.blob("a/b", &cold), &[]).await;
    assert_eq!(answer.expect("an answer").digest, cold);
    assert_eq!(
        scene.fake.blob_bytes_sent(&cold),
        0,
        "every byte had come before the end"
    );
}

#[tokio::test]
async fn idle_connections_hold_up_nothing() {
    let mut scene = Scene::new().await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(
            tokio::net::TcpStream::connect(scene.node.addr())
                .await
                .expect("a connection"),
        );
    }
    let start = std::time::Instant::now();
    scene.node.terminate();
    assert_eq!(scene.node.wait().await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert!(!scene.node.socket().exists(), "its socket is gone");
}

/// A client that never reads cannot hold up a second signal.
#[tokio::test]
async fn a_second_signal_means_now() {
    let mut scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, LEN);
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    gate.reached(1).await;
    let first = stream.read_exactly(1_000_000).await;
    assert!(first.is_ok(), "what had come is sent on");
    let ping = format!("{}/v2/", scene.node.url());
    scene.node.terminate();
    refused(&ping).await;
    let start = std::time::Instant::now();
    scene.node.terminate();
    assert_eq!(scene.node.wait().await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert!(stream.next_chunk().await.is_err());
    // What had come is gone on with.
    gate.open();
    scene.fake.reset_counts();
    scene.node.restart().await;
    let answer = http::get_digest(&scene.blob("a/b", &digest), &[]).await;
    assert_eq!(answer.expect("an answer").digest, digest);
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent <= LEN - 900_000, "{sent}");
}

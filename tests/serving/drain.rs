//! SIGTERM: readiness ends at once, bodies in flight finish, then larder refuses connections and exits with 0.

use std::io::ErrorKind;
use std::time::Duration;

use larder_tests::fake::{Algorithm, Content, Match};
use larder_tests::http;
use larder_tests::scene::{Compared, Scene, compare};
use tokio::net::TcpStream;

const LEN: u64 = 30_000_000;

/// Waits until this address accepts no connections. It sends no request, since requests keep the port open.
async fn refused(addr: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(addr).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            other => assert!(
                tokio::time::Instant::now() < deadline,
                "still open: {other:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until larder has received the signal.
async fn told(scene: &Scene) {
    let ready = format!("http://{}/readyz", scene.node.telemetry());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while http::get(&ready, &[]).await.expect("an answer").status != 503 {
        assert!(tokio::time::Instant::now() < deadline, "still ready");
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

    // One body still comes in, and one waits for its client.
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut growing = http::open(&scene.blob("a/b", &cold), &[])
        .await
        .expect("an answer");
    gate.reached(1).await;
    let mut stored = http::open(&scene.blob("a/b", &warm), &[])
        .await
        .expect("an answer");
    let blob = scene.blob("a/b", &cold);
    scene.node.terminate();
    told(&scene).await;
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

    // Blobs that were pulled meanwhile are kept, or at least resumed.
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
            TcpStream::connect(scene.node.addr())
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

/// A client that never reads cannot delay the exit after a second signal.
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
    scene.node.terminate();
    told(&scene).await;
    let start = std::time::Instant::now();
    scene.node.terminate();
    assert_eq!(scene.node.wait().await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert!(stream.next_chunk().await.is_err());
    // The received part is resumed.
    gate.open();
    scene.fake.reset_counts();
    scene.node.restart().await;
    let answer = http::get_digest(&scene.blob("a/b", &digest), &[]).await;
    assert_eq!(answer.expect("an answer").digest, digest);
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent <= LEN - 900_000, "{sent}");
}

/// A client that does not fall back pulls in pieces. While its requests come, larder answers them, although the probes
/// already send no client here.
#[tokio::test]
async fn probes_are_told_at_once_and_a_pull_goes_on() {
    let mut scene = Scene::new().await;
    let small = scene.fake.put_blob_of("a/b", 2, 1000);
    let probe = |path: &str| format!("http://{}{path}", scene.node.telemetry());
    let (ready, alive) = (probe("/readyz"), probe("/livez"));
    assert_eq!(http::get(&ready, &[]).await.expect("ready").status, 200);

    let next = scene.blob("a/b", &small);
    let pulling = {
        let next = next.clone();
        tokio::spawn(async move {
            let mut told = 0;
            while let Ok(answer) = http::get(&next, &[]).await {
                assert_eq!(answer.status, 200);
                told += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            told
        })
    };
    let answer = http::get(&next, &[]).await.expect("a piece");
    assert_eq!(answer.status, 200);
    scene.node.terminate();
    told(&scene).await;
    let answer = http::get(&next, &[]).await.expect("the next piece");
    assert_eq!(answer.status, 200);
    assert_eq!(http::get(&alive, &[]).await.expect("alive").status, 200);
    // That has an end: larder finally refuses a client that goes on and on.
    assert_eq!(
        scene.node.wait_for(Duration::from_secs(40)).await.code(),
        Some(0)
    );
    assert!(pulling.await.expect("no panic") > 0);
}

/// Once a layer has begun, containerd asks only the first host for its chunks. The port stays open for them while a
/// body is in flight, long after the last request.
#[tokio::test]
async fn the_next_chunk_is_answered_while_a_body_is_in_flight() {
    let mut scene = Scene::new().await;
    let content = Content::synthetic(1, LEN);
    let digest = scene
        .fake
        .put_content_as("a/b", Algorithm::Sha256, &content);
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut growing = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    gate.reached(1).await;
    let addr = scene.node.addr().to_owned();
    scene.node.terminate();
    told(&scene).await;
    // Seconds without a request, as when a client unpacks or is slow.
    let quiet = tokio::time::Instant::now() + Duration::from_secs(2);
    while tokio::time::Instant::now() < quiet {
        let open = TcpStream::connect(&addr).await;
        assert!(open.is_ok(), "the port is closed while a body is in flight");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let url = scene.blob("a/b", &digest);
    let chunk = http::open(&url, &[("range", "bytes=8000000-8999999")]);
    gate.open();
    let mut chunk = chunk.await.expect("the next chunk");
    assert_eq!(chunk.status, 206);
    let compared = compare(&mut chunk, &content, 8_000_000..9_000_000).await;
    assert_eq!(compared, Compared::whole(1_000_000));
    let whole = compare(&mut growing, &content, 0..LEN).await;
    assert_eq!(whole, Compared::whole(LEN));
    // No body is in flight any more.
    refused(&addr).await;
    assert_eq!(scene.node.wait().await.code(), Some(0));
}

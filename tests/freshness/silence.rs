//! larder no longer waits for a registry that fails again and again (P14): the circuit breaker, seen from outside.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::{Fault, Gate, Match, digest_of};
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{OLD, REPOSITORY, Tagged, is_stale};

/// Failures in a row after which an endpoint is avoided.
const FAILURES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_failures_a_cached_tag_is_served_without_waiting() {
    const TIMEOUT: Duration = Duration::from_millis(1500);
    let tagged = Tagged::new("[tags]\ntimeout = \"1500ms\"").await;
    let tags: Vec<String> = (0..FAILURES).map(|i| format!("t{i}")).collect();
    for tag in &tags {
        tagged.fake.retag(REPOSITORY, tag, &tagged.old);
        assert_eq!(tagged.get(tag).await.status, 200);
    }
    tagged.fake.reset_counts();
    let gate = Gate::new(0);
    let armed = tagged.fake.fault(Match::any(), Fault::Hold(gate.clone()));
    let begun = Instant::now();
    for answer in join_all(tags.iter().map(|tag| tagged.get(tag))).await {
        assert!(is_stale(&answer));
    }
    assert!(begun.elapsed() >= TIMEOUT, "they waited");
    assert_eq!(tagged.asked("HEAD"), FAILURES);
    // larder knows of the silence now.
    let begun = Instant::now();
    assert!(is_stale(&tagged.get("v1").await));
    let took = begun.elapsed();
    assert!(took < TIMEOUT / 3, "{took:?}");
    assert_eq!(tagged.asked("HEAD"), FAILURES);
    // A request for content that is not here goes through: no stale answer can stand in.
    let probe = tokio::spawn({
        let url = tagged.url("v2");
        async move { larder_tests::http::get(&url, &[]).await.expect("an answer") }
    });
    gate.reached(1).await;
    armed.lift();
    gate.open();
    assert_eq!(probe.await.expect("no panic").status, 404);
    // The registry answered that: larder asks it as before.
    assert!(!is_stale(&tagged.get("v1").await));
}

#[tokio::test]
async fn a_registry_that_is_back_is_found_out() {
    let tagged = Tagged::new("").await;
    tagged.fake.stop().await;
    for _ in 0..FAILURES * 4 {
        assert!(is_stale(&tagged.get("v1").await));
    }
    tagged.fake.start_again().await;
    let begun = Instant::now();
    tagged
        .until("it is asked again", |answer| !is_stale(answer))
        .await;
    // The first pause is about a second, and the second one twice that.
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn while_it_is_avoided_few_questions_reach_it() {
    let tagged = Tagged::new("").await;
    tagged.fake.fault(Match::any(), Fault::status(500));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(is_stale(&tagged.get("v1").await));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The failures that open the breaker, and a probe after each pause of about 1, 2, 4 … s.
    let asked = tagged.asked("HEAD");
    assert!((FAILURES + 1..=FAILURES + 4).contains(&asked), "{asked}");
}

/// Answers one request, and closes the connection when the second one comes, as if its idle time had just ended.
async fn answer_once(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let body = if head.starts_with(b"HEAD") { "" } else { OLD };
    let (length, digest) = (OLD.len(), digest_of(OLD.as_bytes()));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {OCI_MANIFEST}\r\nContent-Length: {length}\r\n\
         Docker-Content-Digest: {digest}\r\n\r\n{body}"
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.read(&mut [0; 10_000]).await;
}

#[tokio::test]
async fn a_connection_that_ends_when_it_is_used_again_is_no_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_once(stream));
        }
    });
    let node = Node::builder()
        .upstream_at(&host, &format!("http://{host}"))
        .start()
        .await;
    let url = format!("{}/v2/{REPOSITORY}/manifests/v1?ns={host}", node.url());
    for _ in 0..6 {
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, OLD.to_owned()));
        assert!(!is_stale(&answer));
        // Until the connection is back in the pool.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

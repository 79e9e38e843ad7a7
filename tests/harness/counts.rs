//! The fake's counts are exact.

use std::time::{Duration, Instant};

use larder_tests::fake::{FakeRegistry, Fault, Kind, Match};
use larder_tests::http;

#[tokio::test]
async fn every_request_and_byte_is_in_the_books() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob_of("a/b", 2, 1_000_000);
    let url = format!("{}/v2/a/b/blobs/{digest}?ns=example.org", fake.url());
    let headers = [
        ("accept", "text/a"),
        ("accept", "text/b"),
        ("authorization", "Bearer x"),
        ("range", "bytes=10-109"),
    ];
    http::get(&url, &headers).await.expect("an answer");
    http::get(&url, &[]).await.expect("an answer");
    http::head(&url, &[]).await.expect("an answer");
    fake.fault(Match::blob().times(1), Fault::TruncateAfter(400));
    http::get(&url, &[]).await.expect("an answer");
    http::get(&format!("{}/v2/a/b/manifests/x", fake.url()), &[])
        .await
        .expect("an answer");

    let requests = fake.requests();
    assert_eq!(requests.len(), 5);
    let first = &requests[0];
    assert_eq!((first.method.as_str(), first.status), ("GET", 206));
    assert_eq!(first.path, format!("/v2/a/b/blobs/{digest}"));
    assert_eq!(first.query.as_deref(), Some("ns=example.org"));
    assert_eq!(first.range.as_deref(), Some("bytes=10-109"));
    assert_eq!(first.authorization.as_deref(), Some("Bearer x"));
    assert_eq!(first.accept.as_deref(), Some("text/a, text/b"));
    assert_eq!((first.kind, first.repository.as_str()), (Kind::Blob, "a/b"));
    assert_eq!(first.reference, digest);
    let sent: Vec<_> = requests[..4].iter().map(|seen| seen.bytes_sent).collect();
    assert_eq!(sent, [100, 1_000_000, 0, 400]);
    assert_eq!(requests[4].status, 404);
    assert_eq!(fake.blob_bytes_sent(&digest), 1_000_500);
    assert_eq!(fake.bytes_sent(), 1_000_500 + requests[4].bytes_sent);
    assert_eq!(fake.connections(), 5);
    assert_eq!(fake.count(|seen| seen.method == "HEAD"), 1);

    fake.reset_counts();
    assert_eq!(
        (fake.requests().len(), fake.bytes_sent(), fake.connections()),
        (0, 0, 0)
    );
    http::head(&url, &[]).await.expect("an answer");
    assert_eq!((fake.requests().len(), fake.connections()), (1, 1));
}

#[tokio::test]
async fn a_client_that_leaves_is_not_sent_the_rest() {
    const LEN: u64 = 200_000_000;
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob_of("a/b", 2, LEN);
    let url = format!("{}/v2/a/b/blobs/{digest}", fake.url());
    let mut stream = http::open(&url, &[]).await.expect("an answer");
    stream.read_exactly(1000).await.expect("1000 bytes");
    stream.close();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fake.count(|seen| seen.finished) == 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let sent = fake.blob_bytes_sent(&digest);
    assert!((1000..LEN / 10).contains(&sent), "{sent}");
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob("a/b", "text");
    let get = format!("GET /v2/a/b/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    let last = get.replace("Host: x", "Connection: close");
    let pipelined = format!("{get}{get}{last}");
    let answer = http::raw(&fake.host(), pipelined.as_bytes())
        .await
        .expect("answers");
    let answer = String::from_utf8(answer).expect("text");
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 3, "{answer}");
    assert_eq!(
        (fake.connections(), fake.count(|seen| seen.connection == 1)),
        (1, 3)
    );

    let nonsense = http::raw(&fake.host(), b"nonsense\r\n\r\n")
        .await
        .expect("an end");
    assert_eq!(nonsense, b"");
    let start = Instant::now();
    let hello = http::raw(&fake.host(), b"\x16\x03\x01").await;
    assert_eq!(hello.expect("an end"), b"");
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "TLS is refused at once"
    );
}

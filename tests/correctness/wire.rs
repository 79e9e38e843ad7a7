//! Input that is not HTTP, or too much of it.

use std::time::Duration;

use larder_tests::http;
use larder_tests::scene::Scene;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn send(scene: &Scene, bytes: &[u8]) -> String {
    let answer = http::raw(scene.node.addr(), bytes).await;
    String::from_utf8_lossy(&answer.expect("a connection")).into_owned()
}

/// larder still answers, although it asks for a token.
async fn assert_serves(scene: &Scene) {
    let answer = http::get(&format!("{}/v2/", scene.node.url()), &[]).await;
    assert_eq!(answer.expect("an answer").status, 401);
}

/// The first record of a TLS client, as containerd and podman send it to a port that they take for TLS.
fn client_hello() -> Vec<u8> {
    let mut hello = vec![0x03, 0x03];
    hello.extend([0x5a; 32]);
    hello.push(0);
    hello.extend([0x00, 0x02, 0x13, 0x01, 0x01, 0x00]);
    // Server name `registry`.
    let mut extensions = vec![0x00, 0x00, 0x00, 0x0d, 0x00, 0x0b, 0x00, 0x00, 0x08];
    extensions.extend(b"registry");
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut handshake = vec![0x01, 0x00];
    handshake.extend((hello.len() as u16).to_be_bytes());
    handshake.extend(hello);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}

#[tokio::test]
async fn a_tls_hello_is_answered_in_http() {
    let scene = Scene::new().await;
    // Go tells its user "server gave HTTP response to HTTPS client" only for these words.
    let answer = send(&scene, &client_hello()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    // A hello longer than the first packet, or cut short.
    let mut long = client_hello();
    long.resize(100_000, 0);
    for hello in [&long[..], &client_hello()[..1], &client_hello()[..7]] {
        let answer = send(&scene, hello).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{} bytes: {answer:?}",
            hello.len()
        );
    }
    assert_serves(&scene).await;
}

#[tokio::test]
async fn garbage_is_refused() {
    let scene = Scene::new().await;
    let random: Vec<u8> = fastrand::Rng::with_seed(1).choose_multiple(0..=255, 200);
    let cases: [&[u8]; 12] = [
        &random,
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v2/\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"GET  /v2/  HTTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nbad name: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nhost: a\x00b\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for case in cases {
        let answer = send(&scene, case).await;
        let refused = answer.starts_with("HTTP/1.1 400 ") || answer.is_empty();
        assert!(refused, "{:?}: {answer:?}", String::from_utf8_lossy(case));
    }
    // Request smuggling works by two lengths in one request.
    let both = b"GET /v2/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 44\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
                 GET /v2/UPPER/tags/list HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = send(&scene, both).await;
    assert!(answer.matches("HTTP/1.1 ").count() <= 2, "{answer}");
    assert_serves(&scene).await;
    assert_eq!(scene.fake.connections(), 0);
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let scene = Scene::new().await;
    let many = format!(
        "GET /v2/ HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
        "a: b\r\n".repeat(5000)
    );
    let large = format!(
        "GET /v2/ HTTP/1.1\r\nhost: localhost\r\na: {}\r\n\r\n",
        "b".repeat(2 << 20)
    );
    let endless = format!(
        "GET /v2/ HTTP/1.1\r\nhost: localhost\r\na: {}",
        "b".repeat(2 << 20)
    );
    for flood in [many, large, endless] {
        let answer = send(&scene, flood.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    }
    let path = format!(
        "GET /v2/{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "a/".repeat(100_000)
    );
    let answer = send(&scene, path.as_bytes()).await;
    let status = answer.get(9..12).unwrap_or_default();
    assert!(matches!(status, "414" | "431"), "{answer:?}");
    assert_serves(&scene).await;
}

/// Unusual, but valid HTTP: HTTP/1.0, no `Host`, a body that the server ignores, several requests at once.
#[tokio::test]
async fn what_is_unusual_is_answered() {
    let scene = Scene::new().await;
    for request in [
        "GET /v2/ HTTP/1.0\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET http://localhost/v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
    ] {
        let answer = send(&scene, request.as_bytes()).await;
        assert!(
            answer.contains(" 401 Unauthorized\r\n") && answer.ends_with("}]}"),
            "{request:?}: {answer:?}"
        );
    }
    let three = "GET /v2/ HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2)
        + "GET /v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = send(&scene, three.as_bytes()).await;
    assert_eq!(
        answer.matches("HTTP/1.1 401 Unauthorized\r\n").count(),
        3,
        "{answer:?}"
    );
}

/// Clients that stop in the middle of a request take no place from other clients.
#[tokio::test]
async fn half_requests_hold_up_nobody() {
    let scene = Scene::new().await;
    let mut half = Vec::new();
    for part in [
        "",
        "G",
        "GET /v2/ HTTP/1.1\r\n",
        "GET /v2/ HTTP/1.1\r\nhost: localhost\r\n",
    ]
    .repeat(75)
    {
        let mut tcp = TcpStream::connect(scene.node.addr())
            .await
            .expect("a connection");
        tcp.write_all(part.as_bytes())
            .await
            .expect("room in a buffer");
        half.push(tcp);
    }
    let start = std::time::Instant::now();
    assert_serves(&scene).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    // larder ends the connection of a client that closes its side.
    for mut tcp in half {
        tcp.shutdown().await.expect("a connection");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "it is kept open");
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "half a request is none");
    }
    assert_serves(&scene).await;
}

/// larder does not wait long for the rest of a form.
#[tokio::test]
async fn half_a_form_is_refused_in_time() {
    let scene = Scene::new().await;
    let mut tcp = TcpStream::connect(scene.node.addr())
        .await
        .expect("a connection");
    let half = b"POST /token/ghcr.io HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\ngrant_type=";
    tcp.write_all(half).await.expect("room in a buffer");
    let mut head = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(8), tcp.read_exact(&mut head)).await;
    read.expect("in time").expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 401");
}

/// A client that asks for a large blob and does not read it.
#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 50_000_000);
    let mut deaf = TcpStream::connect(scene.node.addr())
        .await
        .expect("a connection");
    let request = format!(
        "GET /v2/a/b/blobs/{digest}?ns={} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        scene.fake.host()
    );
    deaf.write_all(request.as_bytes())
        .await
        .expect("room in a buffer");
    scene.until_committed(&digest).await;
    let answer = http::get_digest(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    assert_eq!((answer.status, answer.digest), (200, digest));
    drop(deaf);
}

//! The port for members serves members alone, and only what they may ask for (promises P16, P19).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_tests::fake::{Algorithm, Content, FakeRegistry};
use larder_tests::http;
use larder_tests::members::{Authority, Cluster, FakePeer, Heard, MEMBER, Manner};
use larder_tests::scene::{committed, eventually};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{MIB, REPOSITORY, beside, put};

/// How long an answer may pause.
const SILENCE: Duration = Duration::from_secs(2);
const SIZE: u64 = 26 * MIB;

/// Sends bytes as this client and gives the answer; an error when the handshake fails.
pub(crate) async fn speak(
    address: SocketAddr,
    client: Arc<ClientConfig>,
    said: &str,
) -> std::io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(MEMBER).expect("a name");
    let shaken = TlsConnector::from(client).connect(name, tcp);
    let shaken = tokio::time::timeout(SILENCE, shaken).await;
    let mut tls = shaken.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
    tls.write_all(said.as_bytes()).await?;
    tls.flush().await?;
    let mut answer = Vec::new();
    while let Ok(read) = tokio::time::timeout(SILENCE, tls.read_buf(&mut answer)).await {
        if read? == 0 {
            break;
        }
    }
    Ok(answer)
}

/// The status of an answer, and its body.
pub(crate) fn parsed(answer: &[u8]) -> (u16, &[u8]) {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = head else {
        return (0, &[]);
    };
    let text = String::from_utf8_lossy(&answer[..end]);
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or(0), &answer[end + 4..])
}

/// A member's request for this blob, recorded from a real node by a member that only listens.
async fn a_members_request(fake: &FakeRegistry, digest: &str, content: &Content) -> Heard {
    let plan = Cluster::of(1).stranger(1).stranger(2).upstream(fake);
    let authority = Arc::clone(plan.authority());
    let tls = || Some(authority.server(&authority.member()));
    let listeners = [
        FakePeer::start(plan.address(1), tls(), Manner::Honest).await,
        FakePeer::start(plan.address(2), tls(), Manner::Honest).await,
    ];
    for listener in &listeners {
        listener.hold(digest, content);
    }
    let cluster = plan.start().await;
    let door = cluster.door(0, fake, REPOSITORY);
    door.blob(digest).await.expect("a blob");
    let heard = listeners.iter().flat_map(FakePeer::heard);
    let mut heard: Vec<_> = heard
        .filter(|heard| heard.method == "GET" && heard.text().contains(digest))
        .collect();
    // Requests for the blob itself come before those that only mention it.
    heard.sort_by_key(|heard| !heard.target.contains("/blobs/"));
    heard.into_iter().next().expect("a request for the blob")
}

/// The request as it is sent, on a connection of its own.
fn said(heard: &Heard) -> String {
    let mut lines = vec![format!("{} {} HTTP/1.1", heard.method, heard.target)];
    let headers = heard.headers.iter();
    let headers = headers.filter(|(name, _)| name != "connection");
    lines.extend(headers.map(|(name, value)| format!("{name}: {value}")));
    lines.push("connection: close\r\n".to_owned());
    lines.push(String::from_utf8_lossy(&heard.body).into_owned());
    lines.join("\r\n")
}

/// Whether the first bytes of a body are somewhere in the content.
fn is_content(body: &[u8], content: &Content) -> bool {
    let first = &body[..body.len().min(256)];
    // Synthetic content repeats one page of 65,521 bytes.
    let page = content.read(0..65_521 + 256);
    first.len() == 256 && page.windows(256).any(|window| window == first)
}

/// The control for the other tests: a recorded request can be sent again, and its answer is recognised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_can_be_said_again() {
    let _machine = beside().await;
    let content = Content::synthetic(1, SIZE);
    let digest = content.digest(Algorithm::Sha256);
    let plan = Cluster::of(1);
    let authority = plan.authority();
    let tls = Some(authority.server(&authority.member()));
    let peer = FakePeer::start(plan.address(0), tls, Manner::Honest).await;
    peer.hold(&digest, &content);
    let member = || authority.client(Some(&authority.member()));
    let range = "bytes=20000000-24194303";
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nRange: {range}\r\n\r\n");
    for _ in 0..2 {
        let heard = peer.heard();
        let request = heard.last().map_or(request.clone(), said);
        let answer = speak(peer.address(), member(), &request).await;
        let answer = answer.expect("an answer");
        let (status, body) = parsed(&answer);
        assert_eq!((status, body.len()), (206, 4_194_304));
        assert!(is_content(body, &content));
        assert!(!is_content(&body[1000..1100], &content), "too little");
        assert!(!is_content(&[7; 4096], &content), "something else");
    }
    let [first, second] = &peer.heard()[..] else {
        panic!("two requests");
    };
    assert_eq!(second.header("connection"), Some("close"));
    assert_eq!(first.target, second.target);
    assert_eq!(first.header("range"), second.header("range"));
    let request = request.replace(&digest, "nothing");
    let answer = speak(peer.address(), member(), &request).await;
    assert_eq!(parsed(&answer.expect("an answer")).0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_member_is_answered() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (digest, content) = put(&fake, 1, SIZE);
    let request = said(&a_members_request(&fake, &digest, &content).await);
    let plan = Cluster::of(2).upstream(&fake);
    let authority = Arc::clone(plan.authority());
    let cluster = plan.start().await;
    let door = cluster.door(0, &fake, REPOSITORY);
    door.blob(&digest).await.expect("a blob");
    let store = cluster.node(0).store();
    eventually("it is committed", || committed(store, &digest)).await;
    let address = cluster.peer_address(0);

    let member = authority.client(Some(&authority.member()));
    let answer = speak(address, Arc::clone(&member), &request).await;
    let answer = answer.expect("an answer for a member");
    let (status, body) = parsed(&answer);
    assert!(matches!(status, 200 | 206), "{status}");
    assert!(is_content(body, &content), "not the blob's bytes");

    let other = Authority::new();
    let strangers = [
        ("no certificate", authority.client(None)),
        (
            "another authority's certificate",
            authority.client(Some(&other.member())),
        ),
        (
            "another name",
            authority.client(Some(&authority.named("larder-guest"))),
        ),
        (
            "a name below the right one",
            authority.client(Some(&authority.named("a.larder-peer"))),
        ),
    ];
    for (who, client) in strangers {
        // A refusal may show as a failed handshake, or as an end of the connection after it.
        let answer = speak(address, client, &request).await.unwrap_or_default();
        let words = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
        assert!(answer.is_empty(), "{who}: {words}");
    }
    let plain = http::raw(&address.to_string(), request.as_bytes()).await;
    let plain = plain.unwrap_or_default();
    let words = String::from_utf8_lossy(&plain[..plain.len().min(200)]);
    assert!(!plain.starts_with(b"HTTP/1.1 2"), "{words}");
    assert!(plain.len() < 1000, "{words}");

    // A connection that sends nothing is closed after a while, and keeps no member out.
    let mut silent = Vec::new();
    for _ in 0..700 {
        silent.push(TcpStream::connect(address).await.expect("a connection"));
    }
    // 512 connections may wait without a certificate; the longest waiting ones give way.
    let begun = Instant::now();
    let answer = loop {
        match speak(address, Arc::clone(&member), &request).await {
            Ok(answer) if parsed(&answer).0 != 0 => break answer,
            other => assert!(begun.elapsed() < Duration::from_secs(4), "{other:?}"),
        }
    };
    assert!(matches!(parsed(&answer).0, 200 | 206));
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut byte = [0];
    let first = silent.first_mut().expect("a connection");
    let left = deadline - Instant::now();
    let ended = tokio::time::timeout(left, first.read(&mut byte)).await;
    assert!(
        matches!(ended, Ok(Ok(0) | Err(_))),
        "a connection that says nothing is kept"
    );
}

/// A registry has asked to be left alone. One member at a time finds out whether it still wants that: its keeper says
/// whose turn it is, and learns the result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_at_a_time_probes_a_silent_registry() {
    let _machine = beside().await;
    let plan = Cluster::of(2);
    let authority = Arc::clone(plan.authority());
    let cluster = plan.start().await;
    let address = cluster.peer_address(0);
    let silence = format!("sha256:{}", "5a".repeat(32));
    let ask = async |method: &str, query: &str| {
        let member = authority.client(Some(&authority.member()));
        let request = format!(
            "{method} /larder/v1/probes?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        let answer = speak(address, member, &request).await.expect("an answer");
        let (status, body) = parsed(&answer);
        (status, String::from_utf8_lossy(body).into_owned())
    };
    let question = format!("thing={silence}&silenced=60");
    let told = |word: &str| (200, word.to_owned());
    assert_eq!(ask("POST", &question).await, told("go"));
    assert_eq!(ask("POST", &question).await, told("wait"));
    assert_eq!(
        ask("POST", &format!("thing={silence}&over")).await,
        told("")
    );
    assert_eq!(ask("POST", &question).await, told("over"));
    for (method, query) in [
        ("GET", question.as_str()),
        ("POST", "silenced=60"),
        ("POST", "thing=nothing&silenced=60"),
        ("POST", &format!("thing={silence}&silenced=-1")),
    ] {
        assert_eq!(ask(method, query).await.0, 400, "{method} {query}");
    }
}

/// A member names a repository that does not hold the blob, or a registry that the blob does not come from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_only_what_the_repository_it_names_holds() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let elsewhere = FakeRegistry::start().await;
    let (digest, content) = put(&fake, 1, SIZE);
    fake.put_blob("other/thing", "something else");
    elsewhere.put_blob(REPOSITORY, "something else");
    let heard = a_members_request(&fake, &digest, &content).await;
    let request = said(&heard);
    let plan = Cluster::of(2).upstream(&fake).upstream(&elsewhere);
    let authority = Arc::clone(plan.authority());
    let cluster = plan.start().await;
    let door = cluster.door(0, &fake, REPOSITORY);
    door.blob(&digest).await.expect("a blob");
    let store = cluster.node(0).store();
    eventually("it is committed", || committed(store, &digest)).await;
    let member = || authority.client(Some(&authority.member()));
    let address = cluster.peer_address(0);
    let ask = async |request: &str| speak(address, member(), request).await.unwrap_or_default();

    let right = ask(&request).await;
    assert!(is_content(parsed(&right).1, &content), "the right one");

    let escaped = REPOSITORY.replace('/', "%2F");
    let nowhere = [
        (
            "another repository",
            request
                .replace(REPOSITORY, "other/thing")
                .replace(&escaped, "other%2Fthing"),
        ),
        (
            "no repository",
            request.replace(REPOSITORY, "").replace(&escaped, ""),
        ),
        (
            "a repository that is not there",
            request
                .replace(REPOSITORY, "no/where")
                .replace(&escaped, "no%2Fwhere"),
        ),
        (
            "another registry",
            request.replace(&fake.host(), &elsewhere.host()).replace(
                &fake.host().replace(':', "%3A"),
                &elsewhere.host().replace(':', "%3A"),
            ),
        ),
    ];
    for (what, request) in nowhere {
        assert_ne!(request, said(&heard), "{what} cannot be said");
        let answer = ask(&request).await;
        let (status, body) = parsed(&answer);
        assert!(!matches!(status, 200 | 206), "{what}: {status}");
        assert!(!is_content(body, &content), "{what}");
    }
}

/// A member may ask for any range, and the blob can still be had afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_no_blob_has_harms_nobody() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (digest, content) = put(&fake, 1, SIZE);
    let mut heard = a_members_request(&fake, &digest, &content).await;
    for (name, value) in &mut heard.headers {
        match &**name {
            "range" => "bytes=18446744073709551000-".clone_into(value),
            "larder-role" => "root".clone_into(value),
            _ => {}
        }
    }
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let authority = cluster.plan().authority();
    let member = authority.client(Some(&authority.member()));
    let answer = speak(cluster.peer_address(0), member, &said(&heard)).await;
    let answer = answer.expect("an answer");
    assert_eq!(parsed(&answer).0, 416, "{heard:?}");
    let door = cluster.door(0, &fake, REPOSITORY);
    door.blob(&digest).await.expect("the blob");
}

/// A health check connects and hangs up. Only a client that sends bytes without a member's certificate is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_sends_nothing_is_no_stranger() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(1).upstream(&fake);
    let authority = Arc::clone(plan.authority());
    let cluster = plan.start().await;
    let turned_away = async || {
        let sample = "larder_peer_turned_away_total";
        cluster.node(0).metric(sample).await.unwrap_or(0.0)
    };
    let address = cluster.peer_address(0);
    for said in [&b""[..], b"\x16\x03\x01"] {
        let mut tcp = TcpStream::connect(address).await.expect("a connection");
        tcp.write_all(said).await.expect("it is sent");
        tcp.shutdown().await.expect("it ends");
        // The node has looked at the connection once it closes its side.
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest).await;
    }
    assert!(turned_away().await < 1.0, "hanging up is nothing");
    let nobody = authority.client(None);
    let _ = speak(address, nobody, "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while turned_away().await < 1.0 {
        assert!(Instant::now() < deadline, "it was not counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

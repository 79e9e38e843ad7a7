//! The parts of a test cluster: certificates that are accepted and refused, a fake member that lies as the test asks, a
//! client's clock, and addresses that no two tests share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use larder_tests::fake::{Algorithm, Content, FakeRegistry, Fault, Match};
use larder_tests::hosts::Net;
use larder_tests::http;
use larder_tests::image::{LayerSpec, build};
use larder_tests::members::{
    Authority, Cluster, FakePeer, Identity, MEMBER, Manner, Plan, measure, upstream_bytes,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const MB: u64 = 1_000_000;

/// Does the handshake, sends the request, and gives what arrives within a second or so.
async fn ask(
    address: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    request: &str,
) -> std::io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(MEMBER).expect("a name");
    let mut tls = TlsConnector::from(client).connect(name, tcp).await?;
    tls.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let silence = Duration::from_secs(1);
    while let Ok(read) = tokio::time::timeout(silence, tls.read_buf(&mut answer)).await {
        if read? == 0 {
            break;
        }
    }
    Ok(answer)
}

#[tokio::test]
async fn certificates_open_and_refuse_on_both_sides() {
    let (authority, other) = (Authority::new(), Authority::new());
    let own = authority.member();
    let serve = async |server: &Identity| {
        let plan = Cluster::of(1);
        let tls = Some(authority.server(server));
        let peer = FakePeer::start(plan.address(0), tls, Manner::Honest).await;
        (plan, peer)
    };
    let request = "GET /v2/ HTTP/1.1\r\nHost: peer\r\n\r\n";
    let (_plan, peer) = serve(&own).await;
    let opens = async |client| {
        let answer = ask(peer.address(), client, request).await;
        answer.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 404"))
    };
    assert!(opens(authority.client(Some(&authority.member()))).await);
    // A server checks the authority only; larder checks the name.
    assert!(opens(authority.client(Some(&authority.named("other")))).await);
    assert!(!opens(authority.client(None)).await);
    assert!(!opens(authority.client(Some(&other.member()))).await);
    assert!(!opens(other.client(Some(&authority.member()))).await);
    assert_eq!(peer.heard().len(), 2);

    let (_plan, peer) = serve(&authority.named("somebody-else")).await;
    let client = authority.client(Some(&authority.member()));
    assert!(ask(peer.address(), client, request).await.is_err());
    assert_eq!(peer.heard(), []);
}

#[tokio::test]
async fn a_fake_member_lies_as_it_was_told() {
    let plan = Cluster::of(1);
    let peer = FakePeer::start(plan.address(0), None, Manner::Honest).await;
    let content = Content::synthetic(1, 3 * MB);
    let digest = content.digest(Algorithm::Sha256);
    let url = format!("http://{}/whatever/{digest}?for=me", peer.address());
    let get = async |range: &str| http::get(&url, &[("range", range), ("x-a", "b")]).await;
    assert_eq!(get("bytes=0-9").await.expect("an answer").status, 404);
    peer.hold(&digest, &content);

    let part = get("bytes=10-19").await.expect("an answer");
    assert_eq!((part.status, &*part.body), (206, &*content.read(10..20)));
    let range = part.header("content-range");
    assert_eq!(range, Some("bytes 10-19/3000000"));
    let tail = get("bytes=-5").await.expect("an answer");
    assert_eq!(*tail.body, *content.read(3 * MB - 5..3 * MB));
    let whole = http::get(&url, &[]).await.expect("an answer");
    assert_eq!((whole.status, whole.complete), (200, true));
    assert!(*whole.body == content.read(0..3 * MB));

    peer.behave(Manner::WrongBytes);
    let part = get("bytes=10-19").await.expect("an answer");
    let wrong = content.read(10..20).iter().map(|byte| !byte).collect();
    assert_eq!(
        (part.status, Vec::from(part.body)),
        (206, wrong),
        "as many bytes, all wrong"
    );
    peer.behave(Manner::WrongSize);
    let part = get("bytes=10-19").await.expect("an answer");
    assert_eq!(part.header("content-range"), Some("bytes 10-19/3004096"));
    assert_eq!(*part.body, *content.read(10..20));
    let whole = http::get(&url, &[]).await.expect("an answer");
    assert_eq!((whole.body.len() as u64, whole.complete), (3_004_096, true));
    peer.behave(Manner::Says(500));
    assert_eq!(get("bytes=0-9").await.expect("an answer").status, 500);
    peer.behave(Manner::Garbage);
    assert!(get("bytes=0-9").await.is_err());
    peer.behave(Manner::StallsAfterHead);
    let mut stream = http::open(&url, &[]).await.expect("a head");
    let silence = Duration::from_millis(300);
    let nothing = tokio::time::timeout(silence, stream.next_chunk()).await;
    assert!(nothing.is_err());
    peer.behave(Manner::Silent);
    let nothing = tokio::time::timeout(silence, get("bytes=0-9")).await;
    assert!(nothing.is_err());

    let heard = peer.heard();
    assert_eq!(heard[0].target, format!("/whatever/{digest}?for=me"));
    assert_eq!(heard[0].header("x-a"), Some("b"));
    assert!(heard[0].text().contains("x-a: b"));
    assert_eq!(peer.answers(), heard.len() - 1);
}

#[tokio::test]
async fn the_clock_sees_a_gap_and_the_hash_sees_wrong_bytes() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob_of("a", 1, MB);
    let url = format!("{}/v2/a/blobs/{digest}", fake.url());
    let gate = fake.gate(Match::blob(), 300_000);
    let reading = tokio::spawn({
        let (url, digest) = (url.clone(), digest.clone());
        async move {
            let mut stream = http::open(&url, &[]).await.expect("a head");
            measure(&mut stream, &digest, |_| {}).await
        }
    });
    gate.reached(1).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    gate.open();
    let got = reading.await.expect("no panic").expect("right bytes");
    assert_eq!(got.bytes, MB);
    let gap = got.longest_gap;
    assert!(
        gap > Duration::from_millis(300) && gap < Duration::from_secs(2) && got.took >= gap,
        "{got:?}"
    );

    fake.fault(Match::blob(), Fault::WrongBytes { at: 999_999 });
    let mut stream = http::open(&url, &[]).await.expect("a head");
    let error = measure(&mut stream, &digest, |_| {}).await.unwrap_err();
    assert!(error.contains("something else"), "{error}");
    fake.clear_faults();
    fake.fault(Match::blob(), Fault::TruncateAfter(1000));
    let mut stream = http::open(&url, &[]).await.expect("a head");
    let error = measure(&mut stream, &digest, |_| {}).await.unwrap_err();
    assert!(error.contains("FIN after 1000"), "{error}");
}

#[tokio::test]
async fn no_two_clusters_have_the_same_addresses() {
    let plans = [Cluster::of(2), Cluster::of(2), Cluster::of(2)];
    let mut all: Vec<_> = plans
        .iter()
        .flat_map(|plan| [plan.address(0), plan.address(1)])
        .collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6);
    let again = plans[0].address(0);
    drop(plans);
    assert_eq!(Cluster::of(1).address(0), again);
}

/// Nodes that know only themselves: a client reaches each of them, and each has its own store.
async fn nodes_are_apart(fake: &FakeRegistry, plan: Plan) {
    fake.reset_counts();
    let image = build(fake, "a/b", "v1", &[LayerSpec::new(1, 3 * MB)]);
    let plan = plan.upstream(fake).knows(0, &[0]).knows(1, &[1]);
    let mut cluster = plan.start().await;
    for number in 0..2 {
        let got = cluster.door(number, fake, "a/b").pull("v1", &image).await;
        assert_eq!(got.expect("an image").bytes, image.size());
        assert!(!cluster.node(number).metrics().await.is_empty());
        assert_eq!(cluster.sent(number).await, 0);
    }
    let sent = upstream_bytes(fake, &image);
    assert!(sent >= 2 * 3 * MB && sent <= 2 * image.size(), "{sent}");
    // A frozen node sends nothing, and answers once it is thawed.
    cluster.freeze(1);
    let door = cluster.door(1, fake, "a/b");
    let mut pull = std::pin::pin!(door.pull("v1", &image));
    let silence = Duration::from_millis(300);
    let nothing = tokio::time::timeout(silence, &mut pull).await;
    assert!(nothing.is_err(), "{nothing:?}");
    cluster.thaw(1);
    pull.await.expect("an image");
    cluster.node_mut(0).kill9().await;
    cluster.node_mut(0).restart().await;
    let door = cluster.door(0, fake, "a/b");
    door.pull("v1", &image).await.expect("an image");
    cluster.add().await;
    let wrong = cluster.door(2, fake, "a/c").pull("v1", &image).await;
    let error = wrong.expect_err("there is no such repository");
    assert!(error.contains("404"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_run_beside_each_other_here() {
    let fake = FakeRegistry::start().await;
    nodes_are_apart(&fake, Cluster::of(2)).await;
    nodes_are_apart(&fake, Cluster::of(2).tls_off()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_run_beside_each_other_in_hosts() {
    let net = Net::new(3);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    nodes_are_apart(&fake, Plan::in_hosts(&net, 2)).await;
}

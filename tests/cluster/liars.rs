//! A member that lies (promise P9): its bytes are never committed and never served twice, and its name is reported.

use std::time::Duration;

use larder_tests::fake::{Content, FakeRegistry, Fault, Match, digest_of};
use larder_tests::image::{OCI_INDEX, OCI_MANIFEST};
use larder_tests::members::{Cluster, DISTRUSTED, FakePeer, Manner};
use larder_tests::scene::{Compared, committed, compare, eventually};

use super::{MIB, REPOSITORY, beside, put};

const SIZE: u64 = 26 * MIB + 11;
/// The lying member's number, behind those of the nodes.
const LIAR: usize = 3;

/// Three nodes, and a lying server that all of them take for a member.
async fn with_a_liar(fake: &FakeRegistry, manner: Manner) -> (Cluster, FakePeer) {
    let plan = Cluster::of(3).stranger(LIAR).upstream(fake);
    let authority = plan.authority();
    let tls = authority.server(&authority.member());
    let liar = FakePeer::start(plan.address(LIAR), Some(tls), manner).await;
    (plan.start().await, liar)
}

/// What a client of a node gets of a blob.
async fn pull(cluster: &Cluster, number: usize, fake: &FakeRegistry, blob: &Blob) -> Compared {
    let door = cluster.door(number, fake, REPOSITORY);
    let rest = format!("blobs/{}", blob.digest);
    let mut stream = door.open(&rest, &[]).await.expect("a head");
    assert_eq!(stream.status, 200);
    compare(&mut stream, &blob.content, 0..blob.content.len()).await
}

struct Blob {
    digest: String,
    content: Content,
}

/// A new blob, which the lying member claims to have too.
fn blob(fake: &FakeRegistry, liar: &FakePeer, seed: u64) -> Blob {
    let (digest, content) = put(fake, seed, SIZE);
    liar.hold(&digest, &content);
    Blob { digest, content }
}

/// A blob that the node keeps has the digest that it is kept under.
async fn kept_right(cluster: &Cluster, number: usize, digest: &str) {
    let store = cluster.node(number).store();
    eventually(digest, || committed(store, digest)).await;
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    let path = store
        .join("blobs")
        .join(algorithm)
        .join(&hex[..2])
        .join(hex);
    let kept = std::fs::read(path).expect("the blob");
    assert_eq!(digest_of(&kept), digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_never_kept_and_the_liar_is_named() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (cluster, liar) = with_a_liar(&fake, Manner::WrongBytes).await;
    let mut spoilt = 0;
    for seed in 0..8 {
        let blob = blob(&fake, &liar, seed);
        let number = seed as usize % 3;
        for attempt in 0..4 {
            let seen = pull(&cluster, number, &fake, &blob).await;
            if seen == Compared::whole(SIZE) {
                break;
            }
            assert!(
                seen.error.is_some() && seen.len < SIZE,
                "what is wrong ends short: {seen:?}"
            );
            if seen.differs_at.is_none() {
                // The node noticed before any wrong byte left: a client resumes.
                let door = cluster.door(number, &fake, REPOSITORY);
                let range = format!("bytes={}-", seen.len);
                let rest = seen.len..SIZE;
                let resumed = door.part(&blob.digest, &blob.content, &range, rest).await;
                resumed.expect("the rest");
                break;
            }
            spoilt += 1;
            assert!(attempt == 0, "wrong bytes came twice: {seen:?}");
        }
        kept_right(&cluster, number, &blob.digest).await;
    }
    assert!(liar.answers() > 0, "nobody asked the liar");
    let mut named = 0;
    for number in 0..3 {
        let node = cluster.node(number);
        if node.metric_sum(DISTRUSTED).await < 1.0 {
            continue;
        }
        let log = node.log();
        let address = liar.address().to_string();
        let mut lines = log.lines();
        let told = lines.any(|line| line.contains(&address) && line.contains("distrust"));
        assert!(told, "node {number} does not name {address}:\n{log}");
        named += 1;
    }
    assert!(
        named > 0,
        "nobody distrusts the liar; {spoilt} pulls spoilt"
    );
    // No honest member is distrusted.
    for number in 0..3 {
        let log = cluster.node(number).log();
        for other in 0..3 {
            let address = cluster.peer_address(other).to_string();
            let mut lines = log.lines();
            let told = lines.find(|line| line.contains(&address) && line.contains("distrust"));
            assert_eq!(told, None, "node {number} suspects node {other}");
        }
    }
}

/// A member that was caught lying is not asked again soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_that_was_found_out_spoils_no_further_pull() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (cluster, liar) = with_a_liar(&fake, Manner::WrongBytes).await;
    for seed in 0..16 {
        let blob = blob(&fake, &liar, seed);
        if pull(&cluster, 0, &fake, &blob).await != Compared::whole(SIZE) {
            let seen = pull(&cluster, 0, &fake, &blob).await;
            assert_eq!(seen, Compared::whole(SIZE));
            break;
        }
        if cluster.node(0).metric_sum(DISTRUSTED).await > 0.0 {
            break;
        }
    }
    let limit = Duration::from_secs(10);
    cluster.until_distrusted(0, limit).await;
    for seed in 100..106 {
        let blob = blob(&fake, &liar, seed);
        let seen = pull(&cluster, 0, &fake, &blob).await;
        assert_eq!(seen, Compared::whole(SIZE));
    }
}

/// A member that misbehaves in another way fails no pull.
async fn harmless(manner: Manner) {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (cluster, liar) = with_a_liar(&fake, manner).await;
    for seed in 0..5 {
        let blob = blob(&fake, &liar, seed);
        let number = seed as usize % 3;
        let seen = pull(&cluster, number, &fake, &blob).await;
        assert_eq!(seen, Compared::whole(SIZE), "{manner:?}, blob {seed}");
        kept_right(&cluster, number, &blob.digest).await;
    }
    assert!(liar.answers() > 0, "nobody asked the member");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_size_is_harmless() {
    harmless(Manner::WrongSize).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_after_the_head_is_harmless() {
    harmless(Manner::StallsAfterHead).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_harmless() {
    harmless(Manner::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_a_member_are_harmless() {
    harmless(Manner::Says(500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_nothing_is_harmless() {
    harmless(Manner::Says(404)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_harmless() {
    harmless(Manner::Garbage).await;
}

/// The control for the other tests: nodes believe the fake member as long as it is honest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_member_is_believed() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (cluster, honest) = with_a_liar(&fake, Manner::Honest).await;
    let mut upstream = 0;
    for seed in 0..5 {
        let blob = blob(&fake, &honest, seed);
        let seen = pull(&cluster, 0, &fake, &blob).await;
        assert_eq!(seen, Compared::whole(SIZE), "blob {seed}");
        upstream += fake.blob_bytes_sent(&blob.digest);
    }
    let distrusted = cluster.node(0).metric_sum(DISTRUSTED).await;
    assert!(distrusted < 1.0, "{distrusted}");
    let all = 5 * SIZE;
    assert!(
        upstream <= all * 95 / 100,
        "{upstream} of {all} from the upstream"
    );
}

/// A manifest's bytes say which media type it has. A member's header counts for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_word_on_a_media_type_does_not_count() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (cluster, liar) = with_a_liar(&fake, Manner::Honest).await;
    let door = cluster.door(0, &fake, REPOSITORY);
    // The registry confirms that it has the manifest, but only that member gives the bytes.
    fake.fault(Match::manifest().method("GET"), Fault::status(502));
    // Some manifests name their media type, and some show it by their shape alone.
    for own in [format!("\"mediaType\":\"{OCI_MANIFEST}\","), String::new()] {
        for label in [OCI_INDEX, "text/html", "application/octet-stream"] {
            let text = format!(
                "{{\"schemaVersion\":2,{own}\"config\":{{\"mediaType\":\"x\",\"digest\":\"{}\",\"size\":2}},\"layers\":[],\"annotations\":{{\"for\":\"{label}\"}}}}",
                digest_of(b"{}")
            );
            let digest = fake.put_manifest(REPOSITORY, None, OCI_MANIFEST, text.clone());
            liar.hold(&digest, &Content::bytes(text));
            liar.label(label);
            let before = liar.answers();
            for method in ["GET", "HEAD", "GET"] {
                let call = door.call(method, &format!("manifests/{digest}"));
                let answer = door.answer(call).await.expect("an answer");
                let told = (answer.status, answer.header("content-type"));
                assert_eq!(told, (200, Some(OCI_MANIFEST)), "{method} {own} {label}");
            }
            assert!(liar.answers() > before, "nobody asked the member");
        }
    }
}

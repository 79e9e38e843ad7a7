//! Two larders at one store, as when an upgrade starts one before the other has ended. The second serves without the
//! store until the first has released it, and changes nothing there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use larder_tests::fake::{Algorithm, Content, FakeRegistry, Match};
use larder_tests::http;
use larder_tests::image::{LayerSpec, build};
use larder_tests::node::Node;
use larder_tests::scene::{Compared, committed, compare, eventually, files};

const LEN: u64 = 20_000_000;

/// Every file of the store, with its length and modification time.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let look = |path: PathBuf| {
        let meta = fs::metadata(&path).ok()?;
        Some((path, (meta.len(), meta.modified().ok()?)))
    };
    files(dir).into_iter().filter_map(look).collect()
}

async fn ready(node: &Node) -> String {
    let url = format!("http://{}/readyz", node.telemetry());
    let answer = http::get(&url, &[]).await.expect("an answer");
    assert_eq!(answer.status, 200, "it serves");
    answer.text()
}

fn blob(node: &Node, fake: &FakeRegistry, digest: &str) -> String {
    format!("{}/v2/a/b/blobs/{digest}?ns={}", node.url(), fake.host())
}

async fn pull(node: &Node, fake: &FakeRegistry, digest: &str) {
    let answer = http::get_digest(&blob(node, fake, digest), &[]).await;
    assert_eq!(answer.expect("an answer").digest, digest);
}

#[tokio::test]
async fn the_successor_is_a_plain_proxy_until_its_predecessor_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = FakeRegistry::start().await;
    let node = || Node::builder().upstream(&fake).store(dir.path()).start();
    let mut first = node().await;
    let warm = fake.put_blob_of("a/b", 1, LEN);
    let other = fake.put_blob_of("a/b", 2, LEN);
    let image = build(&fake, "a/b", "v1", &[LayerSpec::new(3, 100_000)]);
    pull(&first, &fake, &warm).await;
    eventually("it is committed", || committed(dir.path(), &warm)).await;

    // A body passes through the first larder when it gets the signal to stop.
    let content = Content::synthetic(4, LEN);
    let slow = fake.put_content_as("a/b", Algorithm::Sha256, &content);
    let gate = fake.gate(Match::blob().reference(&slow), 1_000_000);
    let mut body = http::open(&blob(&first, &fake, &slow), &[])
        .await
        .expect("an answer");
    gate.reached(1).await;
    // The first larder finishes its pending writes. From here on neither larder should write.
    let mut before = snapshot(dir.path());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = snapshot(dir.path());
        if std::mem::replace(&mut before, now.clone()) == now {
            break;
        }
    }

    let second = node().await;
    let said = ready(&second).await;
    assert!(said.contains("another larder has the store"), "{said}");
    assert_eq!(second.metric("larder_store_waiting").await, Some(1.0));
    assert_eq!(first.metric("larder_store_waiting").await, Some(0.0));
    let state = second.admin("/status").await["store"]["state"].clone();
    assert!(
        state.as_str().is_some_and(|s| s.starts_with("waiting")),
        "{state}"
    );
    let findings = second.admin("/doctor").await["findings"].clone();
    let mut findings = findings.as_array().expect("findings").iter();
    let taken = findings.find(|finding| finding["check"] == "store");
    let taken = taken.expect("a finding on the store").to_string();
    assert!(taken.contains("another larder has"), "{taken}");
    let verified = second.cli(&["verify"]).await;
    assert!(!verified.status.success(), "{verified:?}");
    // Content that the first has, content that neither has, and an image by its tag.
    let sent = fake.blob_bytes_sent(&warm);
    for digest in [&warm, &other, &other] {
        pull(&second, &fake, digest).await;
    }
    assert!(
        fake.blob_bytes_sent(&warm) >= sent + LEN,
        "straight through"
    );
    let manifest = format!("{}/v2/a/b/manifests/v1?ns={}", second.url(), fake.host());
    let answer = http::get(&manifest, &[]).await.expect("an answer");
    assert_eq!(answer.body, image.manifest);
    let pinned = second
        .cli(&[
            "pin",
            &format!("{}/a/b@{}", fake.host(), image.manifest_digest),
        ])
        .await;
    assert!(!pinned.status.success(), "{pinned:?}");
    assert_eq!(snapshot(dir.path()), before, "nothing was touched");

    // The first finishes the body that it has begun; only then is the store free.
    first.terminate();
    pull(&second, &fake, &other).await;
    assert!(ready(&second).await.contains("another larder"));
    gate.open();
    let whole = compare(&mut body, &content, 0..LEN).await;
    assert_eq!(whole, Compared::whole(LEN));
    assert_eq!(first.wait().await.code(), Some(0));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while ready(&second).await != "ok\n" {
        assert!(tokio::time::Instant::now() < deadline, "{}", second.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // The first one's content is warm, also what it fetched last; and the second one keeps content now.
    fake.clear_faults();
    fake.reset_counts();
    for digest in [&warm, &slow] {
        pull(&second, &fake, digest).await;
        assert_eq!(fake.blob_bytes_sent(digest), 0);
    }
    pull(&second, &fake, &other).await;
    eventually("the second keeps", || committed(dir.path(), &other)).await;
    assert_eq!(second.metric("larder_store_waiting").await, Some(0.0));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while second.metric("larder_store_blobs").await < Some(3.0) {
        assert!(tokio::time::Instant::now() < deadline, "the scan goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A killed predecessor also frees the store, and the second larder resumes its partial.
#[tokio::test]
async fn what_a_killed_predecessor_left_is_gone_on_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = FakeRegistry::start().await;
    let node = || Node::builder().upstream(&fake).store(dir.path()).start();
    let mut first = node().await;
    let digest = fake.put_blob_of("a/b", 1, LEN);
    let gate = fake.gate(Match::blob(), 4_000_000);
    let mut body = http::open(&blob(&first, &fake, &digest), &[])
        .await
        .expect("an answer");
    gate.reached(1).await;
    body.read_exactly(3_000_000).await.expect("what has come");
    let spans = dir
        .path()
        .join("partial/sha256")
        .join(format!("{}.spans", &digest[7..]));
    eventually("a checkpoint", || spans.exists()).await;
    let second = node().await;
    assert!(ready(&second).await.contains("another larder"));
    first.kill9().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while ready(&second).await != "ok\n" {
        assert!(tokio::time::Instant::now() < deadline, "{}", second.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.open();
    fake.clear_faults();
    fake.reset_counts();
    pull(&second, &fake, &digest).await;
    let sent = fake.blob_bytes_sent(&digest);
    assert!(sent < LEN - 2_000_000, "{sent} bytes were fetched again");
}

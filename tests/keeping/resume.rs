//! A fill resumes its partial where it stood, or starts anew when the partial cannot be trusted (P11).

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use larder_tests::fake::{Content, Fault, Match};
use larder_tests::http;
use larder_tests::scene::{Compared, Scene, compare, files};
use serde_json::Value;

use super::{MB, pull, whole};

const SIZE: u64 = 100 * MB;

/// A node that was killed when a part of a blob of 100 MB had come.
struct Killed {
    scene: Scene,
    content: Content,
    digest: String,
    present: u64,
}

impl Killed {
    async fn after(bytes: u64) -> Self {
        let mut scene = Scene::with(|node| node.log_level("info")).await;
        let content = Content::synthetic(1, SIZE);
        let digest = scene.fake.put_content("a/b", &content);
        let slow = scene
            .fake
            .fault(Match::blob(), Fault::ThrottleBytesPerSecond(20 * MB));
        let stream = http::open(&scene.blob("a/b", &digest), &[]).await;
        let mut stream = stream.expect("an answer");
        let reading = tokio::spawn({
            let content = content.clone();
            async move { compare(&mut stream, &content, 0..SIZE).await }
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        let present = loop {
            let status = scene.node.admin("/status").await;
            let present = status["fills"][0]["present_bytes"].as_u64().unwrap_or(0);
            if present >= bytes {
                break present;
            }
            assert!(Instant::now() < deadline, "{status}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        scene.node.kill9().await;
        let read = reading.await.expect("no panic");
        assert!(
            read.differs_at.is_none() && read.error.is_some(),
            "{read:?}"
        );
        slow.lift();
        // Bytes that were on their way must not count again.
        scene.fake.stop().await;
        scene.fake.start_again().await;
        scene.fake.reset_counts();
        Self {
            scene,
            content,
            digest,
            present,
        }
    }

    fn partial(&self) -> PathBuf {
        let hex = &self.digest["sha256:".len()..];
        self.scene.node.store().join("partial/sha256").join(hex)
    }

    fn spans(&self) -> PathBuf {
        self.partial().with_extension("spans")
    }

    /// Starts the node again and pulls; gives how many bytes it fetched for that.
    async fn go_on(&mut self) -> u64 {
        self.scene.node.restart().await;
        let pulled = pull(&self.scene.blob("a/b", &self.digest), &self.content).await;
        assert_eq!(pulled, whole(&self.content));
        self.scene.until_committed(&self.digest).await;
        super::sound_blobs(self.scene.node.store());
        assert_eq!(
            files(&self.scene.node.store().join("partial")),
            [] as [PathBuf; 0]
        );
        self.scene.fake.blob_bytes_sent(&self.digest)
    }
}

#[tokio::test]
async fn only_what_is_missing_is_fetched() {
    let mut killed = Killed::after(40 * MB).await;
    let fetched = killed.go_on().await;
    let missing = SIZE - killed.present;
    // Checkpoints are 8 MiB apart, and each of eight streams had some bytes that no checkpoint covers.
    let most = missing + 8 * (1 << 20) + 8 * MB;
    assert!(
        fetched <= most,
        "{fetched} were fetched where {missing} were missing"
    );
    assert_eq!(
        killed.scene.node.metric("larder_fills_resumed_total").await,
        Some(1.0)
    );
}

#[tokio::test]
async fn a_stop_in_order_loses_nothing() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let content = Content::synthetic(1, SIZE);
    let digest = scene.fake.put_content("a/b", &content);
    let gate = scene.fake.gate(Match::blob(), 10 * MB);
    let range = [("range", "bytes=0-19999999")];
    let mut stream = http::open(&scene.blob("a/b", &digest), &range)
        .await
        .expect("an answer");
    let bytes = stream.read_exactly(9_000_000).await.expect("9 MB");
    assert!(*bytes == content.read(0..9 * MB));
    gate.reached(1).await;
    stream.close();
    scene.until_idle().await;
    let mut node = scene.node;
    node.terminate();
    node.wait().await;
    gate.open();
    scene.fake.reset_counts();
    node.restart().await;
    let url = format!(
        "{}/v2/a/b/blobs/{digest}?ns={}",
        node.url(),
        scene.fake.host()
    );
    assert_eq!(pull(&url, &content).await, whole(&content));
    let fetched = scene.fake.blob_bytes_sent(&digest);
    assert!(fetched <= SIZE - 9 * MB, "{fetched}");
}

/// After a reboot the earlier page cache is gone, whatever the checkpoint says.
#[tokio::test]
async fn after_another_boot_a_partial_is_not_trusted() {
    let mut killed = Killed::after(20 * MB).await;
    let mut saved: Value =
        serde_json::from_slice(&fs::read(killed.spans()).expect("a checkpoint")).expect("JSON");
    assert!(saved["boot_id"].is_string(), "{saved}");
    saved["boot_id"] = "another".into();
    fs::write(killed.spans(), saved.to_string()).expect("a checkpoint");
    // These pages never reached the disk.
    fs::File::options()
        .write(true)
        .open(killed.partial())
        .and_then(|file| file.write_all_at(&vec![0; 5_000_000], 1_000_000))
        .expect("a partial");
    let fetched = killed.go_on().await;
    assert!((SIZE..=SIZE + SIZE / 50).contains(&fetched), "{fetched}");
    assert_eq!(
        killed.scene.node.metric("larder_fills_resumed_total").await,
        Some(0.0)
    );
}

#[tokio::test]
async fn a_hole_where_bytes_should_be_is_seen() {
    let mut killed = Killed::after(20 * MB).await;
    let size = fs::metadata(killed.partial()).expect("a partial").len();
    // A sparse file takes the partial's place: the checkpoint fits, but the bytes are missing.
    let file = fs::File::create(killed.partial()).expect("a partial");
    file.set_len(size).expect("a sparse file");
    let fetched = killed.go_on().await;
    assert!((SIZE..=SIZE + SIZE / 50).contains(&fetched), "{fetched}");
}

#[tokio::test]
async fn what_cannot_be_understood_is_dropped() {
    let mut killed = Killed::after(20 * MB).await;
    let good = fs::read(killed.spans()).expect("a checkpoint");
    let json: Value = serde_json::from_slice(&good).expect("JSON");
    let with = |name: &str, value: Value| {
        let mut json = json.clone();
        json[name] = value;
        json.to_string().into_bytes()
    };
    let partial = fs::read(killed.partial()).expect("a partial");
    let broken: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"garbage".to_vec(),
        good[..good.len() / 2].to_vec(),
        vec![0xff; 4096],
        with("size", 5.into()),
        with("size", u64::MAX.into()),
        with("hashed", SIZE.into()),
        with("midstate", "AAAA".into()),
        with("spans", serde_json::json!([[0, SIZE * 2]])),
        with("spans", serde_json::json!([[9, 3]])),
        with("spans", serde_json::json!([[0, u64::MAX]])),
    ];
    killed.scene.fake.stop().await;
    for spans in &broken {
        fs::write(killed.partial(), &partial).expect("a partial");
        fs::write(killed.spans(), spans).expect("a checkpoint");
        killed.scene.node.kill9().await;
        killed.scene.node.restart().await;
        let shown = String::from_utf8_lossy(spans);
        let answer = http::head(&killed.scene.blob("a/b", &killed.digest), &[]).await;
        assert_eq!(answer.expect("an answer").status, 503, "{shown}");
        let range = [("range", "bytes=0-99999")];
        let stream = http::open(&killed.scene.blob("a/b", &killed.digest), &range).await;
        let mut stream = stream.expect("an answer");
        if stream.status == 206 {
            let compared = compare(&mut stream, &killed.content, 0..100_000).await;
            assert_eq!(compared.differs_at, None, "{shown}: {compared:?}");
        }
    }
    killed.scene.fake.start_again().await;
    fs::write(killed.spans(), "garbage").expect("a checkpoint");
    let fetched = killed.go_on().await;
    assert!((SIZE..=SIZE + SIZE / 50).contains(&fetched), "{fetched}");
}

/// A kill between the two steps of a commit leaves the checkpoint of a partial that has become a blob.
#[tokio::test]
async fn a_checkpoint_without_its_partial_is_swept_and_hurts_nobody() {
    let mut killed = Killed::after(20 * MB).await;
    fs::remove_file(killed.partial()).expect("a partial");
    killed.scene.node.restart().await;
    let url = killed.scene.blob("a/b", &killed.digest);
    assert_eq!(pull(&url, &killed.content).await, whole(&killed.content));
    assert_eq!(
        killed.scene.node.metric("larder_store_failing").await,
        Some(0.0)
    );
    killed.scene.until_committed(&killed.digest).await;

    let stray = killed
        .spans()
        .with_file_name(format!("{}.spans", "0".repeat(64)));
    fs::write(&stray, "{}").expect("a checkpoint");
    killed.scene.node.restart().await;
    larder_tests::scene::eventually("it is swept", || !stray.exists()).await;
    assert_eq!(
        pull(&url, &killed.content).await,
        (200, Compared::whole(SIZE))
    );
}

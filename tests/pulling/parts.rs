//! For a client that reads parts of a blob, larder fetches only those parts: lazy snapshotters, containerd's parallel
//! fetch (promise P6).

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use larder_tests::fake::{Fault, Kind, Match, expected};
use larder_tests::http;
use larder_tests::scene::Scene;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 200 * MIB;
const CHUNK: u64 = 8 * MIB;

/// Reads `CHUNK` bytes from `start` of an open-ended range, then closes, as containerd 2.1 does.
async fn read_chunk(url: &str, seed: u64, start: u64) {
    let range = format!("bytes={start}-");
    let mut stream = http::open(url, &[("range", &range)])
        .await
        .expect("an answer");
    assert_eq!(stream.status, 206);
    let end = (start + CHUNK).min(SIZE);
    let bytes = stream.read_exactly((end - start) as usize).await;
    assert!(
        bytes.expect("a chunk") == expected(seed, start..end),
        "from {start}"
    );
    stream.close();
}

#[tokio::test]
async fn open_ended_ranges_closed_early_fetch_what_is_read() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 5, SIZE);
    let url = scene.blob("a/b", &digest);
    let chunks = [0, 10, 20].map(|i| i * CHUNK);
    futures_util::future::join_all(chunks.map(|start| read_chunk(&url, 5, start))).await;
    scene.until_idle().await;
    // The bytes that were read, and for each reader larder's look-ahead of 8 MiB and the bytes in the two sockets.
    let sent = scene.fake.blob_bytes_sent(&digest);
    let (read, slack) = (3 * CHUNK, 3 * 18 * MIB);
    assert!(sent >= read && sent <= read + slack, "{sent} for {read}");
    assert!(!scene.committed(&digest));

    // All the chunks come to the whole, once, except for bytes that a stream left in the sockets' buffers when it was
    // cut short: some 100 KB on a quiet machine, and more on a busy one.
    for starts in (0..SIZE / CHUNK).collect::<Vec<_>>().chunks(3) {
        let reads = starts.iter().map(|i| read_chunk(&url, 5, i * CHUNK));
        futures_util::future::join_all(reads).await;
    }
    scene.until_committed(&digest).await;
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(
        (SIZE..=SIZE + SIZE / 20).contains(&sent),
        "{sent} of {SIZE}"
    );
}

/// Counts requests, since registries limit them. The registry here gives each connection 20 MB/s, as real ones do.
async fn requests_of(read: impl AsyncFn(&str)) -> usize {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 5, SIZE);
    let slow = Fault::ThrottleBytesPerSecond(20_000_000);
    scene.fake.fault(Match::blob(), slow);
    read(&scene.blob("a/b", &digest)).await;
    scene.until_committed(&digest).await;
    scene.fake.count(|seen| seen.kind == Kind::Blob)
}

#[tokio::test]
async fn a_client_that_reads_in_chunks_costs_a_request_a_chunk() {
    let requests = requests_of(async |url| {
        // Three at once, the next as soon as one ends.
        futures_util::stream::iter(0..SIZE / CHUNK)
            .map(|i| read_chunk(url, 5, i * CHUNK))
            .buffer_unordered(3)
            .collect::<Vec<()>>()
            .await;
    })
    .await;
    // 25 chunks, and some requests that were cut short. There would be one a MiB if each step of a reader's window were
    // a request.
    let chunks = (SIZE / CHUNK) as usize;
    assert!(
        requests <= 2 * chunks,
        "{requests} requests, {chunks} chunks"
    );
}

#[tokio::test]
async fn a_resumed_download_costs_few_requests() {
    let requests = requests_of(async |url| {
        let answer = http::get(url, &[("range", "bytes=1000-")]).await;
        assert_eq!(answer.expect("an answer").body.len() as u64, SIZE - 1000);
        // Its first bytes.
        http::get(url, &[("range", "bytes=0-999")]).await.unwrap();
    })
    .await;
    assert!(requests <= 50, "{requests}");
}

#[tokio::test]
async fn a_whole_download_costs_few_requests() {
    let requests = requests_of(async |url| {
        let answer = http::get(url, &[]).await;
        assert_eq!(answer.expect("an answer").body.len() as u64, SIZE);
    })
    .await;
    assert!(requests <= 40, "{requests}");
}

#[tokio::test]
async fn small_reads_at_random_places_cost_a_span_each() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 6, SIZE);
    let url = scene.blob("a/b", &digest);
    let mut random = fastrand::Rng::with_seed(1);
    let mut spans = std::collections::BTreeSet::new();
    for _ in 0..25 {
        let start = random.u64(0..SIZE - 50_000);
        let last = start + 49_999;
        spans.extend(start / MIB..=last / MIB);
        let range = format!("bytes={start}-{last}");
        let answer = http::get(&url, &[("range", &range)])
            .await
            .expect("an answer");
        assert_eq!(answer.status, 206);
        assert!(answer.body == expected(6, start..last + 1), "{range}");
    }
    scene.until_idle().await;
    let touched = spans.len() as u64 * MIB;
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(
        sent >= 25 * 50_000 && sent <= touched + touched * 3 / 10,
        "{sent} for {touched}"
    );
    // The same places again: at most a proof of one byte each that the reader may have them.
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..25 {
        let start = random.u64(0..SIZE - 50_000);
        let range = format!("bytes={start}-{}", start + 49_999);
        let answer = http::get(&url, &[("range", &range)])
            .await
            .expect("an answer");
        assert_eq!(answer.status, 206, "{range}: {}", answer.text());
        assert!(answer.body == expected(6, start..start + 50_000), "{range}");
    }
    assert!(scene.fake.blob_bytes_sent(&digest) <= sent + 25);
}

/// A client that leaves a large bounded range withdraws its demand.
#[tokio::test]
async fn a_bounded_range_that_is_left_is_not_fetched_to_its_end() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 7, SIZE);
    let gate = scene.fake.gate(Match::blob(), 2 * MIB);
    let range = [("range", "bytes=0-157286399")];
    let stream = http::open(&scene.blob("a/b", &digest), &range).await;
    let mut stream = stream.expect("an answer");
    stream.read_exactly(MIB as usize).await.expect("1 MiB");
    gate.reached(1).await;
    stream.close();
    scene.until_unread().await;
    gate.open();
    scene.until_idle().await;
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent < 100 * MIB, "{sent}");
}

/// A lazy reader pauses for as long as a fill waits for its readers. It loses nothing of what it has read.
#[tokio::test]
async fn what_was_read_is_here_when_its_reader_comes_back() {
    let scene = Scene::new().await;
    let digests: Vec<_> = (0..20)
        .map(|seed| scene.fake.put_blob_of("a/b", seed, 6 * MIB))
        .collect();
    let read = async |seed: u64, digest: &str| {
        let range = [("range", "bytes=5242880-5252879")];
        let answer = http::get(&scene.blob("a/b", digest), &range).await;
        let answer = answer.expect("an answer");
        assert!(answer.body == expected(seed, 5 * MIB..5 * MIB + 10_000));
        // The reader comes back at the very moment when larder gives its fill up.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let status = scene.node.admin("/status").await;
            let fills = status["fills"].as_array().cloned().unwrap_or_default();
            if fills.iter().all(|fill| fill["digest"] != digest) {
                break;
            }
            assert!(Instant::now() < deadline, "{status}");
        }
        let answer = http::get(&scene.blob("a/b", digest), &range).await;
        let answer = answer.expect("an answer");
        assert!(answer.body == expected(seed, 5 * MIB..5 * MIB + 10_000));
        // larder asks the registry only for one byte, as a proof that the reader may have the blob.
        let sent = scene.fake.blob_bytes_sent(digest);
        assert!(sent <= MIB + 1, "{sent}");
    };
    let reads = digests
        .iter()
        .zip(0..)
        .map(|(digest, seed)| read(seed, digest));
    futures_util::future::join_all(reads).await;
}

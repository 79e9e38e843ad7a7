//! A cold pull takes as long as the upstream allows, not as long as one connection does (P7).

use std::time::{Duration, Instant};

use larder_tests::fake::{Content, FakeRegistry, Fault, Kind, Match};
use larder_tests::http;
use larder_tests::scene::{Compared, Scene, compare};

use super::{MB, pull, whole};

/// The most streams of one fill.
const STREAMS: usize = 8;

/// Does the work. Gives how many blob requests were open at once, for longer than larder needs to notice a closed one.
async fn most_at_once(fake: &FakeRegistry, work: impl Future<Output = ()>) -> usize {
    let mut open = [0; 4];
    let mut most = 0;
    tokio::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return most,
            () = tokio::time::sleep(Duration::from_millis(5)) => {
                open.rotate_left(1);
                open[3] = fake.count(|seen| seen.kind == Kind::Blob && !seen.finished);
                most = most.max(open.into_iter().min().unwrap_or(0));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_each_connection_is_overcome() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let content = Content::synthetic(1, 48 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    scene
        .fake
        .fault(Match::blob(), Fault::ThrottleBytesPerSecond(12 * MB));
    let begun = Instant::now();
    let direct = format!("{}/v2/a/b/blobs/{digest}", scene.fake.url());
    assert_eq!(pull(&direct, &content).await, whole(&content));
    let direct = begun.elapsed();
    scene.fake.reset_counts();
    let url = scene.blob("a/b", &digest);
    let begun = Instant::now();
    let most = most_at_once(&scene.fake, async {
        assert_eq!(pull(&url, &content).await, whole(&content));
    })
    .await;
    let took = begun.elapsed();
    let ratio = took.as_secs_f64() / direct.as_secs_f64();
    assert!(
        ratio < 0.6,
        "{took:?} through larder, {direct:?} without: {ratio:.2}"
    );
    assert!((3..=STREAMS).contains(&most), "{most} streams");
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent <= content.len() + content.len() / 50, "{sent}");
}

/// Readers at many places of a blob do not cause as many connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_of_streams_holds_whatever_is_read() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let content = Content::synthetic(1, 200 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    scene
        .fake
        .fault(Match::blob(), Fault::ThrottleBytesPerSecond(4 * MB));
    let url = scene.blob("a/b", &digest);
    let readers = (0..24u64).map(|i| {
        let (url, content) = (url.clone(), content.clone());
        async move {
            let start = i * 8 * MB;
            let range = format!("bytes={start}-{}", start + 499_999);
            let mut stream = http::open(&url, &[("range", &range)])
                .await
                .expect("an answer");
            let compared = compare(&mut stream, &content, start..start + 500_000).await;
            assert_eq!(compared, Compared::whole(500_000));
        }
    });
    let most = most_at_once(&scene.fake, async {
        futures_util::future::join_all(readers).await;
    })
    .await;
    assert!((4..=STREAMS).contains(&most), "{most} streams");
}

/// An upstream that ignores ranges gets one request.
#[tokio::test]
async fn an_upstream_without_ranges_gets_one_stream() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let content = Content::synthetic(1, 40 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    scene.fake.fault(Match::blob(), Fault::IgnoreRange);
    scene
        .fake
        .fault(Match::blob(), Fault::ThrottleBytesPerSecond(40 * MB));
    let url = scene.blob("a/b", &digest);
    let middle = tokio::spawn({
        let (url, content) = (url.clone(), content.clone());
        async move {
            let mut stream = http::open(&url, &[("range", "bytes=30000000-30999999")])
                .await
                .expect("an answer");
            assert_eq!(stream.status, 206);
            compare(&mut stream, &content, 30 * MB..31 * MB).await
        }
    });
    assert_eq!(pull(&url, &content).await, whole(&content));
    assert_eq!(middle.await.expect("no panic"), Compared::whole(MB));
    assert_eq!(scene.fake.count(|seen| seen.kind == Kind::Blob), 1);
    assert_eq!(scene.fake.blob_bytes_sent(&digest), content.len());
}

/// A small blob is not worth more than one request.
#[tokio::test]
async fn a_small_blob_is_one_request() {
    let scene = Scene::new().await;
    for size in [1, 65_536, MB, 8 * MB] {
        let content = Content::synthetic(size, size);
        let digest = scene.fake.put_content("a/b", &content);
        scene.fake.reset_counts();
        assert_eq!(
            pull(&scene.blob("a/b", &digest), &content).await,
            whole(&content)
        );
        assert_eq!(scene.fake.requests().len(), 1, "{size}");
    }
}

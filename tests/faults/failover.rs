//! A source that fails is replaced at the byte reached, and the client does not notice (P10).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use larder_tests::fake::{Armed, Content, FakeRegistry, Fault, Kind, Match, Request};
use larder_tests::http;
use larder_tests::mirrors::Mirrors;
use larder_tests::scene::{Compared, Scene, committed, compare, eventually};

use super::{MB, pull, whole};

const REPOSITORY: &str = "team/app";

/// How many bytes more than the blob the endpoints may send in all: those under way when larder gives a stream up.
const SLACK: u64 = 3 * MB;

/// How the first endpoint fails, for the requests of one blob.
fn failures() -> Vec<Vec<Fault>> {
    let mut all = vec![
        vec![Fault::status(404)],
        vec![Fault::status(500)],
        vec![Fault::status(429)],
        vec![Fault::status(403)],
        vec![Fault::RedirectLoop],
    ];
    for at in [0, MB, 5 * MB] {
        all.push(vec![Fault::TruncateAfter(at)]);
        all.push(vec![Fault::ResetAfter(at)]);
        all.push(vec![Fault::IgnoreRange, Fault::TruncateAfter(at)]);
        all.push(vec![Fault::IgnoreRange, Fault::ResetAfter(at)]);
    }
    all.push(vec![Fault::StallAfter(2 * MB)]);
    all.push(vec![Fault::IgnoreRange, Fault::StallAfter(2 * MB)]);
    all.push(vec![Fault::WrongLength(-1000)]);
    all.push(vec![Fault::WrongLength(1000)]);
    all.push(vec![Fault::IgnoreRange, Fault::NoLength]);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_endpoint_is_replaced_unnoticed() {
    let mirrors = Mirrors::with("", |node| node.log_level("info")).await;
    let mirrors = &mirrors;
    let cases = failures().into_iter().enumerate();
    // A stalled endpoint takes five seconds, so all cases run at once; each has its own blobs.
    let cases = cases
        .flat_map(|(i, faults)| [3 * MB, 20 * MB].map(|size| (i as u64, faults.clone(), size)));
    join_all(cases.map(|(i, faults, size)| async move {
        let content = Content::synthetic(i, size + i);
        let digest = mirrors.put_content(REPOSITORY, &content);
        for fault in &faults {
            mirrors
                .first
                .fault(Match::blob().reference(&digest), fault.clone());
        }
        let case = format!("{faults:?} of {size}");
        assert_eq!(
            pull(&mirrors.blob(REPOSITORY, &digest), &content).await,
            whole(&content),
            "{case}"
        );
        eventually(&case, || committed(mirrors.node.store(), &digest)).await;
        let sent = mirrors.blob_bytes_sent(&digest);
        // larder may ask an endpoint without ranges for the whole blob again, once.
        let limit = if faults.len() > 1 { 2 * size } else { size } + SLACK;
        assert!((size..=limit).contains(&sent), "{case}: {sent}");
    }))
    .await;
}

/// The same where no blob is kept, and each reader fetches for itself.
#[tokio::test]
async fn an_endpoint_that_tells_no_length_is_replaced() {
    for most in ["1GB", "1MB"] {
        let config = format!("[store]\nmax_size = \"{most}\"\n");
        let mirrors = Mirrors::with(&config, |node| node).await;
        let content = Content::synthetic(1, 3 * MB);
        let digest = mirrors.put_content(REPOSITORY, &content);
        for fault in [Fault::IgnoreRange, Fault::NoLength] {
            mirrors.first.fault(Match::blob(), fault);
        }
        assert_eq!(
            pull(&mirrors.blob(REPOSITORY, &digest), &content).await,
            whole(&content),
            "{most}"
        );
    }
}

#[tokio::test]
async fn an_endpoint_that_dies_is_replaced_whenever_it_dies() {
    for size in [3 * MB, 64 * MB] {
        let mirrors = Mirrors::new().await;
        let before = Content::synthetic(1, size);
        let digest = mirrors.put_content(REPOSITORY, &before);
        mirrors.first.stop().await;
        assert_eq!(
            pull(&mirrors.blob(REPOSITORY, &digest), &before).await,
            whole(&before)
        );
        assert_eq!(mirrors.first.requests(), []);

        // Another pair of endpoints: larder avoids this one for a while.
        let mirrors = Mirrors::new().await;
        let content = Content::synthetic(2, size);
        let digest = mirrors.put_content(REPOSITORY, &content);
        let gate = mirrors.first.gate(Match::blob(), MB);
        let mut stream = http::open(&mirrors.blob(REPOSITORY, &digest), &[])
            .await
            .expect("an answer");
        assert_eq!(stream.status, 200);
        let head = stream.read_exactly(900_000).await.expect("the first bytes");
        assert!(*head == content.read(0..900_000));
        gate.reached(1).await;
        mirrors.first.stop().await;
        let rest = compare(&mut stream, &content, 900_000..size).await;
        assert_eq!(rest, Compared::whole(size - 900_000));
        let sent = mirrors.second.blob_bytes_sent(&digest);
        assert!(
            (size - 2 * MB..=size).contains(&sent),
            "{sent}: it went on at the byte reached"
        );
    }
}

/// Another reader comes while one endpoint hangs in the middle, and wants a range that is not there yet.
#[tokio::test]
async fn all_readers_go_on_with_the_next_endpoint() {
    let mirrors = Mirrors::new().await;
    let content = Content::synthetic(1, 40 * MB);
    let digest = mirrors.put_content(REPOSITORY, &content);
    let gate = mirrors.first.gate(Match::blob(), 2 * MB);
    let url = mirrors.blob(REPOSITORY, &digest);
    let readers: Vec<_> = [
        "bytes=0-",
        "bytes=10000000-10999999",
        "bytes=30000000-",
        "bytes=-5000000",
    ]
    .into_iter()
    .map(|range| {
        let (url, content) = (url.clone(), content.clone());
        tokio::spawn(async move {
            let (start, end) = match range {
                "bytes=0-" => (0, 40 * MB),
                "bytes=10000000-10999999" => (10 * MB, 11 * MB),
                "bytes=30000000-" => (30 * MB, 40 * MB),
                _ => (35 * MB, 40 * MB),
            };
            let mut stream = http::open(&url, &[("range", range)])
                .await
                .expect("an answer");
            assert_eq!(stream.status, 206);
            let compared = compare(&mut stream, &content, start..end).await;
            assert_eq!(compared, Compared::whole(end - start), "{range}");
        })
    })
    .collect();
    gate.reached(2).await;
    mirrors.first.stop().await;
    for reader in readers {
        reader.await.expect("no panic");
    }
    let sent = mirrors.blob_bytes_sent(&digest);
    assert!(sent <= 40 * MB + SLACK, "{sent}");
}

/// The only endpoint: larder asks it again for at least five seconds, and fetches no byte twice.
#[tokio::test]
async fn the_only_endpoint_is_asked_again_until_it_is_back() {
    let scene = Scene::new().await;
    let content = Content::synthetic(1, 30 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let gate = scene.fake.gate(Match::blob(), MB);
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    stream.read_exactly(900_000).await.expect("the first bytes");
    gate.reached(1).await;
    scene.fake.stop().await;
    // Longer than any pause between two attempts, shorter than larder's patience.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    gate.open();
    scene.fake.start_again().await;
    let rest = compare(&mut stream, &content, 900_000..content.len()).await;
    assert_eq!(rest, Compared::whole(content.len() - 900_000));
    let sent = scene.fake.blob_bytes_sent(&digest);
    assert!(sent <= content.len() + SLACK, "{sent}");
}

/// Errors after a stall have their own time limit: the stall does not use it up.
#[tokio::test]
async fn an_error_after_a_stall_is_not_the_end() {
    let mirrors = Mirrors::new().await;
    let content = Content::synthetic(1, 3 * MB);
    let digest = mirrors.put_content(REPOSITORY, &content);
    mirrors
        .first
        .fault(Match::blob().times(1), Fault::StallAfter(MB));
    let again = fails_after_first(&mirrors.first);
    // larder's request for one byte, which proves that the origin has the blob, does not count.
    let content_wanted = |request: &Request| request.header("range") != Some("bytes=0-0");
    let other = mirrors.second.fault(
        Match::blob().when(content_wanted).times(3),
        Fault::status(500),
    );
    assert_eq!(
        pull(&mirrors.blob(REPOSITORY, &digest), &content).await,
        whole(&content)
    );
    assert_eq!((again.hits(), other.hits()), (3, 3));
}

/// Answers 500 to the second, third and fourth request for a blob.
fn fails_after_first(fake: &FakeRegistry) -> Armed {
    let asked = AtomicU32::new(0);
    let later = move |request: &Request| {
        request.kind == Kind::Blob && (1..=3).contains(&asked.fetch_add(1, Ordering::SeqCst))
    };
    fake.fault(Match::any().when(later), Fault::status(500))
}

//! What a slow source costs: bytes that come in small pieces are written, hashed and announced in larger ones.
//!
//! The test counts turns of threads, which are the cost of such a download. The machine's speed does not matter: on a
//! busy machine more bytes come together, and there are fewer turns.

use std::fs;
use std::time::{Duration, Instant};

use larder_tests::fake::{Fault, Match, expected};
use larder_tests::http;
use larder_tests::scene::Scene;

const MB: u64 = 1_000_000;
const SIZE: u64 = 48 * MB;

/// A client reads a blob whose source is slow: the whole, or a range of it. It takes `most` turns of the node's threads
/// for each megabyte.
async fn few_turns(range: Option<&str>, wanted: std::ops::Range<u64>, most: u64) {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, SIZE);
    // 40 kB, fifty times a second, on each stream.
    scene
        .fake
        .fault(Match::blob(), Fault::ThrottleBytesPerSecond(2 * MB));
    let headers: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
    let before = scene.node.turns();
    let answer = http::get(&scene.blob("a/b", &digest), &headers).await;
    let answer = answer.expect("an answer");
    let turns = scene.node.turns() - before;
    let each = turns / ((wanted.end - wanted.start) / MB);
    assert!(answer.body == expected(1, wanted), "{range:?}: other bytes");
    eprintln!("{range:?}: {each} turns for each MB");
    assert!(
        each <= most,
        "{range:?}: {turns} turns of threads, {each} for each MB"
    );
}

#[tokio::test]
async fn a_slow_source_costs_few_turns_of_threads_for_each_megabyte() {
    let end = SIZE - 5 * MB;
    let bounded = format!("bytes={MB}-{}", end - 1);
    let open = format!("bytes={MB}-");
    tokio::join!(
        few_turns(None, 0..SIZE, 64),
        few_turns(Some(&bounded), MB..end, 70),
        few_turns(Some(&open), MB..SIZE, 110),
    );
}

/// The process's own anonymous memory, in bytes.
fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.expect("a number").parse::<u64>().expect("a number") << 10
}

#[tokio::test]
async fn memory_that_a_pull_needed_goes_back() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 256 * MB);
    let pid = scene.node.pid();
    let url = scene.blob("a/b", &digest);
    let pulls = (0..4).map(|_| http::get(&url, &[]));
    for answer in futures_util::future::join_all(pulls).await {
        assert_eq!(answer.expect("an answer").body.len() as u64, 256 * MB);
    }
    let most = anonymous(pid);
    let deadline = Instant::now() + Duration::from_mins(1);
    // 12 MB on a quiet machine. On a busy one more threads work at once, and their heaps are more fragmented.
    while anonymous(pid) > 28 * MB {
        let now = anonymous(pid) / MB;
        assert!(
            Instant::now() < deadline,
            "{now} MB are kept a minute after the pull, of {} MB",
            most / MB
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

//! Random faults of every kind, with clients of every kind at once. An answer that looks complete is never wrong, and
//! once the faults are over every answer is right.

use std::time::Duration;

use fastrand::Rng;
use larder_tests::fake::{Algorithm, Content, Fault, Match};
use larder_tests::http;
use larder_tests::scene::{Compared, Scene, compare};

/// Rounds, each on a blob of its own.
const ROUNDS: u64 = 60;

fn a_fault(random: &mut Rng, size: u64) -> Fault {
    let at = random.u64(0..=size);
    match random.u8(0..14) {
        0..3 => Fault::TruncateAfter(at),
        3..6 => Fault::ResetAfter(at),
        6 => Fault::IgnoreRange,
        7 => Fault::WrongLength(random.i64(-1000..1000)),
        8 => Fault::NoLength,
        9 => Fault::Delay(Duration::from_millis(random.u64(0..200))),
        10 => Fault::status([500, 502, 404][random.usize(0..3)]),
        11 => Fault::redirect_to_cdn(),
        12 => Fault::WrongDigestHeader,
        _ => Fault::ThrottleBytesPerSecond(random.u64(5_000_000..50_000_000)),
    }
}

/// A `Range`, the bytes that it means, and whether a complete answer must have the right digest.
fn a_range(random: &mut Rng, size: u64) -> (Option<String>, std::ops::Range<u64>, bool) {
    let a = random.u64(0..size);
    let b = random.u64(a..size);
    match random.u8(0..5) {
        0 | 1 => (None, 0..size, true),
        2 => (Some(format!("bytes={a}-")), a..size, true),
        3 => (Some(format!("bytes=-{}", size - a)), a..size, false),
        _ => (Some(format!("bytes={a}-{b}")), a..b + 1, false),
    }
}

/// The range that a `Content-Range` names.
fn said(content_range: &str) -> std::ops::Range<u64> {
    let range = content_range
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split_once('/'));
    let (first, last) = range
        .and_then(|(range, _)| range.split_once('-'))
        .expect("a range");
    first.parse().expect("a number")..last.parse::<u64>().expect("a number") + 1
}

async fn round(scene: &Scene, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let size = match random.u8(0..4) {
        0 => random.u64(1..100_000),
        1 | 2 => random.u64(1..5_000_000),
        _ => random.u64(1..40_000_000),
    };
    let content = Content::synthetic(seed, size);
    let digest = scene
        .fake
        .put_content_as("a/b", Algorithm::Sha256, &content);
    let mut armed = Vec::new();
    for _ in 0..random.u32(1..5) {
        let which = Match::blob().reference(&digest).times(random.u32(1..4));
        armed.push(scene.fake.fault(which, a_fault(&mut random, size)));
    }
    let wrong = random.u8(0..4) == 0;
    if wrong {
        let at = random.u64(0..size);
        let which = Match::blob().reference(&digest).times(random.u32(1..4));
        armed.push(scene.fake.fault(which, Fault::WrongBytes { at }));
    }
    let clients = (0..random.u32(1..6)).map(|_| {
        let (range, means, whole) = a_range(&mut random, size);
        let leaves = (random.u8(0..4) == 0).then(|| random.u64(0..=means.end - means.start));
        let (url, content) = (scene.blob("a/b", &digest), content.clone());
        let case = format!("seed {seed}, {size} bytes, wrong: {wrong}, {range:?}");
        async move {
            let header = range.as_deref().map(|range| ("range", range));
            let stream = http::open(&url, header.as_slice()).await;
            let mut stream = stream.unwrap_or_else(|error| panic!("{case}: {error:#}"));
            if !matches!(stream.status, 200 | 206) {
                // A refusal is one that the registry gave, or says that the registry cannot be asked.
                assert!(
                    matches!(stream.status, 404 | 503),
                    "{case}: {}",
                    stream.status
                );
                return;
            }
            if let Some(bytes) = leaves {
                // The body may end short before that.
                if let Ok(read) = stream.read_exactly(bytes as usize).await {
                    let right = *read == content.read(means.start..means.start + bytes);
                    assert!(wrong || right, "{case}");
                }
                return;
            }
            // A registry with a wrong length shifts the end from which a suffix is counted.
            let told = stream.header("content-range").map(str::to_owned);
            let means = match told.as_deref() {
                Some(told) if !whole && !told.ends_with(&format!("/{size}")) => said(told),
                _ => means,
            };
            let len = means.end - means.start;
            let came = compare(&mut stream, &content, means).await;
            if came.error.is_none() && (whole || !wrong) {
                assert_eq!(came, Compared::whole(len), "{case}");
            }
            assert!(wrong || came.differs_at.is_none(), "{case}: {came:?}");
        }
    });
    futures_util::future::join_all(clients.collect::<Vec<_>>()).await;
    armed.iter().for_each(larder_tests::fake::Armed::lift);
    // One more attempt may meet a fill that was still under way.
    for last in [false, true] {
        let stream = http::open(&scene.blob("a/b", &digest), &[]).await;
        let mut stream = stream.expect("an answer");
        let came = compare(&mut stream, &content, 0..size).await;
        if stream.status == 200 && came == Compared::whole(size) {
            break;
        }
        assert!(
            !last,
            "seed {seed}: {} {came:?} after the faults",
            stream.status
        );
    }
    scene.until_committed(&digest).await;
}

#[tokio::test]
async fn nothing_that_looks_complete_is_wrong() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let base = std::env::var("LARDER_STORM_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    let rounds: Vec<u64> = (base..base + ROUNDS).collect();
    for some in rounds.chunks(12) {
        futures_util::future::join_all(some.iter().map(|seed| round(&scene, *seed))).await;
    }
}

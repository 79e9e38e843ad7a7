//! The first byte leaves when the upstream's first byte arrives, whatever the size (promise P4).

use larder_tests::fake::{Gate, Match, digest_of, expected};
use larder_tests::http;
use larder_tests::scene::Scene;

const MB: u64 = 1_000_000;

#[tokio::test]
async fn a_cold_client_reads_while_the_upstream_has_sent_its_first_mb() {
    let scene = Scene::new().await;
    for (seed, size) in [(1, 70_000), (2, 3 * MB), (3, 12 * MB), (4, 200 * MB)] {
        let digest = scene.fake.put_blob_of("a/b", seed, size);
        // The tail waits for the digest, so a client cannot read a small blob up to its gate.
        let (gate_at, readable) = if size < MB { (60_000, 4_000) } else { (MB, MB) };
        let gate = scene.fake.gate(Match::blob().reference(&digest), gate_at);
        let mut stream = http::open(&scene.blob("a/b", &digest), &[]).await;
        let stream = stream.as_mut().expect("an answer");
        assert_eq!(stream.status, 200);
        assert_eq!(stream.header("content-length"), Some(&*size.to_string()));
        let bytes = stream.read_exactly(readable as usize).await;
        assert!(bytes.expect("what has come") == expected(seed, 0..readable));
        gate.reached(1).await;
        let requests = scene.fake.requests();
        let own = requests.iter().filter(|seen| seen.reference == digest);
        let most = own.map(|seen| seen.bytes_sent).max();
        assert_eq!(most, Some(gate_at), "nothing went past the gate");
        gate.open();
    }
}

#[tokio::test]
async fn a_range_in_the_middle_does_not_wait_for_what_is_before_it() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 64 * MB);
    let gate = scene.fake.gate(Match::blob().times(1), MB);
    let whole = http::open(&scene.blob("a/b", &digest), &[]).await;
    let mut whole = whole.expect("an answer");
    whole.read_exactly(1000).await.expect("the first bytes");
    gate.reached(1).await;
    let range = [("range", "bytes=50000000-50000009")];
    let answer = http::get(&scene.blob("a/b", &digest), &range).await;
    let answer = answer.expect("an answer");
    assert!(answer.status == 206 && answer.body == expected(1, 50 * MB..50 * MB + 10));
    assert!(
        !scene.committed(&digest),
        "the first stream still stands at the gate"
    );
    gate.open();
    let rest = whole.rest().await;
    assert!(rest.complete && rest.body.len() as u64 == 64 * MB - 1000);
}

/// Blobs of up to 64 KiB are verified before their first byte leaves.
#[tokio::test]
async fn a_small_blob_is_verified_first() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 65_536);
    let gate: Gate = scene.fake.gate(Match::blob(), 65_535);
    let url = scene.blob("a/b", &digest);
    let [whole, part] = [None, Some("bytes=0-9")].map(|range| {
        let url = url.clone();
        tokio::spawn(async move {
            let range = range.map(|range| ("range", range));
            http::get(&url, range.as_slice()).await
        })
    });
    gate.reached(1).await;
    let waits = tokio::time::timeout(std::time::Duration::from_millis(100), async {
        while !whole.is_finished() && !part.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waits.await.is_err(), "a head before the digest was known");
    gate.open();
    let whole = whole.await.expect("no panic").expect("an answer");
    assert!(whole.complete && digest_of(&whole.body) == digest);
    let part = part.await.expect("no panic").expect("an answer");
    assert!(part.status == 206 && part.body == expected(1, 0..10));
    assert_eq!(scene.fake.blob_bytes_sent(&digest), 65_536);
}

//! The tier under which a range counts when only a part of its blob is on this node.

use larder_tests::http;
use larder_tests::scene::eventually;

use crate::books::{Books, access_lines, closed, scene, sum};

/// A request counts under the tier that its bytes came from, also where the node has only a part of the blob. An
/// earlier request or process may have left that part, or a fill for another client may be under way.
#[tokio::test]
async fn ranges_of_a_partial_blob_count_by_where_their_bytes_were() {
    let mut scene = scene().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 20_000_000);
    let url = scene.blob("a/b", &digest);
    let mut hits = 0;
    let mut misses = 0;
    for (range, is_here) in [
        ("bytes=0-2000000", false),
        ("bytes=100-1999999", true),
        ("bytes=0-9,1500000-1500009", true),
        ("bytes=0-9,9000000-9000009", false),
        ("bytes=1000000-12000000", false),
        ("bytes=3000000-11000000", true),
    ] {
        let answer = http::get(&url, &[("range", range)]).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.complete), (206, true), "{range}");
        *(if is_here { &mut hits } else { &mut misses }) += 1;
        let books = closed(&scene).await;
        assert_eq!(sum(&books, |outcome| outcome == "hit").0, hits, "{range}");
        assert_eq!(
            sum(&books, |outcome| outcome == "miss").0,
            misses,
            "{range}"
        );
        // Half of the requests come while the fill is listed, the others after it.
        if is_here {
            scene.until_idle().await;
        }
    }
    let in_tiers = |books: &Books, wanted: &str| {
        let of = books.iter().filter(|((tier, ..), _)| tier == wanted);
        of.map(|(_, (requests, _))| *requests).sum::<u64>()
    };
    let books = closed(&scene).await;
    assert_eq!(
        (in_tiers(&books, "node"), in_tiers(&books, "upstream")),
        (hits, misses)
    );
    // A part that an earlier process left.
    scene.node.kill9().await;
    scene.node.restart().await;
    let sent = scene.fake.blob_bytes_sent(&digest);
    let answer = http::get(&url, &[("range", "bytes=0-999999")]).await;
    assert_eq!(answer.expect("an answer").status, 206);
    eventually("its access line", || {
        let last = access_lines(&scene.node).pop();
        last.is_some_and(|line| line["tier"] == "node" && line["outcome"] == "hit")
    })
    .await;
    // At most one byte more, by which the repository proves that it holds the blob.
    assert!(scene.fake.blob_bytes_sent(&digest) <= sent + 1);
}

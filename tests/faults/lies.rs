//! Endpoints that give wrong bytes: larder keeps none of them, and at most one answer is spoiled (P9).

use larder_tests::fake::{Content, Fault, Match, digest_of};
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::mirrors::Mirrors;
use larder_tests::scene::{Compared, committed, eventually};

use super::{MB, pull, whole};

const REPOSITORY: &str = "team/app";

/// A blob that is verified before its first byte leaves comes right, from the second endpoint.
#[tokio::test]
async fn a_wrong_small_blob_is_had_from_the_next_endpoint() {
    let mirrors = Mirrors::new().await;
    for (seed, size) in [(1, 1), (2, 1000), (3, 65_536)] {
        let content = Content::synthetic(seed, size);
        let digest = mirrors.put_content(REPOSITORY, &content);
        let lie = Match::blob().reference(&digest);
        mirrors.first.fault(lie, Fault::WrongBytes { at: size / 2 });
        assert_eq!(
            pull(&mirrors.blob(REPOSITORY, &digest), &content).await,
            whole(&content),
            "{size}"
        );
        // larder may ask the origin for one byte, as a proof that it has the blob.
        let sent = mirrors.blob_bytes_sent(&digest);
        assert!(
            (2 * size..=2 * size + 1).contains(&sent),
            "{sent} for {size}"
        );
        eventually("it is kept", || committed(mirrors.node.store(), &digest)).await;
    }
}

#[tokio::test]
async fn a_wrong_manifest_is_had_from_the_next_endpoint() {
    let mirrors = Mirrors::new().await;
    let text = "{\"schemaVersion\":2}";
    let digest = mirrors.put_manifest(REPOSITORY, Some("v1"), text);
    mirrors
        .first
        .fault(Match::manifest().method("GET"), Fault::WrongBytes { at: 3 });
    for reference in [&*digest, "v1", &*digest] {
        let answer = http::get(&mirrors.manifest(REPOSITORY, reference), &[]).await;
        let answer = answer.expect("an answer");
        assert_eq!(
            (answer.status, answer.text()),
            (200, text.to_owned()),
            "{reference}"
        );
    }
    // A wrong digest header misleads larder no more than wrong bytes do.
    let text = "{ }";
    let digest = mirrors.put_manifest(REPOSITORY, Some("v2"), text);
    mirrors.first.clear_faults();
    mirrors
        .first
        .fault(Match::manifest(), Fault::WrongDigestHeader);
    let answer = http::get(&mirrors.manifest(REPOSITORY, "v2"), &[])
        .await
        .expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, text.to_owned()));
    assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
}

/// Both endpoints lie: larder has nothing to serve, and serves nothing.
#[tokio::test]
async fn what_is_wrong_everywhere_is_not_served() {
    let mirrors = Mirrors::new().await;
    let content = Content::synthetic(1, 1000);
    let blob = mirrors.put_content(REPOSITORY, &content);
    let manifest = mirrors.put_manifest(REPOSITORY, None, "{}");
    for fake in [&mirrors.first, &mirrors.second] {
        fake.fault(Match::any(), Fault::WrongBytes { at: 1 });
    }
    for url in [
        mirrors.blob(REPOSITORY, &blob),
        mirrors.manifest(REPOSITORY, &manifest),
    ] {
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    mirrors.first.clear_faults();
    mirrors.second.clear_faults();
    assert_eq!(
        pull(&mirrors.blob(REPOSITORY, &blob), &content).await,
        whole(&content)
    );
    let answer = http::get(&mirrors.manifest(REPOSITORY, &manifest), &[])
        .await
        .expect("an answer");
    assert_eq!(answer.body, "{}");
}

/// Sent bytes cannot be taken back. The answer ends short, larder keeps nothing of it, and the next answer is right.
#[tokio::test]
async fn a_wrong_large_blob_costs_one_answer() {
    for size in [100_000, 3 * MB, 40 * MB] {
        let mirrors = Mirrors::new().await;
        let content = Content::synthetic(1, size);
        let digest = mirrors.put_content(REPOSITORY, &content);
        let at = 10_000;
        mirrors.first.fault(Match::blob(), Fault::WrongBytes { at });
        let url = mirrors.blob(REPOSITORY, &digest);
        let (status, compared) = pull(&url, &content).await;
        if size == 100_000 && (status, &compared) == (200, &Compared::whole(size)) {
            // larder noticed before the head left, and got the blob from the other endpoint.
            continue;
        }
        assert_eq!(status, 200);
        // The end of the connection may overtake bytes that were not sent yet.
        assert!(compared.differs_at.is_none_or(|differs| differs == at));
        assert!(compared.error.is_some(), "{size}: it looked whole");
        assert!(
            compared.len <= size - 65_536,
            "{size}: the tail was held back"
        );
        assert!(!committed(mirrors.node.store(), &digest));
        // The first endpoint still lies, but larder knows it now.
        let sent = mirrors.first.blob_bytes_sent(&digest);
        assert_eq!(pull(&url, &content).await, whole(&content), "{size}");
        assert_eq!(mirrors.first.blob_bytes_sent(&digest), sent);
        eventually("it is kept", || committed(mirrors.node.store(), &digest)).await;
        assert_eq!(
            mirrors.node.metric("larder_fills_mismatched_total").await,
            Some(1.0)
        );
    }
}

/// One endpoint's part of a blob is wrong, the other's is right. In the end larder finds out which endpoint lied.
#[tokio::test]
async fn a_lie_among_honest_bytes_is_tracked_down() {
    let mirrors = Mirrors::new().await;
    let content = Content::synthetic(1, 3 * MB);
    let digest = mirrors.put_content(REPOSITORY, &content);
    mirrors
        .first
        .fault(Match::blob(), Fault::WrongBytes { at: 10_000 });
    mirrors
        .first
        .fault(Match::blob().times(1), Fault::TruncateAfter(MB));
    let url = mirrors.blob(REPOSITORY, &digest);
    let mut spoiled = 0;
    loop {
        let (status, compared) = pull(&url, &content).await;
        assert_eq!(status, 200);
        if compared == Compared::whole(content.len()) {
            break;
        }
        assert!(compared.error.is_some(), "a wrong answer that looked whole");
        spoiled += 1;
        assert!(spoiled <= 2, "the liar is asked again and again");
    }
}

/// The mirror has another manifest under the tag: a mirror may decide a tag, but not a digest.
#[tokio::test]
async fn another_content_under_a_digest_is_no_content() {
    let mirrors = Mirrors::new().await;
    let digest = digest_of(b"{}");
    mirrors
        .second
        .put_manifest(REPOSITORY, None, OCI_MANIFEST, "{}");
    let content = Content::synthetic(1, 5000);
    let blob = mirrors.second.put_content(REPOSITORY, &content);
    mirrors
        .first
        .put_blob_under(REPOSITORY, &blob, &Content::synthetic(2, 7000));
    assert_eq!(
        pull(&mirrors.blob(REPOSITORY, &blob), &content).await,
        whole(&content)
    );
    let answer = http::get(&mirrors.manifest(REPOSITORY, &digest), &[])
        .await
        .expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, "{}".to_owned()));
}

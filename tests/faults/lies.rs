//! Endpoints that give wrong bytes: nothing wrong is kept, and at most one answer is spoiled (P9).

use larder_tests::fake::{Content, Fault, Match, digest_of};
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::mirrors::Mirrors;
use larder_tests::scene::{Compared, committed, eventually};

use super::{MB, pull, whole};

const REPOSITORY: &str = "team/app";

/// What is verified before its first byte leaves comes right, from the second endpoint.
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
        // The origin may be asked for one byte, to show that it serves the blob.
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
    // One that lies about what it has is believed as little.
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

/// Both lie: there is nothing to serve, and nothing is.
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

/// Bytes that were sent cannot be taken back: the answer ends short, nothing is kept, and the next one is right.
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
            // It was found out before its head had left, and had from the other.
            continue;
        }
        assert_eq!(status, 200);
        // The end may overtake what was not sent yet.
        assert!(compared.differs_at.is_none_or(|differs| differs == at));
        assert!(compared.error.is_some(), "{size}: it looked whole");
        assert!(
            compared.len <= size - 65_536,
            "{size}: the tail was held back"
        );
        assert!(!committed(mirrors.node.store(), &digest));
        // The first still lies, but now it is known.
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

/// A lie in one endpoint's part of a blob that two of them brought: which one it was shows in the end.
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

/// The mirror has another manifest under the tag: a tag is the mirror's to tell, a digest is not.
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

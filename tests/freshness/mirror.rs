//! Several endpoints and one tag: a mirror's answer does not replace the origin's (P14).

use std::time::{Duration, Instant};

use larder_tests::fake::{Fault, Gate, Match, digest_of};
use larder_tests::http::{self, Response};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::mirrors::Mirrors;

use super::{NEW, OLD, REPOSITORY, is_stale};

async fn get(mirrors: &Mirrors, reference: &str) -> Response {
    let answer = http::get(&mirrors.manifest(REPOSITORY, reference), &[]).await;
    answer.expect("an answer")
}

async fn told(mirrors: &Mirrors, reference: &str) -> (u16, String, bool) {
    let answer = get(mirrors, reference).await;
    (answer.status, answer.text(), is_stale(&answer))
}

#[tokio::test]
async fn what_a_mirror_does_not_have_the_origin_is_asked_for() {
    let mirrors = Mirrors::with("[tags]\nwhen_deleted = \"forget\"", |node| node).await;
    mirrors
        .second
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, OLD);
    assert_eq!(told(&mirrors, "v1").await, (200, OLD.to_owned(), false));
    assert_eq!(mirrors.first.count(|seen| seen.status == 404), 1);
    // Both endpoints have the tag: larder asks the mirror first.
    mirrors
        .first
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, OLD);
    mirrors.second.reset_counts();
    assert_eq!(told(&mirrors, "v1").await, (200, OLD.to_owned(), false));
    assert_eq!(mirrors.second.requests(), []);
    // The mirror's 404 is not a deletion.
    mirrors.first.delete_tag(REPOSITORY, "v1");
    assert_eq!(told(&mirrors, "v1").await, (200, OLD.to_owned(), false));
    // While the origin does not answer, the tag is not deleted, but perhaps old.
    mirrors.second.stop().await;
    assert_eq!(told(&mirrors, "v1").await, (200, OLD.to_owned(), true));
    mirrors.second.start_again().await;
    // The origin's 404 is a deletion.
    mirrors.second.delete_tag(REPOSITORY, "v1");
    let deadline = Instant::now() + Duration::from_secs(10);
    while get(&mirrors, "v1").await.status != 404 {
        assert!(Instant::now() < deadline, "the deletion is never seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An answer of 200 without a manifest.
fn page(media_type: &str) -> Fault {
    Fault::Status {
        code: 200,
        headers: vec![("Content-Type".to_owned(), media_type.to_owned())],
        body: "<p>Please log in</p>".into(),
    }
}

#[tokio::test]
async fn a_mirror_that_fails_is_passed_over() {
    let faults = [
        Fault::status(500),
        Fault::status(429),
        Fault::status(401),
        Fault::RedirectLoop,
        page("text/html"),
        // Only the body shows it: after a useless HEAD, larder asks the endpoints by GET.
        page("application/json"),
    ];
    for fault in faults {
        let mirrors = Mirrors::new().await;
        mirrors.put_manifest(REPOSITORY, Some("v1"), OLD);
        assert_eq!(told(&mirrors, "v1").await, (200, OLD.to_owned(), false));
        mirrors.first.fault(Match::any(), fault.clone());
        for _ in 0..3 {
            assert_eq!(
                told(&mirrors, "v1").await,
                (200, OLD.to_owned(), false),
                "{fault:?}"
            );
        }
        mirrors
            .second
            .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
        assert_eq!(
            told(&mirrors, "v1").await,
            (200, NEW.to_owned(), false),
            "{fault:?}"
        );
        mirrors.second.stop().await;
        let answer = get(&mirrors, "v1").await;
        assert_eq!(
            (answer.status, answer.text(), is_stale(&answer)),
            (200, NEW.to_owned(), true)
        );
    }
}

/// A mirror that accepts requests and never answers does not make the origin unreachable.
#[tokio::test]
async fn a_mirror_that_hangs_is_passed_over_in_time() {
    let mirrors = Mirrors::new().await;
    mirrors.put_manifest(REPOSITORY, Some("v1"), OLD);
    assert_eq!(told(&mirrors, "v1").await, (200, OLD.to_owned(), false));
    mirrors.first.fault(Match::any(), Fault::Hold(Gate::new(0)));
    mirrors
        .second
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
    let begun = Instant::now();
    assert_eq!(told(&mirrors, "v1").await, (200, NEW.to_owned(), false));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_limited_mirror_is_left_alone_while_the_origin_answers() {
    let mirrors = Mirrors::new().await;
    mirrors.put_manifest(REPOSITORY, Some("v1"), OLD);
    mirrors.first.fault(
        Match::any(),
        Fault::Status {
            code: 429,
            headers: vec![("Retry-After".to_owned(), "60".to_owned())],
            body: "".into(),
        },
    );
    for _ in 0..5 {
        assert_eq!(told(&mirrors, "v1").await, (200, OLD.to_owned(), false));
    }
    assert_eq!(mirrors.first.requests().len(), 1);
    assert_eq!(mirrors.second.requests().len(), 5);
}

/// A mirror's answer to HEAD of a tag that names a manifest which no endpoint has.
fn dangling(bytes: &'static str) -> (String, Fault) {
    let digest = digest_of(bytes.as_bytes());
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = vec![
        header("Content-Type", OCI_MANIFEST),
        header("Docker-Content-Digest", &digest),
    ];
    let body = bytes.into();
    let fault = Fault::Status {
        code: 200,
        headers,
        body,
    };
    (digest, fault)
}

/// A mirror that was cleaned up keeps its tags. larder ignores a tag whose manifest neither the mirror nor the origin
/// has.
#[tokio::test]
async fn a_tag_that_leads_nowhere_at_a_mirror_is_asked_of_the_origin() {
    for (known, missing) in [(false, 404), (true, 404), (false, 401), (true, 401)] {
        let mirrors = Mirrors::new().await;
        let case = format!("known: {known}, the origin says {missing}");
        if known {
            mirrors.put_manifest(REPOSITORY, Some("v1"), OLD);
            assert_eq!(told(&mirrors, "v1").await, (200, OLD.to_owned(), false));
        }
        let new = mirrors
            .second
            .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
        let (gone, fault) = dangling("{\"schemaVersion\":2,\"gone\":true}");
        let tag = || Match::manifest().reference("v1").method("HEAD");
        mirrors.first.fault(tag(), fault);
        mirrors.first.delete_tag(REPOSITORY, "v1");
        let nowhere = Match::manifest().reference(&gone);
        mirrors.second.fault(nowhere, Fault::denied(missing));
        for _ in 0..2 {
            let head = http::head(&mirrors.manifest(REPOSITORY, "v1"), &[]).await;
            let head = head.expect("an answer");
            assert_eq!(
                (head.status, head.header("docker-content-digest")),
                (200, Some(&*new)),
                "{case}"
            );
            assert_eq!(told(&mirrors, &new).await, (200, NEW.to_owned(), false));
            assert_eq!(
                told(&mirrors, "v1").await,
                (200, NEW.to_owned(), false),
                "{case}"
            );
        }
        if missing == 401 {
            // larder bridges nothing after a refusal of a moment ago.
            continue;
        }
        // The origin has deleted the tag: larder serves the digest that the origin named last, as stale.
        mirrors.second.delete_tag(REPOSITORY, "v1");
        assert_eq!(
            told(&mirrors, "v1").await,
            (200, NEW.to_owned(), true),
            "{case}"
        );
    }
}

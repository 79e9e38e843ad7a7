//! Manifests that are not what their digest says (promise P9).

use larder_tests::fake::{Fault, Match, digest_of};
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::scene::{Scene, files};

fn text(i: usize) -> String {
    format!(
        "{{\"schemaVersion\":2,\"n\":{i},\"pad\":\"{}\"}}",
        "x".repeat(2000)
    )
}

#[tokio::test]
async fn wrong_manifests_are_an_error_and_never_kept() {
    let scene = Scene::new().await;
    for (i, (fault, by_digest)) in [
        (Fault::WrongBytes { at: 7 }, false),
        (Fault::WrongBytes { at: 7 }, true),
        (Fault::WrongDigestHeader, false),
        (Fault::TruncateAfter(100), false),
        (Fault::TruncateAfter(100), true),
        (Fault::ResetAfter(100), true),
        (Fault::WrongLength(-5), true),
        (Fault::WrongLength(5), true),
    ]
    .into_iter()
    .enumerate()
    {
        let (case, tag) = (format!("{fault:?}"), format!("v{i}"));
        let digest = scene
            .fake
            .put_manifest("a/b", Some(&tag), OCI_MANIFEST, text(i));
        let armed = scene.fake.fault(Match::manifest(), fault);
        let url = scene.manifest("a/b", if by_digest { &digest } else { &tag });
        for _ in 0..2 {
            let answer = http::get(&url, &[]).await.expect("an answer");
            assert_eq!(answer.status, 503, "{case}: {}", answer.text());
            assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE", "{case}");
        }
        assert!(armed.hits() > 0, "{case}");
        let kept = files(&scene.node.store().join("blobs"));
        assert_eq!(kept.len(), i, "{case}: {kept:?}");
        scene.fake.clear_faults();
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(
            (answer.status, digest_of(&answer.body)),
            (200, digest.clone()),
            "{case}"
        );
        scene.until_committed(&digest).await;
    }
}

/// A digest header is the registry's word, and not needed where the bytes speak.
#[tokio::test]
async fn without_or_against_the_digest_header_the_bytes_count() {
    let scene = Scene::new().await;
    for (i, (fault, by_digest)) in [
        (Fault::NoDigestHeader, false),
        (Fault::NoDigestHeader, true),
        (Fault::WrongDigestHeader, true),
        (Fault::NoLength, false),
        (Fault::NoLength, true),
    ]
    .into_iter()
    .enumerate()
    {
        let (case, tag) = (format!("{fault:?} {by_digest}"), format!("v{i}"));
        let digest = scene
            .fake
            .put_manifest("a/b", Some(&tag), OCI_MANIFEST, text(i));
        scene.fake.fault(Match::manifest(), fault);
        let url = scene.manifest("a/b", if by_digest { &digest } else { &tag });
        for head in [true, false, true, false] {
            let answer = if head {
                http::head(&url, &[]).await
            } else {
                http::get(&url, &[]).await
            };
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200, "{case}: {}", answer.text());
            assert_eq!(
                answer.header("docker-content-digest"),
                Some(&*digest),
                "{case}"
            );
            assert_eq!(
                answer.header("content-length"),
                Some(&*text(i).len().to_string()),
                "{case}"
            );
            assert!(head || answer.text() == text(i), "{case}");
        }
        scene.until_committed(&digest).await;
        scene.fake.clear_faults();
    }
}

#[tokio::test]
async fn a_manifest_may_be_4_mib_and_no_more() {
    let scene = Scene::new().await;
    for (size, status) in [(4 << 20, 200), ((4 << 20) + 1, 503), (50 << 20, 503)] {
        let digest = scene
            .fake
            .put_manifest("a/b", None, OCI_MANIFEST, vec![b' '; size]);
        let answer = http::get(&scene.manifest("a/b", &digest), &[]).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, status, "{size}");
        assert!(status != 200 || digest_of(&answer.body) == digest);
    }
}

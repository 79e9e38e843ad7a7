//! Manifests that do not match their digest (promise P9).

use larder_tests::fake::{Fault, Match, digest_of};
use larder_tests::http::{self, Broken, Call};
use larder_tests::image::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use larder_tests::mirrors::Mirrors;
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

/// The digest header is only the registry's claim, and is not needed where the bytes prove the digest.
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

/// A manifest too large to keep passes through as in a plain proxy, by tag or by digest.
#[tokio::test]
async fn a_manifest_of_more_than_4_mib_is_passed_on() {
    const KEPT: usize = 4 << 20;
    let scene = Scene::new().await;
    let fake = &scene.fake;
    for (size, fault) in [
        (KEPT, None),
        (KEPT + 1, None),
        (KEPT + 1, Some(Fault::NoLength)),
        (KEPT + 1, Some(Fault::NoDigestHeader)),
        (20 << 20, None),
    ] {
        let case = format!("{size} {fault:?}");
        let tag = format!("v{size}");
        let text = format!("{{\"schemaVersion\":2,\"pad\":\"{}\"}}", "x".repeat(size));
        let text = bytes::Bytes::from(text).slice(..size);
        let digest = fake.put_manifest("a/b", Some(&tag), OCI_MANIFEST, text.clone());
        let told = !matches!(fault, Some(Fault::NoDigestHeader));
        if let Some(fault) = fault {
            fake.fault(Match::manifest(), fault);
        }
        // Clients ask by HEAD and tag, then by GET and digest; older clients by GET and tag.
        for (method, reference) in [
            ("HEAD", &tag),
            ("GET", &digest),
            ("GET", &tag),
            ("HEAD", &digest),
            ("GET", &digest),
        ] {
            let url = scene.manifest("a/b", reference);
            let answer = Call::new(method, url).send().await.expect("an answer");
            assert_eq!(
                (answer.status, &answer.error),
                (200, &None),
                "{case} {method} {reference}"
            );
            assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST), "{case}");
            assert!(
                method == "HEAD" || answer.body == text,
                "{case} {reference}"
            );
            if told || *reference == digest {
                let says = answer.header("docker-content-digest");
                assert_eq!(says, Some(&*digest), "{case} {method} {reference}");
            }
        }
        assert_eq!(scene.committed(&digest), size == KEPT, "{case}");
        fake.clear_faults();
    }
}

/// larder holds back its last bytes, so a wrong manifest ends short.
#[tokio::test]
async fn a_wrong_manifest_of_more_than_4_mib_ends_short() {
    let scene = Scene::new().await;
    let size: u64 = 5 << 20;
    let text = vec![b' '; usize::try_from(size).expect("a size")];
    let digest = scene
        .fake
        .put_manifest("a/b", Some("v1"), OCI_MANIFEST, text);
    for fault in [
        Fault::WrongBytes { at: 7 },
        Fault::WrongBytes { at: size - 1 },
        Fault::TruncateAfter(size - 1),
        Fault::WrongLength(5),
    ] {
        let case = format!("{fault:?}");
        scene.fake.fault(Match::manifest().method("GET"), fault);
        for reference in ["v1", &digest] {
            let answer = http::get(&scene.manifest("a/b", reference), &[]).await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200, "{case} {reference}");
            assert_eq!(answer.error, Some(Broken::Fin), "{case} {reference}");
        }
        scene.fake.clear_faults();
    }
    assert_eq!(
        files(&scene.node.store().join("blobs")),
        [""; 0].map(std::path::PathBuf::from)
    );
}

/// Its right is proven as for any other manifest.
#[tokio::test]
async fn a_private_manifest_of_more_than_4_mib_is_for_its_reader() {
    let scene = Scene::new().await;
    let digest = scene
        .fake
        .put_manifest("a/b", Some("v1"), OCI_MANIFEST, vec![b' '; 5 << 20]);
    scene.fake.require_basic("a/b", "user", "password");
    let pair = data_encoding::BASE64.encode(b"user:password");
    for (sent, status) in [
        (None, 401),
        (Some(format!("Basic {pair}")), 200),
        (None, 401),
    ] {
        for reference in ["v1", &digest] {
            let mut call = Call::get(scene.manifest("a/b", reference));
            if let Some(sent) = &sent {
                call = call.header("authorization", sent);
            }
            let answer = call.send().await.expect("an answer");
            assert_eq!(answer.status, status, "{reference}");
        }
    }
}

/// Schema 1 is signed inline: its digest is not that of its bytes, so larder cannot verify it.
#[tokio::test]
async fn schema_1_is_never_served() {
    const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let scene = Scene::new().await;
    for (i, (media_type, text, fault)) in [
        (SCHEMA1, "{\"schemaVersion\":1,\"signatures\":[]}", None),
        (
            SCHEMA1,
            "{\"schemaVersion\":1,\"signatures\":[]}",
            Some(Fault::WrongDigestHeader),
        ),
        (
            "application/vnd.docker.distribution.manifest.v1+json",
            "{\"schemaVersion\":1}",
            None,
        ),
        (OCI_MANIFEST, "{\"schemaVersion\":1,\"fsLayers\":[]}", None),
        (
            SCHEMA1,
            "{\"schemaVersion\":1}",
            Some(Fault::NoDigestHeader),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let tag = format!("v{i}");
        let digest = scene.fake.put_manifest("a/b", Some(&tag), media_type, text);
        if let Some(fault) = fault {
            scene.fake.fault(Match::manifest(), fault);
        }
        for (method, reference) in [
            ("HEAD", &tag),
            ("GET", &digest),
            ("GET", &tag),
            ("HEAD", &digest),
        ] {
            // For HEAD, only the header says which media type it has.
            if method == "HEAD" && media_type == OCI_MANIFEST && *reference == tag {
                continue;
            }
            let url = scene.manifest("a/b", reference);
            let answer = Call::new(method, url).send().await.expect("an answer");
            assert_eq!(
                answer.status,
                503,
                "{i} {method} {reference}: {}",
                answer.text()
            );
        }
        scene.fake.clear_faults();
    }
    assert_eq!(
        files(&scene.node.store().join("blobs")),
        [""; 0].map(std::path::PathBuf::from)
    );
}

/// Any server may be a mirror, so a manifest's own bytes decide its media type.
#[tokio::test]
async fn a_mirror_does_not_say_what_a_manifest_is() {
    let mirrors = Mirrors::new().await;
    let layers = "\"config\":{},\"layers\":[]";
    for (i, (text, is)) in [
        (
            format!("{{\"schemaVersion\":2,\"mediaType\":\"{DOCKER_MANIFEST}\",{layers}}}"),
            DOCKER_MANIFEST,
        ),
        (format!("{{\"schemaVersion\":2,{layers}}}"), OCI_MANIFEST),
        (
            "{\"schemaVersion\":2,\"manifests\":[]}".to_owned(),
            OCI_INDEX,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        for (j, wrong) in [
            "text/html",
            "application/octet-stream",
            OCI_INDEX,
            DOCKER_MANIFEST,
        ]
        .into_iter()
        .filter(|wrong| *wrong != is)
        .enumerate()
        {
            let tag = format!("v{i}-{j}");
            let text = format!("{text}{}", " ".repeat(j));
            mirrors
                .second
                .put_manifest("a/b", Some(&tag), is, text.clone());
            let digest = mirrors.first.put_manifest("a/b", Some(&tag), wrong, text);
            for (method, reference) in [
                ("HEAD", &tag),
                ("GET", &digest),
                ("GET", &tag),
                ("HEAD", &digest),
            ] {
                let url = mirrors.manifest("a/b", reference);
                let answer = Call::new(method, url).send().await.expect("an answer");
                assert_eq!(answer.status, 200, "{wrong} {method} {reference}");
                assert_eq!(
                    answer.header("content-type"),
                    Some(is),
                    "{wrong} {method} {reference}"
                );
                assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            }
        }
    }
    // larder asked the mirror, and believed its other headers.
    assert!(mirrors.first.count(|seen| seen.method == "GET") > 0);
    assert_eq!(mirrors.second.count(|seen| seen.method == "GET"), 0);
}

//! larder asks in its own way, by ranges and with HEAD. When that fails, it steps down to the request that its client
//! would have sent (P26): a pull succeeds wherever it would straight at that registry.

mod cases;

use larder_tests::fake::{Algorithm, Content, Fault, Kind, Match, Odd, Request};
use larder_tests::http;
use larder_tests::image::{self, LayerSpec, OCI_MANIFEST};
use larder_tests::mirrors::Mirrors;
use larder_tests::scene::{Compared, Scene, compare};

use super::{MB, pull, whole};

const REPOSITORY: &str = "team/app";

fn by_range(request: &Request) -> bool {
    request.header("range").is_some()
}

fn by_later_range(request: &Request) -> bool {
    let range = request.header("range");
    range.is_some_and(|range| !range.starts_with("bytes=0-"))
}

/// A manifest with one layer, to which it gives this length.
fn manifest_of(digest: &str, size: u64) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","layers":[{{"mediaType":"x","digest":"{digest}","size":{size}}}]}}"#
    )
}

/// larder remembers that an endpoint refuses ranges, and asks for later blobs plainly. One failure is not remembered as
/// a refusal.
#[tokio::test]
async fn a_refused_range_is_remembered_and_a_failure_is_not() {
    for (fault, expected) in [(Fault::status(403), 1), (Fault::status(502), 4)] {
        let scene = Scene::new().await;
        let faults = Match::blob().when(by_range).times(2);
        let armed = scene.fake.fault(faults, fault);
        for seed in 0..4 {
            let content = Content::synthetic(seed, 3 * MB);
            let digest = scene.fake.put_content(REPOSITORY, &content);
            assert_eq!(
                pull(&scene.blob(REPOSITORY, &digest), &content).await,
                whole(&content)
            );
        }
        let ranges = scene
            .fake
            .count(|seen| seen.kind == Kind::Blob && seen.range.is_some());
        let blobs = ranges - armed.hits() as usize + 1;
        assert_eq!(blobs, expected, "{ranges} {}", armed.hits());
    }
}

/// How often a blob was asked for by a range and plainly, redirects included.
fn asked_for(scene: &Scene, digest: &str) -> [usize; 2] {
    [true, false].map(|by_range| {
        scene.fake.count(|seen| {
            let of_blob = matches!(seen.kind, Kind::Blob | Kind::Cdn) && seen.reference == digest;
            of_blob && seen.method == "GET" && seen.range.is_some() == by_range
        })
    })
}

/// An expired signature, or a copy that comes late, concerns one blob only and not the registry's other blobs.
#[tokio::test]
async fn one_blob_refused_at_its_location_leaves_ranges_for_the_others() {
    for code in [403, 404] {
        let scene = Scene::new().await;
        scene.fake.fault(Match::blob(), Fault::redirect_to_cdn());
        let blobs = [1, 2, 3].map(|seed| {
            let content = Content::synthetic(seed, 20 * MB);
            (scene.fake.put_content(REPOSITORY, &content), content)
        });
        let refused = blobs[0].0.clone();
        let later =
            move |request: &Request| by_later_range(request) && request.reference == refused;
        let armed = scene
            .fake
            .fault(Match::cdn().when(later), Fault::status(code));
        for (digest, content) in &blobs {
            let url = scene.blob(REPOSITORY, digest);
            assert_eq!(pull(&url, content).await, whole(content), "{code}");
        }
        assert!(armed.hits() > 0, "{code}");
        assert!(asked_for(&scene, &blobs[0].0)[1] > 0, "{code}");
        for (digest, _) in &blobs[1..] {
            let [ranges, plain] = asked_for(&scene, digest);
            assert!(ranges > 1 && plain == 0, "{code}: {ranges} {plain}");
        }
    }
}

/// Once a registry has refused all later ranges of two blobs in such words, larder asks it plainly.
#[tokio::test]
async fn after_two_blobs_with_refused_ranges_the_others_are_asked_plainly() {
    for code in [403, 404] {
        let scene = Scene::new().await;
        let later = Match::blob().when(by_later_range);
        scene.fake.fault(later, Fault::status(code));
        for seed in 1..=3 {
            let content = Content::synthetic(seed, 20 * MB);
            let digest = scene.fake.put_content(REPOSITORY, &content);
            let url = scene.blob(REPOSITORY, &digest);
            assert_eq!(pull(&url, &content).await, whole(&content), "{code}");
            let [ranges, plain] = asked_for(&scene, &digest);
            assert!(plain > 0, "{code}");
            assert_eq!(ranges == 0, seed == 3, "{code}: {ranges} of {seed}");
        }
    }
}

/// Ranges with wrong bytes spoil the pull that has some of them already, but not the next one.
#[tokio::test]
async fn after_wrong_ranges_the_whole_is_asked_for() {
    let scene = Scene::new().await;
    let content = Content::synthetic(1, 20 * MB);
    let digest = scene.fake.put_content(REPOSITORY, &content);
    let later = Match::blob().when(by_later_range);
    scene.fake.fault(later, Fault::WrongBytes { at: 19 * MB });
    let url = scene.blob(REPOSITORY, &digest);
    let (status, first) = pull(&url, &content).await;
    assert!(status == 200 && first.error.is_some(), "{first:?}");
    scene.until_idle().await;
    assert_eq!(pull(&url, &content).await, whole(&content));
}

/// A real refusal stays one, also when larder asks plainly.
#[tokio::test]
async fn what_is_refused_plainly_is_refused() {
    for (code, told) in [(403, 401), (404, 404), (400, 400)] {
        let scene = Scene::new().await;
        let digest = scene.fake.put_blob_of(REPOSITORY, 1, 3 * MB);
        scene.fake.fault(Match::blob(), Fault::denied(code));
        let answer = http::get(&scene.blob(REPOSITORY, &digest), &[]).await;
        assert_eq!(answer.expect("an answer").status, told, "{code}");
        assert!(
            scene.fake.requests().len() <= 2,
            "{:?}",
            scene.fake.requests()
        );
    }
}

/// The length in a manifest is only a claim: the digest decides, and the tier's bound holds.
#[tokio::test]
async fn a_listed_length_is_no_right() {
    let scene = Scene::new().await;
    for wrong in [10, 2 * MB, 4 * MB, u64::MAX, i64::MAX as u64] {
        let content = Content::synthetic(wrong % 1000, 3 * MB);
        let digest = scene.fake.put_content(REPOSITORY, &content);
        let manifest = manifest_of(&digest, wrong);
        let named = scene
            .fake
            .put_manifest(REPOSITORY, None, OCI_MANIFEST, manifest);
        let answer = http::get(&scene.manifest(REPOSITORY, &named), &[]).await;
        assert_eq!(answer.expect("an answer").status, 200);
        let url = scene.blob(REPOSITORY, &digest);
        for fault in [Fault::IgnoreRange, Fault::NoLength] {
            scene.fake.fault(Match::blob().reference(&digest), fault);
        }
        match http::open(&url, &[]).await {
            Ok(mut stream) if stream.status == 200 => {
                let compared = compare(&mut stream, &content, 0..content.len()).await;
                assert!(compared.error.is_some(), "{wrong}: {compared:?}");
            }
            Ok(stream) => assert_eq!(stream.status, 503, "{wrong}"),
            Err(error) => panic!("{wrong}: {error}"),
        }
        assert!(!scene.committed(&digest));
    }
}

/// No client has pulled a manifest since the start: larder finds the length in a manifest that is here, or asks for it.
#[tokio::test]
async fn the_length_is_found_after_a_restart() {
    let mut scene = Scene::new().await;
    let content = Content::synthetic(5, 3 * MB);
    let layers = [LayerSpec::new(1, 3 * MB)];
    let image = image::build(&scene.fake, REPOSITORY, "v1", &layers);
    let layer = &image.layers[0];
    let bare = scene.fake.put_content(REPOSITORY, &content);
    let manifest = scene.manifest(REPOSITORY, "v1");
    assert_eq!(
        http::get(&manifest, &[]).await.expect("an answer").status,
        200
    );
    scene.until_committed(&image.manifest_digest).await;
    scene.node.restart().await;
    let get = || Match::blob().method("GET");
    scene.fake.fault(get(), Fault::IgnoreRange);
    scene.fake.fault(get(), Fault::NoLength);
    for (digest, content) in [(&layer.digest, &layer.content), (&bare, &content)] {
        let url = scene.blob(REPOSITORY, digest);
        assert_eq!(pull(&url, content).await, whole(content));
    }
}

/// larder verifies a small blob before its first byte leaves, and its headers still leave in time.
#[tokio::test]
async fn a_small_blob_that_trickles_is_no_failure() {
    let configs = ["", "[store]\nmax_size = \"1KB\"\n"];
    let tried = configs.map(|config| async move {
        let scene = Scene::with(|node| node.config(config)).await;
        let trickle = Fault::ThrottleBytesPerSecond(8000);
        scene.fake.fault(Match::blob(), trickle);
        let right = Content::synthetic(1, 60_000);
        let digest = scene.fake.put_content(REPOSITORY, &right);
        let wrong = scene.fake.put_blob_of(REPOSITORY, 2, 60_000);
        let lie = Match::blob().reference(&wrong);
        scene.fake.fault(lie, Fault::WrongBytes { at: 59_999 });
        let urls = [&digest, &wrong].map(|digest| scene.blob(REPOSITORY, digest));
        let part = async {
            let mut stream = http::open(&urls[0], &[("range", "bytes=100-199")]).await?;
            let compared = compare(&mut stream, &right, 100..200).await;
            anyhow::Ok((stream.status, compared))
        };
        let (good, bad, part) = tokio::join!(pull(&urls[0], &right), pull(&urls[1], &right), part);
        assert_eq!(good, whole(&right), "{config}");
        let part = part.expect("an answer");
        assert_eq!(part, (206, Compared::whole(100)), "{config}");
        // The client may have none of its bytes.
        assert_eq!(
            (bad.1.len, bad.1.error.is_some()),
            (0, true),
            "{config}: {bad:?}"
        );
        assert!(!scene.committed(&wrong));
    });
    futures_util::future::join_all(tried).await;
}

/// The endpoint that fails at ranges is the only one that has the blob, or the only one that can be reached.
#[tokio::test]
async fn a_mirror_is_asked_plainly_where_nobody_else_has_it() {
    let faults = [
        Fault::status(403),
        Fault::status(502),
        Fault::HangUp,
        Fault::Odd(Odd::NoTotal),
    ];
    let tried = faults.into_iter().flat_map(|fault| {
        [false, true].map(|stopped| {
            let fault = fault.clone();
            async move {
                let mirrors = Mirrors::new().await;
                let contents = [3 * MB, 20 * MB].map(|size| Content::synthetic(size, size));
                let digests = contents.each_ref().map(|content| {
                    let manifest = content_manifest(&mirrors, content);
                    (mirrors.first.put_content(REPOSITORY, content), manifest)
                });
                for (_, manifest) in &digests {
                    // The origin has confirmed the repository.
                    let url = mirrors.manifest(REPOSITORY, manifest);
                    let answer = http::get(&url, &[]).await.expect("an answer");
                    assert_eq!(answer.status, 200);
                }
                let which = Match::blob().when(by_range);
                mirrors.first.fault(which, fault.clone());
                if stopped {
                    mirrors.second.stop().await;
                }
                for ((digest, _), content) in digests.iter().zip(&contents) {
                    let url = mirrors.blob(REPOSITORY, digest);
                    let case = format!("{fault:?}, the origin is stopped: {stopped}");
                    assert_eq!(pull(&url, content).await, whole(content), "{case}");
                }
            }
        })
    });
    futures_util::future::join_all(tried).await;
}

/// A manifest of this blob at both endpoints.
fn content_manifest(mirrors: &Mirrors, content: &Content) -> String {
    let digest = content.digest(Algorithm::Sha256);
    mirrors.put_manifest(REPOSITORY, None, &manifest_of(&digest, content.len()))
}

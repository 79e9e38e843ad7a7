//! Images are pulled from registries that answer a plain GET well, and every other request badly in every known way.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt as _, stream};
use larder_tests::fake::{Content, Fault, Match, Odd, Request};
use larder_tests::http::{self, Call};
use larder_tests::image::{self, Image, LayerSpec, OCI_MANIFEST};
use larder_tests::scene::{Compared, Scene, compare};

use super::{REPOSITORY, by_later_range, by_range, manifest_of};
use crate::{MB, pull, whole};

/// Cases that are tried at once.
const AT_ONCE: usize = 4;

const OTHER_TOTAL: &str = "another total";

/// A case: a name, the requests that it affects, and the fault of each.
type Case = (String, Vec<(Match, Fault)>);

fn header(name: &str, value: &str) -> Fault {
    let header = (name.to_owned(), value.to_owned());
    Fault::Odd(Odd::Headers(vec![header]))
}

/// Registries that answer a plain GET, and fail at other requests of larder's.
fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut case = |name: &str, faults: Vec<(Match, Fault)>| cases.push((name.to_owned(), faults));
    let any = || Match::blob().when(by_range);
    let later = || Match::blob().when(by_later_range);
    for code in [400, 403, 404, 405, 416, 500, 501, 502, 503] {
        case(
            &format!("{code} to later ranges"),
            vec![(later(), Fault::status(code))],
        );
    }
    for code in [400, 403, 406, 416, 500, 501, 502] {
        case(
            &format!("{code} to any range"),
            vec![(any(), Fault::status(code))],
        );
    }
    for (name, fault) in [
        (
            "the bytes from the first one on",
            Fault::Odd(Odd::FromStart),
        ),
        (OTHER_TOTAL, Fault::Odd(Odd::OtherTotal)),
        ("a closed connection", Fault::HangUp),
        ("a reset at once", Fault::ResetAfter(0)),
        ("a reset after a few bytes", Fault::ResetAfter(1000)),
        ("an end at once", Fault::TruncateAfter(0)),
    ] {
        case(&format!("{name} to later ranges"), vec![(later(), fault)]);
    }
    for (name, fault) in [
        ("a closed connection", Fault::HangUp),
        ("a reset at once", Fault::ResetAfter(0)),
        ("no total", Fault::Odd(Odd::NoTotal)),
        ("no Content-Range", Fault::Odd(Odd::NoContentRange)),
        ("several parts", Fault::Odd(Odd::Multipart)),
    ] {
        case(&format!("{name} to any range"), vec![(any(), fault)]);
    }
    case(
        "chunked, without ranges",
        vec![
            (Match::blob(), Fault::IgnoreRange),
            (Match::blob(), Fault::NoLength),
        ],
    );
    case("chunked ranges", vec![(Match::blob(), Fault::NoLength)]);
    case(
        "HTTP/1.0 until close",
        vec![
            (Match::blob(), Fault::IgnoreRange),
            (Match::blob(), Fault::Odd(Odd::UntilClose)),
        ],
    );
    case(
        "chunked after a refused range",
        vec![
            (any(), Fault::status(400)),
            (Match::blob(), Fault::NoLength),
        ],
    );
    for encoding in ["x-gzip", "gzip", "identity"] {
        case(
            &format!("{encoding} on unchanged bytes"),
            vec![(Match::blob(), header("Content-Encoding", encoding))],
        );
    }
    let many = (0..300).map(|i| (format!("X-Front-{i}"), "x".to_owned()));
    let many = Fault::Odd(Odd::Headers(many.collect()));
    case("300 headers", vec![(Match::any(), many)]);
    for (name, fault) in [
        ("502", Fault::status(502)),
        ("500", Fault::status(500)),
        ("a closed connection", Fault::HangUp),
        ("a reset", Fault::ResetAfter(0)),
    ] {
        let asked = Arc::new(Mutex::new(HashSet::new()));
        let first = move |request: &Request| {
            let mut asked = asked.lock().expect("no panic");
            asked.insert(request.reference.clone())
        };
        case(
            &format!("{name} to the first question of each blob"),
            vec![(Match::blob().when(first), fault)],
        );
    }
    for (name, which) in [
        ("later", by_later_range as fn(&Request) -> bool),
        ("any", by_range),
    ] {
        for fault in [
            Fault::status(403),
            Fault::status(400),
            Fault::Odd(Odd::NoContentRange),
        ] {
            case(
                &format!("{fault:?} to {name} ranges of where it leads to"),
                vec![
                    (Match::blob(), Fault::redirect_to_cdn()),
                    (Match::cdn().when(which), fault),
                ],
            );
        }
    }
    cases
}

/// Pulls in the order of a runtime: HEAD by tag, then by digest, then the blobs, all at once.
async fn pull_image(scene: &Scene, image: &Image, case: &str) {
    let head = Call::new("HEAD", scene.manifest(REPOSITORY, "v1"));
    let head = head.send().await.expect("an answer");
    assert_eq!(head.status, 200, "{case}");
    let digest = head.header("docker-content-digest").expect("a digest");
    assert_eq!(digest, image.manifest_digest, "{case}");
    let manifest = http::get(&scene.manifest(REPOSITORY, digest), &[]).await;
    let manifest = manifest.expect("an answer");
    assert_eq!(
        (manifest.status, &manifest.body),
        (200, &image.manifest),
        "{case}"
    );
    let config = Content::bytes(image.config.clone());
    let mut blobs = vec![(image.config_digest.clone(), config)];
    for layer in &image.layers {
        blobs.push((layer.digest.clone(), layer.content.clone()));
    }
    let pulls = blobs.into_iter().map(|(digest, content)| async move {
        let url = scene.blob(REPOSITORY, &digest);
        let len = content.len();
        assert_eq!(
            pull(&url, &content).await,
            whole(&content),
            "{case}: {len} bytes"
        );
    });
    futures_util::future::join_all(pulls).await;
}

/// A lazy snapshotter's read of a blob that no client has pulled.
async fn read_ranges(scene: &Scene, case: &str) {
    let content = Content::synthetic(77, 9 * MB);
    let digest = scene.fake.put_content(REPOSITORY, &content);
    let manifest = manifest_of(&digest, content.len());
    let manifest = scene
        .fake
        .put_manifest(REPOSITORY, None, OCI_MANIFEST, manifest);
    let listed = http::get(&scene.manifest(REPOSITORY, &manifest), &[]).await;
    assert_eq!(listed.expect("an answer").status, 200, "{case}");
    for (range, start, end) in [
        ("bytes=5000000-5099999", 5 * MB, 5_100_000),
        ("bytes=-1000", 9 * MB - 1000, 9 * MB),
        ("bytes=8000000-", 8 * MB, 9 * MB),
    ] {
        let url = scene.blob(REPOSITORY, &digest);
        let mut stream = http::open(&url, &[("range", range)])
            .await
            .expect("an answer");
        assert_eq!(stream.status, 206, "{case}: {range}");
        let compared = compare(&mut stream, &content, start..end).await;
        assert_eq!(compared, Compared::whole(end - start), "{case}: {range}");
    }
}

async fn try_one(config: &str, case: &str, faults: Vec<(Match, Fault)>) {
    let scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let sizes = [100, 60_000, 3 * MB, 40 * MB];
    let layers = sizes.map(|size| LayerSpec::new(size, size));
    let image = image::build(&scene.fake, REPOSITORY, "v1", &layers);
    for (which, fault) in faults {
        scene.fake.fault(which, fault);
    }
    pull_image(&scene, &image, case).await;
    if config.is_empty() {
        for layer in &image.layers {
            scene.until_committed(&layer.digest).await;
        }
    }
    // Where the first answer is wrong, the client cannot see it.
    if !case.starts_with(OTHER_TOTAL) {
        read_ranges(&scene, case).await;
    }
}

/// Tries all cases, a few at once, and names those that fail.
async fn try_all(config: &'static str) {
    let tried = cases().into_iter().map(|(case, faults)| async move {
        let name = case.clone();
        let trying = tokio::spawn(async move { try_one(config, &case, faults).await });
        trying.await.is_err().then_some(name)
    });
    let failed: Vec<_> = stream::iter(tried)
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_succeeds_where_a_plain_one_does() {
    try_all("").await;
}

/// The same where no blob is kept, and each reader fetches for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_without_a_store_succeeds_where_a_plain_one_does() {
    try_all("[store]\nmax_size = \"1KB\"\n").await;
}

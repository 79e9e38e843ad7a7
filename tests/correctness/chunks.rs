//! Chunks beyond the beginning of a blob, as containerd's parallel layer fetch asks for them. containerd asks its first
//! host alone for them, and asks again only after a body that ended short (promises P10, P12 and P26).

use std::time::{Duration, Instant};

use larder_tests::fake::{Algorithm, Content, FakeRegistry, Fault, Gate, Match};
use larder_tests::http::{self, Broken, Call, Stream};
use larder_tests::image::{LayerSpec, OCI_MANIFEST, build};
use larder_tests::node::Node;
use larder_tests::scene::{Compared, Scene, compare};

const LEN: u64 = 30_000_000;
const HEADERS_WITHIN: Duration = Duration::from_millis(5700);

async fn ask(url: &str, range: &str) -> (Stream, Duration) {
    let start = Instant::now();
    let stream = http::open(url, &[("range", range)]).await;
    (stream.expect("a head"), start.elapsed())
}

/// Asks as a client that needs only this chunk, and expects its headers in time.
async fn headers(url: &str, range: &str) -> Stream {
    let (stream, took) = ask(url, range).await;
    assert_eq!(stream.status, 206, "{range}");
    assert!(took < HEADERS_WITHIN, "{range} took {took:?}");
    stream
}

async fn refused(url: &str, range: &str) {
    let (stream, took) = ask(url, range).await;
    assert_eq!(stream.status, 503, "{range}");
    assert!(took < HEADERS_WITHIN, "{range} took {took:?}");
}

#[tokio::test]
async fn a_chunk_is_waited_for_behind_its_headers() {
    let scene = Scene::new().await;
    let faults = [
        Fault::Hold(Gate::new(0)),
        Fault::status(502),
        Fault::ResetAfter(0),
    ];
    for (seed, fault) in (1..).zip(faults) {
        let content = Content::synthetic(seed, LEN);
        let digest = scene
            .fake
            .put_content_as("a/b", Algorithm::Sha256, &content);
        let url = scene.blob("a/b", &digest);
        let mut first = headers(&url, "bytes=0-999").await;
        let got = compare(&mut first, &content, 0..1000).await;
        assert_eq!(got, Compared::whole(1000));
        // No client reads for a while, so the bytes that have come are only a file.
        scene.until_idle().await;
        let name = format!("{fault:?}");
        let gate = match &fault {
            Fault::Hold(gate) => Some(gate.clone()),
            _ => None,
        };
        let armed = scene.fake.fault(Match::blob(), fault);
        let (bounded, open) = (
            headers(&url, "bytes=20000000-20999999"),
            headers(&url, "bytes=29000000-"),
        );
        let (mut bounded, mut open) = tokio::join!(bounded, open);
        assert_eq!(
            bounded.header("content-range"),
            Some("bytes 20000000-20999999/30000000"),
            "{name}"
        );
        assert_eq!(bounded.header("content-length"), Some("1000000"), "{name}");
        armed.lift();
        if let Some(gate) = gate {
            gate.open();
        }
        let got = compare(&mut bounded, &content, 20_000_000..21_000_000).await;
        assert_eq!(got, Compared::whole(1_000_000), "{name}");
        let got = compare(&mut open, &content, 29_000_000..LEN).await;
        assert_eq!(got, Compared::whole(LEN - 29_000_000), "{name}");
    }
}

/// When an attempt has failed, the client must learn it before the headers, while it may still fall back.
#[tokio::test]
async fn a_second_attempt_without_a_byte_is_refused() {
    let scene = Scene::new().await;
    let content = Content::synthetic(1, LEN);
    let layer = scene
        .fake
        .put_content_as("a/b", Algorithm::Sha256, &content);
    // A manifest's length for the layer is enough: no byte of the layer was asked for yet.
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{LEN}}}]}}"#
    );
    let named = scene
        .fake
        .put_manifest("a/b", Some("v1"), OCI_MANIFEST, manifest);
    let answer = http::get(&scene.manifest("a/b", &named), &[]).await;
    assert_eq!(answer.expect("a manifest").status, 200);
    let gate = Gate::new(0);
    scene.fake.fault(Match::blob(), Fault::Hold(gate.clone()));
    let url = scene.blob("a/b", &layer);
    let begun = Instant::now();
    let chunk = headers(&url, "bytes=20000000-20999999").await;
    let (ended, beginning) = tokio::join!(chunk.rest(), refused(&url, "bytes=0-999999"));
    let () = beginning;
    assert_eq!(
        (ended.body.len(), &ended.error),
        (0, &Some(Broken::Fin)),
        "it ends short"
    );
    let waited = begun.elapsed();
    assert!(
        waited > Duration::from_secs(15) && waited < Duration::from_secs(30),
        "{waited:?}"
    );
    // The same offset is refused again, and so is the beginning. Another offset is no second attempt, and gets its
    // headers.
    tokio::join!(
        refused(&url, "bytes=20000000-20999999"),
        refused(&url, "bytes=0-"),
        async { headers(&url, "bytes=21000000-21999999").await.close() },
    );
    gate.open();
    let mut chunk = headers(&url, "bytes=20000000-20999999").await;
    let got = compare(&mut chunk, &content, 20_000_000..21_000_000).await;
    assert_eq!(got, Compared::whole(1_000_000));
}

/// The time without a byte is the same, whether the source gives no answer or an answer without a byte.
#[tokio::test]
async fn a_chunk_that_is_answered_late_and_brings_nothing_ends_in_the_same_time() {
    let scene = Scene::new().await;
    let content = Content::synthetic(1, LEN);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let first = headers(&url, "bytes=0-999").await.rest().await;
    assert_eq!(first.body.len(), 1000);
    scene.until_idle().await;
    let gate = Gate::new(0);
    scene.fake.fault(Match::blob(), Fault::StallAfter(0));
    let held = scene.fake.fault(Match::blob(), Fault::Hold(gate.clone()));
    let begun = Instant::now();
    let chunk = headers(&url, "bytes=20000000-20999999").await;
    let late = async {
        tokio::time::sleep_until((begun + Duration::from_secs(15)).into()).await;
        held.lift();
        gate.open();
    };
    let (ended, ()) = tokio::join!(chunk.rest(), late);
    assert_eq!((ended.body.len(), &ended.error), (0, &Some(Broken::Fin)));
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(30), "{waited:?}");
}

/// A slow credential helper of the node uses up part of the time until the headers.
#[tokio::test]
async fn a_slow_credential_helper_keeps_no_headers_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("docker-credential-slow");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 20\n").expect("a program");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("a mode");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", dir.path().display());
    let fake = FakeRegistry::start().await;
    let config = format!(
        "[upstreams.\"{}\"]\nendpoints = [\"{}\"]\naccess = \"shared\"\ncredentials = {{ helper = \"slow\" }}\n",
        fake.host(),
        fake.url()
    );
    let node = Node::builder().config(config).env("PATH", path);
    let node = node.start().await;
    let scene = Scene { fake, node };
    let content = Content::synthetic(1, LEN);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let first = headers(&url, "bytes=0-999").await.rest().await;
    assert_eq!(first.body.len(), 1000);
    scene.until_idle().await;
    let gate = Gate::new(0);
    scene.fake.fault(Match::blob(), Fault::Hold(gate.clone()));
    let mut chunk = headers(&url, "bytes=20000000-20999999").await;
    gate.open();
    let got = compare(&mut chunk, &content, 20_000_000..21_000_000).await;
    assert_eq!(got, Compared::whole(1_000_000));
}

/// Headers reveal that a digest is here and its length: only a caller that may read the repository gets them.
#[tokio::test]
async fn headers_are_for_callers_with_a_right() {
    let scene = Scene::new().await;
    scene.fake.require_basic("a/b", "ann", "right");
    let basic = |password: &str| {
        let text = data_encoding::BASE64.encode(format!("ann:{password}").as_bytes());
        format!("Basic {text}")
    };
    let image = build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, LEN)]);
    let ask = async |url: &str, password: Option<&str>, range: &str| {
        let mut call = Call::get(url).header("range", range);
        if let Some(password) = password {
            call = call.header("authorization", &basic(password));
        }
        call.open().await.expect("a head").status
    };
    let url = scene.blob("a/b", &image.layers[0].digest);
    assert_eq!(ask(&url, Some("right"), "bytes=0-999").await, 206);
    scene.until_idle().await;
    let gate = Gate::new(0);
    scene.fake.fault(Match::any(), Fault::Hold(gate.clone()));
    let chunk = "bytes=20000000-20999999";
    let (owner, wrong, nobody) = tokio::join!(
        ask(&url, Some("right"), chunk),
        ask(&url, Some("wrong"), chunk),
        ask(&url, None, chunk)
    );
    assert_eq!(owner, 206);
    for stranger in [wrong, nobody] {
        assert!(matches!(stranger, 401 | 503), "{stranger}");
    }
    gate.open();
}

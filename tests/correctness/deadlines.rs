//! Response headers leave within 5 s whatever the upstream does, and their content after that time (promises P12, P15).

use std::time::{Duration, Instant};

use larder_tests::fake::{FakeRegistry, Fault, Gate, Match};
use larder_tests::http::{Call, Response};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use larder_tests::scene::Scene;

const LEN: u64 = 3_000_000;
/// 5 s, and the delay of a busy machine.
const HEADERS_WITHIN: Duration = Duration::from_millis(5700);

/// Every kind of request, as method and URL.
fn requests(scene: &Scene, manifest: &str, blob: &str) -> Vec<(&'static str, String)> {
    let mut requests = Vec::new();
    for method in ["GET", "HEAD"] {
        requests.push((method, scene.manifest("a/b", "v1")));
        requests.push((method, scene.manifest("a/b", manifest)));
        requests.push((method, scene.blob("a/b", blob)));
        requests.push((method, scene.path("a/b/tags/list")));
        requests.push((method, scene.path(&format!("a/b/referrers/{manifest}"))));
    }
    requests
}

async fn timed(method: &str, url: &str, range: Option<&str>) -> (Response, Duration) {
    let start = Instant::now();
    let mut call = Call::new(method, url);
    if let Some(range) = range {
        call = call.header("range", range);
    }
    let answer = call.send().await.expect("an answer");
    (answer, start.elapsed())
}

fn assert_unavailable(case: &str, method: &str, answer: &Response, took: Duration) {
    assert_eq!(answer.status, 503, "{case}: {}", answer.text());
    assert!(took < HEADERS_WITHIN, "{case} took {took:?}");
    if method == "GET" {
        assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE", "{case}");
    } else {
        assert!(answer.body.is_empty(), "{case}");
    }
}

#[tokio::test]
async fn an_upstream_that_never_answers() {
    let scene = Scene::new().await;
    let manifest = scene
        .fake
        .put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{}");
    let blob = scene.fake.put_blob_of("a/b", 1, LEN);
    let gate = Gate::new(0);
    scene.fake.fault(Match::any(), Fault::Hold(gate.clone()));
    let plain = requests(&scene, &manifest, &blob)
        .into_iter()
        .map(|(m, u)| (m, u, None));
    let range = ("GET", scene.blob("a/b", &blob), Some("bytes=5-9"));
    let asks = plain.chain([range]).map(async |(method, url, range)| {
        let (answer, took) = timed(method, &url, range).await;
        let case = format!("{method} {url} {range:?}");
        assert_unavailable(&case, method, &answer, took);
    });
    futures_util::future::join_all(asks).await;
    // Then the upstream answers.
    gate.open();
    for (method, url) in requests(&scene, &manifest, &blob) {
        let (answer, _) = timed(method, &url, None).await;
        assert_eq!(
            (answer.status, &answer.error),
            (200, &None),
            "{method} {url}"
        );
    }
}

/// A slow token server, a slow redirect and a slow answer together delay no longer than one of them.
#[tokio::test]
async fn delays_do_not_add_up() {
    let scene = Scene::new().await;
    scene.fake.allow_anonymous("a/b");
    let manifest = scene
        .fake
        .put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{}");
    let blob = scene.fake.put_blob_of("a/b", 1, LEN);
    scene
        .fake
        .fault(Match::any(), Fault::Delay(Duration::from_millis(2200)));
    scene
        .fake
        .fault(Match::blob().with_credentials(), Fault::redirect_to_cdn());
    let asks = requests(&scene, &manifest, &blob)
        .into_iter()
        .map(async |(method, url)| {
            let (answer, took) = timed(method, &url, None).await;
            assert_unavailable(&format!("{method} {url}"), method, &answer, took);
        });
    futures_util::future::join_all(asks).await;
}

/// A manifest whose head comes and whose body does not.
#[tokio::test]
async fn a_manifest_that_stalls() {
    let scene = Scene::new().await;
    let manifest = scene
        .fake
        .put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{ }");
    scene.fake.fault(Match::manifest(), Fault::StallAfter(1));
    let asks = ["v1", &manifest].map(async |reference| {
        let url = scene.manifest("a/b", reference);
        let (answer, took) = timed("GET", &url, None).await;
        assert_unavailable(&url, "GET", &answer, took);
    });
    // larder waits for the whole of a small blob before its head leaves, so it is no different.
    let blob = scene.fake.put_blob("a/b", "small");
    scene.fake.fault(Match::blob(), Fault::StallAfter(1));
    let url = scene.blob("a/b", &blob);
    let small = async {
        let (answer, took) = timed("GET", &url, None).await;
        assert_unavailable(&url, "GET", &answer, took);
    };
    tokio::join!(futures_util::future::join_all(asks), small);
}

#[tokio::test]
async fn an_upstream_that_is_not_there() {
    let fake = FakeRegistry::start().await;
    fake.stop().await;
    let node = Node::builder().upstream(&fake).start().await;
    let digest = format!("sha256:{}", "ab".repeat(32));
    for path in [
        "a/manifests/v1".to_owned(),
        format!("a/blobs/{digest}"),
        "a/tags/list".to_owned(),
    ] {
        let url = format!("{}/v2/{path}?ns={}", node.url(), fake.host());
        let (answer, took) = timed("GET", &url, None).await;
        assert_unavailable(&url, "GET", &answer, took);
    }
}

/// After a 429 containerd asks again at once, 25 times a pull; a 503 makes it use its next host. Other clients honour
/// `Retry-After`. larder leaves the upstream alone meanwhile.
#[tokio::test]
async fn a_limited_upstream() {
    for (code, told) in [(429, Some(30)), (503, Some(40)), (429, None)] {
        let scene = Scene::new().await;
        let manifest = scene
            .fake
            .put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{}");
        let blob = scene.fake.put_blob_of("a/b", 1, LEN);
        let headers = told.map(|seconds: u64| ("Retry-After".to_owned(), seconds.to_string()));
        let fault = Fault::Status {
            code,
            headers: headers.into_iter().collect(),
            body: "slow down".into(),
        };
        scene.fake.fault(Match::any(), fault);
        // A client that has shown nothing is challenged first: its secret may have a quota of its own.
        let anonymous = Call::get(scene.manifest("a/b", "v1")).send().await;
        let anonymous = anonymous.expect("an answer");
        assert_eq!(anonymous.status, 401, "{}", anonymous.text());
        let challenge = anonymous.header("www-authenticate");
        let realm = format!("{}/token/{}", scene.node.url(), scene.fake.host());
        assert!(
            challenge.is_some_and(|told| told.contains(&realm)),
            "{challenge:?}"
        );
        let token = Call::get(format!("{realm}?scope=repository:a/b:pull"));
        let token = token.send().await.expect("an answer").json();
        let bearer = format!("Bearer {}", token["token"].as_str().expect("a token"));
        for (method, url) in requests(&scene, &manifest, &blob) {
            for (agent, status) in [
                ("containerd/v2.1.4", 503),
                ("containerd/1.7.24", 503),
                ("skopeo/1.18", 429),
                ("containers/5.34 (github.com/containers/image)", 429),
                ("", 429),
            ] {
                let case = format!("{code} {agent} {method} {url}");
                let call = Call::new(method, &url)
                    .header("user-agent", agent)
                    .header("authorization", &bearer);
                let answer = call.send().await.expect("an answer");
                assert_eq!(answer.status, status, "{case}: {}", answer.text());
                let after = answer.header("retry-after").expect("a Retry-After");
                let after: u64 = after.parse().expect("seconds");
                assert!(
                    (1..=told.unwrap_or(3600)).contains(&after),
                    "{case}: {after}"
                );
                assert!(told.is_none_or(|told| after + 10 > told), "{case}: {after}");
                if method == "GET" {
                    let code = answer.json()["errors"][0]["code"].clone();
                    assert_eq!(code, "TOOMANYREQUESTS", "{case}");
                    assert!(!answer.text().contains("slow down"), "{case}");
                }
            }
        }
        let asked = scene.fake.requests().len();
        assert!(
            told.is_none() || asked == 1,
            "{code} {told:?}: asked {asked} times"
        );
    }
}

//! What larder shows: status, explain, metrics, probes, the access log.

use larder_tests::fake::{Fault, Match};
use larder_tests::http::{self, Call};
use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::{Scene, eventually};
use serde_json::Value;

/// Pulls the manifest by tag, and all content of it.
async fn pull(scene: &Scene, image: &image::Image) {
    let answer = http::get(&scene.manifest("team/app", "v1"), &[]).await;
    assert_eq!(answer.expect("an answer").status, 200);
    for digest in image
        .layers
        .iter()
        .map(|layer| &layer.digest)
        .chain([&image.config_digest])
    {
        let answer = http::get_digest(&scene.blob("team/app", digest), &[]).await;
        assert_eq!(&answer.expect("an answer").digest, digest);
        scene.until_committed(digest).await;
    }
    scene.until_committed(&image.manifest_digest).await;
}

fn put(scene: &Scene) -> image::Image {
    let layers = [LayerSpec::new(1, 100_000), LayerSpec::new(2, 2_000_000)];
    image::build(&scene.fake, "team/app", "v1", &layers)
}

async fn cli(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = scene.node.cli(arguments).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test]
async fn status_counts_what_went_through() {
    let scene = Scene::new().await;
    let image = put(&scene);
    let before = scene.node.admin("/status").await;
    assert_eq!(before["store"]["blobs"], 0);
    assert_eq!(before["store"]["state"], "ready");
    pull(&scene, &image).await;
    pull(&scene, &image).await;
    let status = scene.node.admin("/status").await;
    let number = |value: &Value| value.as_u64().expect("a number");
    assert_eq!(number(&status["store"]["blobs"]), 4);
    assert_eq!(number(&status["store"]["bytes"]), image.size());
    assert_eq!(number(&status["served"]["requests"]), 8);
    assert_eq!(number(&status["served"]["upstream_bytes"]), image.size());
    assert_eq!(number(&status["served"]["node_bytes"]), image.size());
    let (code, text, _) = cli(&scene, &["status"]).await;
    assert_eq!(code, Some(0));
    for words in [
        scene.node.addr(),
        scene.node.telemetry(),
        "4 blobs",
        &scene.fake.host(),
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (code, json, _) = cli(&scene, &["status", "--json"]).await;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (code, &json["store"]["blobs"]),
        (Some(0), &status["store"]["blobs"])
    );
}

#[tokio::test]
async fn status_shows_a_fill_under_way() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 10_000_000);
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    stream.read_exactly(1_000_000).await.expect("the first MB");
    let fills = scene.node.admin("/status").await["fills"].clone();
    assert_eq!(fills.as_array().map(Vec::len), Some(1), "{fills}");
    let fill = &fills[0];
    assert_eq!(
        (&fill["digest"], &fill["readers"]),
        (&Value::from(digest), &Value::from(1))
    );
    assert_eq!(
        (&fill["size_bytes"], &fill["present_bytes"]),
        (&Value::from(10_000_000), &Value::from(1_000_000))
    );
    gate.open();
    assert!(stream.rest().await.complete);
    scene.until_idle().await;
}

/// `larder explain` says what a pull would do, and does nothing of it.
#[tokio::test]
async fn explain_says_what_a_pull_would_do() {
    let scene = Scene::new().await;
    let image = put(&scene);
    let name = format!("{}/team/app:v1", scene.fake.host());
    let steps = async |name: &str| {
        let (code, json, error) = cli(&scene, &["explain", "--json", name]).await;
        assert_eq!(code, Some(0), "{error}");
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let steps = json["steps"].as_array().cloned().expect("steps");
        let word = |value: &Value| value.as_str().expect("a word").to_owned();
        // What containerd does with the name depends on the machine that runs the test.
        let steps = steps
            .iter()
            .map(|step| (word(&step["step"]), word(&step["outcome"])))
            .filter(|(step, _)| step != "runtime");
        steps.collect::<Vec<_>>()
    };
    let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    let cold = own(&[
        ("name", "ok"),
        ("access", "public"),
        ("tag", "new"),
        ("upstream", "answered"),
        ("manifest", "miss"),
    ]);
    assert_eq!(steps(&name).await, cold);
    assert_eq!(scene.fetches(), 0);
    pull(&scene, &image).await;
    let warm = own(&[
        ("name", "ok"),
        ("access", "public"),
        ("tag", "unchanged"),
        ("upstream", "answered"),
        ("manifest", "hit"),
        ("blobs", "hit"),
    ]);
    assert_eq!(steps(&name).await, warm);
    let by_digest = format!(
        "{}/team/app:other@{}",
        scene.fake.host(),
        image.manifest_digest
    );
    let digest = own(&[
        ("name", "ok"),
        ("access", "public"),
        ("upstream", "unasked"),
        ("manifest", "hit"),
        ("blobs", "hit"),
    ]);
    assert_eq!(steps(&by_digest).await, digest);
    scene.fake.stop().await;
    assert_eq!(
        steps(&name).await[2],
        ("tag".to_owned(), "stale".to_owned())
    );
    let (code, text, _) = cli(&scene, &["explain", &name]).await;
    assert!(code == Some(0) && text.contains("3 of 3 here"), "{text}");

    let (code, _, error) = cli(&scene, &["explain", "UPPER/case"]).await;
    assert!(
        code == Some(1) && error.contains("UPPER/case"),
        "{code:?} {error}"
    );
}

#[tokio::test]
async fn metrics_account_for_every_byte() {
    let scene = Scene::new().await;
    let image = put(&scene);
    pull(&scene, &image).await;
    pull(&scene, &image).await;
    let bad = format!("{}/v2/UPPER/manifests/v1", scene.node.url());
    assert_eq!(http::get(&bad, &[]).await.expect("an answer").status, 400);
    let metric = async |sample: &str| scene.node.metric(sample).await.unwrap_or(0.0);
    let size = image.size() as f64;
    let host = scene.fake.host();
    let sent = |tier: &str, outcome: &str| {
        format!(
            "larder_sent_bytes_total{{tier=\"{tier}\",upstream=\"{host}\",outcome=\"{outcome}\"}}"
        )
    };
    for (sample, value) in [
        (&*sent("upstream", "miss"), size),
        (&*sent("node", "hit"), size),
        (
            "larder_requests_total{tier=\"none\",upstream=\"none\",outcome=\"refused\"}",
            1.0,
        ),
        ("larder_fills_started_total", 3.0),
        ("larder_fills_committed_total", 3.0),
        ("larder_fills_failed_total", 0.0),
        ("larder_store_blobs", 4.0),
        ("larder_store_size_bytes", size),
    ] {
        let is = metric(sample).await;
        assert!(
            (is - value).abs() < 0.5,
            "{sample} is {is}\n{}",
            scene.node.metrics().await
        );
    }
    let page = scene.node.metrics().await;
    // Labels take values of closed sets: no name that a client chooses is among them.
    for name in ["team/app", "UPPER", "sha256"] {
        assert!(!page.contains(name), "{name} in {page}");
    }
}

/// A client that leaves early is counted as that, with about the bytes that it was sent.
#[tokio::test]
async fn metrics_count_clients_that_left() {
    let scene = Scene::new().await;
    let size = 50_000_000;
    let digest = scene.fake.put_blob_of("a/b", 1, size);
    let url = scene.blob("a/b", &digest);
    for tier in ["upstream", "node"] {
        let gate = scene.fake.gate(Match::blob(), 2_000_000);
        let mut stream = http::open(&url, &[]).await.expect("an answer");
        stream.read_exactly(1_000_000).await.expect("1 MB");
        stream.close();
        let host = scene.fake.host();
        let of = |name: &str| {
            format!(
                "larder_{name}_total{{tier=\"{tier}\",upstream=\"{host}\",outcome=\"abandoned\"}}"
            )
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while scene.node.metric(&of("requests")).await.is_none() {
            assert!(
                std::time::Instant::now() < deadline,
                "{}",
                scene.node.metrics().await
            );
        }
        let sent = scene.node.metric(&of("sent_bytes")).await.unwrap_or(0.0);
        assert!((1e6..2.5e7).contains(&sent), "{tier}: {sent}");
        gate.open();
        scene.until_committed(&digest).await;
    }
}

#[tokio::test]
async fn the_telemetry_port_has_probes_and_nothing_else() {
    let scene = Scene::new().await;
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/v2/", 404),
        ("/status", 404),
        ("/x", 404),
    ] {
        let answer = http::get(&format!("http://{}{path}", scene.node.telemetry()), &[]).await;
        assert_eq!(answer.expect("an answer").status, status, "{path}");
    }
    let url = format!("http://{}/metrics", scene.node.telemetry());
    // As Prometheus 2 and 3 ask, and curl.
    for (accept, answered) in [
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*;q=0.2",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let page = http::get(&url, &[("accept", accept)]).await;
        let page = page.expect("an answer");
        assert_eq!(page.header("content-type"), Some(answered), "{accept}");
        let openmetrics = answered.starts_with("application/openmetrics");
        assert_eq!(page.text().ends_with("# EOF\n"), openmetrics, "{accept}");
    }
}

/// One access line for each request, without queries and without secrets of the client.
#[tokio::test]
async fn the_access_log_has_a_line_for_each_request() {
    let scene = Scene::with(|node| node.log_level("debug")).await;
    scene.fake.fault(Match::blob(), Fault::redirect_to_cdn());
    let image = put(&scene);
    pull(&scene, &image).await;
    let call = Call::get(scene.path("team/app/tags/list") + "&token=hunter2");
    let call = call
        .header("authorization", "Bearer hunter2")
        .header("cookie", "hunter2");
    assert_eq!(call.send().await.expect("an answer").status, 200);
    let lines = || {
        let log = scene.node.log();
        log.lines()
            .filter(|line| line.contains(" access: "))
            .count()
    };
    eventually("five lines", || lines() == 5).await;
    let log = scene.node.log();
    for secret in ["hunter2", "signature="] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    for words in [
        "status=200",
        "path=\"/v2/team/app/manifests/v1\"",
        "tier=\"upstream\"",
        "outcome=\"miss\"",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

//! Log lines can be joined: request ids and traces lead from the client through larder to the servers that larder asks.
//! The log level can change while larder runs, and the same failure is not logged a thousand times.

use larder_tests::fake::{Fault, Kind, Match, Seen};
use larder_tests::http::{self, Call};
use larder_tests::node::Node;
use larder_tests::scene::{Scene, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn header<'a>(seen: &'a Seen, name: &str) -> Option<&'a str> {
    let mut headers = seen.headers.iter();
    headers.find(|(n, _)| n == name).map(|(_, value)| &**value)
}

/// Access lines that contain these words.
fn lines(node: &Node, words: &str) -> Vec<String> {
    let log = node.log();
    let lines = log
        .lines()
        .filter(|line| line.contains(" access: ") && line.contains(words));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_request_is_the_same_one_everywhere() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 100_000);
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let answer = Call::get(scene.blob("a/b", &digest))
        .header("x-request-id", "pod-7/pull-1")
        .header("traceparent", &parent)
        .header("tracestate", "vendor=a")
        .header("tracestate", "other=b")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.header("x-request-id"), Some("pod-7/pull-1"));
    let asked = scene.fake.requests();
    assert!(!asked.is_empty());
    let mut span = String::new();
    for seen in &asked {
        assert_eq!(
            header(seen, "x-request-id"),
            Some("pod-7/pull-1"),
            "{seen:?}"
        );
        assert_eq!(header(seen, "tracestate"), Some("vendor=a,other=b"));
        let passed = header(seen, "traceparent").expect("a trace");
        let parts: Vec<&str> = passed.split('-').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("00", TRACE, "01"));
        assert_ne!(parts[2], SPAN, "a step of its own");
        parts[2].clone_into(&mut span);
    }
    let line = format!("request_id=\"pod-7/pull-1\" trace_id={TRACE} span_id={span}");
    eventually("its line", || lines(&scene.node, &line).len() == 1).await;
}

#[tokio::test]
async fn what_a_client_brings_must_be_good() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 1000);
    let answer = Call::get(scene.blob("a/b", &digest))
        .header("x-request-id", "two words")
        .header("traceparent", &format!("00-{TRACE}-0000000000000000-01"))
        .header("tracestate", "vendor=a")
        .send()
        .await
        .expect("an answer");
    let id = answer.header("x-request-id").expect("an id").to_owned();
    assert!(
        id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{id}"
    );
    for seen in scene.fake.requests() {
        assert_eq!(header(&seen, "x-request-id"), Some(&*id));
        assert_eq!(header(&seen, "tracestate"), None);
        let passed = header(&seen, "traceparent").expect("a trace");
        assert!(passed.len() == 55 && !passed.contains(TRACE), "{passed}");
    }
    // Answers with an error have a request id as well.
    let bad = format!("{}/v2/UPPER/manifests/v1", scene.node.url());
    let refused = http::get(&bad, &[("x-request-id", "mine")]).await;
    assert_eq!(
        refused.expect("an answer").header("x-request-id"),
        Some("mine")
    );
}

/// A redirect leads to another host, which gets no trace headers.
#[tokio::test]
async fn redirects_learn_of_no_trace() {
    let scene = Scene::new().await;
    scene.fake.fault(Match::blob(), Fault::redirect_to_cdn());
    let digest = scene.fake.put_blob_of("a/b", 1, 100_000);
    let answer = http::get(&scene.blob("a/b", &digest), &[("x-request-id", "mine")]).await;
    assert!(answer.expect("an answer").complete);
    let asked = scene.fake.requests();
    let (away, here): (Vec<_>, Vec<_>) = asked.iter().partition(|seen| seen.kind == Kind::Cdn);
    assert!(!away.is_empty() && !here.is_empty());
    assert!(
        here.iter()
            .all(|seen| header(seen, "x-request-id") == Some("mine"))
    );
    for name in ["x-request-id", "traceparent", "tracestate"] {
        assert!(
            away.iter().all(|seen| header(seen, name).is_none()),
            "{name}"
        );
    }
}

/// A thousand pods start while a registry is down: larder logs the failure once, with what to do about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_failure_is_said_once() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    scene.fake.stop().await;
    let complaints = |node: &Node| {
        let log = node.log();
        let lines = log
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains("ERROR"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for round in 0..5 {
        let asked = (0..40).map(|number| {
            let url = scene.manifest(&format!("team/app{round}-{number}"), "v1");
            async move { http::get(&url, &[]).await.expect("an answer").status }
        });
        let statuses = futures_util::future::join_all(asked).await;
        assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
    }
    eventually("200 lines", || {
        lines(&scene.node, "outcome=\"failed\"").len() == 200
    })
    .await;
    let said = complaints(&scene.node);
    assert_eq!(said.len(), 1, "{said:#?}");
    for words in [
        &*scene.fake.host(),
        "cannot be reached",
        "look at",
        "request_id=",
    ] {
        assert!(said[0].contains(words), "{words}: {said:#?}");
    }
}

#[tokio::test]
async fn what_is_logged_changes_while_it_runs() {
    let scene = Scene::with(|node| node.log_level("warn")).await;
    let node = &scene.node;
    let cli = async |arguments: &[&str]| {
        let output = node.cli(arguments).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let ask = async |name: &str| {
        http::get(&scene.manifest(name, "v1"), &[])
            .await
            .expect("an answer");
    };
    ask("a/quiet").await;
    assert_eq!(
        cli(&["log"]).await,
        (Some(0), "warn".to_owned(), String::new())
    );
    let (code, shown, _) = cli(&["log", "warn,access=info"]).await;
    assert_eq!((code, &*shown), (Some(0), "warn,access=info"));
    ask("a/heard").await;
    eventually("a line", || lines(node, "a/heard").len() == 1).await;
    assert!(lines(node, "a/quiet").is_empty());
    let (code, _, why) = cli(&["log", "access=loudly"]).await;
    assert_eq!(code, Some(1));
    assert!(
        why.contains("access=loudly") && why.contains("larder=debug"),
        "{why}"
    );
    let (code, json, _) = cli(&["log", "--json"]).await;
    assert_eq!(
        (code, &*json),
        (Some(0), "{\"filter\":\"warn,access=info\"}")
    );
}

#[tokio::test]
async fn the_configuration_changes_what_is_logged() {
    let scene =
        Scene::with(|node| node.log_level("").config("[telemetry]\nlog = \"warn\"\n")).await;
    let node = &scene.node;
    let ask = async |name: &str| {
        http::get(&scene.manifest(name, "v1"), &[])
            .await
            .expect("an answer");
    };
    ask("a/quiet").await;
    std::fs::write(node.config_file(), "[telemetry]\nlog = \"info\"\n").expect("a file");
    eventually("it is read", || node.log().contains("is in force")).await;
    ask("a/heard").await;
    eventually("a line", || lines(node, "a/heard").len() == 1).await;
    assert!(lines(node, "a/quiet").is_empty());
    assert!(
        !node.log().contains("take effect after a restart"),
        "{}",
        node.log()
    );
    // A file that cannot be used changes nothing, and a metric shows it.
    std::fs::write(node.config_file(), "[telemetry]\nlag = \"info\"\n").expect("a file");
    eventually("it is refused", || node.log().contains("cannot be used")).await;
    let ok = node.metric("larder_config_last_reload_successful").await;
    assert_eq!(ok, Some(0.0));
}

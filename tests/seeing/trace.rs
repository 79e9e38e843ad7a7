//! `larder explain --trace`: real pulls as they happen, of one repository or of all.

use std::process::Stdio;
use std::time::Duration;

use larder_tests::fake::FakeRegistry;
use larder_tests::http::Call;
use larder_tests::image::{LayerSpec, build};
use larder_tests::node::Node;
use larder_tests::schemas::assert_schema;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A `larder explain --trace` that runs until it is dropped.
struct Following {
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Following {
    /// Starts it, and waits until it reports requests to `url`.
    async fn start(node: &Node, more: &[&str], url: &str) -> Self {
        let mut child = Command::new(larder_tests::node::larder_program())
            .args(["explain", "--trace", "--json"])
            .args(more)
            .env("LARDER_SOCKET", node.socket())
            .env_remove("LARDER_CONFIG")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..100 {
            Call::get(url).send().await.unwrap();
            let heard = tokio::time::timeout(Duration::from_millis(200), lines.next_line());
            if let Ok(line) = heard.await {
                assert!(line.unwrap().is_some(), "it ended at once");
                return Self { lines, child };
            }
        }
        panic!("nothing is heard");
    }

    /// Gives the events up to the first one for which `last` holds.
    async fn until(&mut self, what: &str, last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let line = tokio::time::timeout(Duration::from_secs(20), self.lines.next_line());
            let line = line
                .await
                .unwrap_or_else(|_| panic!("{what} is not in {events:#?}"));
            let line = line
                .unwrap()
                .unwrap_or_else(|| panic!("it ended: {events:#?}"));
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_schema(&event, "trace");
            let found = last(&event);
            events.push(event);
            if found {
                return events;
            }
        }
    }
}

#[tokio::test]
async fn a_pull_is_followed_step_by_step_and_others_are_left_out() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, "team/app", "v1", &[LayerSpec::new(1, 100_000)]);
    build(&fake, "team/other", "v1", &[LayerSpec::new(2, 100_000)]);
    let node = Node::builder().upstream(&fake).start().await;
    let url = |rest: &str| format!("{}/v2/{rest}?ns={}", node.url(), fake.host());
    let repository = format!("{}/team/app", fake.host());
    let list = url("team/app/tags/list");
    let mut all = Following::start(&node, &[], &list).await;
    let mut one = Following::start(&node, &[&repository], &list).await;
    let layer = image.layers[0].digest.clone();
    let blob = format!("team/app/blobs/{layer}");
    for path in ["team/other/manifests/v1", "team/app/manifests/v1", &blob] {
        Call::get(url(path)).send().await.unwrap();
    }
    Call::new("HEAD", url("team/app/manifests/v1"))
        .header("X-Request-ID", "the-runtimes-own")
        .send()
        .await
        .unwrap();
    let is_head = |event: &Value| event["event"] == "begin" && event["method"] == "HEAD";
    let heard = one.until("the HEAD", is_head).await;
    assert!(
        heard
            .iter()
            .filter(|event| event["event"] == "begin")
            .all(|event| event["repository"] == "team/app" && event["registry"] == fake.host()),
        "{heard:#?}"
    );
    let request = heard.last().unwrap()["request"].clone();
    assert_eq!(heard.last().unwrap()["request_id"], "the-runtimes-own");
    let steps = one
        .until("its end", |e| {
            e["event"] == "end" && e["request"] == request
        })
        .await;
    let of = |name: &str| {
        let mut of = steps.iter().filter(|e| e["request"] == request);
        of.find(|e| e["step"] == name)
            .unwrap_or_else(|| panic!("{name}: {steps:#?}"))["outcome"]
            .clone()
    };
    assert_eq!(of("tag"), "unchanged");
    assert_eq!(of("upstream"), "answered");
    assert_eq!(of("access"), "public");
    let answered = steps.iter().find(|e| e["event"] == "answered").unwrap();
    assert_eq!(
        (&answered["status"], &answered["tier"], &answered["outcome"]),
        (&200.into(), &"node".into(), &"hit".into())
    );
    // The trace of all repositories reports both, and every byte.
    let events = all
        .until("the HEAD", |e| is_head(e) && e["repository"] == "team/app")
        .await;
    let begun = |repository: &str| events.iter().any(|e| e["repository"] == repository);
    assert!(begun("team/app") && begun("team/other"), "{events:#?}");
    let bytes = image.layers[0].content.len();
    assert!(
        events.iter().any(|e| e["sent_bytes"] == bytes),
        "{events:#?}"
    );

    // The fetch is reported under the request that began it.
    let path = format!("/v2/{blob}");
    let begun = events.iter().find(|e| e["path"] == path).unwrap();
    let asked = |e: &&Value| e["request"] == begun["request"] && e["step"] == "upstream";
    assert_eq!(events.iter().filter(asked).count(), 1, "{events:#?}");

    // A daemon that stops ends the trace, and the trace does not delay its stop.
    let mut node = node;
    node.terminate();
    node.wait().await;
    let ended = tokio::time::timeout(Duration::from_secs(20), one.child.wait()).await;
    assert!(ended.unwrap().unwrap().success());
}

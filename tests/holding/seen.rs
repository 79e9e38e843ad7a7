//! Commands and the status page show which content is in use, and where larder does not know.

use std::fs;

use larder_tests::schemas::assert_schema;
use serde_json::Value;

use super::{MB, Watched};

/// The findings of one check that are not ok.
async fn findings(node: &Watched, check: &str) -> Vec<Value> {
    let diagnosis = node.scene.node.admin("/doctor").await;
    assert_schema(&diagnosis, "doctor");
    let all = diagnosis["findings"].as_array().expect("findings").clone();
    let wrong = |finding: &Value| finding["check"] == check && finding["severity"] != "ok";
    all.into_iter().filter(wrong).collect()
}

async fn says(node: &Watched, arguments: &[&str]) -> String {
    let output = node.scene.node.cli(arguments).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn what_is_in_use_is_shown() {
    let node = Watched::with("").await;
    let used = node.pull("team/used", 1, MB).await;
    let unused = node.pull("team/unused", 2, MB).await;
    node.uses(&[&used]).await;

    let listed = says(&node, &["images"]).await;
    let line = |name: &str| {
        let mut lines = listed.lines();
        let found = lines.find(|line| line.contains(name));
        found
            .unwrap_or_else(|| panic!("{name}: {listed}"))
            .to_owned()
    };
    assert!(listed.contains("IN USE"), "{listed}");
    assert!(line("team/used").contains("yes"), "{listed}");
    assert!(!line("team/unused").contains("yes"), "{listed}");
    assert_schema(&node.scene.node.admin("/images").await, "images");

    let status = node.scene.node.admin("/status").await;
    assert_schema(&status, "status");
    assert_eq!(status["store"]["in_use_blobs"], 3);
    assert_eq!(status["store"]["in_use_bytes"], used.size());
    assert_eq!(status["runtime"]["runtime"], "containerd 2.1.0");
    let text = says(&node, &["status"]).await;
    assert!(
        text.contains("containerd 2.1.0, what it uses is known: 1 container"),
        "{text}"
    );
    assert!(text.contains("in use by containers, 3 blobs"), "{text}");

    for (repository, outcome) in [("team/used", "in-use"), ("team/unused", "unused")] {
        let image = format!("{}/{repository}:v1", node.scene.fake.host());
        let explained = says(&node, &["explain", "--json", &image]).await;
        let explained: Value = serde_json::from_str(&explained).expect("JSON");
        assert_schema(&explained, "explain");
        let steps = explained["steps"].as_array().expect("steps");
        let step = steps.iter().find(|step| step["step"] == "use");
        assert_eq!(
            step.map(|step| &step["outcome"]),
            Some(&outcome.into()),
            "{explained}"
        );
    }

    let url = format!("http://{}/", node.scene.node.telemetry());
    let page = larder_tests::http::get(&url, &[]).await;
    let page = page.expect("the page").text();
    assert_eq!(page.matches(">in use<").count(), 1, "{page}");

    let metric = |name| node.scene.node.metric(name);
    assert_eq!(
        metric("larder_runtime_state{state=\"fresh\"}").await,
        Some(1.0)
    );
    assert_eq!(
        metric("larder_runtime_state{state=\"old\"}").await,
        Some(0.0)
    );
    assert_eq!(
        metric("larder_store_in_use_bytes").await,
        Some(used.size() as f64)
    );
    assert!(metric("larder_runtime_report_age_seconds").await < Some(60.0));
    assert_eq!(findings(&node, "watcher").await, Vec::<Value>::new());
    assert_eq!(findings(&node, "room").await, Vec::<Value>::new());
    assert!(node.is_whole(&unused));
}

/// Findings about each kind of unusable file, with their fixes.
#[tokio::test]
async fn doctor_says_what_is_wrong_with_the_watchers_file() {
    let node = Watched::with("").await;
    assert_eq!(
        findings(&node, "watcher").await,
        Vec::<Value>::new(),
        "no file is no fault"
    );
    node.uses(&[]).await;
    let mut foreign = node.report(&[]);
    foreign["boot"] = "0c5b3d9e-0000-0000-0000-000000000000".into();
    for (text, state, found, mend) in [
        (
            "{\"version\": 1, \"at\"",
            "unreadable",
            "not a report: line 1, column",
            "larder runtime",
        ),
        ("{\"version\": 7}", "newer", "version 7", "the same larder"),
        (
            &foreign.to_string(),
            "unreadable",
            "of another node",
            "no other node shares",
        ),
    ] {
        node.write(text);
        node.until(text, |status| status["runtime"]["state"] == state)
            .await;
        let mut looks = 0;
        loop {
            let wrong = findings(&node, "watcher").await;
            let says = |finding: &Value, what: &str, words: &str| {
                finding[what]
                    .as_str()
                    .is_some_and(|text| text.contains(words))
            };
            if let [finding] = &wrong[..]
                && says(finding, "found", found)
            {
                assert!(says(finding, "mend", mend), "{finding}");
                break;
            }
            looks += 1;
            assert!(looks < 200, "{text}: {wrong:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let log = node.scene.node.log();
        assert!(log.contains("watcher"), "{log}");
    }
    fs::remove_file(node.file()).expect("the file");
    node.uses(&[]).await;
    assert_eq!(findings(&node, "watcher").await, Vec::<Value>::new());
}

#[tokio::test]
async fn doctor_and_status_say_why_new_content_is_passed_on() {
    let node = Watched::with("max_size = \"10MB\"").await;
    let used = node.pull("team/used", 1, 99 * MB / 10).await;
    node.uses(&[&used]).await;
    node.round().await;
    let [finding] = &findings(&node, "room").await[..] else {
        panic!("{:?}", node.scene.node.admin("/doctor").await);
    };
    assert_eq!(finding["severity"], "warning");
    let found = finding["found"].as_str().expect("words");
    assert!(
        found.contains("never evicted") && found.contains("passed on"),
        "{found}"
    );
    assert!(
        finding["mend"]
            .as_str()
            .expect("words")
            .contains("max_size"),
        "{finding}"
    );
    let text = says(&node, &["status"]).await;
    assert!(text.contains("what does not fit is passed on"), "{text}");
}

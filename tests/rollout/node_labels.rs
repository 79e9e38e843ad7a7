//! The node's own labels: the daemon reads what the init container writes. The API server is a fake of the tests.

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::helm::{larder, object, objects, rendered, said};
use crate::hooks::Api;

const NODE: &str = "/api/v1/nodes/worker-3";

fn asked(api: &Api, file: &std::path::Path, more: &[&str]) -> Output {
    let file = format!("--file={}", file.display());
    let account = format!("--service-account={}", api.account.path().display());
    let own = ["node-labels", "--node=worker-3", "--timeout=2", "--api"];
    larder(&[&own[..], &[&api.url, &file, &account], more].concat())
}

#[test]
fn a_node_writes_its_own_labels_and_asks_for_nothing_else() {
    let node = json!({"metadata": {"labels": {"pool": "labs", "a.b/c": "", "zone": "eu-1"}}});
    let api = Api::start(BTreeMap::from([(NODE.to_owned(), node)]));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("labels");
    let output = asked(&api, &file, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text, "a.b/c=\"\"\npool=\"labs\"\nzone=\"eu-1\"\n");
    assert!(api.was_asked("GET /api/v1/nodes/worker-3 HTTP/1.1 Bearer the-token"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Without the right to read it, or without the node, there is no file, and larder starts all the same.
#[test]
fn without_an_answer_there_is_no_file_and_larder_starts() {
    let refused = json!({"kind": "Status", "message": "nodes is forbidden"});
    for (answers, why) in [
        (
            BTreeMap::from([(NODE.to_owned(), refused)]),
            "nodes is forbidden",
        ),
        (BTreeMap::<String, Value>::new(), "has no node worker-3"),
    ] {
        let api = Api::start(answers);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("labels");
        let output = asked(&api, &file, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(why), "{}", said(&output));
        let output = asked(&api, &file, &["--optional"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(said(&output).contains(why), "{}", said(&output));
        assert!(!file.exists());
    }
}

/// Only the init container has a token, and the chart gives no right unless the values ask for it.
#[test]
fn the_daemon_has_no_token_and_no_right_is_given_unasked() {
    let kinds = |values: &str| {
        let all = objects(&rendered(values, &[]));
        let kinds = all
            .iter()
            .map(|one| one["kind"].as_str().unwrap().to_owned());
        kinds.filter(|kind| kind.starts_with("ClusterRole")).count()
    };
    assert_eq!((kinds("{}"), kinds("warm: {nodeLabels: true}")), (0, 2));
    let values = "{warm: {nodeLabels: true}, upgrade: {hook: false}, removal: {hook: false}}";
    let set = object(values, "DaemonSet");
    let spec = &set["spec"]["template"]["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false);
    let with_token =
        |container: &&Value| container["volumeMounts"].to_string().contains("api-access");
    let containers = spec["containers"].as_array().unwrap().iter();
    assert_eq!(containers.filter(with_token).count(), 0);
    let first = spec["initContainers"].as_array().unwrap().iter();
    let names: Vec<_> = first
        .filter(with_token)
        .map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, [Some("node-labels")]);
    let role = object(values, "ClusterRole");
    assert_eq!(
        role["rules"],
        json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}])
    );
}

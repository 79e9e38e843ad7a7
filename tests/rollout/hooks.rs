//! The chart's hooks: what is rendered, and what their Job decides and prints. The API server is a fake of the tests.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder_tests::fake::FakeRegistry;
use serde_json::{Value, json};

use crate::helm::{larder, objects, rendered, said};

const SET: &str = "/apis/apps/v1/namespaces/larder-system/daemonsets";
const PODS: &str = "/api/v1/namespaces/larder-system/pods";
const EVENTS: &str = "/api/v1/namespaces/larder-system/events";

/// An API server that answers by path, and records its requests.
pub(crate) struct Api {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
    pub(crate) account: tempfile::TempDir,
}

impl Api {
    pub(crate) fn start(answers: BTreeMap<String, Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, notes) = (answers.clone(), Arc::clone(&notes));
                std::thread::spawn(move || answer(stream, &answers, &notes));
            }
        });
        let account = tempfile::tempdir().expect("a directory");
        for (name, text) in [("token", "the-token\n"), ("namespace", "larder-system")] {
            fs::write(account.path().join(name), text).expect("a file");
        }
        Self {
            url,
            asked,
            account,
        }
    }

    fn hook(&self, arguments: &[&str]) -> Output {
        let account = self.account.path().to_str().expect("a path");
        let own = ["--larder=larder", "--timeout=1", "--api", &self.url];
        let more = ["--service-account", account];
        larder(&[&["hook"], arguments, &own, &more].concat())
    }

    pub(crate) fn was_asked(&self, wanted: &str) -> bool {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().any(|line| line.contains(wanted))
    }
}

/// Answers the requests of one connection: a path that has no answer gets 404.
fn answer(stream: TcpStream, answers: &BTreeMap<String, Value>, notes: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
            head.push(std::mem::take(&mut line).trim().to_owned());
        }
        let Some(request) = head.first() else { return };
        let header = |name: &str| {
            let mut lines = head.iter().filter_map(|line| line.split_once(": "));
            lines
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        let length = header("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let words: Vec<&str> = request.split(' ').collect();
        let path = words[1].split('?').next().unwrap_or_default();
        let note = format!(
            "{request} {} {} {}",
            header("authorization").unwrap_or_default(),
            header("content-type").unwrap_or_default(),
            String::from_utf8_lossy(&body)
        );
        notes.lock().expect("no panic").push(note);
        let (status, value) = match answers.get(path) {
            Some(value) if value["kind"] == "Status" => (403, value.clone()),
            Some(value) => (200, value.clone()),
            None => (404, json!({"kind": "Status"})),
        };
        let text = value.to_string();
        let answer = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The hook's DaemonSet for so many nodes, and its pods.
fn cluster(name: &str, nodes: u64, pods: &[Value]) -> BTreeMap<String, Value> {
    let is_ready = |pod: &&Value| pod["status"]["conditions"][0]["type"] == "Ready";
    let set = json!({
        "metadata": {"generation": 1},
        "spec": {"selector": {"matchLabels": {"app.kubernetes.io/component": "upgrade"}}},
        "status": {
            "observedGeneration": 1,
            "desiredNumberScheduled": nodes,
            "currentNumberScheduled": pods.len(),
            "numberReady": pods.iter().filter(is_ready).count(),
        },
    });
    BTreeMap::from([
        (format!("{SET}/{name}"), set),
        (PODS.to_owned(), json!({"items": pods})),
        (EVENTS.to_owned(), json!({"items": []})),
    ])
}

fn pod(node: &str, status: &Value) -> Value {
    json!({"metadata": {}, "spec": {"nodeName": node}, "status": status})
}

fn ready(node: &str) -> Value {
    pod(
        node,
        &json!({"startTime": "t", "conditions": [{"type": "Ready", "status": "True"}]}),
    )
}

fn failed(node: &str, message: &str) -> Value {
    let ended = json!({"terminated": {"exitCode": 1, "message": message}});
    pod(
        node,
        &json!({"startTime": "t", "initContainerStatuses": [{"name": "check", "state": ended}]}),
    )
}

/// A node that is down: its kubelet has not seen the pod.
fn silent(node: &str) -> Value {
    pod(node, &json!({"phase": "Pending"}))
}

fn lines(output: &Output) -> Vec<String> {
    said(output).lines().map(str::to_owned).collect()
}

#[test]
fn the_job_goes_on_when_all_nodes_are_done() {
    let api = Api::start(cluster("larder-upgrade", 2, &[ready("n1"), ready("n2")]));
    let output = api.hook(&[
        "upgrade",
        "--name=larder-upgrade",
        "--owner=the-uid",
        "--clear=old",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(lines(&output), ["2 of 2 nodes are done"]);
    // The Job shows its token, and makes itself the DaemonSet's owner. It lists pods only for the nodes that are not
    // done.
    assert!(!api.was_asked("/pods"));
    for wanted in [
        "Bearer the-token application/merge-patch+json",
        "\"uid\":\"the-uid\"",
        "DELETE /apis/batch/v1/namespaces/larder-system/jobs/old?propagationPolicy=Background",
    ] {
        assert!(api.was_asked(wanted), "{wanted}");
    }
}

#[test]
fn the_last_lines_of_the_job_are_the_reasons_of_the_nodes() {
    let pods = [
        ready("n1"),
        failed("n3", "larder.toml:3:1: unknown key `x`"),
        silent("n2"),
    ];
    let api = Api::start(cluster("larder-upgrade", 3, &pods));
    let output = api.hook(&["upgrade", "--name=larder-upgrade"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(
        lines(&output)[..3],
        [
            "1 of 3 nodes are done",
            "n2: the node does not answer",
            "n3: check: larder.toml:3:1: unknown key `x`",
        ]
    );
    assert!(api.was_asked("labelSelector=app.kubernetes.io%2Fcomponent%3Dupgrade"));
}

/// An upgrade skips nodes that are down: they get the image when they come back. A removal must not skip them: their
/// runtimes would use a port that any program can take.
#[test]
fn a_node_that_is_down_stops_a_removal_and_no_upgrade() {
    let pods = [ready("n1"), silent("n2")];
    let api = Api::start(cluster("larder-upgrade", 2, &pods));
    let output = api.hook(&["upgrade", "--name=larder-upgrade"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("n2: the node does not answer"), "{text}");
    let api = Api::start(cluster("larder-removal", 2, &pods));
    let output = api.hook(&["removal", "--name=larder-removal"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for wanted in [
        "n2: the node does not answer",
        "pull past it until their pod restarts: kubectl rollout restart daemonset/larder",
        "--no-hooks",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

/// A namespace's Pod Security level admits no pod. So larder never ran on a node, and can be removed at once.
#[test]
fn a_namespace_that_lets_no_pod_in_does_not_hold_up_a_removal() {
    let why = "pods \"larder-removal-\" is forbidden: violates PodSecurity \"baseline:latest\"";
    let mut answers = cluster("larder-removal", 2, &[]);
    let events = json!({"items": [{"reason": "FailedCreate", "message": why}]});
    answers.insert(EVENTS.to_owned(), events);
    let scheduled = |pods: u64| json!({"status": {"currentNumberScheduled": pods}});
    answers.insert(format!("{SET}/larder"), scheduled(0));
    let api = Api::start(answers.clone());
    let removal = ["removal", "--name=larder-removal", "--timeout=600"];
    let hook = |api: &Api| {
        let account = api.account.path().to_str().expect("a path").to_owned();
        let place = [
            "--larder=larder",
            "--api",
            &api.url,
            "--service-account",
            &account,
        ];
        larder(&[&["hook"], &removal[..], &place].concat())
    };
    let begun = Instant::now();
    let output = hook(&api);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output).contains("violates PodSecurity"),
        "{}",
        said(&output)
    );
    // The label came after larder: its files are on the nodes.
    answers.insert(format!("{SET}/larder"), scheduled(2));
    let output = hook(&Api::start(answers));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains("pod-security.kubernetes.io/enforce=privileged"),
        "{text}"
    );
    assert!(
        begun.elapsed() < Duration::from_mins(5),
        "it waited for nothing"
    );
}

#[test]
fn an_api_that_refuses_or_is_another_server_is_named() {
    let refused = json!({"kind": "Status", "message": "daemonsets.apps is forbidden"});
    let answers = BTreeMap::from([(format!("{SET}/larder-upgrade"), refused)]);
    let output = Api::start(answers).hook(&["upgrade", "--name=larder-upgrade"]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("daemonsets.apps is forbidden"), "{text}");
}

/// The Job asks by TLS, and only a server whose certificate the service account's CA has signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_asked_by_tls() {
    // The fake registry is no API server, and answers 404.
    let fake = FakeRegistry::start_tls().await;
    let account = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("token", "t"),
        ("namespace", "larder-system"),
        ("ca.crt", fake.ca_pem()),
    ] {
        fs::write(account.path().join(name), text).unwrap();
    }
    let path = account.path().to_str().unwrap().to_owned();
    let hook = || {
        let url = fake.url();
        let arguments = [
            "hook",
            "upgrade",
            "--name=x",
            "--larder=larder",
            "--timeout=0",
        ];
        larder(&[&arguments[..], &["--api", &url, "--service-account", &path]].concat())
    };
    let text = said(&hook());
    assert!(text.contains("there is no DaemonSet x"), "{text}");
    let other = FakeRegistry::start_tls().await;
    fs::write(account.path().join("ca.crt"), other.ca_pem()).unwrap();
    let text = said(&hook());
    assert!(text.contains("certificate"), "{text}");
}

/// The objects of a hook, by kind.
fn of_hook(name: &str) -> BTreeMap<String, Value> {
    let all = objects(&rendered("{}", &[])).into_iter();
    let of = all.filter(|object| object["metadata"]["name"] == name);
    of.map(|object| (object["kind"].as_str().unwrap().to_owned(), object))
        .collect()
}

#[test]
fn a_hook_is_bounded_and_leaves_what_a_person_can_read() {
    for name in ["larder-upgrade", "larder-removal"] {
        let all = of_hook(name);
        let policy = |kind: &str| {
            all[kind]["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
                .as_str()
                .unwrap()
        };
        // When a Job fails, Helm deletes the hooks that succeeded before. It must keep the DaemonSet, whose pods have
        // the nodes' logs.
        assert_eq!(policy("DaemonSet"), "before-hook-creation");
        assert_eq!(policy("Job"), "before-hook-creation,hook-succeeded");
        let job = &all["Job"]["spec"];
        let deadline = job["activeDeadlineSeconds"].as_u64().unwrap();
        assert!(
            (241..300).contains(&deadline),
            "{deadline} s, and helm waits 300 s"
        );
        assert!(job["ttlSecondsAfterFinished"].as_u64().is_some());
        let pod = &job["template"]["spec"];
        for toleration in pod["tolerations"].as_array().unwrap() {
            let key = toleration["key"].as_str().expect("not every taint");
            assert!(!key.starts_with("node.kubernetes.io/"), "{key}");
        }
        let wait = &pod["containers"][0];
        // The hooks use larder's image only.
        assert_eq!(
            wait["image"],
            concat!("registry.example.com/larder:", env!("CARGO_PKG_VERSION"))
        );
        let arguments: Vec<&str> = wait["args"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(arguments.contains(&"--larder=larder"), "{arguments:?}");
        // larder accepts these arguments.
        let parsed = larder(
            &[
                &arguments[..],
                &["--api=http://127.0.0.1:1", "--service-account=/nonexistent"],
            ]
            .concat(),
        );
        assert!(said(&parsed).contains("/nonexistent/"), "{}", said(&parsed));
        // The kubelet keeps the last lines of each container's log.
        let pods = [pod, &all["DaemonSet"]["spec"]["template"]["spec"]];
        for container in pods
            .iter()
            .flat_map(|pod| ["initContainers", "containers"].map(|kind| &pod[kind]))
        {
            for container in container.as_array().into_iter().flatten() {
                assert_eq!(
                    container["terminationMessagePolicy"],
                    "FallbackToLogsOnError"
                );
            }
        }
    }
    let rules = of_hook("larder-removal")["Role"]["rules"].to_string();
    assert!(rules.contains("larder-upgrade"), "{rules}");
}

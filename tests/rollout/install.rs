//! What `helm` prints to the person who installs the chart, and that the chart can be copied and packed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::helm::{IMAGE, object, objects, root, run, said, same, tool};

/// The notes that `helm install` would print below the manifests.
fn notes(values: &[&str]) -> String {
    let mut helm = tool("helm");
    helm.args(["install", "larder"])
        .arg(root().join("deploy/larder"))
        .args([
            "--dry-run=client",
            "--no-hooks",
            "--namespace",
            "larder-system",
        ])
        .args(["--set", IMAGE]);
    for value in values {
        helm.args(["--set", value]);
    }
    let output = run(&mut helm);
    let text = said(&output);
    let (_, notes) = text
        .split_once("\nNOTES:\n")
        .unwrap_or_else(|| panic!("{text}"));
    notes.to_owned()
}

#[test]
fn the_notes_say_what_to_do_next() {
    let installed = notes(&[]);
    assert!(
        installed.contains("pod-security.kubernetes.io/enforce=privileged"),
        "{installed}"
    );
    // The nodes are cleaned already: the hook has nothing to do, and a node that is down would delay it.
    let removing = notes(&["runtime.remove=true"]);
    assert!(
        removing.contains("helm uninstall larder --namespace larder-system --no-hooks"),
        "{removing}"
    );
    let without = notes(&["runtime.remove=true", "removal.hook=false"]);
    assert!(!without.contains("--no-hooks"), "{without}");
}

/// An API server with one namespace, for `lookup`.
fn namespace(labels: &Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let kind = json!({"name": "namespaces", "singularName": "", "namespaced": false, "kind": "Namespace", "verbs": ["get"]});
    let answers = [
        (
            "/version",
            json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0"}),
        ),
        ("/api", json!({"kind": "APIVersions", "versions": ["v1"]})),
        ("/apis", json!({"kind": "APIGroupList", "groups": []})),
        (
            "/api/v1",
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [kind]}),
        ),
        (
            "/api/v1/namespaces/larder-system",
            json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "larder-system", "labels": labels}}),
        ),
    ];
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default();
            let answer = answers.iter().find(|(at, _)| *at == path);
            let (status, value) = match answer {
                Some((_, value)) => (200, value.to_string()),
                None => (
                    404,
                    json!({"kind": "Status", "reason": "NotFound", "code": 404}).to_string(),
                ),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{value}",
                value.len()
            );
        }
    });
    url
}

/// Whether the chart refuses that namespace, and helm's output. The API server has no schemas, so helm goes no further.
fn refused(labels: &Value, more: &[&str]) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("kubeconfig");
    let url = namespace(labels);
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"{url}\"}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    fs::write(&config, text).unwrap();
    let mut helm = tool("helm");
    helm.env("KUBECONFIG", &config)
        .args([
            "template",
            "larder",
            "--dry-run=server",
            "--namespace",
            "larder-system",
        ])
        .arg(root().join("deploy/larder"))
        .args(["--set", IMAGE])
        .args(more);
    let output = run(&mut helm);
    let text = said(&output);
    (text.contains("has the Pod Security level"), text)
}

#[test]
fn a_namespace_that_would_let_no_pod_in_is_refused_before_anything_is_made() {
    let enforced = |level: &str| json!({"pod-security.kubernetes.io/enforce": level});
    for level in ["baseline", "restricted"] {
        let (is_refused, text) = refused(&enforced(level), &[]);
        assert!(is_refused, "{text}");
        for wanted in [
            level,
            "hostPath",
            "hostPort",
            "probe",
            "kubectl label namespace larder-system",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }
    let (is_refused, text) = refused(&enforced("baseline"), &["--set", "podSecurityCheck=false"]);
    assert!(!is_refused, "{text}");
    for labels in [enforced("privileged"), json!({})] {
        let (is_refused, text) = refused(&labels, &[]);
        assert!(!is_refused, "{text}");
    }
}

#[test]
fn an_image_that_is_not_named_is_asked_for_in_a_sentence() {
    let chart = root().join("deploy/larder");
    let output = run(tool("helm").args(["template", "larder"]).arg(chart));
    assert!(!output.status.success());
    let text = said(&output);
    assert!(
        text.contains("image.repository is not set: name the registry"),
        "{text}"
    );
}

#[test]
fn a_key_that_is_misspelt_is_answered_with_the_keys_that_there_are() {
    for (value, keys) in [
        ("store.typo=hostPath", "'existingClaim', 'hostPath', 'size'"),
        (
            "stroe.type=hostPath",
            "'serviceAccount', 'store', 'streaming', 'telemetry'",
        ),
        ("config.store.max_sise=80%", "'max_size', 'min_free'"),
    ] {
        let mut helm = tool("helm");
        helm.args(["template", "larder"])
            .arg(root().join("deploy/larder"));
        let text = said(&run(helm.args(["--set", IMAGE, "--set", value])));
        assert!(text.contains(keys), "{value}: {text}");
    }
}

/// The alerts and the dashboard, rendered from this chart.
fn monitoring(chart: &Path) -> Vec<Value> {
    let mut helm = tool("helm");
    helm.args(["template", "larder"])
        .arg(chart)
        .args(["--set", IMAGE]);
    helm.args(["--set", "monitoring.rules=true,monitoring.dashboard=true"]);
    helm.args(["--show-only", "templates/monitoring.yaml"]);
    let output = run(&mut helm);
    assert!(output.status.success(), "{}", said(&output));
    objects(&String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_chart_can_be_copied_and_packed() {
    let chart = root().join("deploy/larder");
    let here = monitoring(&chart);
    let kinds: Vec<&str> = here.iter().filter_map(|one| one["kind"].as_str()).collect();
    assert_eq!(kinds, ["ConfigMap", "PrometheusRule"]);
    let dir = tempfile::tempdir().unwrap();
    let copied = run(Command::new("cp").arg("-a").arg(&chart).arg(dir.path()));
    assert!(copied.status.success(), "{}", said(&copied));
    assert_eq!(monitoring(&dir.path().join("larder")), here);
    let packed = run(tool("helm")
        .arg("package")
        .arg(&chart)
        .arg("--destination")
        .arg(dir.path()));
    assert!(packed.status.success(), "{}", said(&packed));
    assert_eq!(
        monitoring(
            &dir.path()
                .join(concat!("larder-", env!("CARGO_PKG_VERSION"), ".tgz"))
        ),
        here
    );
}

#[test]
fn the_charts_alerts_and_dashboard_are_those_that_are_shipped() {
    for (chart, shipped) in [
        ("alerts.yaml", "prometheus/rules.yaml"),
        ("dashboard.json", "grafana/larder.json"),
    ] {
        let shipped = fs::read_to_string(root().join("deploy").join(shipped)).unwrap();
        same(&root().join("deploy/larder/files").join(chart), &shipped);
    }
}

/// A setting of larder's file, as the chart writes it.
fn setting(values: &str, key: &str) -> Option<String> {
    let map = object(values, "ConfigMap");
    let text = map["data"]["larder.toml"]
        .as_str()
        .expect("a file")
        .to_owned();
    let lines = text
        .lines()
        .filter_map(|line| line.trim().split_once(" = "));
    let mut values = lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches('"'));
    values.next().map(str::to_owned)
}

/// Every user may write into an emptyDir's top directory, and the container's user cannot change that.
#[test]
fn the_store_in_an_empty_dir_is_a_directory_of_larders_own() {
    let path = |values| setting(values, "path").expect("a path");
    assert_eq!(path("store: {type: emptyDir}"), "/var/lib/larder/store");
    assert_eq!(path("{}"), "/var/lib/larder");
}

/// On a disk that the kubelet uses too, larder's own default of `min_free` holds.
#[test]
fn the_charts_bounds_are_for_a_shared_disk_or_for_one_of_larders_own() {
    let bounds = |values| ["max_size", "min_free"].map(|key| setting(values, key));
    let text = |text: &str| Some(text.to_owned());
    for shared in ["{}", "store: {type: emptyDir}"] {
        assert_eq!(bounds(shared), [text("40%"), None]);
    }
    assert_eq!(
        bounds("store: {type: ephemeral, size: 9Gi}"),
        [None, text("5%")]
    );
}

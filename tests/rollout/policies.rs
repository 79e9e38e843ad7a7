//! The rewriting route: which pods' images are rewritten to `localhost:7420`, and that nothing else of a pod changes.

use serde_json::{Value, json};

use crate::admission::{Policy, Request};
use crate::helm::{objects, rendered};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Two layers: the operator's settings come before the users'.
pub const VALUES: &str = r#"
policies:
  enabled: true
  registries: [docker.io, quay.io, hub.opensciencegrid.org, registry.cern.ch, "*.gcr.io"]
  operator:
    exclude: {namespaces: [infra-*], labels: {tier: system}, images: ["docker.io/rancher/*"]}
    include: {namespaces: [batch], labels: {}, images: ["quay.io/must/*"]}
  users:
    exclude: {namespaces: [team-b], labels: {larder/rewrite: "false"}, images: ["quay.io/*/private*"]}
"#;

/// The policy in the form of each of the two engines.
pub fn policies(values: &str) -> Vec<Policy> {
    ["kubernetes", "kyverno"]
        .map(|engine| {
            let text = rendered(values, &["--set", &format!("policies.engine={engine}")]);
            let policy = objects(&text).into_iter().find(|object| {
                let kind = object["kind"].as_str().unwrap_or_default();
                kind == "MutatingAdmissionPolicy" || kind == "MutatingPolicy"
            });
            Policy::new(&policy.expect("a policy"))
        })
        .into()
}

/// A pod with one container of this image.
pub fn pod(image: &str) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// The image of the pod's container.
pub fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap()
}

#[test]
fn an_image_of_a_chosen_registry_is_led_to_larder_by_its_whole_name() {
    let digest = format!("quay.io/a/b@{DIGEST}");
    let both = format!("quay.io/a/b:1.2@{DIGEST}");
    let (digest_led, both_led) = (
        format!("localhost:7420/{digest}"),
        format!("localhost:7420/{both}"),
    );
    let rows = [
        // Two of the chosen registries.
        (
            "hub.opensciencegrid.org/usatlas/cc-ubuntu:2022.11.16",
            "localhost:7420/hub.opensciencegrid.org/usatlas/cc-ubuntu:2022.11.16",
        ),
        (
            "registry.cern.ch/atlas/athena",
            "localhost:7420/registry.cern.ch/atlas/athena",
        ),
        // Short names belong to Docker Hub.
        ("nginx", "localhost:7420/docker.io/library/nginx"),
        ("nginx:1.27", "localhost:7420/docker.io/library/nginx:1.27"),
        (
            "bitnami/redis:7",
            "localhost:7420/docker.io/bitnami/redis:7",
        ),
        ("docker.io/nginx", "localhost:7420/docker.io/library/nginx"),
        (
            "docker.io/library/nginx",
            "localhost:7420/docker.io/library/nginx",
        ),
        ("docker.io/a/b/c:v1", "localhost:7420/docker.io/a/b/c:v1"),
        (
            "index.docker.io/library/nginx",
            "localhost:7420/index.docker.io/library/nginx",
        ),
        // Digests are kept.
        (&digest, &digest_led),
        (&both, &both_led),
        ("eu.gcr.io/p/i:1", "localhost:7420/eu.gcr.io/p/i:1"),
        // A registry that was not chosen, a name without one, a name that is rewritten already, or a port that cannot
        // stand in a path.
        ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ("notquay.io/a/b", "notquay.io/a/b"),
        ("quay.io.example.com/a/b", "quay.io.example.com/a/b"),
        ("quay.io:443/a/b", "quay.io:443/a/b"),
        ("a.b.gcr.io.example.com/p", "a.b.gcr.io.example.com/p"),
        ("localhost/a/b", "localhost/a/b"),
        ("localhost:5000/quay.io/a", "localhost:5000/quay.io/a"),
        (
            "localhost:7420/docker.io/library/nginx",
            "localhost:7420/docker.io/library/nginx",
        ),
        // The operator's patterns, and the users' patterns.
        ("rancher/pause:3", "rancher/pause:3"),
        ("quay.io/x/private-tool:1", "quay.io/x/private-tool:1"),
        (
            "quay.io/must/private-tool:1",
            "localhost:7420/quay.io/must/private-tool:1",
        ),
    ];
    for policy in policies(VALUES) {
        for (given, wanted) in rows {
            let stored = policy.admit(&Request::create("default", pod(given)));
            assert_eq!(image(&stored), wanted, "{given}");
            // The policy is idempotent, also when a dry run's answer is sent again.
            let again = policy.admit(&Request::create("default", stored.clone()));
            assert_eq!(again, stored, "{given}");
        }
    }
}

#[test]
fn all_images_of_a_pod_are_led_and_nothing_else_of_it_changes() {
    let full = |image: &str, tool: &str, volume: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"x": "y"}},
            "spec": {
                "containers": [
                    {"name": "one", "image": image, "imagePullPolicy": "Always", "ports": [{"containerPort": 80}],
                     "env": [{"name": "IMAGE", "value": "nginx"}, {"name": "IMAGE", "value": "twice"}]},
                    {"name": "never", "image": "nginx", "imagePullPolicy": "Never"},
                    {"name": "two", "image": image}],
                "initContainers": [{"name": "init", "image": image, "restartPolicy": "Always"}],
                "ephemeralContainers": [{"name": "debug", "image": tool, "targetContainerName": "one"}],
                "volumes": [
                    {"name": "empty", "emptyDir": {}},
                    {"name": "data", "image": {"reference": volume, "pullPolicy": "IfNotPresent"}},
                    {"name": "local", "image": {"reference": "quay.io/a/data:1", "pullPolicy": "Never"}}]}})
    };
    let given = full("nginx:1", "quay.io/a/tools:1", "quay.io/a/data:1");
    let wanted = full(
        "localhost:7420/docker.io/library/nginx:1",
        "localhost:7420/quay.io/a/tools:1",
        "localhost:7420/quay.io/a/data:1",
    );
    for policy in policies(VALUES) {
        assert_eq!(
            policy.admit(&Request::create("default", given.clone())),
            wanted
        );
    }
}

#[test]
fn an_update_restarts_nothing_that_runs() {
    let led = "localhost:7420/docker.io/library/nginx";
    let labelled = |mut pod: Value| {
        pod["metadata"]["labels"] = json!({"new": "label"});
        pod
    };
    let debugged = |mut pod: Value, image: &str| {
        let containers =
            json!([{"name": "old", "image": "nginx"}, {"name": "new", "image": image}]);
        pod["spec"]["ephemeralContainers"] = containers;
        pod
    };
    let mut before = pod("nginx");
    before["spec"]["ephemeralContainers"] = json!([{"name": "old", "image": "nginx"}]);
    let rows = [
        // A pod older than the policy keeps its image while something else of it changes.
        (pod("nginx"), labelled(pod("nginx")), labelled(pod("nginx"))),
        // Applying the same manifest again changes nothing.
        (pod(led), pod("nginx"), pod(led)),
        // A new image is rewritten.
        (pod(led), pod("nginx:2"), pod(&format!("{led}:2"))),
        (pod("nginx"), pod("nginx:2"), pod(&format!("{led}:2"))),
        // A new ephemeral container is rewritten, and an old one cannot change any more.
        (
            before,
            debugged(pod("nginx"), "nginx:debug"),
            debugged(pod("nginx"), &format!("{led}:debug")),
        ),
    ];
    for policy in policies(VALUES) {
        for (old, given, wanted) in &rows {
            for resource in ["pods", "pods/ephemeralcontainers"] {
                let request = Request {
                    resource,
                    ..Request::update("default", old.clone(), given.clone())
                };
                assert_eq!(policy.admit(&request), *wanted, "{resource} {given}");
            }
        }
    }
}

#[test]
fn every_registry_may_be_chosen_at_once() {
    for policy in policies("policies: {enabled: true, registries: [\"*\"]}") {
        for (given, wanted) in [
            ("nginx", "localhost:7420/docker.io/library/nginx"),
            ("ghcr.io/a/b:1", "localhost:7420/ghcr.io/a/b:1"),
            (
                "localhost:7420/ghcr.io/a/b:1",
                "localhost:7420/ghcr.io/a/b:1",
            ),
            ("localhost/a", "localhost/a"),
            // Placeholders that another webhook fills in.
            ("auto", "auto"),
            ("", ""),
            ("auto:1", "localhost:7420/docker.io/library/auto:1"),
            ("reg.local:5000/a", "reg.local:5000/a"),
        ] {
            let stored = policy.admit(&Request::create("default", pod(given)));
            assert_eq!(image(&stored), wanted, "{given}");
        }
    }
}

#[test]
fn the_policies_are_off_by_default_and_errors_leave_a_pod_alone() {
    let default = objects(&rendered("{}", &[]));
    let kinds: Vec<&str> = default
        .iter()
        .filter_map(|object| object["kind"].as_str())
        .collect();
    assert!(
        !kinds.iter().any(|kind| kind.contains("Policy")),
        "{kinds:?}"
    );
    for (failure, wanted) in [("", "Ignore"), (", failurePolicy: Fail", "Fail")] {
        let values = format!("policies: {{enabled: true, registries: [docker.io]{failure}}}");
        for engine in ["kubernetes", "kyverno"] {
            let text = rendered(&values, &["--set", &format!("policies.engine={engine}")]);
            let found = objects(&text);
            let policy = found
                .iter()
                .find(|object| object["spec"]["mutations"].is_array());
            let spec = &policy.expect("a policy")["spec"];
            assert_eq!(spec["failurePolicy"], wanted);
            assert_eq!(spec["reinvocationPolicy"], "IfNeeded");
        }
    }
}

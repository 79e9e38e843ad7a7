//! Pods that the rewriting route leaves alone: for what they are, or because an operator or user excluded them.

use serde_json::{Value, json};

use crate::admission::Request;
use crate::policies::{VALUES, image, pod, policies};

#[test]
fn a_pod_that_a_layer_excludes_is_untouched_and_the_operator_goes_first() {
    let with = |part: &str, value: Value| {
        let mut pod = pod("nginx");
        *pod.pointer_mut(part.rsplit_once('/').unwrap().0).unwrap() = merged(&pod, part, value);
        pod
    };
    let label = |key: &str, value: &str| with("/metadata/labels", json!({key: value}));
    let plain = pod("nginx");
    let rows: Vec<(&str, &'static str, Value, Value, bool)> = vec![
        ("as any other", "default", plain.clone(), json!({}), true),
        (
            "the cluster's own",
            "kube-system",
            plain.clone(),
            json!({}),
            false,
        ),
        (
            "larder's own",
            "larder-system",
            plain.clone(),
            json!({}),
            false,
        ),
        (
            "a static pod",
            "default",
            with(
                "/metadata/annotations",
                json!({"kubernetes.io/config.mirror": "x"}),
            ),
            json!({}),
            false,
        ),
        (
            "a pod of the node's network",
            "default",
            with("/spec/hostNetwork", json!(true)),
            json!({}),
            false,
        ),
        (
            "a pod that says it has its own",
            "default",
            with("/spec/hostNetwork", json!(false)),
            json!({}),
            true,
        ),
        (
            "the network's own",
            "kube-flannel",
            plain.clone(),
            json!({}),
            false,
        ),
        (
            "what makes certificates",
            "cert-manager",
            plain.clone(),
            json!({}),
            false,
        ),
        (
            "another annotation",
            "default",
            with("/metadata/annotations", json!({"kubernetes.io/other": "x"})),
            json!({}),
            true,
        ),
        (
            "a pull secret",
            "default",
            with("/spec/imagePullSecrets", json!([{"name": "s"}])),
            json!({}),
            false,
        ),
        (
            "no pull secret",
            "default",
            with("/spec/imagePullSecrets", json!([])),
            json!({}),
            true,
        ),
        (
            "operator: namespace",
            "infra-dns",
            plain.clone(),
            json!({}),
            false,
        ),
        (
            "operator: a similar namespace",
            "my-infra-dns",
            plain.clone(),
            json!({}),
            true,
        ),
        (
            "operator: label",
            "default",
            label("tier", "system"),
            json!({}),
            false,
        ),
        (
            "operator: another value",
            "default",
            label("tier", "front"),
            json!({}),
            true,
        ),
        (
            "operator: the namespace's label",
            "default",
            plain.clone(),
            json!({"tier": "system"}),
            false,
        ),
        (
            "users: namespace",
            "team-b",
            plain.clone(),
            json!({}),
            false,
        ),
        (
            "users: label",
            "default",
            label("larder/rewrite", "false"),
            json!({}),
            false,
        ),
        (
            "users: the namespace's label",
            "default",
            plain.clone(),
            json!({"larder/rewrite": "false"}),
            false,
        ),
        (
            "users: against the operator's word",
            "batch",
            label("larder/rewrite", "false"),
            json!({}),
            true,
        ),
        (
            "operator: exclusion goes before inclusion",
            "batch",
            label("tier", "system"),
            json!({}),
            false,
        ),
    ];
    for policy in policies(VALUES) {
        for (what, namespace, given, labels, led) in &rows {
            let request = Request {
                namespace_labels: labels.clone(),
                ..Request::create(namespace, given.clone())
            };
            let stored = policy.admit(&request);
            if *led {
                assert_eq!(
                    image(&stored),
                    "localhost:7420/docker.io/library/nginx",
                    "{what}"
                );
            } else {
                assert_eq!(stored, *given, "{what}");
            }
        }
    }
    // Pods on the node's network, and pods with secrets, where the operator includes them.
    let network = "policies: {enabled: true, registries: [docker.io], hostNetwork: true}";
    for policy in policies(network) {
        let given = with("/spec/hostNetwork", json!(true));
        let stored = policy.admit(&Request::create("default", given));
        assert_eq!(image(&stored), "localhost:7420/docker.io/library/nginx");
    }
    let secrets = "policies: {enabled: true, registries: [docker.io], pullSecrets: true}";
    for policy in policies(secrets) {
        let given = with("/spec/imagePullSecrets", json!([{"name": "s"}]));
        let stored = policy.admit(&Request::create("default", given));
        assert_eq!(image(&stored), "localhost:7420/docker.io/library/nginx");
    }
}

/// The object that contains `part`, with `value` merged in.
fn merged(pod: &Value, part: &str, value: Value) -> Value {
    let (above, key) = part.rsplit_once('/').unwrap();
    let mut object = pod.pointer(above).unwrap().clone();
    object[key] = value;
    object
}

//! Every variant of the chart: rendered as before, valid for Kubernetes, understood by larder; and values that make no
//! sense, refused.

use std::fs;

use serde_json::{Value, json};

use crate::helm::{
    IMAGE, larder, object, objects, rendered, root, run, said, same, template, tool,
};

/// The variants that have a golden file, and their values.
const VARIANTS: [(&str, &str); 18] = [
    ("default", "{}"),
    (
        "host-network",
        "hostNetwork: true\npeers: {enabled: true}\n",
    ),
    ("ipv6", "podIPv6: true\nregistry: {hostIP: \"::1\"}\n"),
    (
        "k3s",
        "runtime: {preset: k3s, registries: [docker.io, ghcr.io]}\n",
    ),
    (
        "certs-dir",
        "runtime: {preset: eks, certsDir: /srv/containerd/certs.d, extraArgs: [--dry-run]}\n",
    ),
    ("crio", "runtime: {preset: crio}\n"),
    (
        "remove",
        "runtime: {remove: true}\nremoval: {hook: false}\nupgrade: {hook: false}\n",
    ),
    (
        "runtime-by-hand",
        "runtime: {enabled: false}\nupgrade: {hook: false}\n",
    ),
    ("empty-dir", "store: {type: emptyDir, size: 20Gi}\n"),
    (
        "ephemeral",
        "store: {type: ephemeral, size: 100Gi, storageClassName: fast}\n",
    ),
    (
        "claim",
        "store: {type: persistentVolumeClaim, size: 10Gi}\n",
    ),
    (
        "peers",
        "peers: {enabled: true}\nnetworkPolicy: {enabled: true, scrapeFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}\n",
    ),
    (
        "peers-cert-manager",
        "peers: {enabled: true, tls: {source: cert-manager}}\n",
    ),
    (
        "peers-secret",
        "peers: {enabled: true, keySecretName: shared, tls: {source: secret, secretName: members}}\n",
    ),
    (
        "credentials",
        "credentials:\n\
         - {registry: ghcr.io, secretName: ghcr-v2, type: dockerconfigjson, access: per-credential}\n\
         - {registry: registry.example.com:5000, secretName: ro-docker-secret-v1, type: basic, access: shared}\n\
         imagePullSecrets: [{name: own}]\n\
         objectStore: {url: \"s3://bucket/larder\", options: {endpoint: \"http://s3:8333\"}, maxRate: 50MB, secretName: s3}\n\
         config: {upstreams: {ghcr.io: {alias: gh}}}\n\
         serviceAccount:\n  annotations:\n\
         \x20   iam.gke.io/gcp-service-account: larder@project.iam.gserviceaccount.com\n\
         \x20   eks.amazonaws.com/role-arn: arn:aws:iam::111122223333:role/larder\n\
         \x20   azure.workload.identity/client-id: 00000000-0000-0000-0000-000000000000\n\
         podLabels: {azure.workload.identity/use: \"true\"}\n",
    ),
    (
        "monitoring",
        "monitoring: {podMonitor: true, serviceMonitor: true, rules: true, labels: {release: prometheus}}\n",
    ),
    (
        "policies-kubernetes",
        "policies: {enabled: true, registries: [docker.io, quay.io]}\n",
    ),
    (
        "policies-kyverno",
        "policies: {enabled: true, engine: kyverno, registries: [\"*\"], failurePolicy: Fail}\n",
    ),
];

/// Kinds that are not Kubernetes' own, whose schemas the validator does not have.
const FOREIGN: [&str; 6] = [
    "Issuer",
    "Certificate",
    "PodMonitor",
    "ServiceMonitor",
    "PrometheusRule",
    "MutatingPolicy",
];

/// The hooks are the same in most variants: one golden file shows them.
fn shown(name: &str, values: &str) -> String {
    let more: &[&str] = if name == "default" {
        &[]
    } else {
        &["--no-hooks"]
    };
    without_secrets(&rendered(values, more))
}

/// What is made anew at each rendering, such as keys, is left out.
fn without_secrets(manifests: &str) -> String {
    let kept = manifests.lines().map(|line| {
        let secret = ["  ca.crt: ", "  tls.crt: ", "  tls.key: ", "  key: "]
            .into_iter()
            .find(|key| line.starts_with(key) && line.len() > key.len() + 40);
        secret.map_or_else(|| line.to_owned(), |key| format!("{key}(made anew)"))
    });
    kept.fold(String::new(), |text, line| text + &line + "\n")
}

#[test]
fn every_variant_renders_as_its_golden_file() {
    for (name, values) in VARIANTS {
        let golden = root().join(format!("tests/rollout/golden/{name}.yaml"));
        same(&golden, &shown(name, values));
    }
}

#[test]
fn helm_finds_nothing_to_say_of_the_chart() {
    let chart = root().join("deploy/larder");
    let output = run(tool("helm")
        .args(["lint", "--strict", "--set", IMAGE])
        .arg(chart));
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn every_variant_is_valid_for_kubernetes() {
    let dir = tempfile::tempdir().unwrap();
    let mut kinds = 0;
    let mut files = Vec::new();
    for (name, values) in VARIANTS {
        let own: Vec<String> = rendered(values, &[])
            .split("\n---\n")
            .filter(|object| {
                !FOREIGN
                    .iter()
                    .any(|kind| object.contains(&format!("\nkind: {kind}\n")))
            })
            .map(str::to_owned)
            .collect();
        let own = own.join("\n---\n");
        kinds += own.matches("\nkind: ").count();
        let file = dir.path().join(format!("{name}.yaml"));
        fs::write(&file, own).unwrap();
        files.push(file);
    }
    assert!(kinds > 100, "{kinds} objects");
    // The oldest that the chart is for has no MutatingAdmissionPolicy, and the newest has it in its final version.
    let old: Vec<_> = files
        .iter()
        .filter(|file| !file.ends_with("policies-kubernetes.yaml"))
        .collect();
    for (version, files) in [("1.29", old), ("1.36", files.iter().collect())] {
        let mut validate = tool("kubernetes-validate");
        validate
            .args(["--strict", "--kubernetes-version", version])
            .args(files);
        let output = run(&mut validate);
        let text = said(&output);
        assert!(output.status.success(), "{version}:\n{text}");
        // A kind that it does not know is only warned of.
        assert!(!text.contains("WARN"), "{version}:\n{text}");
        assert!(text.contains("daemonset/larder"), "{version}:\n{text}");
    }
}

#[test]
fn every_variants_configuration_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    for (name, values) in VARIANTS {
        let config = object(values, "ConfigMap");
        let file = dir.path().join(format!("{name}.toml"));
        fs::write(&file, config["data"]["larder.toml"].as_str().unwrap()).unwrap();
        let output = larder(&["config", "check", "--config", file.to_str().unwrap()]);
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let rows = [
        ("stroe: {type: hostPath}", "'stroe' not allowed"),
        ("store: {typo: hostPath}", "'typo' not allowed"),
        ("store: {type: tape}", "/store/type"),
        ("store: {hostPath: var/lib/larder}", "/store/hostPath"),
        ("store: {size: 50 gigs}", "/store/size"),
        ("store: {type: ephemeral, size: \"\"}", "/store/size"),
        ("image: {repository: \"\"}", "/image/repository"),
        ("image: {digest: latest}", "/image/digest"),
        ("image: {pullPolicy: Sometimes}", "/image/pullPolicy"),
        ("registry: {port: 70000}", "/registry/port"),
        ("registry: {port: \"7420\"}", "/registry/port"),
        ("runtime: {preset: docker}", "/runtime/preset"),
        ("runtime: {certsDir: \"/a:/b\"}", "/runtime/certsDir"),
        (
            "runtime: {registries: [https://ghcr.io]}",
            "/runtime/registries/0",
        ),
        (
            "credentials: [{registry: ghcr.io, secretName: s, type: Opaque, access: shared}]",
            "/credentials/0/type",
        ),
        (
            "credentials: [{registry: ghcr.io, secretName: s, type: basic}]",
            "'access'",
        ),
        ("objectStore: {url: \"http://bucket\"}", "/objectStore/url"),
        (
            "peers: {enabled: true, tls: {source: secret}}",
            "/peers/tls/secretName",
        ),
        ("peers: {tls: {source: magic}}", "/peers/tls/source"),
        (
            "updateStrategy: {maxUnavailable: 0}",
            "/updateStrategy/maxUnavailable",
        ),
        ("tolerations: Exists", "/tolerations"),
        ("policies: {enabled: true}", "/policies/registries"),
        (
            "policies: {failurePolicy: Maybe}",
            "/policies/failurePolicy",
        ),
        (
            "policies: {registries: [\"reg.local:5000\"]}",
            "/policies/registries/0",
        ),
        ("policies: {engine: gatekeeper}", "/policies/engine"),
    ];
    for (values, wanted) in rows {
        let more = if values.contains("repository") {
            vec!["--set", "image.repository="]
        } else {
            vec![]
        };
        let output = template(values, &more);
        assert!(!output.status.success(), "{values} is taken");
        let text = said(&output);
        assert!(
            text.contains(wanted),
            "{values}: {wanted} is not in\n{text}"
        );
    }
}

/// A configuration that says everything, as values.
const EVERYTHING: &str = r#"
registry: {listen: "0.0.0.0:7420", default_upstream: docker.io, allow: ["*"], deny: [bad.example.com], allow_from: [node, 10.0.0.0/8]}
store: {path: /var/lib/larder, max_size: 80%, min_free: 1.5 GiB, ttl: "0", complete_after: 50%}
tags: {fresh_for: 1h30m, timeout: 2s, when_unreachable: serve, when_deleted: forget}
access: {ttl: 10m, grace: 1d12h}
upstreams:
  docker.io:
    endpoints: ["https://mirror.example.com/hub", "https://registry-1.docker.io"]
    ca: /etc/ca.pem
    insecure_skip_verify: false
    proves_access: true
    alias: hub
    ttl: 24h
    tags: [{match: "v*", fresh_for: 1h}]
    access: shared
    credentials: {docker_config: /etc/docker}
  a.example.com: {credentials: {username_file: /u, password_file: /p}}
  b.example.com:5000: {credentials: {helper: ecr-login}}
  c.example.com: {credentials: {kubelet_config: /k, bin_dir: /b}}
cluster:
  listen: 0.0.0.0:7422
  advertise: 10.0.0.1:7422
  members: dns:larder-peers:7422
  tls: {ca: /ca, cert: /cert, key: /key, name: larder-peer}
  key: /cluster-key
  object_store: {url: "s3://bucket/larder", options: {region: here}, max_rate: 50MB}
telemetry: {listen: "0.0.0.0:7421", log: "info,larder::fill=debug", log_format: json}
admin: {socket: /run/larder/admin.sock}
"#;

/// What helm's schema, and what larder itself, makes of a configuration.
fn verdicts(config: &str) -> (bool, bool, String) {
    let lines: Vec<&str> = config.lines().collect();
    let values = format!("config:\n  {}\n", lines.join("\n  "));
    let schema = template(&values, &[]);
    let unchecked = rendered(&values, &["--skip-schema-validation"]);
    let map = objects(&unchecked)
        .into_iter()
        .find(|object| object["kind"] == "ConfigMap");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        file.path(),
        map.unwrap()["data"]["larder.toml"].as_str().unwrap(),
    )
    .unwrap();
    let reader = larder(&["config", "check", "--config", file.path().to_str().unwrap()]);
    let words = said(&schema).lines().take(8).collect::<Vec<_>>().join("\n") + &said(&reader);
    (schema.status.success(), reader.status.success(), words)
}

#[test]
fn the_schema_and_larder_agree_on_configurations() {
    let (schema, reader, words) = verdicts(EVERYTHING);
    assert!(schema && reader, "{words}");
    for refused in [
        "stroe: {path: /a}",
        "store: {max_sise: 80%}",
        "store: {max_size: 80 percent}",
        "store: {max_size: \"50\"}",
        "store: {min_free: 101%}",
        "store: {ttl: 7 days}",
        "store: {ttl: \"7\"}",
        "store: {path: \"~/larder\"}",
        "registry: {listen: localhost:7420}",
        "registry: {listen: 7420}",
        "registry: {allow: docker.io}",
        "registry: {allow_from: []}",
        "registry: {allow_from: [everyone]}",
        "tags: {when_deleted: maybe}",
        "upstreams: {\"https://ghcr.io\": {}}",
        "upstreams: {ghcr.io: {endpoints: []}}",
        "upstreams: {ghcr.io: {endpoints: [mirror.example.com]}}",
        "upstreams: {ghcr.io: {alias: Hub}}",
        "upstreams: {ghcr.io: {insecure_skip_verify: \"yes\"}}",
        "upstreams: {ghcr.io: {tags: [{match: v1}]}}",
        "upstreams: {ghcr.io: {credentials: {username_file: /u}}}",
        "upstreams: {ghcr.io: {credentials: {}}}",
        "cluster: {tls: {ca: /a}}",
        "cluster: {object_store: {url: \"http://bucket\"}}",
        "cluster: {object_store: {url: \"s3://b\", options: {secret_access_key: x}}}",
        "telemetry: {log_format: xml}",
        "admin: {socket: 5}",
    ] {
        let (schema, reader, words) = verdicts(refused);
        assert!(
            !schema && !reader,
            "{refused}: schema {schema}, larder {reader}\n{words}"
        );
    }
}

#[test]
fn the_dashboard_is_the_one_that_is_shipped() {
    let shipped = fs::read_to_string(root().join("deploy/grafana/larder.json")).unwrap();
    let shipped: Value = serde_json::from_str(&shipped).unwrap();
    let found = objects(&rendered("monitoring: {dashboard: true}", &[]));
    let map = found
        .iter()
        .find(|object| object["data"]["larder.json"].is_string());
    let map = map.expect("a ConfigMap with the dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let embedded: Value =
        serde_json::from_str(map["data"]["larder.json"].as_str().unwrap()).unwrap();
    assert_eq!(embedded, shipped);
}

#[test]
fn annotations_stand_as_given_and_pull_secrets_are_optional() {
    let credentials = VARIANTS
        .iter()
        .find(|(name, _)| *name == "credentials")
        .unwrap()
        .1;
    let account = object(credentials, "ServiceAccount");
    assert_eq!(
        account["metadata"]["annotations"],
        json!({
            "iam.gke.io/gcp-service-account": "larder@project.iam.gserviceaccount.com",
            "eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/larder",
            "azure.workload.identity/client-id": "00000000-0000-0000-0000-000000000000",
        })
    );
    let pod = |values| object(values, "DaemonSet")["spec"]["template"]["spec"].clone();
    assert_eq!(
        pod(credentials)["imagePullSecrets"],
        json!([{"name": "own"}])
    );
    assert_eq!(pod("{}")["imagePullSecrets"], Value::Null);
    // A Secret that is not there does not keep the pod from starting.
    let volumes = pod(credentials)["volumes"].clone();
    let secrets: Vec<&Value> = volumes
        .as_array()
        .unwrap()
        .iter()
        .filter(|volume| volume["name"].as_str().unwrap().starts_with("credentials-"))
        .collect();
    assert_eq!(secrets.len(), 2);
    assert!(
        secrets
            .iter()
            .all(|volume| volume["secret"]["optional"] == true),
        "{secrets:?}"
    );
}

#[test]
fn a_pod_restarts_only_for_what_is_read_at_the_start() {
    let template = |values: &str| object(values, "DaemonSet")["spec"]["template"].clone();
    let before = template("{}");
    for running in [
        "config: {tags: {fresh_for: 1h}}",
        "config: {store: {max_size: 50%}, registry: {deny: [a.example.com]}}",
        "config: {upstreams: {ghcr.io: {endpoints: [\"https://mirror.example.com\"]}}}",
    ] {
        assert_eq!(template(running), before, "{running}");
    }
    for anew in [
        "config: {registry: {listen: \"0.0.0.0:7430\"}}",
        "config: {store: {path: /var/lib/larder/a}}",
        "config: {telemetry: {log: debug}}",
        "objectStore: {url: \"s3://bucket\"}",
    ] {
        assert_ne!(template(anew), before, "{anew}");
    }
}

#[test]
fn the_pod_is_confined_and_asks_the_api_server_nothing() {
    for (name, values) in VARIANTS {
        let set = object(values, "DaemonSet");
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        let containers = ["containers", "initContainers"].map(|kind| pod[kind].as_array().cloned());
        for container in containers.into_iter().flatten().flatten() {
            let security = &container["securityContext"];
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert!(
                container["resources"]["limits"]["memory"].is_string(),
                "{name}"
            );
        }
        // Root where the store is the node's directory, which is root's; nobody's user elsewhere.
        let on_the_node = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|volume| volume["name"] == "store" && volume["hostPath"].is_object());
        let root = pod["securityContext"]["runAsUser"] == 0;
        assert_eq!(root, on_the_node, "{name}");
    }
}

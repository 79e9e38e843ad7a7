//! Every variant of the chart renders as before, is valid for Kubernetes, and gives a configuration that larder
//! understands.

use std::fs;

use serde_json::{Value, json};

use crate::helm::{IMAGE, larder, object, objects, rendered, root, run, said, same, tool};

/// The variants that have a golden file, and their values.
const VARIANTS: [(&str, &str); 31] = [
    ("default", "{}"),
    (
        "host-network",
        "hostNetwork: true\npeers: {enabled: true}\n",
    ),
    (
        "k3s",
        "runtime: {preset: k3s, registries: [\"*\", ghcr.io, \"corp.example:5000=corp\"]}\n",
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
        "one-secret",
        "credentials:\n\
         - {registry: ghcr.io, secretName: pull, type: dockerconfigjson, access: shared}\n\
         - {registry: quay.io, secretName: pull, type: dockerconfigjson, access: shared}\n",
    ),
    (
        "host-network-monitoring",
        "hostNetwork: true\nmonitoring: {podMonitor: true}\n",
    ),
    (
        "existing-claim",
        "store: {type: persistentVolumeClaim, existingClaim: mine}\n",
    ),
    ("watch", "runtime: {watch: {enabled: true}}\n"),
    (
        "streaming",
        "runtime: {watch: {enabled: true}}\nstreaming: {mode: ready}\nconfig: {streaming: {private: true}}\n",
    ),
    (
        "streaming-lazy",
        "runtime: {watch: {enabled: true}}\nstreaming: {mode: lazy, hold: {enabled: true}}\n",
    ),
    (
        "watch-k3s-claim",
        "runtime: {preset: k3s, watch: {enabled: true, resources: {limits: {memory: 96Mi}}}}\n\
         store: {type: persistentVolumeClaim, size: 10Gi}\n",
    ),
    (
        "node-labels",
        "warm: {nodeLabels: true}\n\
         config: {warm: {sets: {labs: {nodes: {pool: labs}, from: [{images: [\"docker.io/library/alpine:3\"]}]}}}}\n",
    ),
    (
        "node-labels-by-hand",
        "warm: {nodeLabels: true}\nruntime: {enabled: false}\nupgrade: {hook: false}\nserviceAccount: {create: false, name: mine}\n",
    ),
    ("gke", "runtime: {preset: gke}\n"),
    ("talos", "runtime: {preset: talos}\n"),
    (
        "rke2",
        "runtime: {preset: rke2}\nseLinuxOptions: {type: spc_t}\n",
    ),
    (
        "image-digest",
        "image: {tag: \"1\", digest: \"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"}\n",
    ),
    (
        "policies-kubernetes-layers",
        "policies:\n\
         \x20 enabled: true\n\
         \x20 registries: [docker.io]\n\
         \x20 pullSecrets: true\n\
         \x20 hostNetwork: true\n\
         \x20 systemNamespaces: [kube-system]\n\
         \x20 operator: {exclude: {namespaces: [infra-*], labels: {tier: system}, images: [\"docker.io/rancher/*\"]}, include: {namespaces: [batch]}}\n\
         \x20 users: {exclude: {namespaces: [team-b], images: [\"*/private\"]}}\n",
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

/// Most variants have the same hooks: only one golden file shows them.
fn shown(name: &str, values: &str) -> String {
    let more: &[&str] = if name == "default" {
        &[]
    } else {
        &["--no-hooks"]
    };
    without_secrets(&rendered(values, more))
}

/// Leaves out what each rendering makes anew, such as keys.
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
    // The oldest Kubernetes that the chart supports has no MutatingAdmissionPolicy; the newest has its final version.
    let old: Vec<_> = files
        .iter()
        .filter(|file| !file.to_string_lossy().contains("/policies-kubernetes"))
        .collect();
    for (version, files) in [("1.29", old), ("1.36", files.iter().collect())] {
        let mut validate = tool("kubernetes-validate");
        validate
            .args(["--strict", "--kubernetes-version", version])
            .args(files);
        let output = run(&mut validate);
        let text = said(&output);
        assert!(output.status.success(), "{version}:\n{text}");
        // The validator only warns of a kind that it does not know.
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
    // A missing Secret does not keep the pod from starting.
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
fn a_secret_for_two_registries_is_mounted_once() {
    let of = |name| VARIANTS.iter().find(|(variant, _)| *variant == name);
    let set = object(of("one-secret").unwrap().1, "DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    let named = |list: &Value| {
        let all = list.as_array().unwrap();
        let of_secrets = |one: &&Value| one["name"].as_str().unwrap().starts_with("credentials-");
        all.iter().filter(of_secrets).count()
    };
    assert_eq!(named(&pod["volumes"]), 1);
    assert_eq!(named(&pod["containers"][0]["volumeMounts"]), 1);
}

#[test]
fn what_is_monitored_can_be_reached_in_the_nodes_network_too() {
    let exposed = |values: &str| {
        let set = object(values, "DaemonSet");
        let env = set["spec"]["template"]["spec"]["containers"][0]["env"].clone();
        let all = env.as_array().unwrap().iter();
        let mut found = all.filter(|one| one["name"] == "LARDER_EXPOSE");
        found.next().map(|one| one["value"].clone())
    };
    let place = Some(json!("$(POD_IP):7421"));
    assert_eq!(exposed("{}"), place);
    // On the host network, the pod's address is the node's: nothing is exposed there unless the values ask for it.
    assert_eq!(exposed("hostNetwork: true"), None);
    for monitor in ["podMonitor", "serviceMonitor"] {
        let values = format!("hostNetwork: true\nmonitoring: {{{monitor}: true}}");
        assert_eq!(exposed(&values), place, "{monitor}");
    }
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
        "{streaming: {mode: ready}, runtime: {watch: {enabled: true}}}",
        "config: {registry: {listen: \"[::]:7420\"}}",
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
        // Root where the store is a directory of the node, which belongs to root; elsewhere a user without rights.
        let on_the_node = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|volume| volume["name"] == "store" && volume["hostPath"].is_object());
        let root = pod["securityContext"]["runAsUser"] == 0;
        assert_eq!(root, on_the_node, "{name}");
    }
}

//! Values: a value that makes no sense is refused by name, and the schema judges larder's own configuration as larder
//! does.

use std::fs;

use crate::helm::{larder, objects, rendered, said, template};

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let rows = [
        ("stroe: {type: hostPath}", "'stroe' not allowed"),
        ("store: {typo: hostPath}", "'typo' not allowed"),
        ("store: {type: tape}", "/store/type"),
        ("store: {hostPath: var/lib/larder}", "/store/hostPath"),
        ("store: {size: 50 gigs}", "/store/size"),
        ("store: {type: ephemeral, size: \"\"}", "/store/size"),
        ("image: {repository: \"a b\"}", "/image/repository"),
        ("image: {digest: latest}", "/image/digest"),
        ("image: {pullPolicy: Sometimes}", "/image/pullPolicy"),
        ("registry: {port: 70000}", "/registry/port"),
        ("registry: {port: \"7420\"}", "/registry/port"),
        ("runtime: {preset: docker}", "/runtime/preset"),
        ("runtime: {certsDir: \"/a:/b\"}", "/runtime/certsDir"),
        (
            "runtime: {watch: {enabled: true, socket: containerd.sock}}",
            "/runtime/watch/socket",
        ),
        (
            "runtime: {watch: {enabled: true, socket: /run/docker.sock}}",
            "runtime.watch.socket: /run/docker.sock lies in a directory with the sockets of other programs",
        ),
        ("streaming: {mode: eager}", "/streaming/mode"),
        ("streaming: {directory: /layers}", "/streaming/directory"),
        (
            "streaming: {mode: ready}",
            "streaming.mode: only the watcher knows",
        ),
        (
            "{streaming: {mode: ready}, runtime: {preset: crio, watch: {enabled: true}}}",
            "streaming.mode: CRI-O",
        ),
        (
            "{streaming: {mode: ready}, runtime: {watch: {enabled: true}}, store: {type: emptyDir}}",
            "streaming.mode: with store.type emptyDir",
        ),
        (
            "config: {streaming: {mode: ready}}",
            "config.streaming.mode: set streaming.mode",
        ),
        (
            "{warm: {nodeLabels: true}, config: {warm: {labels_file: /a/b}}}",
            "config.warm.labels_file: warm.nodeLabels makes this file",
        ),
        ("warm: {nodeLabels: always}", "/warm/nodeLabels"),
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
        ("podIPv6: true", "'podIPv6' not allowed"),
        ("registry: {hostIP: \"::1\"}", "/registry/hostIP"),
        ("seLinuxOptions: {typo: spc_t}", "'typo' not allowed"),
        // Contradictions between values.
        (
            "telemetry: {port: 7420}",
            "telemetry.port: registry.port is 7420 already",
        ),
        (
            "peers: {enabled: true, port: 7421}",
            "peers.port: telemetry.port is 7421 already",
        ),
        (
            "registry: {port: 7422}\npeers: {enabled: true}",
            "peers.port: registry.port is 7422 already",
        ),
        (
            "config: {registry: {listen: \"127.0.0.1:7420\"}}",
            "config.registry.listen: 127.0.0.1:7420 is the pod's own loopback",
        ),
        (
            "config: {registry: {listen: \"[::1]:7420\"}}",
            "config.registry.listen: [::1]:7420 is the pod's own loopback",
        ),
        (
            "config: {registry: {listen: \"0.0.0.0:7430\"}}",
            "config.registry.listen: 0.0.0.0:7430 has another port than registry.port, which is 7420",
        ),
        (
            "config: {telemetry: {listen: \"0.0.0.0:7421\"}}",
            "config.telemetry.listen: 0.0.0.0:7421 takes the port of the pod's own address",
        ),
        (
            "config: {telemetry: {listen: \"[::]:7421\"}}",
            "config.telemetry.listen: [::]:7421 takes the port of the pod's own address",
        ),
        (
            "config: {telemetry: {listen: \"127.0.0.1:7420\"}}",
            "config.telemetry.listen: 127.0.0.1:7420: 7420 is registry.port already",
        ),
        (
            "hostNetwork: true\nmonitoring: {podMonitor: true}\nconfig: {telemetry: {listen: \"0.0.0.0:7421\"}}",
            "config.telemetry.listen: 0.0.0.0:7421 takes the port of the pod's own address",
        ),
        (
            "hostNetwork: true\nconfig: {telemetry: {listen: \"off\"}}",
            "config.telemetry.listen: off is not where the kubelet probes with hostNetwork",
        ),
        (
            "hostNetwork: true\nconfig: {telemetry: {listen: \"127.0.0.1:7431\"}}",
            "config.telemetry.listen: 127.0.0.1:7431 is not where the kubelet probes with hostNetwork",
        ),
        (
            "runtime: {certsDir: /certs.d}",
            "runtime.certsDir: /certs.d lies in the node's root directory",
        ),
        (
            "credentials: [{registry: ghcr.io, secretName: a, type: basic, access: shared}, \
             {registry: ghcr.io, secretName: b, type: basic, access: shared}]",
            "credentials: ghcr.io is listed twice",
        ),
    ];
    for (values, wanted) in rows {
        let more = if values.contains("repository") {
            vec!["--set", "image.repository=a b"]
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

#[test]
fn values_that_only_look_alike_are_taken() {
    for values in [
        // Without peers, their port may be used.
        "peers: {port: 7420}",
        "hostNetwork: true\nconfig: {registry: {listen: \"127.0.0.1:7420\"}}",
        "registry: {port: 7430}\nconfig: {registry: {listen: \"0.0.0.0:7430\"}}",
        // The probes go to the pod's own address.
        "config: {telemetry: {listen: \"off\"}}",
        "config: {telemetry: {listen: \"127.0.0.1:7431\"}}",
        "hostNetwork: true\nconfig: {telemetry: {listen: \"0.0.0.0:7421\"}}",
        "runtime: {enabled: false, certsDir: /certs.d}",
        "runtime: {certsDir: /srv/certs.d}",
    ] {
        rendered(values, &[]);
    }
}

/// A configuration that sets every key, as values.
const EVERYTHING: &str = r#"
registry: {listen: "0.0.0.0:7420", default_upstream: docker.io, allow: ["*"], deny: [bad.example.com], allow_from: [node, 10.0.0.0/8], allow_hosts: [mirror.example.com]}
store: {path: /var/lib/larder, max_size: 80%, min_free: 1.5 GiB, ttl: "0", complete_after: 50%}
tags: {fresh_for: 1h30m, timeout: 2s, when_unreachable: serve, when_deleted: forget}
access: {ttl: 10m, grace: 1d12h}
upstreams:
  docker.io:
    endpoints: ["https://mirror.example.com/hub", "https://registry-1.docker.io"]
    ca: /etc/ca.pem
    insecure_skip_verify: false
    client_cert: /etc/tls.crt
    client_key: /etc/tls.key
    proves_access: true
    alias: hub
    ttl: 24h
    tags: [{match: "v*", fresh_for: 1h}]
    access: shared
    credentials: {docker_config: /etc/docker}
  a.example.com: {credentials: {username_file: /u, password_file: /p}}
  b.example.com:5000: {credentials: {helper: ecr-login}}
  c.example.com: {credentials: {kubelet_config: /k, bin_dir: /b}}
  d.example.com: {credentials: {identity: google}}
  e.example.com: {credentials: {identity: aws, token_file: /t, role: "arn:aws:iam::1:role/x", api_endpoint: "https://vpce.example.com"}}
  f.example.com: {credentials: {identity: azure, client_id: c, tenant_id: t, audience: "https://x"}}
cluster:
  listen: 0.0.0.0:7422
  advertise: 10.0.0.1:7422
  members: dns:larder-peers:7422
  tls: {ca: /ca, cert: /cert, key: /key, name: larder-peer}
  key: /cluster-key
  object_store: {url: "s3://bucket/larder", options: {region: here}, max_rate: 50MB}
telemetry: {listen: "127.0.0.1:7421", expose: "10.0.0.1:7421", log: "info,larder::fill=debug", log_format: json}
admin: {socket: /run/larder/admin.sock}
"#;

/// The verdicts of helm's schema and of larder itself on a configuration.
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
        "upstreams: {ghcr.io: {credentials: {identity: gcp}}}",
        "upstreams: {ghcr.io: {credentials: {role: x}}}",
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

//! From a pod's specification to the kubelet's requests to the runtime. Pure; it refuses a field that it does not know,
//! so that no part of a specification is silently left out.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::real::cri::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, SecurityProfile,
};

/// The values that `fieldRef` may name.
#[derive(Clone, Debug)]
pub struct Status {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub host_ip: String,
    /// The name of its node, as the API server knows it.
    pub node_name: String,
    /// Known once the sandbox runs.
    pub pod_ip: String,
}

/// Panics if an object has an unknown key.
fn only(object: &Value, known: &[&str]) {
    for key in object.as_object().into_iter().flat_map(|map| map.keys()) {
        assert!(
            known.contains(&key.as_str()),
            "{key} in {object} is not understood"
        );
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(text).collect()
}

/// The sandbox of a pod template.
pub(super) fn sandbox(
    template: &Value,
    status: &Status,
    logs: &str,
    dns: &str,
) -> PodSandboxConfig {
    let spec = &template["spec"];
    only(
        spec,
        &[
            // Only the scheduler, the API server or admission uses these.
            "serviceAccountName",
            "automountServiceAccountToken",
            "enableServiceLinks",
            "priorityClassName",
            "nodeSelector",
            "tolerations",
            "affinity",
            "imagePullSecrets",
            "restartPolicy",
            // These are implemented here.
            "hostNetwork",
            "dnsPolicy",
            "terminationGracePeriodSeconds",
            "securityContext",
            "initContainers",
            "containers",
            "volumes",
        ],
    );
    let network = 2 * i32::from(spec["hostNetwork"] == true);
    let context = &spec["securityContext"];
    let ports = list(&spec["containers"])
        .iter()
        .flat_map(|c| list(&c["ports"]));
    let mappings = ports
        .filter(|port| port["hostPort"].is_number())
        .map(|port| {
            only(
                port,
                &["name", "containerPort", "hostPort", "hostIP", "protocol"],
            );
            let number = |key: &str| port[key].as_i64().expect("a port") as i32;
            PortMapping {
                container_port: number("containerPort"),
                host_port: number("hostPort"),
                host_ip: text(&port["hostIP"]),
            }
        });
    let strings = |value: &Value| -> HashMap<String, String> {
        let map = value.as_object().into_iter().flatten();
        map.map(|(key, value)| (key.clone(), text(value))).collect()
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: status.name.clone(),
            uid: status.uid.clone(),
            namespace: status.namespace.clone(),
        }),
        hostname: if network == 2 {
            String::new()
        } else {
            status.name.clone()
        },
        log_directory: logs.to_owned(),
        dns_config: Some(DnsConfig {
            servers: vec![dns.to_owned()],
            searches: Vec::new(),
            options: vec!["timeout:1".to_owned(), "attempts:2".to_owned()],
        }),
        port_mappings: mappings.collect(),
        labels: strings(&template["metadata"]["labels"]),
        annotations: strings(&template["metadata"]["annotations"]),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network,
                    pid: 1,
                    ipc: 0,
                }),
                run_as_user: id(&context["runAsUser"]),
                run_as_group: id(&context["runAsGroup"]),
                supplemental_groups: groups(context),
                seccomp: Some(seccomp(context, &Value::Null)),
            }),
        }),
    }
}

/// A container of the pod. `volumes` has the node's path of each volume.
pub(super) fn container(
    spec: &Value,
    template: &Value,
    status: &Status,
    volumes: &HashMap<String, PathBuf>,
) -> ContainerConfig {
    only(
        spec,
        &[
            "name",
            "image",
            "imagePullPolicy",
            // The API server reads there why a container ended: the runtime does not need it.
            "terminationMessagePolicy",
            "command",
            "args",
            "env",
            "ports",
            "startupProbe",
            "readinessProbe",
            "livenessProbe",
            "lifecycle",
            "securityContext",
            "resources",
            "volumeMounts",
        ],
    );
    let pod = &template["spec"]["securityContext"];
    only(
        pod,
        &[
            "seccompProfile",
            "runAsUser",
            "runAsGroup",
            "runAsNonRoot",
            "fsGroup",
            "fsGroupChangePolicy",
        ],
    );
    let own = &spec["securityContext"];
    only(
        own,
        &[
            "allowPrivilegeEscalation",
            "readOnlyRootFilesystem",
            "capabilities",
            "runAsUser",
            "runAsGroup",
            "runAsNonRoot",
            "seccompProfile",
        ],
    );
    let either = |key: &str| {
        if own[key].is_null() {
            &pod[key]
        } else {
            &own[key]
        }
    };
    let user = id(either("runAsUser"));
    if either("runAsNonRoot") == true {
        assert!(
            user.is_some_and(|user| user.value != 0),
            "the kubelet refuses root here"
        );
    }
    let mut envs: Vec<KeyValue> = Vec::new();
    for variable in list(&spec["env"]) {
        let value = environment(variable, status);
        envs.push(KeyValue {
            key: text(&variable["name"]),
            value: expanded(&value, &envs),
        });
    }
    let words = |key: &str| -> Vec<String> {
        texts(&spec[key])
            .iter()
            .map(|word| expanded(word, &envs))
            .collect()
    };
    let mounts = list(&spec["volumeMounts"]).iter().map(|mount| {
        only(
            mount,
            &["name", "mountPath", "readOnly", "mountPropagation"],
        );
        let name = text(&mount["name"]);
        let at = volumes
            .get(&name)
            .unwrap_or_else(|| panic!("no volume {name}"));
        let mut made = Mount::of_node(
            text(&mount["mountPath"]),
            at.to_str().expect("UTF-8").to_owned(),
            mount["readOnly"] == true,
        );
        made.propagation = match mount["mountPropagation"].as_str() {
            None => 0,
            Some("HostToContainer") => 1,
            Some(other) => panic!("propagation {other} is not understood"),
        };
        made
    });
    let resources = &spec["resources"];
    let critical = template["spec"]["priorityClassName"] == "system-node-critical";
    let name = text(&spec["name"]);
    let config = ContainerConfig {
        log_path: format!("{name}.log"),
        metadata: Some(ContainerMetadata { name }),
        image: None,
        command: words("command"),
        args: words("args"),
        mounts: mounts.collect(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_shares: (quantity(&resources["requests"]["cpu"]) * 1024.0) as i64,
                memory_limit_in_bytes: quantity(&resources["limits"]["memory"]) as i64,
                // The kubelet's values for critical pods, and for those of the best-effort class.
                oom_score_adj: if critical { -997 } else { 1000 },
            }),
            security_context: Some(LinuxContainerSecurityContext {
                capabilities: Some(Capability {
                    add: texts(&own["capabilities"]["add"]),
                    drop: texts(&own["capabilities"]["drop"]),
                }),
                namespace_options: Some(NamespaceOption {
                    network: 2 * i32::from(template["spec"]["hostNetwork"] == true),
                    pid: 1,
                    ipc: 0,
                }),
                run_as_user: user,
                run_as_group: id(either("runAsGroup")),
                readonly_rootfs: own["readOnlyRootFilesystem"] == true,
                supplemental_groups: groups(pod),
                no_new_privs: own["allowPrivilegeEscalation"] == false,
                seccomp: Some(seccomp(pod, own)),
            }),
        }),
        envs,
    };
    config.with_image(&text(&spec["image"]))
}

fn id(value: &Value) -> Option<Int64Value> {
    value.as_i64().map(|value| Int64Value { value })
}

fn groups(pod: &Value) -> Vec<i64> {
    pod["fsGroup"].as_i64().into_iter().collect()
}

/// The container's profile, or else the pod's, or else none.
fn seccomp(pod: &Value, own: &Value) -> SecurityProfile {
    let own = &own["seccompProfile"]["type"];
    let kind = if own.is_null() {
        &pod["seccompProfile"]["type"]
    } else {
        own
    };
    let profile_type = match kind.as_str() {
        Some("RuntimeDefault") => 0,
        None | Some("Unconfined") => 1,
        Some(other) => panic!("seccomp profile {other} is not understood"),
    };
    SecurityProfile { profile_type }
}

fn environment(variable: &Value, status: &Status) -> String {
    only(variable, &["name", "value", "valueFrom"]);
    if !variable["valueFrom"].is_object() {
        return text(&variable["value"]);
    }
    only(&variable["valueFrom"], &["fieldRef"]);
    match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        Some("status.podIP") => status.pod_ip.clone(),
        Some("status.hostIP") => status.host_ip.clone(),
        Some("spec.nodeName") => status.node_name.clone(),
        Some("metadata.name") => status.name.clone(),
        Some("metadata.namespace") => status.namespace.clone(),
        other => panic!("field {other:?} is not understood"),
    }
}

/// `$(NAME)`, as Kubernetes expands it in commands, arguments and variables.
fn expanded(text: &str, envs: &[KeyValue]) -> String {
    let mut text = text.to_owned();
    for KeyValue { key, value } in envs {
        text = text.replace(&format!("$({key})"), value);
    }
    text
}

/// A quantity such as `512Mi` or `50m`; 0 where there is none.
fn quantity(value: &Value) -> f64 {
    let text = match value {
        Value::Null => return 0.0,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let units = [
        ("Ki", 1024.0),
        ("Mi", 1024.0 * 1024.0),
        ("Gi", 1024.0 * 1024.0 * 1024.0),
        ("m", 0.001),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("", 1.0),
    ];
    let split = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (number, factor) = split.expect("the empty suffix fits");
    number
        .parse::<f64>()
        .unwrap_or_else(|e| panic!("{text}: {e}"))
        * factor
}

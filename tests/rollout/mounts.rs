//! Which parts of the node each container sees: the runtime's socket, the right to mount, the directory of layers.

use serde_json::json;

use crate::helm::{object, objects, rendered};

/// The socket gives root on the node. The container that has it opens no port, and the daemon's container does not have
/// it.
#[test]
fn the_runtimes_socket_is_in_the_watchers_container_alone() {
    let set = object(
        "runtime: {preset: k3s, watch: {enabled: true}}",
        "DaemonSet",
    );
    let pod = &set["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array().unwrap();
    let mounts = |name: &str| {
        let container = containers.iter().find(|one| one["name"] == name).unwrap();
        let mounts = container["volumeMounts"].as_array().unwrap().clone();
        (container.clone(), mounts)
    };
    let (watch, of_watch) = mounts("watch");
    assert!(
        watch["ports"].is_null() && watch["env"].is_null(),
        "{watch}"
    );
    let names: Vec<_> = of_watch.iter().map(|mount| &mount["name"]).collect();
    assert_eq!(names, ["runtime-socket", "runtime-report"]);
    assert_eq!(of_watch[0]["mountPath"], "/run/k3s/containerd");
    assert_eq!(of_watch[0]["readOnly"], true);
    let (_, of_larder) = mounts("larder");
    let named = |name: &str| of_larder.iter().find(|mount| mount["name"] == name);
    assert_eq!(named("runtime-socket"), None);
    assert_eq!(named("runtime-report").unwrap()["readOnly"], true);
    // It is off unless the values ask for it.
    let off = object("{}", "DaemonSet");
    let off = &off["spec"]["template"]["spec"];
    assert_eq!(off["containers"].as_array().unwrap().len(), 1);
    assert!(!off.to_string().contains("runtime-socket"));
}

/// The right to mount belongs to a pod of its own, which an update of larder does not replace.
#[test]
fn the_holder_is_a_pod_of_its_own_and_is_not_replaced_by_an_update() {
    let values =
        "runtime: {watch: {enabled: true}}\nstreaming: {mode: lazy, hold: {enabled: true}}";
    let all = objects(&rendered(values, &[]));
    let sets: Vec<_> = all
        .iter()
        .filter(|one| one["kind"] == "DaemonSet")
        .collect();
    let named = |name: &str| {
        let mut sets = sets.iter();
        *sets
            .find(|set| set["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("{name}"))
    };
    let (larder, hold) = (named("larder"), named("larder-hold"));
    assert_eq!(hold["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
    let pod = &hold["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let container = &pod["containers"][0];
    assert!(container["ports"].is_null() && container["env"].is_null());
    assert_eq!(container["securityContext"]["privileged"], true);
    assert_eq!(
        container["volumeMounts"][0]["mountPropagation"],
        "Bidirectional"
    );
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    // larder's pod gets the socket, and none of the rights.
    let pod = larder["spec"]["template"]["spec"].to_string();
    assert!(pod.contains("/run/larder-hold") && !pod.contains("privileged"));
    // Their selectors match no common pod.
    assert_ne!(larder["spec"]["selector"], hold["spec"]["selector"]);
    let off = rendered("{}", &[]);
    assert!(!off.contains("larder-hold"));
}

/// Only larder writes what containerd mounts, at the path that containerd sees.
#[test]
fn the_directory_of_ready_layers_is_mounted_only_where_they_are_offered() {
    let set = object(
        "runtime: {watch: {enabled: true}}\nstreaming: {mode: ready, directory: /srv/larder/layers}",
        "DaemonSet",
    );
    let pod = &set["spec"]["template"]["spec"];
    let mut mounted = Vec::new();
    for kind in ["containers", "initContainers"] {
        for container in pod[kind].as_array().unwrap() {
            let mounts = container["volumeMounts"].as_array().unwrap().iter();
            for mount in mounts.filter(|mount| mount["name"] == "layers") {
                mounted.push(json!([
                    container["name"],
                    mount["mountPath"],
                    mount["readOnly"]
                ]));
            }
        }
    }
    assert_eq!(mounted, [json!(["larder", "/srv/larder/layers", null])]);
    let volumes = pod["volumes"].as_array().unwrap();
    let layers = volumes.iter().find(|volume| volume["name"] == "layers");
    assert_eq!(
        layers.unwrap()["hostPath"],
        json!({"path": "/srv/larder/layers", "type": "DirectoryOrCreate"})
    );
    let off = object("runtime: {watch: {enabled: true}}", "DaemonSet");
    assert!(!off.to_string().contains("layers"), "{off}");
}

//! Pods pull through larder, installed by its plain manifests: Deployments, DaemonSets, private images, and all of that
//! while the registries are down.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::setup::{SYSTEM, Setup, TIMEOUT, one_of_two, pod, template};

/// `deploy/manifests` with larder's image set as docs/install.md says, and one setting patched.
fn manifests(to: &Path) -> Result<()> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests");
    std::fs::create_dir(to)?;
    for file in ["namespace.yaml", "larder.yaml", "rewrite.yaml"] {
        std::fs::copy(from.join(file), to.join(file))?;
    }
    let text = std::fs::read_to_string(from.join("kustomization.yaml"))?;
    let text = text
        .replace(
            "newName: registry.example.com/larder",
            "newName: registry.test/larder",
        )
        .replace("newTag: 0.1.0", "newTag: one");
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(&std::fs::read_to_string(to.join("larder.yaml"))?)?;
    let config = objects.iter().find(|object| object["kind"] == "ConfigMap");
    let config = config.context("a ConfigMap")?["data"]["larder.toml"]
        .as_str()
        .context("a file")?;
    // The fill of this machine's disk must not matter.
    let config = config.replace("[store]\n", "[store]\n  min_free = \"0\"\n");
    ensure!(config.matches("min_free").count() == 1, "{config}");
    let patch = json!([{
        "target": {"kind": "ConfigMap", "name": "larder"},
        "patch": json!([{"op": "replace", "path": "/data/larder.toml", "value": config}]).to_string(),
    }]);
    std::fs::write(
        to.join("kustomization.yaml"),
        format!("{text}\npatches: {patch}\n"),
    )?;
    Ok(())
}

fn workload(kind: &str, image: &str) -> Value {
    let mut spec =
        json!({"selector": {"matchLabels": {"app": "app"}}, "template": template(image)});
    if kind == "Deployment" {
        spec["replicas"] = json!(3);
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "app"}, "spec": spec})
}

const PRIVATE: &str = "private.test/team/app:v1";
/// An image of a registry that the policy rewrites.
const PUBLIC: &str = "registry.k8s.io/team/app:v1";

/// An image that the runtime has whole, and larder not at all.
const KEPT: &str = "registry.test/team/kept:v1";

/// Runs a pod of the private image with one of the secrets, or with none.
async fn private(setup: &Setup, node: &str, secret: &str) -> Result<Result<(), String>> {
    let name = format!("private-{node}-{secret}");
    let mut pod = pod(&name, node, PRIVATE);
    if secret != "none" {
        pod["spec"]["imagePullSecrets"] = json!([{"name": secret}]);
    }
    setup.apply(&[pod]).await?;
    let outcome = setup.outcome(&name).await;
    setup.remove_pod(&name).await?;
    outcome
}

/// On this node only the right secret opens the private image.
async fn only_the_right_secret(setup: &Setup, node: &str) -> Result<()> {
    let right = private(setup, node, "right").await?;
    ensure!(right.is_ok(), "{node}: {right:?}");
    for secret in ["wrong", "none"] {
        let refused = private(setup, node, secret).await?;
        ensure!(
            refused.is_err(),
            "{node}: a pod with the secret {secret} runs"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_and_private_images_are_served_also_while_the_registries_are_down() -> Result<()>
{
    let _machine = one_of_two().await;
    let setup = Setup::new(2).await?;
    setup.push_larder("one").await?;
    setup.push_app("registry.test/team/app:v1", 1).await?;
    setup.push_app("registry.test/team/tool:v1", 2).await?;
    setup.push_app(PRIVATE, 3).await?;
    setup.push_app(PUBLIC, 4).await?;
    for (name, password) in [("right", "wonderland"), ("wrong", "cheshire")] {
        let (create, password) = (
            ["create", "secret", "docker-registry", name],
            format!("--docker-password={password}"),
        );
        let login = [
            "--docker-server=private.test",
            "--docker-username=alice",
            &password,
        ];
        setup.kubectl(&[&create[..], &login[..]].concat()).await?;
    }
    // A node's runtime has an image that larder has never had.
    setup.push_app(KEPT, 5).await?;
    setup.runs("early", "n1", KEPT).await?;
    let dir = setup.dir().join("manifests");
    manifests(&dir)?;
    let dir = dir.to_str().context("not UTF-8")?.to_owned();
    setup.kubectl(&["apply", "--kustomize", &dir]).await?;
    let rollout = [
        "rollout",
        "status",
        "daemonset/larder",
        "--namespace",
        SYSTEM,
        TIMEOUT,
    ];
    setup.kubectl(&rollout).await?;

    setup.note("installed");
    // A Deployment and a DaemonSet.
    let direct = [setup.direct("registry")?, setup.direct("private")?];
    let images = ["registry.test/team/app:v1", "registry.test/team/tool:v1"];
    for (kind, image) in ["Deployment", "DaemonSet"].into_iter().zip(images) {
        setup.apply(&[workload(kind, image)]).await?;
        setup
            .kubectl(&["rollout", "status", &format!("{kind}/app"), TIMEOUT])
            .await?;
    }
    // The node has the image now, and the kubelet still asks for it.
    setup.runs("again", "n1", images[1]).await?;
    setup.runs("kept", "n1", KEPT).await?;

    setup.note("workloads run");
    // The runtime stops and starts again, with its pods.
    setup.stop(&["n1/containerd"]).await?;
    setup.start(&["n1/containerd"]).await?;
    setup.forget("n1", images[1]).await?;
    setup.runs("restarted", "n1", images[1]).await?;

    for node in ["n1", "n2"] {
        only_the_right_secret(&setup, node).await?;
    }
    ensure!(
        [setup.direct("registry")?, setup.direct("private")?] == direct,
        "containerd goes past larder"
    );

    setup.note("secrets are right");
    // The registries are down: every pull is allowed or refused as before, also where the runtime has nothing of the
    // image.
    setup.stop(&["registry", "private"]).await?;
    // The runtime has this image, and asks larder for the tag alone.
    setup.runs("down-kept", "n1", KEPT).await?;
    for image in images.iter().chain([&PRIVATE]) {
        setup.forget("n1", image).await?;
    }
    setup.runs("down", "n1", images[0]).await?;
    setup.runs("down-tool", "n1", images[1]).await?;
    only_the_right_secret(&setup, "n1").await?;
    setup.start(&["registry", "private"]).await?;
    only_the_right_secret(&setup, "n1").await?;

    setup.note("the outage is over");
    // Where the runtime cannot be configured, the policy rewrites the names.
    let rewrite = format!("{dir}/rewrite.yaml");
    setup.kubectl(&["apply", "--filename", &rewrite]).await?;
    let name = format!("localhost:7420/{PUBLIC}");
    let rewritten = async || {
        let dry = ["create", "--dry-run=server", "--output=json"];
        let tried = setup.give(&dry, &[pod("rewritten", "n2", PUBLIC)]).await?;
        let tried: Value = serde_json::from_str(&tried)?;
        Ok((tried["spec"]["containers"][0]["image"] == name).then_some(()))
    };
    setup.until("the policy", rewritten).await?;
    setup.runs("rewritten", "n2", PUBLIC).await?;
    setup.kubectl(&["delete", "--filename", &rewrite]).await?;

    setup.note("rewritten");
    // Removed as docs/install.md says.
    let arguments = json!(["uninstall", "--node-root=/host", "--preset=kubeadm"]);
    let patch = json!([{"op": "replace", "path": "/spec/template/spec/initContainers/0/args", "value": arguments}]);
    let patch = [
        "patch",
        "daemonset",
        "larder",
        "--type",
        "json",
        "--patch",
        &patch.to_string(),
    ]
    .map(str::to_owned);
    let patch: Vec<&str> = patch
        .iter()
        .map(String::as_str)
        .chain(["--namespace", SYSTEM])
        .collect();
    setup.kubectl(&patch).await?;
    setup.kubectl(&rollout).await?;
    setup
        .kubectl(&["delete", "--kustomize", &dir, TIMEOUT])
        .await?;
    for node in ["n1", "n2"] {
        let files = setup.runtime_files(node).await?;
        ensure!(!files.contains("hosts.toml"), "{node} has\n{files}");
        setup.forget(node, images[0]).await?;
        setup.runs("after", node, images[0]).await?;
    }
    Ok(())
}

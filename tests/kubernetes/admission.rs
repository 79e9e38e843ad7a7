//! The API server's answers to larder's objects, and what it enforces by them: the rewriting policy, Pod Security. The
//! nodes are objects only, without a kubelet behind them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::setup::{SYSTEM, Setup, one_of_two, pod};

/// A pod in a namespace, with more in its metadata and its specification.
fn pod_in(namespace: &str, image: &str, metadata: &Value, spec: &Value) -> Value {
    let mut pod = pod("tried", "n1", image);
    pod["metadata"]["namespace"] = json!(namespace);
    for (part, more) in [("metadata", metadata), ("spec", spec)] {
        for (key, value) in more.as_object().into_iter().flatten() {
            pod[part][key] = value.clone();
        }
    }
    pod
}

/// The image that the API server would store for this pod.
async fn stored(setup: &Setup, pod: &Value) -> Result<String> {
    let dry = ["create", "--dry-run=server", "--output=json"];
    let text = setup.give(&dry, std::slice::from_ref(pod)).await?;
    let stored: Value = serde_json::from_str(&text)?;
    Ok(stored["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_rewrites_pods_but_those_that_it_leaves_alone() -> Result<()> {
    let _machine = one_of_two().await;
    let setup = Setup::new(0).await?;
    let policies = json!({
        "enabled": true,
        "registries": ["registry.test", "docker.io"],
        "operator": {
            "exclude": {"namespaces": ["bank-*"], "labels": {"tier": "node"}, "images": ["registry.test/base/*"]},
            "include": {"namespaces": [], "labels": {}, "images": ["registry.test/must/*"]},
        },
    });
    setup
        .install(&["--set-json", &format!("policies={policies}")])
        .await?;
    let namespace = |name: &str, labels: &Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    let out = json!({"larder/rewrite": "false"});
    setup
        .apply(&[namespace("bank-1", &json!({})), namespace("quiet", &out)])
        .await?;
    let (none, app) = (json!({}), "registry.test/team/app:v1");
    let plain = pod_in("default", app, &none, &none);
    let in_force = async || Ok((stored(&setup, &plain).await? != app).then_some(()));
    setup.until("the policy", in_force).await?;

    let labels = |labels: &Value| json!({"labels": labels});
    let secrets = json!({"imagePullSecrets": [{"name": "any"}]});
    let digest = format!("{app}@sha256:{}", "0".repeat(64));
    let cases = [
        ("default", app, none.clone(), none.clone(), true),
        ("default", digest.as_str(), none.clone(), none.clone(), true),
        (
            "default",
            "quay.io/team/app:v1",
            none.clone(),
            none.clone(),
            false,
        ),
        ("default", app, labels(&out), none.clone(), false),
        (
            "default",
            "registry.test/must/app:v1",
            labels(&out),
            none.clone(),
            true,
        ),
        (
            "default",
            app,
            labels(&json!({"tier": "node"})),
            none.clone(),
            false,
        ),
        (
            "default",
            "registry.test/base/app:v1",
            none.clone(),
            none.clone(),
            false,
        ),
        (
            "default",
            app,
            none.clone(),
            json!({"hostNetwork": true}),
            false,
        ),
        ("default", app, none.clone(), secrets, false),
        ("bank-1", app, none.clone(), none.clone(), false),
        ("quiet", app, none.clone(), none.clone(), false),
        ("kube-system", app, none.clone(), none.clone(), false),
    ];
    for (namespace, image, metadata, spec, rewritten) in cases {
        let pod = pod_in(namespace, image, &metadata, &spec);
        let wanted = if rewritten {
            format!("localhost:7420/{image}")
        } else {
            image.to_owned()
        };
        let got = stored(&setup, &pod).await?;
        ensure!(got == wanted, "{got}, not {wanted}, of {pod}");
    }
    // Docker Hub's short names are completed.
    let short = stored(&setup, &pod_in("default", "nginx:1.27", &none, &none)).await?;
    ensure!(
        short == "localhost:7420/docker.io/library/nginx:1.27",
        "{short}"
    );

    // A pod older than a policy keeps its image's name, whatever else of it changes.
    setup
        .apply(&[pod_in("default", app, &labels(&out), &none)])
        .await?;
    setup
        .kubectl(&["label", "pod", "tried", "larder/rewrite-"])
        .await?;
    let kept = setup.get(&["pod", "tried"]).await?;
    ensure!(kept["spec"]["containers"][0]["image"] == app, "{kept}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_security_admits_larder_at_the_level_that_the_documents_name() -> Result<()> {
    let _machine = one_of_two().await;
    let setup = Setup::new(0).await?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"kubernetes.io/os": "linux"}}});
    setup.apply(&[node]).await?;
    for (level, admitted) in [("privileged", true), ("baseline", false)] {
        let enforce = json!({"pod-security.kubernetes.io/enforce": level});
        let metadata = json!({"name": SYSTEM, "labels": enforce});
        setup
            .apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})])
            .await?;
        if !admitted {
            // The chart refuses first; without its check the API server refuses.
            let refused = setup.install(&[]).await;
            let why = format!("{:#}", refused.expect_err("no release in this namespace"));
            ensure!(why.contains("Pod Security level baseline"), "{why}");
        }
        setup.install(&["--set", "podSecurityCheck=false"]).await?;
        let said = async || {
            let pods = setup.list(&["pods", "--namespace", SYSTEM]).await?;
            if !pods.is_empty() {
                return Ok(Some(String::new()));
            }
            let events = setup
                .list(&[
                    "events",
                    "--namespace",
                    SYSTEM,
                    "--field-selector=reason=FailedCreate",
                ])
                .await?;
            Ok(events.first().map(|event| event["message"].to_string()))
        };
        let why = setup
            .until("pods of larder, or why there are none", said)
            .await?;
        ensure!(why.is_empty() == admitted, "{level}: {why}");
        if !admitted {
            for part in ["violates PodSecurity", "hostPath", "hostPort", "probe"] {
                ensure!(why.contains(part), "{part} is not in {why}");
            }
        }
        setup
            .helm(&["uninstall", "larder", "--namespace", SYSTEM, "--no-hooks"])
            .await?;
        setup
            .kubectl(&["delete", "pods", "--all", "--namespace", SYSTEM, "--force"])
            .await?;
    }
    Ok(())
}

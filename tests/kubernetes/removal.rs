//! A removal that fails on one node: its message, the nodes' reports of what they have cleaned, and how the nodes pull
//! through larder again, or larder is removed after all.

use anyhow::{Context as _, Result, ensure};

use crate::setup::{SYSTEM, Setup, TIMEOUT, one_of_two};

const APP: &str = "registry.test/team/app:v1";
const HOSTS: &str = "/etc/containerd/certs.d/_default/hosts.toml";

/// What larder on a node has logged.
async fn log(setup: &Setup, node: &str) -> Result<String> {
    let pod = setup.larder_on(node).await?;
    let name = pod["metadata"]["name"].as_str().context("a name")?;
    let words = ["logs", name, "--namespace", SYSTEM, "--container", "larder"];
    setup.kubectl(&words).await
}

/// The output of `larder doctor` there, with or without findings.
async fn doctor(setup: &Setup, node: &str) -> Result<String> {
    let pod = setup.larder_on(node).await?;
    let name = pod["metadata"]["name"].as_str().context("a name")?;
    let words = format!(
        "kubectl exec {name} --namespace {SYSTEM} --container larder -- larder doctor 2>/dev/null || true"
    );
    setup.beside(&["bash", "-c", &words]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_say_that_a_removal_which_failed_has_cleaned_them() -> Result<()> {
    let _machine = one_of_two().await;
    let setup = Setup::new(2).await?;
    setup.push_larder("one").await?;
    setup.push_app(APP, 1).await?;
    setup
        .install(&["--set", "hooks.timeoutSeconds=8", "--wait"])
        .await?;
    setup.runs("through", "n1", APP).await?;
    ensure!(!doctor(&setup, "n1").await?.contains("bypass"));

    setup.note("installed");
    // On one node, larder no longer understands the file.
    let damage = format!("cp {HOSTS} /tmp/whole && sed -i '/^# <<< larder/d' {HOSTS}");
    setup.on("n2", &["sh", "-c", &damage]).await?;
    let uninstall = [
        "uninstall",
        "larder",
        "--namespace",
        SYSTEM,
        "--wait",
        TIMEOUT,
    ];
    let failed = setup.helm(&uninstall).await;
    ensure!(failed.is_err(), "removed in spite of n2: {failed:?}");
    let words = ["logs", "job/larder-removal", "--namespace", SYSTEM];
    let said = setup.kubectl(&words).await?;
    for part in ["n2: ", "marks are damaged", "larder stays"] {
        ensure!(said.contains(part), "{part} is not in\n{said}");
    }

    setup.note("the removal has failed");
    // The hook's pods go on: the other node is cleaned, however long that takes.
    let says = async || {
        let said = log(&setup, "n1").await?;
        Ok(said.contains("do not name larder any more").then_some(()))
    };
    setup.until("a word of n1 in its log", says).await?;
    let found = doctor(&setup, "n1").await?;
    ensure!(found.contains("bypass"), "doctor on n1 finds\n{found}");
    ensure!(!log(&setup, "n2").await?.contains("do not name larder"));

    setup.note("n1 has said it");
    // If the operator keeps larder after all, its pods write the files again.
    let mend = format!("cp /tmp/whole {HOSTS}");
    setup.on("n2", &["sh", "-c", &mend]).await?;
    for words in ["restart", "status"] {
        let mut words = vec!["rollout", words, "daemonset/larder", "--namespace", SYSTEM];
        if words[1] == "status" {
            words.push(TIMEOUT);
        }
        setup.kubectl(&words).await?;
    }
    let direct = setup.direct("registry")?;
    setup.forget("n1", APP).await?;
    setup.runs("again", "n1", APP).await?;
    ensure!(
        setup.direct("registry")? == direct,
        "containerd goes past larder"
    );

    setup.note("larder is kept");
    // A removal works again. On a busy machine the nodes may need more than the time that this release gives them.
    let removed = async || Ok(setup.helm(&uninstall).await.ok());
    setup.until("the second removal", removed).await?;
    for node in ["n1", "n2"] {
        let files = setup.runtime_files(node).await?;
        ensure!(!files.contains("hosts.toml"), "{node} has\n{files}");
    }
    Ok(())
}

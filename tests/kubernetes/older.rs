//! The oldest Kubernetes that could be built: larder is installed, serves pulls, survives an outage, and is removed.

use anyhow::{Context as _, Result, ensure};

use crate::setup::{SYSTEM, Setup, TIMEOUT, one_of_two};

const APP: &str = "registry.test/team/app:v1";
const TOOL: &str = "registry.test/team/tool:v1";

/// The versions beside the newest that have a module of their own.
fn versions() -> Result<Vec<String>> {
    let modules = concat!(env!("CARGO_MANIFEST_DIR"), "/go");
    let mut versions = Vec::new();
    for module in std::fs::read_dir(modules)? {
        let name = module?.file_name();
        let version = name.to_str().and_then(|n| n.strip_prefix("kubernetes-"));
        versions.extend(version.map(str::to_owned));
    }
    Ok(versions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_kubernetes_installs_pulls_bridges_an_outage_and_removes() -> Result<()> {
    let _machine = one_of_two().await;
    let versions = versions()?;
    ensure!(!versions.is_empty(), "no older Kubernetes in tests/go");
    for version in versions {
        let setup = Setup::with_version(2, &version).await?;
        goes_through(&setup)
            .await
            .with_context(|| format!("Kubernetes {version}"))?;
    }
    Ok(())
}

async fn goes_through(setup: &Setup) -> Result<()> {
    setup.push_larder("one").await?;
    setup.push_app(APP, 1).await?;
    setup.push_app(TOOL, 2).await?;
    let mut before = Vec::new();
    for node in ["n1", "n2"] {
        before.push(setup.runtime_files(node).await?);
    }
    setup.install(&["--wait"]).await?;
    setup.note("installed");
    let direct = setup.direct("registry")?;
    for node in ["n1", "n2"] {
        setup.runs(&format!("first-{node}"), node, APP).await?;
        setup.runs(&format!("tool-{node}"), node, TOOL).await?;
    }
    ensure!(
        setup.direct("registry")? == direct,
        "containerd goes past larder"
    );
    setup.note("pulled");
    setup.stop(&["registry"]).await?;
    setup.forget("n1", APP).await?;
    setup.runs("down", "n1", APP).await?;
    setup.runs("down-tool", "n1", TOOL).await?;
    setup.start(&["registry"]).await?;
    setup.note("pulled without the registry");
    let uninstall = ["uninstall", "larder", "--namespace", SYSTEM, "--wait"];
    setup.helm(&[&uninstall[..], &[TIMEOUT]].concat()).await?;
    for (node, before) in ["n1", "n2"].into_iter().zip(before) {
        let after = setup.runtime_files(node).await?;
        ensure!(after == before, "{node} had\n{before}\nand has\n{after}");
    }
    Ok(())
}

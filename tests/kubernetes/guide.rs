//! The commands of docs/kubernetes.md, run as they stand there.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::setup::{Setup, one_of_two};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ten_lines_of_the_page_work() -> Result<()> {
    let _machine = one_of_two().await;
    let setup = Setup::new(2).await?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/kubernetes.md"))?;
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    // The cluster exists already, and the image is the one that scripts/test has packed.
    let built = |line: &&str| {
        let words = ["scripts/kube up", "scripts/kube run", "scripts/image "];
        !words.iter().any(|words| line.starts_with(words))
    };
    let commands: Vec<&str> = lines.filter(built).collect();
    ensure!(commands.len() >= 12, "{commands:?}");
    let layout = setup.larder_layout("one")?;
    let commands = commands
        .join("\n")
        .replace("target/image/oci", &layout.display().to_string())
        // The fill of this machine's disk must not matter.
        .replace(
            "helm install larder",
            "helm install larder --set-string config.store.min_free=0",
        );
    let script = format!("cd '{}'\n{commands}\n", root.display());
    let said = setup.beside(&["bash", "-euxc", &script]).await?;
    for words in [
        "[pod/larder-",
        "wrote /etc/containerd/certs.d/_default/hosts.toml",
        "served",
        "pod/again condition met",
        "release \"larder\" uninstalled",
    ] {
        ensure!(said.contains(words), "{words} is not in\n{said}");
    }
    eprintln!("{said}");
    Ok(())
}

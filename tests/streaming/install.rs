//! `larder install --streaming` for real containerd, and its end.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use larder_tests::node::larder_program;
use larder_tests::real::{Containerd, Release, succeeded};

use super::setup::{NAME, Setup, refused};

/// `larder COMMAND` with the files of this containerd.
fn larder(containerd: &Containerd, command: &str, arguments: &[&str]) -> Result<Output> {
    let mut larder = Command::new(larder_program());
    larder.arg(command).args(["--runtime", "containerd"]);
    larder
        .arg("--containerd-config")
        .arg(containerd.config_file());
    larder
        .arg("--containerd-certs-dir")
        .arg(containerd.hosts_dir());
    Ok(larder.args(arguments).output()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installed_containerd_mounts_what_is_ready_and_goes_on_after_the_uninstall() -> Result<()>
{
    if refused("an_installed_containerd_mounts_what_is_ready_and_goes_on_after_the_uninstall") {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let option = format!("--streaming={}", directory.path().display());
    let containerd = Containerd::start(Release::Two).await?;
    let before = fs::read(containerd.config_file())?;
    let shown = succeeded(&larder(&containerd, "install", &[&option, "--dry-run"])?)?;
    ensure!(shown.contains("+  snapshotter = \"erofs\""), "{shown}");
    ensure!(!containerd.drop_ins().exists());

    let said = succeeded(&larder(&containerd, "install", &[&option])?)?;
    ensure!(said.contains("restart it once"), "{said}");
    let again = succeeded(&larder(&containerd, "install", &[&option])?)?;
    ensure!(again.contains("already installed"), "{again}");
    let mut setup = Setup::on(containerd, directory).await?;
    setup.offer_all()?;
    setup.containerd.restart_with("erofs").await?;
    setup.pull().await?;
    assert_eq!(setup.downloaded()?, [] as [usize; 0]);
    setup.run_and_compare().await?;
    // The kubelet's pulls, too.
    setup.containerd.cri().await?.pull(NAME).await?;
    assert_eq!(setup.downloaded()?, [] as [usize; 0]);
    let report = setup.report()?;
    assert_eq!(report["snapshotter"], "erofs");

    let said = succeeded(&larder(&setup.containerd, "uninstall", &[])?)?;
    ensure!(said.contains("need these files"), "{said}");
    ensure!(!setup.containerd.drop_ins().exists());
    assert_eq!(fs::read(setup.containerd.config_file())?, before);
    // containerd knows where each file is: what it has mounted once, it mounts again.
    setup.containerd.reboot().await?;
    setup.run_and_compare().await?;
    let snapshotter = setup.report()?["snapshotter"].clone();
    assert_ne!(snapshotter.as_str().context("told")?, "erofs");
    Ok(())
}

/// Nothing that a person wrote is replaced, and a configuration without drop-ins stays as it is.
#[test]
fn what_cannot_be_written_is_said() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("config.toml");
    let install = || -> Result<Output> {
        let mut larder = Command::new(larder_program());
        larder.args(["install", "--streaming", "--containerd-config"]);
        Ok(larder.arg(&config).output()?)
    };
    fs::write(&config, "version = 3\n")?;
    let output = install()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{complaints}");
    let line = format!("imports = [\"{}/conf.d/*.toml\"]", dir.path().display());
    ensure!(complaints.contains(&line), "{complaints}");
    assert_eq!(fs::read_to_string(&config)?, "version = 3\n");

    let drop_in = dir.path().join("conf.d/larder-streaming.toml");
    ensure!(drop_in.is_file());
    fs::write(&drop_in, "# of a person\n")?;
    let output = install()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && complaints.contains("larder did not write this file"),
        "{complaints}"
    );
    assert_eq!(fs::read_to_string(&drop_in)?, "# of a person\n");

    fs::write(&config, "version = \n")?;
    let output = install()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && complaints.contains("is not TOML"),
        "{complaints}"
    );

    let output = Command::new(larder_program())
        .args(["install", "--streaming", "--runtime", "crio"])
        .output()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && complaints.contains("CRI-O"),
        "{complaints}"
    );
    Ok(())
}

//! larder leaves a node: as a DaemonSet's container that stays, with files that an administrator has changed, and with
//! a CRI-O that gets a signal.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use larder_tests::node::larder_program;
use larder_tests::real::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{larder, text, tree};
use crate::setup::refused;

const PATIENCE: Duration = Duration::from_secs(30);

/// A child process that is killed when its test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // The process may have ended by itself, which is the wanted outcome.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn install(certs: &Path, more: &[&str]) -> Result<()> {
    let dir = text(certs)?;
    let mut arguments = vec!["install", "--containerd-certs-dir", &dir];
    arguments.extend(more);
    assert_eq!(larder(&arguments)?.code, Some(0));
    Ok(())
}

#[tokio::test]
async fn a_container_that_stays_has_cleaned_up_and_ends_when_it_is_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let certs = dir.path().join("certs.d");
    let before = tree(dir.path())?;
    install(&certs, &[])?;
    let mut stays = Command::new(larder_program());
    stays.args(["uninstall", "--stay", "--containerd-certs-dir"]);
    let mut stays = Ended(stays.arg(&certs).stdout(Stdio::null()).spawn()?);
    let pid = Pid::from_raw(stays.0.id().cast_signed());
    // larder waits for the signal once it has cleaned up.
    until("it waits for SIGTERM", PATIENCE, || catches_sigterm(pid)).await?;
    assert_eq!(tree(dir.path())?, before);
    assert_eq!(stays.0.try_wait()?, None, "it stays");
    kill(pid, Signal::SIGTERM)?;
    let mut ended = None;
    until("its end", PATIENCE, || {
        ended = stays.0.try_wait().ok().flatten();
        ended.is_some()
    })
    .await?;
    assert_eq!(ended.context("no status")?.code(), Some(0));
    Ok(())
}

/// Whether the process handles SIGTERM itself, as a container's first process must.
fn catches_sigterm(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (Signal::SIGTERM as u32 - 1)) != 0)
}

#[test]
fn a_file_changed_in_between_is_left_and_reported() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let certs = dir.path().join("certs.d");
    let file = certs.join("ghcr.io/hosts.toml");
    fs::create_dir_all(certs.join("ghcr.io"))?;
    fs::write(&file, "server = \"https://ghcr.io\"\n")?;
    install(&certs, &["--registry", "ghcr.io", "--registry", "*"])?;
    let theirs = "[host.\"https://mirror.corp.example\"]\n";
    fs::write(&file, fs::read_to_string(&file)? + theirs)?;

    let arguments = ["uninstall", "--containerd-certs-dir", &text(&certs)?];
    let said = larder(&arguments)?;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("changed since the install"), "{said:?}");
    let left = fs::read_to_string(&file)?;
    assert_eq!(left, format!("server = \"https://ghcr.io\"\n{theirs}"));
    assert!(!certs.join("_default").exists());
    // No file leads to larder any more, so a second run succeeds and changes nothing.
    let after = tree(&certs)?;
    assert_eq!(larder(&arguments)?.code, Some(0));
    assert_eq!(tree(&certs)?, after);
    Ok(())
}

/// Kills `larder` with these arguments at some instant of its run, or after it.
fn cut_off(arguments: &[&str], whole: Duration) -> Result<()> {
    let mut cut = Ended(
        Command::new(larder_program())
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    std::thread::sleep(whole.mul_f64(fastrand::f64()));
    // A run that ended by itself is one of the instants.
    let _ = cut.0.kill();
    cut.0.wait()?;
    Ok(())
}

#[test]
fn an_install_or_a_removal_that_is_killed_leaves_no_trace_after_the_next_removal() -> Result<()> {
    // The test goes on until so many runs were cut off in the middle, for so many rounds at most.
    const CUT: usize = 4;
    const ROUNDS: usize = 200;
    let dir = tempfile::tempdir()?;
    let certs = dir.path().join("certs.d");
    let path = text(&certs)?;
    let place = ["--containerd-certs-dir", &path];
    let several = ["--registry=*", "--registry=docker.io", "--registry=ghcr.io"];
    let install = [&["install"], &place[..], &several[..]].concat();
    let uninstall = [&["uninstall"], &place[..]].concat();
    for existing in [false, true] {
        if existing {
            fs::create_dir_all(certs.join("docker.io"))?;
            fs::write(certs.join("docker.io/hosts.toml"), "# ours\n")?;
        }
        let before = tree(dir.path())?;
        let start = Instant::now();
        assert_eq!(larder(&install)?.code, Some(0));
        let whole = start.elapsed();
        let installed = tree(dir.path())?;
        let mut cut = 0;
        for _ in 0..ROUNDS {
            if cut == CUT {
                break;
            }
            cut_off(&uninstall, whole)?;
            cut_off(&install, whole)?;
            let now = tree(dir.path())?;
            cut += usize::from(now != before && now != installed);
            let said = larder(&uninstall)?;
            assert_eq!(said.code, Some(0), "{said:?}");
            assert_eq!(tree(dir.path())?, before, "{said:?}");
            assert_eq!(larder(&install)?.code, Some(0));
        }
        assert_eq!(larder(&uninstall)?.code, Some(0));
        assert_eq!(cut, CUT, "runs that were cut off in the middle");
    }
    Ok(())
}

/// A program named like CRI-O that records the signal to read its files again.
const CRIO: &str =
    "#!/bin/sh\ntrap 'echo told >> told' HUP\n: > ready\nwhile :; do sleep 0.05; done\n";

/// A stand-in for CRI-O, in a directory of its own.
async fn crio(dir: &Path) -> Result<Ended> {
    let program = dir.join("crio");
    fs::write(&program, CRIO)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let ready = dir.join("ready");
    let _ = fs::remove_file(&ready);
    // A parent that ignores the signal (nohup) would pass that on to the child.
    let mut crio = Command::new("env");
    crio.arg("--default-signal=HUP").arg(&program);
    let crio = Ended(crio.current_dir(dir).spawn()?);
    until("the program of CRI-O's name", PATIENCE, || ready.exists()).await?;
    Ok(crio)
}

#[tokio::test]
async fn a_crio_that_started_before_its_files_changed_is_told_to_read_them() -> Result<()> {
    if refused("a_crio_that_started_before_its_files_changed_is_told_to_read_them") {
        return Ok(());
    }
    let (dir, containers) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut running = crio(dir.path()).await?;
    let drop_ins = text(&containers.path().join("registries.conf.d"))?;
    let place = ["--preset=crio", "--crio-conf-dir", &drop_ins];
    let times =
        || fs::read_to_string(dir.path().join("told")).map_or(0, |told| told.lines().count());
    let mut expected = 0;
    for command in ["install", "uninstall"] {
        // One run ends before its signal, as an init container's may; the next run has nothing to change.
        let without = [&[command], &place[..]].concat();
        let with = [&without[..], &["--crio-reload"]].concat();
        let said = larder(&without)?;
        assert!(!said.out.contains("received a SIGHUP"), "{said:?}");
        let said = larder(&with)?;
        assert_eq!(
            (said.code, said.complaints.as_str()),
            (Some(0), ""),
            "{said:?}"
        );
        assert!(said.out.contains("CRI-O received a SIGHUP"), "{said:?}");
        expected += 1;
        until("the signal", PATIENCE, || times() == expected).await?;
        // A CRI-O that starts after the change has read the files. It may start so soon that it gets the signal all the
        // same.
        let deadline = Instant::now() + PATIENCE;
        loop {
            drop(running);
            running = crio(dir.path()).await?;
            let said = larder(&with)?;
            assert_eq!((said.code, said.complaints.as_str()), (Some(0), ""));
            if !said.out.contains("received a SIGHUP") {
                break;
            }
            assert!(Instant::now() < deadline, "it is always told: {said:?}");
        }
        expected = times();
    }
    Ok(())
}

//! `larder doctor` finds every planted fault and names its fix, and finds nothing on a healthy node.

mod machine;
mod members;
mod runtime;
mod upstreams;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use larder_tests::fake::FakeRegistry;
use larder_tests::node::{Node, larder_program};
use larder_tests::schemas::assert_schema;
use serde_json::Value;
use tempfile::TempDir;

/// The command's findings beside a containerd that is set up well.
async fn doctor(node: &Node) -> Vec<Value> {
    Runtime::of(node).doctor(node).await
}

/// The command's findings; its exit code must agree.
async fn run(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["doctor", "--json"], arguments].concat();
    let output = node.cli(&arguments).await;
    let diagnosis: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}\n{}", node.log()));
    assert_schema(&diagnosis, "doctor");
    let findings = diagnosis["findings"].as_array().unwrap().clone();
    let wrong: Vec<_> = findings
        .into_iter()
        .filter(|finding| finding["severity"] != "ok")
        .collect();
    let code = if wrong.is_empty() { 0 } else { 3 };
    assert_eq!(output.status.code(), Some(code), "{wrong:#?}");
    wrong
}

/// The checks that found something, once each.
fn checks(wrong: &[Value]) -> Vec<&str> {
    let mut checks: Vec<_> = wrong.iter().map(|f| f["check"].as_str().unwrap()).collect();
    checks.sort_unstable();
    checks.dedup();
    checks
}

/// Fails unless a finding of this check has these words in its description and in its fix.
#[track_caller]
fn finds(wrong: &[Value], check: &str, found: &str, mend: &str) {
    let holds = |finding: &&Value| {
        let says = |what: &str, words: &str| finding[what].as_str().unwrap().contains(words);
        finding["check"] == check && says("found", found) && says("mend", mend)
    };
    assert!(
        wrong.iter().any(|finding| holds(&finding)),
        "{check}: {found}: {mend}\nis not in {wrong:#?}"
    );
}

/// containerd's files, right unless a test spoils them.
struct Runtime {
    dir: TempDir,
}

impl Runtime {
    fn of(node: &Node) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Self { dir };
        let certs = runtime.certs();
        runtime.configure(&certs.display().to_string());
        runtime.host("_default", &section(&node.url(), ""));
        runtime
    }

    fn certs(&self) -> PathBuf {
        self.dir.path().join("certs.d")
    }

    fn configure(&self, config_path: &str) {
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = {config_path:?}\n"
        );
        fs::write(self.dir.path().join("config.toml"), text).unwrap();
    }

    fn host(&self, name: &str, text: &str) {
        let dir = self.certs().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    /// The flags that name the files' places.
    fn flags(&self) -> [String; 2] {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        [
            format!("--containerd-certs-dir={}", path("certs.d")),
            format!("--containerd-config={}", path("config.toml")),
        ]
    }

    async fn doctor(&self, node: &Node) -> Vec<Value> {
        let [certs, config] = self.flags();
        run(node, &[&certs, &config]).await
    }
}

fn section(url: &str, more: &str) -> String {
    format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n{more}\n")
}

#[tokio::test]
async fn a_healthy_node_has_no_findings() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    let runtime = Runtime::of(&node);
    assert_eq!(runtime.doctor(&node).await, Vec::<Value>::new());
    // `--all` shows that each check was made.
    let [certs, config] = runtime.flags();
    let all = node.cli(&["doctor", "--all", &certs, &config]).await;
    let all = String::from_utf8_lossy(&all.stdout).into_owned();
    for check in [
        "daemon",
        "ports",
        "config",
        "sources",
        "store",
        "rot",
        "disk",
        "inodes",
        "permissions",
        "limits",
        "clock",
        "dns",
        "upstream",
    ] {
        assert!(
            all.contains(&format!("ok       {check}: ")),
            "{check}: {all}"
        );
    }
    assert!(all.contains("nothing is wrong"), "{all}");
}

/// The daemon keeps its earlier configuration. `larder doctor` finds the daemon by the readable part of the new file.
#[tokio::test]
async fn a_broken_configuration_hides_neither_the_daemon_nor_itself() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).config("").start().await;
    let spoilt = format!(
        "[store]\nmax_sise = \"80%\"\n[admin]\nsocket = {:?}\n",
        node.socket()
    );
    fs::write(node.config_file(), spoilt).unwrap();
    let runtime = Runtime::of(&node);
    let larder = |arguments: &[&str]| {
        Command::new(larder_program())
            .args(arguments)
            .env_remove("LARDER_SOCKET")
            .env("LARDER_CONFIG", node.config_file())
            .output()
            .unwrap()
    };
    let status = larder(&["status"]);
    let told = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(status.status.success(), "{told}");
    assert!(told.contains("unknown key `max_sise`"), "{told}");
    let [certs, config] = runtime.flags();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = larder(&["doctor", "--json", &certs, &config]);
        let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = diagnosis["findings"].as_array().unwrap();
        let is = |check: &str, severity: &str| {
            let mut findings = findings.iter();
            findings.any(|f| f["check"] == check && f["severity"] == severity)
        };
        assert!(is("daemon", "ok"), "{findings:#?}");
        // The daemon reads the file again every few seconds.
        if is("config", "error") {
            break;
        }
        assert!(Instant::now() < deadline, "{findings:#?}");
    }
}

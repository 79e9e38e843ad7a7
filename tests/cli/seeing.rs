//! `larder explain`, `doctor` and `log`: their texts. `tests/seeing` checks their findings.

use std::path::PathBuf;

use larder_tests::node::Node;
use larder_tests::scene::eventually;
use serde_json::{Value, json};

use crate::{Kitchen, REGISTRY, assert_schema, assert_shown, seen, stdout};

/// containerd's files as these commands find them.
struct Files {
    dir: PathBuf,
}

impl Files {
    /// As `larder install` and the node's owner write them.
    fn of(kitchen: &Kitchen) -> Self {
        let dir = kitchen.node.store().with_file_name("containerd");
        let files = Self { dir };
        let certs = files.dir.join("certs.d");
        std::fs::create_dir_all(certs.join("_default")).expect("a directory");
        let hosts = format!(
            "[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            kitchen.node.url()
        );
        std::fs::write(certs.join("_default/hosts.toml"), hosts).expect("a file");
        let config = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{}\"\n",
            certs.display()
        );
        std::fs::write(files.dir.join("config.toml"), config).expect("a file");
        files
    }

    fn certs(&self) -> String {
        format!(
            "--containerd-certs-dir={}",
            self.dir.join("certs.d").display()
        )
    }

    fn config(&self) -> String {
        format!(
            "--containerd-config={}",
            self.dir.join("config.toml").display()
        )
    }
}

#[tokio::test]
async fn explain_says_step_by_step_what_a_pull_would_do() {
    let kitchen = Kitchen::new().await;
    let app = kitchen.put("team/app", "v1", 1);
    let certs = Files::of(&kitchen).certs();
    let name = format!("{REGISTRY}/team/app:v1");
    assert_shown!(kitchen.text(&["explain", &name, &certs]).await);
    kitchen.client_pulls("team/app", "v1", &app).await;
    kitchen.until_listed(4).await;
    assert_shown!(kitchen.text(&["explain", &name, &certs]).await);
    let said = kitchen.json(&["explain", &name, &certs], "explain").await;
    assert_eq!(said["pull"]["outcome"], "served");
    let missing = format!("{REGISTRY}/team/app:none");
    let missing = kitchen.run(&["explain", &missing, &certs]).await.code(3);
    assert_shown!(seen(missing.get_output()));
}

#[tokio::test]
async fn doctor_says_what_is_wrong_and_how_to_fix_it() {
    let kitchen = Kitchen::new().await;
    let files = Files::of(&kitchen);
    let (certs, config) = (files.certs(), files.config());
    let doctor = ["doctor", &certs, &config];
    assert_shown!(kitchen.text(&doctor).await);
    kitchen.json(&doctor, "doctor").await;
    kitchen.fake.stop().await;
    std::fs::remove_dir_all(files.dir.join("certs.d/_default")).expect("a directory");
    assert_shown!(seen(kitchen.run(&doctor).await.code(3).get_output()));
    let found = kitchen
        .run(&["doctor", &certs, &config, "--json"])
        .await
        .code(3);
    let json: Value = serde_json::from_str(&stdout(&found)).expect("JSON");
    assert_schema(&json, "doctor");
}

#[tokio::test]
async fn log_shows_what_is_logged_and_changes_it() {
    let kitchen = Kitchen::with(|node| node.log_level("warn")).await;
    assert_shown!(kitchen.text(&["log"]).await);
    assert_shown!(kitchen.text(&["log", "info,access=off"]).await);
    let said = kitchen.json(&["log"], "log").await;
    let changed = kitchen.json(&["log", "debug"], "log").await;
    assert_eq!(
        (said, changed),
        (
            json!({"filter": "info,access=off"}),
            json!({"filter": "debug"})
        )
    );
    let wrong = kitchen.run(&["log", "larder=loud"]).await.code(1);
    assert_shown!(seen(wrong.get_output()));
    assert_eq!(kitchen.text(&["log"]).await, "debug\n");
}

/// A removal that fails on another node has cleaned this one: `larder doctor` says so, and the daemon logs it once.
#[tokio::test]
async fn files_that_do_not_name_larder_any_more_are_said() {
    let node_root = tempfile::tempdir().expect("a directory");
    let default = node_root.path().join("etc/containerd/certs.d/_default");
    std::fs::create_dir_all(&default).expect("a directory");
    let file = default.join("hosts.toml");
    let hosts = "[host.\"http://127.0.0.1:7420\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
    std::fs::write(&file, hosts).expect("a file");
    let root = node_root.path().as_os_str();
    let node = Node::builder().env("LARDER_NODE_ROOT", root).start().await;
    let gone = || node.log().matches("do not name larder any more").count();
    let doctor = async || String::from_utf8_lossy(&node.cli(&["doctor"]).await.stdout).into_owned();
    assert!(!doctor().await.contains("bypass"));
    let named = || node.log().matches("containerd's files name larder").count();
    for round in 1..=2 {
        eventually("larder has seen its name", || named() == round).await;
        std::fs::remove_file(&file).expect("a file");
        eventually("larder says that it is bypassed", || gone() == round).await;
        assert!(doctor().await.contains("bypass"));
        std::fs::write(&file, hosts).expect("a file");
    }
}

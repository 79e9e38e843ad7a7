//! `larder doctor`: every planted fault is found with its mend, and nothing on a healthy node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::node::Node;
use serde_json::Value;

/// What is wrong, as `check: found`, of the daemon's own checks.
async fn wrong(node: &Node) -> Vec<Value> {
    let diagnosis = node.admin("/doctor").await;
    let findings = diagnosis["findings"].as_array().unwrap().clone();
    let wrong = findings.into_iter().filter(|f| f["severity"] != "ok");
    wrong.collect()
}

/// The one thing that is wrong is this, and there is a mend.
async fn only(node: &Node, check: &str, found: &str) {
    let wrong = wrong(node).await;
    assert_eq!(wrong.len(), 1, "{wrong:#?}");
    assert_eq!(wrong[0]["check"], check, "{wrong:#?}");
    assert!(
        wrong[0]["found"].as_str().unwrap().contains(found),
        "{found} in {wrong:#?}"
    );
    assert!(!wrong[0]["mend"].as_str().unwrap().is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_healthy_node_has_no_findings() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    assert_eq!(wrong(&node).await, Vec::<Value>::new());
    let all = node.admin("/doctor").await;
    for check in ["store", "disk", "permissions", "clock", "upstream"] {
        let made = all["findings"].as_array().unwrap();
        assert!(made.iter().any(|f| f["check"] == check), "{check}: {all}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_or_is_none_is_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    let armed = fake.fault(Match::ping(), Fault::status(404));
    only(&node, "upstream", "404").await;
    armed.lift();
    fake.stop().await;
    only(&node, "upstream", &fake.host()).await;
}

#[tokio::test]
async fn a_key_that_everyone_can_read_is_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    let key = node.store().join("grants.key");
    fs::set_permissions(node.store(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    only(&node, "permissions", "grants.key").await;
}

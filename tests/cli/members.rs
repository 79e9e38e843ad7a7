//! `larder peers` in a cluster.

use larder_tests::fake::FakeRegistry;
use larder_tests::members::Cluster;
use larder_tests::node::Node;
use larder_tests::schemas::assert_schema;
use serde_json::Value;

use crate::{Kitchen, assert_shown, seen};

async fn peers(node: &Node) -> Value {
    let output = node.cli(&["peers", "--json"]).await;
    assert!(output.status.success(), "{output:?}");
    let json = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_schema(&json, "peers");
    json
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_listed_with_this_node_among_them() {
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    assert_shown!(seen(&cluster.node(0).cli(&["peers"]).await));
    for number in [0, 1] {
        let json = peers(cluster.node(number)).await;
        let members = json["members"].as_array().expect("a list");
        assert_eq!(members.len(), 2);
        let own: Vec<_> = members.iter().filter(|one| one["own"] == true).collect();
        let address = cluster.peer_address(number).to_string();
        assert_eq!((own.len(), &own[0]["address"]), (1, &Value::from(address)));
    }
}

/// A node that is not among the members says so, and how to fix that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_among_the_members_is_told_so() {
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(1).upstream(&fake).start().await;
    // The node listens on all of its addresses, and the list has none of them.
    let config = format!(
        "[cluster]\nlisten = \"0.0.0.0:0\"\nmembers = [\"{}\"]\ntls = \"off\"\n",
        cluster.peer_address(0)
    );
    let node = Node::builder().config(config).start().await;
    assert_shown!(seen(&node.cli(&["peers"]).await));
    let members = peers(&node).await["members"].clone();
    assert_eq!(members[0]["own"], false, "{members}");
}

#[tokio::test]
async fn a_node_alone_has_no_members() {
    let kitchen = Kitchen::new().await;
    assert_shown!(kitchen.text(&["peers"]).await);
    assert_eq!(kitchen.json(&["peers"], "peers").await, Value::Null);
}

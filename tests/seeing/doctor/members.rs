//! The cluster: members, certificates, versions, the object store.

use std::fs;
use std::path::Path;
use std::time::Duration;

use larder_tests::fake::FakeRegistry;
use larder_tests::http::Call;
use larder_tests::members::{Cluster, FakePeer, Manner};
use larder_tests::node::Node;
use serde_json::Value;

use super::{checks, doctor, finds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_cluster_has_no_findings_and_its_faults_are_found() {
    let fake = FakeRegistry::start().await;
    let mut cluster = Cluster::of(2).upstream(&fake).start().await;
    assert_eq!(doctor(cluster.node(0)).await, Vec::<Value>::new());
    cluster.node_mut(1).kill9().await;
    let wrong = doctor(cluster.node(0)).await;
    assert_eq!(checks(&wrong), ["members"], "{wrong:#?}");
    let gone = cluster.peer_address(1).to_string();
    finds(&wrong, "members", &gone, "NetworkPolicy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_version_and_one_that_refuses_are_found() {
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(1).stranger(1).upstream(&fake);
    let authority = plan.authority();
    let tls = authority.server(&authority.member());
    let other = FakePeer::start(plan.address(1), Some(tls), Manner::Honest).await;
    let cluster = plan.start().await;
    let wrong = doctor(cluster.node(0)).await;
    assert_eq!(checks(&wrong), ["version"], "{wrong:#?}");
    let address = cluster.peer_address(1).to_string();
    finds(&wrong, "version", &address, "rollout");
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_among_the_members_is_found() {
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(1).tls_off().upstream(&fake).start().await;
    // The node listens on all of its addresses, and the list has none of them.
    let config = format!(
        "[cluster]\nlisten = \"0.0.0.0:0\"\nmembers = [\"{}\"]\ntls = \"off\"\n",
        cluster.peer_address(0)
    );
    let node = Node::builder().upstream(&fake).config(config).start().await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["members"], "{wrong:#?}");
    finds(&wrong, "members", "not among the members", "advertise");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_whose_time_is_over_or_soon_will_be_is_found() {
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(1).upstream(&fake);
    let authority = std::sync::Arc::clone(plan.authority());
    let cluster = plan.start().await;
    assert_eq!(doctor(cluster.node(0)).await, Vec::<Value>::new());
    let text = fs::read_to_string(cluster.node(0).config_file()).unwrap();
    let at = text.split('"').find(|part| part.ends_with("/cert.pem"));
    let dir = Path::new(at.expect("a certificate")).parent().unwrap();
    authority.expired().write(&authority, dir);
    let wrong = doctor(cluster.node(0)).await;
    finds(&wrong, "certificate", "not valid now", "renew");
    let days = |days: u64| Duration::from_secs(days * 86_400 + 3600);
    authority.ending_in(days(5)).write(&authority, dir);
    let wrong = doctor(cluster.node(0)).await;
    finds(&wrong, "certificate", "ends in 5 days", "renew");
    assert_eq!(wrong[0]["severity"], "warning", "members still speak to it");
    authority.ending_in(days(15)).write(&authority, dir);
    let wrong = doctor(cluster.node(0)).await;
    assert!(!checks(&wrong).contains(&"certificate"), "{wrong:#?}");
}

#[tokio::test]
async fn an_object_store_that_fails_is_found() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob("team/app", vec![7; 100_000]);
    let node = Node::builder()
        .upstream(&fake)
        .config("[cluster.object_store]\nurl = \"file:///proc\"\n")
        .start()
        .await;
    assert_eq!(doctor(&node).await, Vec::<Value>::new());
    let blob = format!(
        "{}/v2/team/app/blobs/{digest}?ns={}",
        node.url(),
        fake.host()
    );
    Call::get(blob).send().await.unwrap();
    let mut wrong = Vec::new();
    for _ in 0..200 {
        wrong = doctor(&node).await;
        if !wrong.is_empty() {
            break;
        }
    }
    assert_eq!(checks(&wrong), ["object-store"], "{wrong:#?}");
    finds(&wrong, "object-store", "file:///proc", "bucket");
}

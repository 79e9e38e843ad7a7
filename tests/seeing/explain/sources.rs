//! The sources that the node asks, and what containerd does with a name before it asks the node.

use std::fs;

use bytes::Bytes;
use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::image::build;
use larder_tests::members::Cluster;
use larder_tests::node::Node;
use serde_json::Value;

use super::{Client, REPOSITORY, Who, agrees, layers, name, steps, until_kept};

#[tokio::test]
async fn limits_and_mirrors() {
    let (origin, mirror) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = build(&origin, REPOSITORY, "v1", &layers());
    build(&mirror, REPOSITORY, "v1", &layers());
    let config = format!(
        "[upstreams.\"r.example\"]\nendpoints = [{:?}, {:?}]\n",
        mirror.url(),
        origin.url()
    );
    let node = Node::builder().config(config.clone()).start().await;
    let fakes = [&mirror, &origin];
    let both = agrees(&node, &fakes, "r.example/team/app:v1", Who::Nobody).await;
    assert_eq!(
        steps(&both, "upstream"),
        ["answered", "unasked"],
        "{both:#}"
    );

    mirror.stop().await;
    let node = Node::builder().config(config).start().await;
    let over = agrees(&node, &fakes, "r.example/team/app:v1", Who::Nobody).await;
    assert_eq!(
        steps(&over, "upstream"),
        ["unanswered", "answered"],
        "{over:#}"
    );
    until_kept(&node, &image).await;
    let limited = Fault::Status {
        code: 429,
        headers: vec![("Retry-After".to_owned(), "600".to_owned())],
        body: Bytes::new(),
    };
    origin.fault(Match::any(), limited);
    for _ in 0..2 {
        let said = agrees(&node, &fakes, "r.example/team/app:v1", Who::Nobody).await;
        assert_eq!(steps(&said, "tag"), ["stale"], "{said:#}");
        assert_eq!(steps(&said, "upstream")[1], "silent", "{said:#}");
    }
    // The content is not here. A pod's secret may have a quota of its own, so larder asks for it.
    let cold = agrees(&node, &fakes, "r.example/team/cold:v1", Who::Nobody).await;
    assert_eq!(steps(&cold, "access"), ["challenged"], "{cold:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_member_holds() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");
    Client::of(cluster.node(0), &fake.host(), REPOSITORY, Who::Nobody)
        .pull("v1")
        .await;
    until_kept(cluster.node(0), &image).await;
    // Depending on the addresses, the node may have fetched and kept a share for the other member.
    let evict = ["evict", "--upstream", &fake.host()];
    let evicted = cluster.node(1).cli(&evict).await;
    assert!(evicted.status.success(), "{evicted:?}");
    Client::of(cluster.node(1), &fake.host(), REPOSITORY, Who::Nobody)
        .ask("GET", "manifests/v1")
        .await;
    let said = agrees(cluster.node(1), &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&said, "cluster"), ["hit"], "{said:#}");
    let other = cluster.peer_address(0).to_string();
    assert_eq!(said["pull"]["blobs"][0]["members"][0], other, "{said:#}");
}

#[tokio::test]
async fn what_containerd_does_with_the_name() {
    let fake = FakeRegistry::start().await;
    build(&fake, REPOSITORY, "v1", &layers());
    let node = Node::builder()
        .upstream(&fake)
        .config("[registry]\ndeny = [\"denied.example\"]\n")
        .start()
        .await;
    let dir = tempfile::tempdir().unwrap();
    let certs = format!("--containerd-certs-dir={}", dir.path().display());
    let image = name(&fake, "team/app:v1");
    let runtime = async || {
        let said = node.cli(&["explain", "--json", &image, &certs]).await;
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        steps(&said, "runtime")
    };
    assert_eq!(runtime().await, ["bypassed"]);
    let put = |name: &str, url: &str| {
        fs::create_dir_all(dir.path().join(name)).unwrap();
        let text = format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
    };
    put("_default", &node.url());
    assert_eq!(runtime().await, ["ok"]);
    let own = fake.host().replace(':', "_") + "_";
    put(&own, "https://mirror.example");
    assert_eq!(runtime().await, ["bypassed"]);

    let denied = node.cli(&["explain", "--json", "denied.example/a:b"]).await;
    let denied: Value = serde_json::from_slice(&denied.stdout).unwrap();
    assert_eq!(steps(&denied, "name"), ["denied"], "{denied:#}");
    assert_eq!(denied["pull"]["outcome"], "refused");
}

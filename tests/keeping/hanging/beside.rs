//! Other files than blobs: certificates, and what members keep for each other.

use std::fs;
use std::path::PathBuf;

use futures_util::future::join_all;
use larder_tests::fake::FakeRegistry;
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::members::Cluster;
use larder_tests::node::Node;
use larder_tests::scene::eventually;

use super::{CROWD, Fifo, lives, within};

/// A member's certificate moves to a file system that hangs. The members can no longer talk; everything else works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_certificate_that_hangs_holds_up_no_client() {
    let fake = FakeRegistry::start().await;
    let image = image::build(&fake, "a/b", "v1", &[LayerSpec::new(1, 9)]);
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let node = cluster.node(0);
    let dir = tempfile::tempdir().expect("a directory");
    let moved = dir.path().join("ca.pem");
    let fifo = Fifo::in_place_of(&moved);
    let config = fs::read_to_string(node.config_file()).expect("a configuration");
    let (before, rest) = config.split_once("{ ca = \"").expect("TLS");
    let (_, after) = rest.split_once('"').expect("a path");
    let text = format!("{before}{{ ca = \"{}\"{after}", moved.display());
    fs::write(node.config_file(), text).expect("our own file");
    eventually("the configuration is in force", || {
        node.log().contains("the configuration was read again")
    })
    .await;
    let url = format!("{}/v2/a/b/manifests/v1?ns={}", node.url(), fake.host());
    // Each of these requests asks the members.
    let crowd = join_all((0..CROWD / 10).map(|_| async {
        let answer = within("the crowd", http::get(&url, &[])).await;
        answer.expect("an answer")
    }));
    let (crowd, ()) = tokio::join!(crowd, lives(node));
    for answer in crowd {
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
    }
    drop(fifo);
}

/// A CA bundle on a file system that hangs stops only its own registry.
#[tokio::test]
async fn a_ca_bundle_that_hangs_stops_no_other_registry() {
    let dir = tempfile::tempdir().expect("a directory");
    let bundle = dir.path().join("ca.pem");
    let secure = FakeRegistry::start_tls().await;
    let plain = FakeRegistry::start().await;
    let image = image::build(&plain, "a/b", "v1", &[LayerSpec::new(1, 10)]);
    let fifo = Fifo::in_place_of(&bundle);
    let config = format!(
        "[upstreams.\"{}\"]\nendpoints = [\"https://{0}\"]\nca = \"{}\"\n",
        secure.host(),
        bundle.display()
    );
    let node = Node::builder().upstream(&plain).config(&config).start();
    let node = node.await;
    let url = |fake: &FakeRegistry| {
        let host = fake.host();
        format!("{}/v2/a/b/manifests/v1?ns={host}", node.url())
    };
    let hung = join_all((0..CROWD / 10).map(|_| async {
        let url = url(&secure);
        http::get(&url, &[]).await
    }));
    let hung = within("the hung ones", hung);
    let others = async {
        lives(&node).await;
        let answer = within("another", http::get(&url(&plain), &[])).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
    };
    let (hung, ()) = tokio::join!(hung, others);
    for answer in hung {
        assert_eq!(answer.expect("an answer").status, 503);
    }
    drop(fifo);
}

/// Members ask each other for records in an outage, and for nothing else then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_hangs_holds_up_no_other() {
    let fake = FakeRegistry::start().await;
    let [hung, well] = [("hung/a", 1), ("well/a", 2)].map(|(repository, seed)| {
        image::build(&fake, repository, "v1", &[LayerSpec::new(seed, 9)])
    });
    let mut cluster = Cluster::of(2).upstream(&fake).start().await;
    for (repository, image) in [("hung/a", &hung), ("well/a", &well)] {
        let door = cluster.door(0, &fake, repository);
        door.pull("v1", image).await.expect("an image");
    }
    let records = cluster.node(1).store().join("cluster");
    eventually("both nodes keep four records", || {
        fs::read_dir(&records).is_ok_and(|all| all.count() == 4)
    })
    .await;
    let node = cluster.node_mut(1);
    node.terminate();
    node.wait().await;
    let of_hung: Vec<PathBuf> = fs::read_dir(&records)
        .expect("records")
        .map(|entry| entry.expect("a record").path())
        .filter(|record| {
            let text = fs::read_to_string(record).expect("a record");
            text.contains(&hung.manifest_digest)
        })
        .collect();
    assert_eq!(of_hung.len(), 1, "the tag's");
    let fifo = Fifo::in_place_of(&of_hung[0]);
    cluster.node_mut(1).restart().await;
    fake.stop().await;
    let host = fake.host();
    let url = |repository: &str| {
        let node = cluster.node(1).url();
        format!("{node}/v2/{repository}/manifests/v1?ns={host}")
    };
    let get = async |repository: &str| {
        let answer = within(repository, http::get(&url(repository), &[])).await;
        answer.expect("an answer")
    };
    let crowd = join_all((0..CROWD / 10).map(|_| get("hung/a")));
    let others = async {
        lives(cluster.node(1)).await;
        let answer = get("well/a").await;
        assert_eq!((answer.status, &answer.body), (200, &well.manifest));
    };
    tokio::join!(crowd, others);
    // The other member has the record.
    let answer = get("hung/a").await;
    assert_eq!((answer.status, &answer.body), (200, &hung.manifest));
    drop(fifo);
}

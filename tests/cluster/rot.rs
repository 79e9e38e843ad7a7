//! A member whose disk rots (promises P9, P10). The member compares a blob with its checksums before it sends it, so no
//! pull fails. Where it cannot compare, wrong bytes spoil one pull at most, and no member is blamed for another's
//! bytes.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_tests::fake::{Content, FakeRegistry};
use larder_tests::image::build;
use larder_tests::members::{Cluster, DISTRUSTED};
use larder_tests::node::Node;
use larder_tests::scene::{Compared, committed, compare, eventually, files};

use super::{MIB, REPOSITORY, beside, layers, put};

const SIZE: u64 = 40 * MIB + 11;

/// Where the node keeps a blob.
fn kept_at(node: &Node, kind: &str, digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    let dir = node.store().join(kind).join(algorithm);
    dir.join(&hex[..2]).join(hex)
}

/// Changes one byte in each 64 KiB.
fn rot(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("the blob");
    let size = file.metadata().expect("its size").len();
    let mut byte = [0];
    for at in (0..size).step_by(64 << 10) {
        let at = (at + 4321).min(size - 1);
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[!byte[0]], at).expect("a byte");
    }
}

/// A blob that these nodes hold, verified and announced.
async fn held_by(fake: &FakeRegistry, cluster: &Cluster, numbers: &[usize]) -> (String, Content) {
    let (digest, content) = put(fake, 1, SIZE);
    for number in numbers {
        let door = cluster.door(*number, fake, REPOSITORY);
        door.blob(&digest).await.expect("a blob");
        let store = cluster.node(*number).store();
        eventually("it is committed", || committed(store, &digest)).await;
    }
    (digest, content)
}

fn is_set_aside(node: &Node) -> bool {
    !files(&node.store().join("quarantine")).is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rotted_is_found_at_home_and_fails_no_pull() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(3).upstream(&fake).start().await;
    let (digest, _) = held_by(&fake, &cluster, &[0]).await;
    rot(&kept_at(cluster.node(0), "blobs", &digest));
    for number in [1, 2] {
        let door = cluster.door(number, &fake, REPOSITORY);
        door.blob(&digest).await.expect("the first attempt");
    }
    eventually("it is set aside", || is_set_aside(cluster.node(0))).await;
    for node in cluster.nodes() {
        let distrusted = node.metric_sum(DISTRUSTED).await;
        assert!(distrusted < 1.0, "{}", node.log());
    }
}

/// The registry is down; another member has the blob whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_outage_a_member_with_a_sound_copy_serves_it() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(3).upstream(&fake).start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[40]));
    let layer = &image.layers[0].digest;
    for number in [0, 1] {
        let door = cluster.door(number, &fake, REPOSITORY);
        door.pull("v1", &image).await.expect("an image");
        let store = cluster.node(number).store();
        eventually("it is committed", || committed(store, layer)).await;
    }
    rot(&kept_at(cluster.node(0), "blobs", layer));
    fake.stop().await;
    // The node must learn first which member holds it.
    let door = cluster.door(2, &fake, REPOSITORY);
    super::within("it", Duration::from_secs(5), || door.pull("v1", &image)).await;
    let log = cluster.node(2).log();
    let broken = log
        .lines()
        .find(|line| line.contains("broke off and its readers"));
    assert_eq!(broken, None, "a pull ended short");
}

/// A small blob has no checksums of its pieces, and neither has a blob whose checksums rotted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_without_checksums_are_given_as_before() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let (digest, _) = held_by(&fake, &cluster, &[0]).await;
    let sums = kept_at(cluster.node(0), "checksums", &digest);
    rot(&sums);
    let (small, _) = put(&fake, 2, 5000);
    let door = cluster.door(0, &fake, REPOSITORY);
    door.blob(&small).await.expect("a blob");
    let store = cluster.node(0).store();
    eventually("it is committed", || committed(store, &small)).await;
    assert!(!kept_at(cluster.node(0), "checksums", &small).exists());
    let door = cluster.door(1, &fake, REPOSITORY);
    for digest in [&digest, &small] {
        door.blob(digest).await.expect("a blob");
    }
    assert!(!is_set_aside(cluster.node(0)), "what is sound stays");
}

/// A blob of an older larder. One pull is spoilt at most, and the next asks no member that supplied any of it. A member
/// that only passed the bytes on is not named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_checksums_one_pull_is_spoilt_at_most() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let (digest, content) = held_by(&fake, &cluster, &[0]).await;
    fs::remove_file(kept_at(cluster.node(0), "checksums", &digest)).expect("its checksums");
    rot(&kept_at(cluster.node(0), "blobs", &digest));
    let node = cluster.node(1);
    let door = cluster.door(1, &fake, REPOSITORY);
    let path = format!("blobs/{digest}");
    let mut stream = door.open(&path, &[]).await.expect("a head");
    let seen = compare(&mut stream, &content, 0..SIZE).await;
    assert!(
        seen.error.is_some(),
        "the rotten blob was not used: {seen:?}"
    );

    let mut again = door.open(&path, &[]).await.expect("a head");
    let seen = compare(&mut again, &content, 0..SIZE).await;
    assert_eq!(seen, Compared::whole(SIZE));
    let store = node.store();
    eventually("it is committed", || committed(store, &digest)).await;
    for number in [1, 2, 3] {
        let log = cluster.node(number).log();
        for honest in [1, 2, 3] {
            let address = cluster.peer_address(honest).to_string();
            let named = |line: &&str| line.contains(&address) && line.contains("distrust");
            let told = log.lines().find(named);
            assert_eq!(told, None, "node {number} names node {honest}");
        }
    }
}

//! The object store behind the nodes: it outlives all of them, and its faults harm no pull.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::FakeRegistry;
use larder_tests::image::{Image, build};
use larder_tests::members::{Cluster, Plan};
use larder_tests::real::SeaweedFs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{REPOSITORY, beside, doors, layers, within};

/// How long a write to the object store in the background may take.
const BEHIND: Duration = Duration::from_secs(30);

/// How long a pull may take while the store is broken.
const UNHARMED: Duration = Duration::from_secs(8);

pub(crate) async fn seaweed() -> (TempDir, SeaweedFs) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = SeaweedFs::start(&dir.path().join("weed")).await;
    (dir, store.expect("SeaweedFS"))
}

fn section(store: &SeaweedFs) -> String {
    format!(
        "[cluster.object_store]\nurl = \"s3://{}/larder\"\noptions = {{ endpoint = \"{}\" }}\n",
        SeaweedFs::BUCKET,
        store.endpoint()
    )
}

pub(crate) fn plan(count: usize, fake: &FakeRegistry, store: &SeaweedFs) -> Plan {
    let plan = Cluster::of(count).upstream(fake).config(&section(store));
    plan.environment(&store.environment())
}

fn key(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    format!("larder/blobs/{algorithm}/{}/{hex}", &hex[..2])
}

fn digests(image: &Image) -> Vec<&String> {
    let layers = image.layers.iter().map(|layer| &layer.digest);
    let own = [&image.config_digest, &image.manifest_digest];
    layers.chain(own).collect()
}

/// Waits until the bucket has all of an image, and no node has writes waiting.
pub(crate) async fn until_written(store: &SeaweedFs, image: &Image, cluster: &Cluster) {
    let deadline = Instant::now() + BEHIND;
    loop {
        let keys = store.keys("larder/blobs/").await.expect("a list");
        let there = digests(image)
            .iter()
            .all(|digest| keys.contains(&key(digest)));
        let mut waiting = 0.0;
        for node in cluster.nodes() {
            waiting += node.metric_sum("larder_object_store_waiting").await;
        }
        if there && waiting == 0.0 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{waiting} wait, and there are {keys:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_comes_back_after_all_nodes_and_the_registry_are_gone() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (_dir, store) = seaweed().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1, 5, 20]));
    let cluster = plan(3, &fake, &store).start().await;
    let before = doors(&cluster, &fake, REPOSITORY);
    for got in join_all(before.iter().map(|door| door.pull("v1", &image))).await {
        got.expect("an image");
    }
    until_written(&store, &image, &cluster).await;
    let mut written = 0.0;
    for node in cluster.nodes() {
        written += node
            .metric_sum("larder_object_store_written_bytes_total")
            .await;
    }
    let most = image.size() as f64 * 1.1 + 100_000.0;
    assert!(
        written < most,
        "{written} bytes were written of {}",
        image.size()
    );
    drop(cluster);
    fake.stop().await;
    fake.reset_counts();

    // New nodes with empty disks. The registry and the old nodes are gone.
    let cluster = plan(3, &fake, &store).start().await;
    let after = doors(&cluster, &fake, REPOSITORY);
    within("by tag", UNHARMED, || after[0].pull("v1", &image)).await;
    let digest = &image.manifest_digest;
    within("by digest", UNHARMED, || after[1].pull(digest, &image)).await;
    assert_eq!(fake.requests(), []);
}

/// A blob in the bucket opens for no repository that is not known to hold it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_alone_opens_nothing() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (_dir, store) = seaweed().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    fake.put_blob("other/thing", "something else");
    let cluster = plan(1, &fake, &store).start().await;
    cluster
        .door(0, &fake, REPOSITORY)
        .pull("v1", &image)
        .await
        .expect("an image");
    until_written(&store, &image, &cluster).await;
    drop(cluster);
    let cluster = plan(1, &fake, &store).start().await;
    let layer = &image.layers[0].digest;
    let other = cluster.door(0, &fake, "other/thing");
    let refused = other.blob(layer).await.expect_err("nothing of another's");
    assert!(refused.contains("404"), "{refused}");
    fake.stop().await;
    let refused = other.blob(layer).await.expect_err("nothing of another's");
    assert!(refused.contains("503"), "{refused}");
}

/// On a node that knows nothing yet, a blob in the bucket opens for no caller whose right is not proven.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_private_stays_private_on_a_new_node() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (_dir, store) = seaweed().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    fake.require_bearer(REPOSITORY, &[("user", "right")]);
    let cluster = plan(1, &fake, &store).start().await;
    let door = cluster.door(0, &fake, REPOSITORY);
    let door = door.login("user", "right", "v1").await.expect("a token");
    door.pull("v1", &image).await.expect("an image");
    until_written(&store, &image, &cluster).await;
    drop(cluster);
    let cluster = plan(1, &fake, &store).start().await;
    let stranger = cluster.door(0, &fake, REPOSITORY);
    let layer = &image.layers[0].digest;
    let refused = stranger.blob(layer).await.expect_err("nothing private");
    assert!(refused.contains("401"), "{refused}");
    fake.stop().await;
    assert!(stranger.blob(layer).await.is_err());
    assert!(stranger.pull("v1", &image).await.is_err());
}

/// Waits until no node has writes waiting.
async fn until_idle(cluster: &Cluster) {
    let deadline = Instant::now() + BEHIND;
    let waiting = async || {
        let node = cluster.node(0);
        node.metric_sum("larder_object_store_waiting").await
    };
    while waiting().await > 0.0 {
        assert!(Instant::now() < deadline, "something is not written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One node still remembers that a repository was public. That does not undo the refusal that another node got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_verdict_of_all_nodes_is_private() {
    let fake = FakeRegistry::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let config = format!(
        "[cluster.object_store]\nurl = \"file://{}\"\n",
        dir.path().display()
    );
    // Each node is a cluster of its own: they share the store alone.
    let alone = async || {
        let plan = Cluster::of(1).upstream(&fake).config(&config);
        plan.start().await
    };
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    let first = alone().await;
    let door = first.door(0, &fake, REPOSITORY);
    door.pull("v1", &image).await.expect("an image");
    until_idle(&first).await;
    fake.require_bearer(REPOSITORY, &[("user", "right")]);
    // Times are whole seconds, and the refusal must be the later one.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = alone().await;
    let stranger = second.door(0, &fake, REPOSITORY);
    assert!(stranger.pull("v1", &image).await.is_err());
    until_idle(&second).await;
    door.pull(&image.manifest_digest, &image)
        .await
        .expect("what it still remembers as public");
    until_idle(&first).await;
    fake.stop().await;
    let third = alone().await;
    let stranger = third.door(0, &fake, REPOSITORY);
    for reference in ["v1", &image.manifest_digest] {
        assert!(stranger.pull(reference, &image).await.is_err());
    }
    assert!(stranger.blob(&image.config_digest).await.is_err());
}

/// Pulls at once through all nodes, and says how long the slowest took.
async fn pull_all(cluster: &Cluster, fake: &FakeRegistry, image: &Image) -> Duration {
    let doors = doors(cluster, fake, REPOSITORY);
    let pulls = join_all(doors.iter().map(|door| door.pull("v1", image))).await;
    let took = pulls.into_iter().map(|got| got.expect("an image").took);
    took.max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_or_is_killed_harms_no_pull() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (_dir, mut store) = seaweed().await;
    let cluster = plan(2, &fake, &store).start().await;
    let pid = Pid::from_raw(store.pid().expect("it runs").cast_signed());
    kill(pid, Signal::SIGSTOP).expect("our own child");
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1, 9]));
    let hung = pull_all(&cluster, &fake, &image).await;
    kill(pid, Signal::SIGCONT).expect("our own child");
    assert!(hung < UNHARMED, "{hung:?} beside a store that hangs");
    store.stop();
    let image = build(&fake, REPOSITORY, "v1", &layers(2, &[1, 9]));
    let dead = pull_all(&cluster, &fake, &image).await;
    assert!(dead < UNHARMED, "{dead:?} beside a dead store");
    store.start_again().await.expect("SeaweedFS");
    // Once the store is back, the waiting writes reach it.
    until_written(&store, &image, &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_denies_or_is_full_harms_no_pull() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (_dir, store) = seaweed().await;
    let plan = Cluster::of(2).upstream(&fake).config(&section(&store));
    let denied = [
        ("AWS_ACCESS_KEY_ID", "larder-key"),
        ("AWS_SECRET_ACCESS_KEY", "wrong"),
        ("AWS_REGION", "us-east-1"),
    ];
    let cluster = plan.environment(&denied).start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1, 9]));
    let took = pull_all(&cluster, &fake, &image).await;
    assert!(took < UNHARMED, "{took:?} beside a store that denies");
    assert_eq!(store.keys("larder/").await.expect("a list"), [""; 0]);
    drop(cluster);

    // A directory that takes no files stands for a full one: root may write wherever there is room.
    let full = "[cluster.object_store]\nurl = \"file:///proc\"\n";
    let cluster = Cluster::of(2).upstream(&fake).config(full).start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(2, &[1, 9]));
    let took = pull_all(&cluster, &fake, &image).await;
    assert!(took < UNHARMED, "{took:?} beside a full store");
}

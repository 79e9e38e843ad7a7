//! The upstream is gone, and what one node has pulled the others still get (promise P14; DESIGN section 5).

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::{FakeRegistry, Kind};
use larder_tests::image::{Image, build};
use larder_tests::members::Cluster;

use super::{REPOSITORY, beside, doors, layers, until_all_have, within};

/// How long members may take to tell each other what they have.
const SPREAD: Duration = Duration::from_secs(5);

fn blobs(image: &Image) -> Vec<&String> {
    let layers = image.layers.iter().map(|layer| &layer.digest);
    layers.chain([&image.config_digest]).collect()
}

/// Waits until these nodes hold all of an image.
async fn until_has(cluster: &Cluster, number: usize, image: &Image) {
    use larder_tests::scene::{committed, eventually};
    for digest in blobs(image) {
        let store = cluster.node(number).store();
        eventually(digest, || committed(store, digest)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_saw_an_image_pulls_it_by_tag_and_by_digest() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[5, 13, 22]));
    let cluster = Cluster::of(5).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    for (number, door) in doors[..3].iter().enumerate() {
        door.pull("v1", &image).await.expect("an image");
        until_has(&cluster, number, &image).await;
    }
    fake.stop().await;
    fake.reset_counts();
    within("by tag", SPREAD, || doors[3].pull("v1", &image)).await;
    let by_digest = &image.manifest_digest;
    within("by digest", SPREAD, || doors[4].pull(by_digest, &image)).await;
    until_all_have(&cluster, &blobs(&image)).await;
    assert_eq!(fake.requests(), []);
}

/// One node has it, all others want it at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_feeds_all_others() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[5, 20]));
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    doors[0].pull("v1", &image).await.expect("an image");
    until_has(&cluster, 0, &image).await;
    fake.stop().await;
    let others = doors[1..].iter();
    join_all(others.map(|door| within("the others", SPREAD, || door.pull("v1", &image)))).await;
    until_all_have(&cluster, &blobs(&image)).await;
}

/// The upstream is there, but nobody needs its blobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_has_the_others_do_not_take_from_the_upstream() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[5, 20]));
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    for (number, door) in doors[..3].iter().enumerate() {
        door.pull("v1", &image).await.expect("an image");
        until_has(&cluster, number, &image).await;
    }
    fake.reset_counts();
    doors[3].pull("v1", &image).await.expect("an image");
    let bytes: u64 = blobs(&image)
        .iter()
        .map(|digest| fake.blob_bytes_sent(digest))
        .sum();
    // The proof that the origin has a blob may take a byte of each.
    assert!(bytes <= 8, "{bytes} bytes of blobs");
    let manifests = |method: &'static str| {
        fake.count(|seen| seen.kind == Kind::Manifest && seen.method == method)
    };
    assert!(manifests("HEAD") <= 1, "{:?}", fake.requests());
}

/// The upstream and one of two nodes that have it are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_holder_is_not_the_end() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[5, 20]));
    let mut cluster = Cluster::of(4).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    for (number, door) in doors[..2].iter().enumerate() {
        door.pull("v1", &image).await.expect("an image");
        until_has(&cluster, number, &image).await;
    }
    // The third tells that members have told each other.
    fake.stop().await;
    within("third", SPREAD, || doors[2].pull("v1", &image)).await;
    cluster.node_mut(0).kill9().await;
    within("fourth", SPREAD, || doors[3].pull("v1", &image)).await;
}

/// Nobody has it: the answer comes in time, and it is no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_is_refused_in_time() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    let mut cluster = Cluster::of(4).upstream(&fake).start().await;
    cluster.freeze(3);
    fake.stop().await;
    let door = cluster.door(0, &fake, REPOSITORY);
    for rest in [
        "manifests/v1".to_owned(),
        format!("manifests/{}", image.manifest_digest),
        format!("blobs/{}", image.config_digest),
    ] {
        let start = Instant::now();
        let answer = door.get(&rest, &[]).await.expect("an answer");
        let took = start.elapsed();
        assert!(answer.status >= 400, "{rest}: {}", answer.status);
        assert!(took < Duration::from_secs(6), "{rest}: {took:?}");
    }
    cluster.thaw(3);
}

/// Anyone may ask for any name, and be refused: that is no reason for a file on each keeper.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_names_leave_nothing_with_the_keepers() {
    use larder_tests::http;
    use larder_tests::scene::{eventually, files};
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let host = fake.host();
    for n in 0..40 {
        let repository = format!("made/up/{n}");
        fake.require_basic(&repository, "user", "password");
        let node = cluster.node(0).url();
        let url = format!("{node}/v2/{repository}/manifests/v1?ns={host}");
        assert_eq!(http::head(&url, &[]).await.expect("an answer").status, 401);
    }
    // What leads somewhere is told, behind all of the others: a tag, and that its repository is public.
    doors(&cluster, &fake, REPOSITORY)[0]
        .pull("v1", &image)
        .await
        .expect("an image");
    for node in cluster.nodes() {
        let records = node.store().join("cluster");
        eventually("both records are here", || files(&records).len() >= 2).await;
        assert_eq!(files(&records).len(), 2);
    }
}

//! While the upstream is down, the other nodes still get what one node has pulled (promise P14).

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::{FakeRegistry, Fault, Gate, Kind, Match};
use larder_tests::image::{Image, build, build_index};
use larder_tests::members::{Cluster, Door, alias};
use larder_tests::runtime::Runtime;

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

/// One node has the image, and all others want it at once.
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

/// The upstream answers, but no node needs its blobs.
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

/// The upstream is gone, and so is one of the two nodes that have the image.
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
    // The third pull shows that members have given each other what they know.
    fake.stop().await;
    within("third", SPREAD, || doors[2].pull("v1", &image)).await;
    cluster.node_mut(0).kill9().await;
    within("fourth", SPREAD, || doors[3].pull("v1", &image)).await;
}

/// No member has the image: the client gets a refusal, and in time.
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

const RUNTIMES: [Runtime; 2] = [Runtime::Containerd, Runtime::ContainersImage];

/// How a client with this runtime pulls through a node.
fn door(cluster: &Cluster, number: usize, fake: &FakeRegistry, name: &str, by: Runtime) -> Door {
    let door = cluster.door(number, fake, name);
    match by {
        Runtime::Containerd => door,
        Runtime::ContainersImage => door.by_alias(&alias(fake)),
    }
}

/// A runtime's order of requests brings an image to one node. At another node the tag leads to it, whichever runtime
/// asks there. A platform's manifest is asked for by its digest alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_known_to_all_whatever_runtime_pulled_it() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let mut pulled = Vec::new();
    for (number, by) in RUNTIMES.into_iter().enumerate() {
        let (single, multi) = (format!("single/{number}"), format!("multi/{number}"));
        let seed = 10 * (1 + number as u64);
        let image = build(&fake, &single, "v1", &layers(seed, &[1]));
        let index = build_index(&fake, &multi, "v1", &layers(seed + 1, &[1]));
        let node = door(&cluster, 0, &fake, &single, by);
        node.pull_as(by, "v1", &image).await.expect("an image");
        let node = door(&cluster, 0, &fake, &multi, by);
        let platform = node.pull_as(by, "v1", index.platform(0)).await;
        platform.expect("a platform");
        for image in [&image, &index.images[0]] {
            until_has(&cluster, 0, image).await;
        }
        pulled.push((by, single, image, multi, index));
    }
    fake.stop().await;
    for (puller, single, image, multi, index) in &pulled {
        for by in RUNTIMES {
            let what = format!("pulled by {puller:?}, then by {by:?}");
            let node = door(&cluster, 1, &fake, single, by);
            within(&what, SPREAD, || node.pull_as(by, "v1", image)).await;
            let node = door(&cluster, 1, &fake, multi, by);
            let platform = || node.pull_as(by, "v1", index.platform(0));
            within(&what, SPREAD, platform).await;
        }
    }
}

/// A moved tag leads to the new image once a member holds that, and to the old image until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_was_moved_leads_to_the_newest_image_that_is_whole() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let old = build(&fake, REPOSITORY, "v1", &layers(1, &[2]));
    let cluster = Cluster::of(3).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    doors[0].pull("v1", &old).await.expect("an image");
    until_has(&cluster, 0, &old).await;
    let new = build(&fake, REPOSITORY, "v2", &layers(2, &[3]));
    fake.retag(REPOSITORY, "v1", &new.manifest_digest);
    // A runtime with the policy `Always` checks the tag, and gets no further.
    let looked = doors[0].answer(doors[0].call("HEAD", "manifests/v1"));
    let looked = looked.await.expect("an answer");
    let told = looked.header("docker-content-digest");
    assert_eq!(told, Some(new.manifest_digest.as_str()));
    fake.stop().await;
    within("the old one", SPREAD, || doors[1].pull("v1", &old)).await;

    fake.start_again().await;
    doors[0].pull("v1", &new).await.expect("an image");
    until_has(&cluster, 0, &new).await;
    fake.stop().await;
    // One node never had the tag, and the other one had it for the old image.
    within("never heard of it", SPREAD, || doors[2].pull("v1", &new)).await;
    within("heard of the old", SPREAD, || doors[1].pull("v1", &new)).await;
    within("its own", SPREAD, || doors[0].pull("v1", &new)).await;
}

/// A node pulls while it knows no other member. Members that join later learn of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lone_member_pulled_is_known_to_later_members() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[2]));
    let plan = Cluster::of(2).upstream(&fake).knows(0, &[0]);
    let cluster = plan.start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    doors[0].pull("v1", &image).await.expect("an image");
    until_has(&cluster, 0, &image).await;
    fake.stop().await;
    within("the other", SPREAD, || doors[1].pull("v1", &image)).await;
}

/// A registry that accepts every request and never answers is an outage, like one that refuses connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_hangs_is_an_outage_like_any_other() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let by_tag = build(&fake, REPOSITORY, "v1", &layers(1, &[5, 20]));
    let by_digest = build(&fake, REPOSITORY, "v2", &layers(3, &[5]));
    let cluster = Cluster::of(3).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    for (tag, image) in [("v1", &by_tag), ("v2", &by_digest)] {
        doors[0].pull(tag, image).await.expect("an image");
        until_has(&cluster, 0, image).await;
    }
    fake.fault(Match::any(), Fault::Hold(Gate::new(0)));
    doors[1].pull("v1", &by_tag).await.expect("by tag");
    let digest = &by_digest.manifest_digest;
    doors[2].pull(digest, &by_digest).await.expect("by digest");
}

/// The requests by which containerd looks for an image that no member has, before it gives up the node: HEAD of the
/// tag, or of the digest as a manifest and as a blob.
async fn asked_in_vain(door: &Door, image: &Image) -> Duration {
    let start = Instant::now();
    let digest = &image.manifest_digest;
    for path in [
        "manifests/v1".to_owned(),
        format!("manifests/{digest}"),
        format!("blobs/{digest}"),
    ] {
        let answer = door.answer(door.call("HEAD", &path)).await;
        assert_eq!(answer.expect("an answer").status, 503, "{path}");
    }
    start.elapsed()
}

/// The registry hangs and no member has the image. A client that asks again and again waits for the registry once, not
/// each time. When the registry is back, the next request notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silence_is_waited_for_once() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[1]));
    let cluster = Cluster::of(3).upstream(&fake).start().await;
    let door = cluster.door(0, &fake, REPOSITORY);
    let hangs = fake.fault(Match::any(), Fault::Hold(Gate::new(0)));
    let first = asked_in_vain(&door, &image).await;
    let again = asked_in_vain(&door, &image).await;
    assert!(first < Duration::from_secs(9), "{first:?}");
    assert!(again < Duration::from_secs(4), "{again:?}");
    hangs.lift();
    door.pull("v1", &image).await.expect("it is back");
}

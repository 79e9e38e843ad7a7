//! Which nodes are members: lists that contradict each other, names whose addresses change, and halves of a cluster
//! that lose each other.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::hosts::{Names, Net, host_address};
use larder_tests::image::build;
use larder_tests::members::{Cluster, Door, Plan, upstream_bytes};

use super::{MIB, REPOSITORY, all_get, beside, doors, layers, put, within};

/// The name whose addresses are the members.
const NAME: &str = "larder-peers.test";
/// How long nodes may take to notice which members have come or left.
const NOTICE: Duration = Duration::from_secs(20);
/// How long a pull may take, whatever the nodes believe of each other.
const BOUND: Duration = Duration::from_secs(30);

/// All nodes pull the same blobs at once, and no two nodes wait for each other.
async fn no_deadlock(fake: &FakeRegistry, plan: Plan) {
    // Slow enough that every node is in the middle when the others ask.
    fake.fault(Match::blob(), Fault::ThrottleBytesPerSecond(20 * MIB));
    let cluster = plan.start().await;
    let doors = doors(&cluster, fake, REPOSITORY);
    for seed in 0..3 {
        let (digest, _) = put(fake, seed, 22 * MIB);
        let all = tokio::time::timeout(BOUND, all_get(&doors, &digest)).await;
        assert!(all.is_ok(), "blob {seed}: not within {BOUND:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_each_take_the_other_for_the_only_member() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(2).upstream(&fake);
    no_deadlock(&fake, plan.knows(0, &[1]).knows(1, &[0])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_each_lack_the_other() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(2).upstream(&fake);
    no_deadlock(&fake, plan.knows(0, &[0]).knows(1, &[1])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_each_believe_to_be_the_other() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(2).upstream(&fake);
    no_deadlock(&fake, plan.advertises(0, 1).advertises(1, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_that_know_only_the_next_in_a_ring() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(3).upstream(&fake);
    let ring = plan.knows(0, &[1]).knows(1, &[2]).knows(2, &[0]);
    no_deadlock(&fake, ring).await;
}

/// Each node's list differs from the others', and names members that do not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_with_four_lists() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(4).upstream(&fake);
    let plan = plan
        .knows(0, &[0, 1])
        .knows(1, &[1, 2, 9])
        .knows(2, &[3, 0, 2])
        .knows(3, &[0, 1, 2, 8]);
    no_deadlock(&fake, plan).await;
}

/// Pulls new blobs through a node until `noticed` is true of another node's sent bytes before and after. It must hold
/// twice in a row, since a blob may have no run for that node.
async fn until_noticed(
    what: &str,
    fake: &FakeRegistry,
    cluster: &Cluster,
    seed: u64,
    number: usize,
    times: u32,
    noticed: impl Fn(u64, u64) -> bool,
) {
    let door = cluster.door(0, fake, REPOSITORY);
    let deadline = Instant::now() + NOTICE;
    let mut in_a_row = 0;
    for seed in seed..seed + 500 {
        let (digest, _) = put(fake, seed, 40 * MIB);
        let before = cluster.sent(number).await;
        door.blob(&digest).await.expect("a blob");
        if noticed(before, cluster.sent(number).await) {
            in_a_row += 1;
        } else {
            in_a_row = 0;
        }
        if in_a_row == times {
            return;
        }
        let late = Instant::now() > deadline;
        assert!(!late, "{what}: not within {NOTICE:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("{what}: not within 500 blobs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_joins_and_leaves_by_name() {
    let _machine = beside().await;
    let net = Net::new(4);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    let mut names = Names::start_in(net.upstream()).await;
    for number in 0..4 {
        net.host(number).ask_names_at(names.address().ip());
    }
    let three = [0, 1, 2].map(host_address);
    names.set(NAME, &three).await;
    let plan = Plan::in_hosts(&net, 3).upstream(&fake);
    let plan = plan.members_by_name(NAME).finding_themselves();
    let mut cluster = plan.start().await;

    // Every node has found the others, and itself among them: a blob is fetched once. Their status says when they have.
    let found = async || {
        let (digest, _) = put(&fake, fastrand::u64(1 << 40..), 24 * MIB);
        let all = doors(&cluster, &fake, REPOSITORY);
        all_get(&all, &digest).await;
        fake.blob_bytes_sent(&digest) <= 24 * MIB * 105 / 100
    };
    let deadline = Instant::now() + NOTICE;
    while !found().await {
        let late = Instant::now() > deadline;
        assert!(!late, "three nodes fetch a blob more than once");
    }

    cluster.add().await;
    let four = [0, 1, 2, 3].map(host_address);
    names.set(NAME, &four).await;
    let grows = |before, after| after > before;
    until_noticed("it joined", &fake, &cluster, 1000, 3, 1, grows).await;
    names.set(NAME, &three).await;
    let stays = |before, after| after == before;
    until_noticed("it left", &fake, &cluster, 2000, 3, 3, stays).await;
    // The name server no longer has the name: the known members stay.
    names.set(NAME, &[]).await;
    for seed in 3000..3004 {
        let (digest, _) = put(&fake, seed, 24 * MIB);
        let door = cluster.door(0, &fake, REPOSITORY);
        door.blob(&digest).await.expect("a blob");
    }
}

/// A node that is the only address of the name recognises itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_under_its_name_asks_nobody() {
    let _machine = beside().await;
    let net = Net::new(1);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    let mut names = Names::start_in(net.upstream()).await;
    net.host(0).ask_names_at(names.address().ip());
    names.set(NAME, &[host_address(0)]).await;
    let plan = Cluster::in_hosts(&net).upstream(&fake);
    let plan = plan.members_by_name(NAME).finding_themselves();
    let cluster = plan.start().await;
    for seed in 0..3 {
        let (digest, _) = put(&fake, seed, 24 * MIB);
        let door = cluster.door(0, &fake, REPOSITORY);
        door.blob(&digest).await.expect("a blob");
        assert!(fake.blob_bytes_sent(&digest) <= 24 * MIB * 105 / 100);
    }
    assert_eq!(cluster.sent(0).await, 0, "it has asked itself");
}

/// The name server is down when the nodes start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_start_and_serve_without_a_name_server() {
    let _machine = beside().await;
    let net = Net::new(2);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    for number in 0..2 {
        net.host(number).ask_names_at(net.upstream().address());
    }
    let plan = Cluster::in_hosts(&net).upstream(&fake);
    let plan = plan.members_by_name(NAME).finding_themselves();
    let cluster = plan.start().await;
    let (digest, _) = put(&fake, 1, 24 * MIB);
    all_get(&doors(&cluster, &fake, REPOSITORY), &digest).await;
    let mut names = Names::start_in(net.upstream()).await;
    names.set(NAME, &[0, 1].map(host_address)).await;
    let grows = |before, after| after > before;
    until_noticed("they met", &fake, &cluster, 10, 1, 1, grows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_halves_go_on_and_converge() {
    let _machine = beside().await;
    let mut net = Net::new(4);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    let cluster = Cluster::in_hosts(&net).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    let both = build(&fake, REPOSITORY, "both", &layers(1, &[5, 13]));
    let one = build(&fake, REPOSITORY, "one", &layers(10, &[5, 17]));
    let other = build(&fake, REPOSITORY, "other", &layers(20, &[5, 17]));
    doors[0].pull("both", &both).await.expect("an image");
    net.part(&[0, 1], &[2, 3]);
    let halves = [(0, "one", &one), (1, "one", &one)];
    let halves = halves
        .into_iter()
        .chain([(2, "other", &other), (3, "other", &other)]);
    let pulls = halves.map(|(number, tag, image): (usize, &str, _)| {
        let pull = doors[number].pull(tag, image);
        tokio::time::timeout(BOUND, pull)
    });
    for pull in join_all(pulls).await {
        pull.expect("in time").expect("an image");
    }
    // Each half has downloaded at most its own image, or twice while its nodes did not know yet which members were
    // gone.
    for image in [&one, &other] {
        let ratio = upstream_bytes(&fake, image) as f64 / image.size() as f64;
        assert!(ratio <= 2.05, "{ratio:.2} images");
    }
    net.heal();
    fake.stop().await;
    within("one half's", NOTICE, || doors[2].pull("one", &one)).await;
    within("the other's", NOTICE, || doors[0].pull("other", &other)).await;
    within("both's", NOTICE, || doors[3].pull("both", &both)).await;
}

/// Half of a cluster is gone for good; the other half loses time to that once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_four_die_and_the_others_hardly_notice() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let mut cluster = Cluster::of(4).upstream(&fake).start().await;
    cluster.node_mut(2).kill9().await;
    cluster.node_mut(3).kill9().await;
    let doors: Vec<Door> = doors(&cluster, &fake, REPOSITORY);
    let (digest, _) = put(&fake, 1, 24 * MIB);
    all_get(&doors[..2], &digest).await;
    let start = Instant::now();
    let (digest, _) = put(&fake, 2, 24 * MIB);
    all_get(&doors[..2], &digest).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// No client pulls any more. The node still finds out that a member is well again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_back_is_seen_by_a_node_that_pulls_nothing() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let mut cluster = Cluster::of(2).upstream(&fake).start().await;
    let until_avoided = async |cluster: &Cluster, count: f64, what: &str| {
        let deadline = Instant::now() + NOTICE;
        let sample = "larder_members{state=\"avoided\"}";
        while cluster.node(0).metric(sample).await != Some(count) {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    cluster.node_mut(1).kill9().await;
    let (digest, _) = put(&fake, 1, 40 * MIB);
    let door = cluster.door(0, &fake, REPOSITORY);
    door.blob(&digest).await.expect("a blob");
    until_avoided(&cluster, 1.0, "it is avoided").await;
    cluster.node_mut(1).restart().await;
    until_avoided(&cluster, 0.0, "it is not avoided any more").await;
}

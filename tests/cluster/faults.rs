//! Members that die, hang or lose their link in the middle of a transfer: no pull fails, and none waits long (P10).

use std::time::Duration;

use futures_util::future::join_all;
use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::hosts::Net;
use larder_tests::image::build;
use larder_tests::members::{Cluster, Door, Got, measure, upstream_bytes};
use larder_tests::scene::{committed, eventually};
use nix::sys::signal::Signal;

use super::{MIB, REPOSITORY, alone, beside, doors, layers, put};

/// How long a stalled member may delay a reader, as a rule and at worst. On an idle machine the worst case stays below
/// the rule too. Where other work takes the processor, a node has to be more patient.
const STALL: Duration = Duration::from_millis(250);
const WORST: Duration = Duration::from_secs(1);
/// After how many bytes a fault strikes.
const MIDDLE: u64 = 5 * MIB;
const SIZE: u64 = 40 * MIB;

/// Pulls a blob and lets something happen in the middle.
async fn with_a_fault(door: &Door, digest: &str, fault: impl FnOnce()) -> Result<Got, String> {
    let mut stream = door.open(&format!("blobs/{digest}"), &[]).await?;
    let mut fault = Some(fault);
    let middle = |came| {
        if came >= MIDDLE
            && let Some(fault) = fault.take()
        {
            fault();
        }
    };
    let got = measure(&mut stream, digest, middle).await?;
    if fault.is_some() {
        return Err("nothing happened in the middle".to_owned());
    }
    Ok(got)
}

/// An upstream so slow that a transfer has a middle, but fast enough for the nodes together.
async fn slow_upstream(net: Option<&Net>) -> FakeRegistry {
    let fake = match net {
        Some(net) => FakeRegistry::start_in(net.upstream()).await,
        None => FakeRegistry::start().await,
    };
    let rate = Fault::ThrottleBytesPerSecond(8 * MIB);
    fake.fault(Match::blob(), rate);
    fake
}

/// Fails unless other nodes have supplied a part of what was pulled.
async fn fed_by_others(cluster: &Cluster) {
    let mut sent = 0;
    for number in 1..cluster.len() {
        sent += cluster.sent(number).await;
    }
    assert!(sent >= SIZE / 4, "{sent} bytes came from other nodes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_killed_in_the_middle_is_replaced() {
    let _machine = beside().await;
    let fake = slow_upstream(None).await;
    let mut cluster = Cluster::of(4).upstream(&fake).start().await;
    for round in 0..6 {
        let (digest, _) = put(&fake, round, SIZE);
        let door = cluster.door(0, &fake, REPOSITORY);
        let victim = 1 + round as usize % 3;
        let kill = || cluster.node_mut(victim).signal(Signal::SIGKILL);
        if let Err(error) = with_a_fault(&door, &digest, kill).await {
            panic!("round {round}, node {victim} killed: {error}");
        }
        if round == 2 {
            fed_by_others_that_live(&cluster, victim).await;
        }
        cluster.node_mut(victim).restart().await;
    }
}

async fn fed_by_others_that_live(cluster: &Cluster, dead: usize) {
    let mut sent = 0;
    for number in (1..cluster.len()).filter(|number| *number != dead) {
        sent += cluster.sent(number).await;
    }
    assert!(sent > 0, "nothing came from other nodes");
}

/// Judges the longest gap of each run.
fn judge(mut gaps: Vec<Duration>) {
    gaps.sort();
    let at = |percent: usize| gaps[(gaps.len() * percent).div_ceil(100) - 1];
    let (p50, p99) = (at(50), at(99));
    eprintln!("longest gap p50 {p50:?}, p99 {p99:?}, of {gaps:?}");
    assert!(
        p50 <= STALL && p99 <= WORST,
        "p50 {p50:?}, p99 {p99:?}: {gaps:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hangs_costs_at_most_a_quarter_of_a_second() {
    let _machine = alone().await;
    let fake = slow_upstream(None).await;
    let mut cluster = Cluster::of(4).upstream(&fake).start().await;
    let door = cluster.door(0, &fake, REPOSITORY);
    let (digest, _) = put(&fake, 1000, SIZE);
    let undisturbed = with_a_fault(&door, &digest, || {}).await;
    let undisturbed = undisturbed.expect("a blob").longest_gap;
    assert!(undisturbed < STALL, "{undisturbed:?} without any fault");
    let mut gaps = Vec::new();
    for round in 0..12 {
        let (digest, _) = put(&fake, round, SIZE);
        let victim = 1 + round as usize % 3;
        let got = with_a_fault(&door, &digest, || cluster.freeze(victim)).await;
        cluster.thaw(victim);
        let got = got.unwrap_or_else(|error| panic!("node {victim} hung: {error}"));
        gaps.push(got.longest_gap);
    }
    judge(gaps);
    fed_by_others(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_link_is_cut_costs_at_most_a_quarter_of_a_second() {
    let _machine = alone().await;
    let net = Net::new(4);
    let fake = slow_upstream(Some(&net)).await;
    let cluster = Cluster::in_hosts(&net).upstream(&fake).start().await;
    let door = cluster.door(0, &fake, REPOSITORY);
    let mut gaps = Vec::new();
    for round in 0..6 {
        let (digest, _) = put(&fake, round, SIZE);
        let victim = 1 + round as usize % 3;
        let got = with_a_fault(&door, &digest, || net.host(victim).cut()).await;
        net.host(victim).mend();
        let got = got.unwrap_or_else(|error| panic!("node {victim} cut off: {error}"));
        gaps.push(got.longest_gap);
    }
    judge(gaps);
    fed_by_others(&cluster).await;
}

/// Members that wait for a slow registry are healthy. A node that asks them has its first byte as soon as if it had
/// asked the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_wait_for_a_slow_registry_are_waited_for() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(40, &[3, 6, 13]));
    fake.fault(Match::blob(), Fault::Delay(Duration::from_secs(3)));
    let cluster = Cluster::of(3).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    let pulls = doors.iter().map(|door| door.pull("v1", &image));
    for (number, got) in join_all(pulls).await.into_iter().enumerate() {
        got.unwrap_or_else(|error| panic!("node {number}: {error}"));
    }
    let upstream = upstream_bytes(&fake, &image) as f64 / image.size() as f64;
    assert!(upstream <= 1.25, "{upstream:.3} images from the upstream");
    for node in cluster.nodes() {
        let peers = node.cli(&["peers"]).await;
        let peers = String::from_utf8_lossy(&peers.stdout).into_owned();
        assert!(!peers.contains("avoided"), "{peers}");
        let upstreams = node.cli(&["upstreams"]).await;
        let upstreams = String::from_utf8_lossy(&upstreams.stdout).into_owned();
        assert!(!upstreams.contains("avoided"), "{upstreams}");
    }
}

/// One registry trickles. A blob that a member has on its disk does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_trickles_holds_up_no_other() {
    let _machine = beside().await;
    let (trickling, fake) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let rate = Fault::ThrottleBytesPerSecond(20_000);
    trickling.fault(Match::blob(), rate);
    let plan = Cluster::of(2).upstream(&trickling).upstream(&fake);
    let cluster = plan.start().await;
    let (held, _) = put(&fake, 1, SIZE);
    cluster
        .door(1, &fake, REPOSITORY)
        .blob(&held)
        .await
        .expect("a blob");
    eventually("node 1 has it", || {
        committed(cluster.node(1).store(), &held)
    })
    .await;
    let (slow, _) = put(&trickling, 2, 64 * MIB);
    let door = cluster.door(0, &trickling, REPOSITORY);
    let slow = door.open(&format!("blobs/{slow}"), &[]).await;
    let _slow = slow.expect("headers");
    // By then the fill has all the streams that it will have.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fake.reset_counts();
    let got = cluster.door(0, &fake, REPOSITORY).blob(&held).await;
    let took = got.expect("a blob").took;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(fake.blob_bytes_sent(&held), 0, "node 1 has it");
}

/// A member is on every node's list and never existed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_never_came_costs_no_pull() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let plan = Cluster::of(3).stranger(3).stranger(4).upstream(&fake);
    let cluster = plan.start().await;
    for round in 0..4 {
        let (digest, _) = put(&fake, round, SIZE);
        let door = cluster.door(round as usize % 3, &fake, REPOSITORY);
        let got = door.blob(&digest).await;
        let got = got.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(got.took < Duration::from_secs(10), "round {round}: {got:?}");
    }
}

/// The node has the head and a little more; another node has the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_dies_in_the_middle_and_the_other_nodes_have_the_rest() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let (digest, _) = put(&fake, 1, SIZE);
    let others = cluster.door(1, &fake, REPOSITORY);
    others.blob(&digest).await.expect("a blob");
    let store = cluster.node(1).store();
    let there = || larder_tests::scene::committed(store, &digest);
    larder_tests::scene::eventually("it is committed", there).await;
    let door = cluster.door(0, &fake, REPOSITORY);
    let mut stream = door.open(&format!("blobs/{digest}"), &[]).await;
    let stream = stream.as_mut().expect("a head");
    fake.stop().await;
    let got = measure(stream, &digest, |_| {}).await;
    assert_eq!(got.expect("a blob").bytes, SIZE);
}

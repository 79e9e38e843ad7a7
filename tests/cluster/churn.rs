//! Nodes come and go while pods start: no pull through a node that is up fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::members::Cluster;
use tokio::sync::RwLock;
use tokio::task::JoinSet;

use super::{MIB, REPOSITORY, beside, put};

/// The number of blobs. All nodes take them in order, so that members are always asked for new ones.
const BLOBS: usize = 60;
/// How long it may take.
const BOUND: Duration = Duration::from_mins(2);

/// Blobs pulled so far, and what went wrong.
type Pulled = Result<usize, String>;

/// Restarts all nodes one after another, `rounds` times, in this way, while all others pull.
async fn restarts(rounds: usize, crash: bool) {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let digests: Arc<[String]> = (0..BLOBS as u64)
        .map(|seed| put(&fake, seed, 13 * MIB).0)
        .collect();
    fake.fault(Match::blob(), Fault::ThrottleBytesPerSecond(10 * MIB));
    let mut cluster = Cluster::of(4).upstream(&fake).start().await;
    // A client holds its node's lock for reading during a pull; a restart takes it for writing. So a client waits while
    // its own node is down, where a real one would ask elsewhere.
    let up: Arc<[RwLock<()>]> = (0..4).map(|_| RwLock::new(())).collect();
    let over = Arc::new(AtomicBool::new(false));
    let furthest = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for number in 0..4 {
        let door = cluster.door(number, &fake, REPOSITORY);
        let (digests, up, over) = (Arc::clone(&digests), Arc::clone(&up), Arc::clone(&over));
        let furthest = Arc::clone(&furthest);
        clients.spawn(async move {
            let mut pulled = 0;
            // A client whose node was down continues where the others are.
            let mut next = 0;
            while next < digests.len() && !over.load(Ordering::Relaxed) {
                let _up = up[number].read().await;
                next = next.max(furthest.load(Ordering::Relaxed));
                let got = door.blob(&digests[next.min(digests.len() - 1)]).await;
                got.map_err(|error| format!("node {number}, blob {next}: {error}"))?;
                next += 1;
                furthest.fetch_max(next.saturating_sub(1), Ordering::Relaxed);
                pulled += 1;
            }
            Pulled::Ok(pulled)
        });
    }
    let start = Instant::now();
    for round in 0..rounds {
        for number in 0..4 {
            // The other clients are in the middle of a pull.
            let reached = furthest.load(Ordering::Relaxed);
            while furthest.load(Ordering::Relaxed) == reached && reached + 1 < BLOBS {
                assert!(start.elapsed() < BOUND, "round {round}, node {number}");
                if clients.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _down = up[number].write().await;
            if crash {
                cluster.node_mut(number).kill9().await;
            }
            cluster.node_mut(number).restart().await;
        }
    }
    let in_the_middle = furthest.load(Ordering::Relaxed) < BLOBS - 1;
    over.store(true, Ordering::Relaxed);
    let mut pulled = 0;
    while let Some(client) = clients.join_next().await {
        match client.expect("no panic") {
            Ok(count) => pulled += count,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        in_the_middle,
        "all blobs were pulled before all had restarted"
    );
    assert!(pulled >= 4 * rounds, "only {pulled} pulls");
    // Bytes since the last start of each node.
    let sent: u64 = cluster.all_sent().await.iter().sum();
    assert!(sent > 0, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_continuous_pulls_fails_none() {
    restarts(2, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_crashes_under_continuous_pulls_fail_none() {
    restarts(1, true).await;
}

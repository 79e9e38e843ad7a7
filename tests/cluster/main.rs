//! Several nodes with one upstream: how much they spare it, how much they help each other's readers, and which members
//! they trust (promises P5, P10, P14, P16, P19). Takes root, since some tests make network namespaces.

mod churn;
mod copies;
mod durable;
mod faults;
mod indexes;
mod liars;
mod members;
mod names;
mod outage;
mod private;
mod probes;
mod reach;
mod refusals;
mod rot;
mod seeing;
mod shaped;
mod slow;
mod together;
mod trust;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::{Content, FakeRegistry};
use larder_tests::image::LayerSpec;
use larder_tests::members::{Cluster, Door, Got};
use larder_tests::scene::{committed, eventually};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

const MIB: u64 = 1 << 20;
const REPOSITORY: &str = "team/app";

/// Every test holds it shared; tests that measure time hold it exclusively.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// The test may run beside others.
async fn beside() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

/// No other test of this binary runs meanwhile.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// Layers of these sizes in MiB, with seeds from `seed` on.
fn layers(seed: u64, sizes: &[u64]) -> Vec<LayerSpec> {
    let numbered = (seed..).zip(sizes);
    numbered
        .map(|(seed, size)| LayerSpec::new(seed, size * MIB))
        .collect()
}

/// Pulls one blob through all doors at once. Panics unless each of them gets it right.
async fn all_get(doors: &[Door], digest: &str) {
    let got = join_all(doors.iter().map(|door| door.blob(digest))).await;
    for (number, got) in got.into_iter().enumerate() {
        if let Err(error) = got {
            panic!("node {number}: {error}");
        }
    }
}

/// A door to the repository at every node.
fn doors(cluster: &Cluster, fake: &FakeRegistry, repository: &str) -> Vec<Door> {
    let numbers = 0..cluster.len();
    numbers
        .map(|number| cluster.door(number, fake, repository))
        .collect()
}

/// Puts a blob from a seed and gives its digest and content.
fn put(fake: &FakeRegistry, seed: u64, size: u64) -> (String, Content) {
    let content = Content::synthetic(seed, size);
    (fake.put_content(REPOSITORY, &content), content)
}

/// Waits until every node holds all of these, verified.
async fn until_all_have(cluster: &Cluster, digests: &[&String]) {
    for (number, node) in cluster.nodes().iter().enumerate() {
        for digest in digests {
            let what = format!("node {number} has {digest}");
            eventually(&what, || committed(node.store(), digest)).await;
        }
    }
}

/// Retries until it works, at most so long: members tell each other some things a moment later. Panics with the last
/// error.
async fn within<F>(what: &str, limit: Duration, mut attempt: impl FnMut() -> F) -> Got
where
    F: Future<Output = Result<Got, String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(got) => return got,
            Err(error) => {
                let late = Instant::now() > deadline;
                assert!(!late, "{what}: not within {limit:?}: {error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

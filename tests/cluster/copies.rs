//! Content in use stays whole on a few living members, without an object store (promise P28).
//!
//! The members run on a machine whose clock the test moves: a member that vanishes is waited for for minutes, and ages
//! are counted in hours.

mod adopted;
mod kept;
mod life;
mod place;
mod runs;

use std::path::Path;
use std::time::{Duration, Instant};

use larder_tests::fake::FakeRegistry;
use larder_tests::image::Image;
use larder_tests::machine::Machine;
use larder_tests::members::{Cluster, Plan};
use larder_tests::scene::{committed, eventually};

use super::REPOSITORY;

/// A step of time, shorter than what larder waits for a member's answer about copies.
const STEP: Duration = Duration::from_secs(10);
/// A little real time after a step, in which members talk to each other.
const TALK: Duration = Duration::from_millis(150);
/// The fill of this machine's own disk must not matter.
const ROOM: &str = "[store]\nmin_free = \"0\"\n";
/// How long a copy may take.
const COPIED: Duration = Duration::from_secs(30);
/// Bytes that members have fetched for copies.
const RECEIVED: &str = "larder_copies_received_bytes_total";
/// Bytes that members have sent for copies.
const SENT: &str = "larder_peer_sent_bytes_total{role=\"copy\",outcome=\"hit\"}";

/// Members on one machine.
struct Kept {
    machine: Machine,
    fake: FakeRegistry,
    cluster: Cluster,
}

impl Kept {
    async fn of(count: usize, config: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let plan = Cluster::of(count).upstream(&fake).config(config);
        Self::with(fake, plan).await
    }

    /// The same with more keys of `[cluster]`.
    async fn keyed(count: usize, keys: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let plan = Cluster::of(count).upstream(&fake).cluster(keys);
        Self::with(fake, plan.config(ROOM)).await
    }

    async fn with(fake: FakeRegistry, plan: Plan) -> Self {
        let machine = Machine::new();
        let environment = machine.environment();
        let environment = environment
            .each_ref()
            .map(|(name, value)| (*name, value.to_str().expect("a path of ours")));
        let plan = plan.environment(&environment);
        let cluster = plan.log_level("info,larder::copies=debug").start().await;
        Self {
            machine,
            fake,
            cluster,
        }
    }

    /// Lets time pass, and waits until every node has noticed. A copy under way would be late, so it may end before.
    async fn pass(&mut self, time: Duration) {
        let deadline = Instant::now() + COPIED;
        while self.sum("larder_copies_waiting").await > 0 && Instant::now() < deadline {
            tokio::time::sleep(TALK).await;
        }
        self.machine.pass(time);
        for number in 0..self.cluster.len() {
            if self.lives(number) {
                self.cluster.node(number).admin("/status").await;
            }
        }
        tokio::time::sleep(TALK).await;
    }

    fn lives(&mut self, number: usize) -> bool {
        self.cluster.node_mut(number).ended().is_none()
    }

    /// Lets time pass until the condition holds. Panics, naming it, after an hour.
    async fn until(&mut self, what: &str, mut so: impl AsyncFnMut(&Self) -> bool) {
        for _ in 0..360 {
            if so(self).await {
                return;
            }
            self.pass(STEP).await;
        }
        panic!("not within an hour: {what}");
    }

    /// How many nodes hold each blob of an image, the manifest included; those that were killed do not count.
    fn holders(&self, image: &Image, of: &[usize]) -> Vec<usize> {
        let digests = blobs(image);
        let holds = |digest: &&String| {
            let stores = of.iter().map(|number| self.cluster.node(*number).store());
            stores.filter(|store| committed(store, digest)).count()
        };
        digests.iter().map(holds).collect()
    }

    /// Bytes that must travel until so many nodes hold each blob of an image. A pull leaves some blobs on more than one
    /// node: the root of a blob of one run keeps all of it.
    fn lacks(&self, image: &Image, copies: usize) -> u64 {
        let all: Vec<usize> = (0..self.cluster.len()).collect();
        let layers = image.layers.iter().map(|layer| layer.content.len());
        let sizes = [image.manifest.len() as u64, image.config.len() as u64].into_iter();
        let held = self.holders(image, &all).into_iter();
        let lacks = held.zip(sizes.chain(layers));
        lacks
            .map(|(held, size)| copies.saturating_sub(held) as u64 * size)
            .sum()
    }

    /// Pulls through this node, to the end.
    async fn pull(&self, number: usize, tag: &str, image: &Image) {
        let door = self.cluster.door(number, &self.fake, REPOSITORY);
        door.pull(tag, image).await.expect("an image");
        for digest in blobs(image) {
            let store = self.cluster.node(number).store();
            eventually(digest, || committed(store, digest)).await;
        }
    }

    /// Waits until no node fetches any more: the root of a small blob keeps it, perhaps a moment after the pull.
    async fn until_idle(&mut self) {
        self.until("nothing is fetched any more", async |kept| {
            let mut idle = true;
            for node in kept.cluster.nodes() {
                let fills = node.admin("/status").await["fills"].clone();
                idle &= fills.as_array().is_some_and(Vec::is_empty);
            }
            idle
        })
        .await;
    }

    /// Waits until each blob of an image is on at least so many of these nodes.
    async fn until_held(&mut self, image: &Image, of: &[usize], copies: usize) {
        let what = format!("{copies} copies");
        self.until(&what, async |kept| {
            kept.holders(image, of).iter().all(|held| *held >= copies)
        })
        .await;
    }

    /// The sum over all running nodes.
    async fn sum(&mut self, sample: &str) -> u64 {
        let mut sum = 0.0;
        for number in 0..self.cluster.len() {
            if self.lives(number) {
                let value = self.cluster.node(number).metric(sample).await;
                sum += value.unwrap_or(0.0);
            }
        }
        sum as u64
    }

    /// Digests that lack copies for this reason, over all nodes.
    async fn lacking(&mut self, why: &str) -> u64 {
        self.sum(&format!("larder_copies_lacking{{why=\"{why}\"}}"))
            .await
    }
}

/// All that a pull brings, the manifest first.
fn blobs(image: &Image) -> Vec<&String> {
    let layers = image.layers.iter().map(|layer| &layer.digest);
    [&image.manifest_digest, &image.config_digest]
        .into_iter()
        .chain(layers)
        .collect()
}

/// Whether a store holds nothing of an image.
fn holds_nothing(store: &Path, image: &Image) -> bool {
    blobs(image).iter().all(|digest| !committed(store, digest))
}

//! Content of a node's container runtime counts as a copy, and other members can fetch from it.

use std::time::Duration;

use larder_tests::fake::FakeRegistry;
use larder_tests::holding::Holding;
use larder_tests::image::{Image, build};
use larder_tests::members::Cluster;
use larder_tests::scene::files;

use super::super::{REPOSITORY, beside, layers, within};
use super::{Kept, RECEIVED, ROOM, SENT, STEP};

/// Within so many steps every digest is checked, whatever is known of its holders.
const LOOKED_AT: u32 = 36;

/// Three members. The runtimes of some have pulled an image from its registry without larder, and its origin has proven
/// it.
struct Scene {
    kept: Kept,
    image: Image,
    holdings: Vec<Holding>,
}

impl Scene {
    async fn with(runtimes: usize) -> Self {
        let fake = FakeRegistry::start().await;
        let image = build(&fake, REPOSITORY, "v1", &layers(1, &[3, 2]));
        let name = format!("{}/{REPOSITORY}:v1", fake.host());
        let mut plan = Cluster::of(3).upstream(&fake).config(ROOM);
        let mut holdings = Vec::new();
        for number in 0..runtimes {
            let mut holding = Holding::new();
            holding.pulled(&name, &image);
            holding.tell();
            plan = plan.config_of(number, &holding.config());
            holdings.push(holding);
        }
        let mut kept = Kept::with(fake, plan).await;
        for number in 0..runtimes {
            // The tag, the manifest, the configuration, two layers.
            kept.until("all of it is proven", async |kept| {
                let proven = "larder_adoption_guesses{state=\"proven\"}";
                kept.cluster.node(number).metric(proven).await == Some(5.0)
            })
            .await;
        }
        Self {
            kept,
            image,
            holdings,
        }
    }

    /// Nothing was copied and no copies are missing, long after every digest was checked.
    async fn nothing_is_copied(&mut self) {
        for _ in 0..LOOKED_AT {
            self.kept.pass(STEP).await;
        }
        assert_eq!(self.kept.sum(RECEIVED).await, 0);
        for why in ["coming", "declined", "members", "missing", "private"] {
            assert_eq!(self.kept.lacking(why).await, 0, "{why}");
        }
    }

    /// This node's own store holds none of it.
    fn keeps_no_copy(&self, number: usize) {
        let store = self.kept.cluster.node(number).store();
        for dir in ["blobs", "partial"] {
            let found = files(&store.join(dir));
            assert!(found.is_empty(), "node {number}: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtimes_file_and_a_blob_of_the_tier_are_two_copies() {
    let _machine = beside().await;
    let mut scene = Scene::with(1).await;
    // Node 1 alone pulls: the root of a run would keep all of a small blob.
    scene.kept.cluster.node_mut(2).kill9().await;
    let image = scene.image.clone();
    scene.kept.pull(1, "v1", &image).await;
    scene.kept.cluster.node_mut(2).restart().await;
    scene.nothing_is_copied().await;
    scene.keeps_no_copy(0);
    scene.keeps_no_copy(2);
    // The runtime collects the image: one copy is too few.
    scene.holdings[0].collect(&image);
    scene.kept.until_held(&image, &[0, 1, 2], 2).await;
    assert_eq!(scene.kept.sum(RECEIVED).await, image.size());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runtimes_are_enough_and_one_is_copied_from() {
    let _machine = beside().await;
    let mut scene = Scene::with(2).await;
    scene.nothing_is_copied().await;
    for number in 0..3 {
        scene.keeps_no_copy(number);
    }
    let image = scene.image.clone();
    scene.holdings[1].collect(&image);
    scene.kept.until_held(&image, &[1, 2], 1).await;
    scene.keeps_no_copy(0);
    assert_eq!(scene.kept.sum(RECEIVED).await, image.size());
    assert_eq!(scene.kept.sum(SENT).await, image.size());
    // The copies are whole: without the registry, and without the node whose runtime had the image.
    scene.kept.cluster.node_mut(0).kill9().await;
    scene.kept.fake.stop().await;
    let door = scene.kept.cluster.door(2, &scene.kept.fake, REPOSITORY);
    within("by tag", Duration::from_secs(10), || {
        door.pull("v1", &image)
    })
    .await;
}

/// Once a node's larder has stopped, other members cannot fetch from its runtime's store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_drained_hands_over_what_its_runtime_alone_holds() {
    let _machine = beside().await;
    let mut scene = Scene::with(1).await;
    let node = scene.kept.cluster.node_mut(0);
    node.terminate();
    node.wait_for(Duration::from_secs(40)).await;
    let held = scene.kept.holders(&scene.image, &[1, 2]);
    assert!(!held.contains(&0), "{held:?}");
}

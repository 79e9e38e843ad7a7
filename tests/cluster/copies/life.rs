//! When nothing is copied: too many members are missing, or copies are off.

use larder_tests::fake::FakeRegistry;
use larder_tests::hosts::Net;
use larder_tests::image::build;
use larder_tests::members::Cluster;

use super::super::{REPOSITORY, beside, layers};
use super::{Kept, RECEIVED, ROOM, STEP};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_that_lose_each_other_copy_nothing() {
    let _machine = beside().await;
    let mut net = Net::new(4);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    let image = build(&fake, REPOSITORY, "v1", &layers(1, &[2, 3]));
    let plan = Cluster::in_hosts(&net).upstream(&fake).config(ROOM);
    let mut kept = Kept::with(fake, plan).await;
    kept.pull(0, "v1", &image).await;
    let all = [0, 1, 2, 3];
    kept.until_held(&image, &all, 2).await;
    let copied = kept.sum(RECEIVED).await;
    net.part(&[0, 1], &[2, 3]);
    // A blob of which one half holds one copy of two would be copied there.
    let missed = "larder_copies_held_back";
    kept.until("all have noticed", async |kept| {
        let mut noticed = true;
        for node in kept.cluster.nodes() {
            noticed &= node.metric(missed).await == Some(1.0);
        }
        noticed
    })
    .await;
    for _ in 0..60 {
        kept.pass(STEP).await;
    }
    assert_eq!(kept.sum(RECEIVED).await, copied);
    net.heal();
    kept.until("all are back", async |kept| {
        let mut back = true;
        for node in kept.cluster.nodes() {
            back &= node.metric(missed).await == Some(0.0);
        }
        back
    })
    .await;
    for _ in 0..30 {
        kept.pass(STEP).await;
    }
    assert_eq!(kept.sum(RECEIVED).await, copied, "nothing lacks");
    assert!(kept.holders(&image, &all).iter().all(|held| *held >= 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_copy_is_none() {
    let _machine = beside().await;
    let mut kept = Kept::keyed(3, "copies = 1").await;
    let image = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[2]));
    kept.pull(0, "v1", &image).await;
    kept.until_idle().await;
    let held = kept.holders(&image, &[0, 1, 2]);
    for _ in 0..30 {
        kept.pass(STEP).await;
    }
    assert_eq!(kept.sum(RECEIVED).await, 0);
    assert_eq!(kept.holders(&image, &[0, 1, 2]), held);
}

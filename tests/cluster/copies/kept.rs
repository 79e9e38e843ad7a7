//! What is used outlives the node that pulled it, its registry, and every restart.

use std::time::Duration;

use larder_tests::image::build;
use larder_tests::scene::committed;

use super::super::{REPOSITORY, beside, layers, within};
use super::{Kept, RECEIVED, ROOM, SENT, STEP, holds_nothing};

/// How long members may take to find what the others hold, once the registry is gone.
const SPREAD: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_outlives_the_node_that_pulled_it_and_its_registry() {
    let _machine = beside().await;
    let mut kept = Kept::of(3, ROOM).await;
    let image = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[5, 2, 9]));
    kept.pull(0, "v1", &image).await;
    kept.until_held(&image, &[0, 1, 2], 2).await;
    kept.cluster.node_mut(0).kill9().await;
    kept.fake.stop().await;
    let door = |number| kept.cluster.door(number, &kept.fake, REPOSITORY);
    within("by tag", SPREAD, || async {
        door(1).pull("v1", &image).await
    })
    .await;
    let digest = &image.manifest_digest;
    within("by digest", SPREAD, || async {
        door(2).pull(digest, &image).await
    })
    .await;
}

/// What is copied travels once, and a restart of every member copies nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_members_copy_what_lacks_and_nothing_in_a_rolling_restart() {
    let _machine = beside().await;
    let mut kept = Kept::of(8, ROOM).await;
    let all: Vec<usize> = (0..8).collect();
    let one = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[5, 3, 9]));
    let two = build(&kept.fake, REPOSITORY, "v2", &layers(11, &[4, 4]));
    kept.pull(0, "v1", &one).await;
    for number in [1, 2] {
        kept.pull(number, "v2", &two).await;
    }
    let needed = kept.lacks(&one, 2);
    assert_eq!(kept.lacks(&two, 2), 0, "two members pulled it");
    kept.until_held(&one, &all, 2).await;
    for _ in 0..12 {
        kept.pass(STEP).await;
    }
    let received = kept.sum(RECEIVED).await;
    let most = needed * 11 / 10;
    assert!(
        (needed..=most).contains(&received),
        "{received} of {needed}"
    );
    assert_eq!(kept.sum(SENT).await, received);

    for number in 0..8 {
        kept.cluster.node_mut(number).restart().await;
        kept.pass(2 * STEP).await;
    }
    for _ in 0..40 {
        kept.pass(STEP).await;
    }
    // What was received before a restart is not counted after it.
    assert_eq!(kept.sum(RECEIVED).await, 0);
    assert_eq!(kept.lacking("coming").await, 0);
    assert_eq!(kept.lacks(&one, 2) + kept.lacks(&two, 2), 0);
    // They still know what to do: a holder that is gone is replaced.
    kept.cluster.node_mut(0).kill9().await;
    let rest: Vec<usize> = (1..8).collect();
    kept.until_held(&one, &rest, 2).await;
}

/// A node that stops in order leaves nothing behind that it alone holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_drained_hands_over_what_it_alone_holds() {
    let _machine = beside().await;
    let mut kept = Kept::of(3, ROOM).await;
    let image = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[5, 9]));
    kept.pull(0, "v1", &image).await;
    assert!(kept.holders(&image, &[1, 2]).contains(&0));
    kept.cluster.node_mut(0).terminate();
    kept.cluster
        .node_mut(0)
        .wait_for(Duration::from_secs(40))
        .await;
    assert!(!kept.holders(&image, &[1, 2]).contains(&0));
    kept.fake.stop().await;
    let door = kept.cluster.door(1, &kept.fake, REPOSITORY);
    within("by tag", SPREAD, || door.pull("v1", &image)).await;
}

/// Members that were missed when the node begins to stop take what it holds as soon as they are back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_drained_waits_for_members_that_start_anew() {
    let _machine = beside().await;
    let mut kept = Kept::of(3, ROOM).await;
    let image = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[5, 9]));
    for number in [1, 2] {
        kept.cluster.node_mut(number).kill9().await;
    }
    kept.pull(0, "v1", &image).await;
    kept.until("both are missed", async |kept| {
        let missed = kept.cluster.node(0).metric("larder_copies_held_back").await;
        missed == Some(1.0)
    })
    .await;
    kept.cluster.node_mut(0).terminate();
    for number in [1, 2] {
        kept.cluster.node_mut(number).restart().await;
    }
    kept.cluster
        .node_mut(0)
        .wait_for(Duration::from_secs(40))
        .await;
    assert!(!kept.holders(&image, &[1, 2]).contains(&0));
}

/// What is used on one node stays on the node that has the copy, and what nothing uses is gone everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ages_count_from_the_last_use_anywhere() {
    let _machine = beside().await;
    let mut kept = Kept::of(4, "[store]\nttl = \"2h\"\nmin_free = \"0\"\n").await;
    let all = [0, 1, 2, 3];
    let used = build(&kept.fake, REPOSITORY, "used", &layers(1, &[2, 3]));
    let unused = build(&kept.fake, REPOSITORY, "unused", &layers(11, &[2, 3]));
    let door = kept.cluster.door(0, &kept.fake, REPOSITORY);
    for (tag, image) in [("used", &used), ("unused", &unused)] {
        door.pull(tag, image).await.expect("an image");
        kept.until_held(image, &all, 2).await;
    }
    for _ in 0..48 {
        kept.pass(Duration::from_mins(5)).await;
        door.pull("used", &used).await.expect("an image");
        assert!(kept.holders(&used, &all).iter().all(|held| *held >= 2));
    }
    for number in all {
        assert!(
            holds_nothing(kept.cluster.node(number).store(), &unused),
            "node {number}"
        );
    }
    kept.cluster.node_mut(0).kill9().await;
    kept.until_held(&used, &[1, 2, 3], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taker_that_is_killed_in_the_middle_of_a_copy_begins_it_anew() {
    let _machine = beside().await;
    // Slow enough to be met in the middle.
    let mut kept = Kept::keyed(2, "copy_rate = \"1MB\"").await;
    let image = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[24]));
    kept.pull(0, "v1", &image).await;
    let tmp = kept.cluster.node(1).store().join("tmp");
    let layer = image.layers[0].digest.clone();
    let begun = || std::fs::read_dir(&tmp).is_ok_and(|files| files.count() > 0);
    kept.until("a copy begins", async |_| begun()).await;
    kept.cluster.node_mut(1).kill9().await;
    let quicker = kept.cluster.node(1).config_file();
    let text = std::fs::read_to_string(&quicker).expect("a file");
    std::fs::write(&quicker, text.replace("\"1MB\"", "\"100MB\"")).expect("a file");
    assert!(
        !committed(kept.cluster.node(1).store(), &layer),
        "it was too quick"
    );
    kept.cluster.node_mut(1).restart().await;
    kept.until_held(&image, &[0, 1], 2).await;
    let left = std::fs::read_dir(&tmp).expect("a directory").count();
    assert_eq!(left, 0);
    let verified = kept.cluster.node(1).cli(&["verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
}

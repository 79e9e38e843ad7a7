//! Ready files count with the node tier, and go only when no snapshot can refer to them.

use std::time::Duration;

use serde_json::Value;

use crate::seen::listed;
use crate::{Offering, inode, one_layer};

const SIZE: usize = 2_000_000;

/// What fits: an image of a layer with its ready file, and one more layer, but not two.
const ROOM: &str = "max_size = \"7MB\"";

fn layers(shown: &Value) -> usize {
    shown["layers"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_file_that_nothing_refers_to_makes_room_before_any_blob() {
    let offering = Offering::with("", ROOM).await;
    let fake = &offering.scene.fake;
    let (first, first_id) = one_layer(fake, "team/first", 21, SIZE);
    offering.pull("team/first", &first).await;
    offering.until_offered(&[&first_id]).await;
    let (second, _) = one_layer(fake, "team/second", 22, 2 * SIZE);
    offering.pull("team/second", &second).await;
    offering
        .until("it makes room", |shown| layers(shown) == 0)
        .await;
    assert!(offering.scene.committed(&first.layers[0].digest));
    assert!(offering.scene.committed(&second.layers[0].digest));
    // Where there is room again, others are made, but not this one: it is made once the image is used again.
    let name = format!("{}/team/second:v1", fake.host());
    let evicted = offering.scene.node.cli(&["evict", &name]).await;
    assert!(evicted.status.success(), "{evicted:?}");
    let (other, other_id) = one_layer(fake, "team/other", 29, 4000);
    offering.pull("team/other", &other).await;
    offering.until_offered(&[&other_id]).await;
    let ready = listed(&offering, &first.manifest_digest).await;
    let why = ready["why"].as_str().expect("a reason");
    assert!(why.contains("after a new pull"), "{why}");
    assert!(!offering.is_offered(&first_id));
    // A use within the second in which the file went is none that came later.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    offering.pull("team/first", &first).await;
    offering.until_offered(&[&first_id]).await;
}

/// A layer is worth more than its ready file: without the file it is unpacked, without the layer it is fetched.
#[tokio::test]
async fn no_blob_is_evicted_for_a_file() {
    let offering = Offering::with("", ROOM).await;
    let (image, diff_id) = one_layer(&offering.scene.fake, "team/app", 30, 2 * SIZE);
    offering.pull("team/app", &image).await;
    offering.until_not_offered(&image, "no room without").await;
    assert!(!offering.is_offered(&diff_id));
    assert!(offering.scene.committed(&image.layers[0].digest));
}

#[tokio::test]
async fn a_file_that_a_snapshot_refers_to_stays_and_blobs_make_room() {
    let offering = Offering::with("", ROOM).await;
    let fake = &offering.scene.fake;
    let (first, first_id) = one_layer(fake, "team/first", 23, SIZE);
    offering.pull("team/first", &first).await;
    offering.until_offered(&[&first_id]).await;
    let made = inode(&offering.path(&first_id));
    offering.says(|says| says.snapshots.push(first_id.clone()));
    offering
        .until("it is in use", |shown| {
            shown["layers"][0]["state"] == "in-use"
        })
        .await;
    let (second, _) = one_layer(fake, "team/second", 24, 2 * SIZE);
    offering.pull("team/second", &second).await;
    let blob = &first.layers[0].digest;
    offering
        .until("the blob makes room", |_| !offering.scene.committed(blob))
        .await;
    assert_eq!(inode(&offering.path(&first_id)), made);
    // When the last snapshot has gone, the file may go.
    offering.says(|says| says.snapshots.clear());
    offering
        .until("nothing refers to it", |shown| {
            shown["layers"][0]["state"] == "offered"
        })
        .await;
    let (third, _) = one_layer(fake, "team/third", 25, SIZE);
    offering.pull("team/third", &third).await;
    offering
        .until("it goes", |_| !offering.is_offered(&first_id))
        .await;
}

/// Without a watcher nobody can tell what snapshots refer to.
#[tokio::test]
async fn without_new_reports_no_file_goes() {
    let offering = Offering::with("", ROOM).await;
    let fake = &offering.scene.fake;
    let (first, first_id) = one_layer(fake, "team/first", 26, SIZE);
    offering.pull("team/first", &first).await;
    offering.until_offered(&[&first_id]).await;
    std::fs::write(offering.dir.path().join("runtime.json"), "broken").expect("a file");
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    loop {
        let shown = offering.scene.node.admin("/layers").await;
        if shown["why"].as_str().is_some_and(|why| why.contains("old")) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{shown}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (second, _) = one_layer(fake, "team/second", 27, 2 * SIZE);
    offering.pull("team/second", &second).await;
    for _ in 0..3 {
        offering.scene.node.cli(&["gc"]).await;
    }
    assert!(offering.is_offered(&first_id));
}

/// Earlier containerds link to the file, which no list of snapshots tells.
#[tokio::test]
async fn a_runtime_that_does_not_tell_what_it_refers_to_gets_nothing() {
    let offering = Offering::with("", "").await;
    offering.says(|says| says.version = Some("2.4.1"));
    let (image, diff_id) = one_layer(&offering.scene.fake, "team/app", 28, 4000);
    offering.pull("team/app", &image).await;
    let said = |shown: &Value| {
        shown["why"]
            .as_str()
            .is_some_and(|why| why.contains("2.4.2"))
    };
    offering.until("it is said", said).await;
    assert!(!offering.is_offered(&diff_id));
    offering.says(|says| says.version = None);
    offering.until_offered(&[&diff_id]).await;
}

//! A disk without room: nothing is offered that is not whole, nothing is left, and pulls go on.

use std::fs;
use std::time::Duration;

use larder_tests::machine::{Machine, Refused};
use larder_tests::scene::files;
use larder_tests::tmpfs::Tmpfs;

use crate::{Offering, one_layer};

/// What could not be made is tried again after this time.
const LATER: Duration = Duration::from_secs(601);

#[tokio::test]
async fn on_a_full_disk_nothing_is_offered_and_pulls_go_on() {
    let test = "on_a_full_disk_nothing_is_offered_and_pulls_go_on";
    let Some(disk) = Tmpfs::mount(test, 2) else {
        return;
    };
    let directory = format!("directory = \"{}\"", disk.path().join("layers").display());
    let offering = Offering::with(&directory, "").await;
    let (image, _) = one_layer(&offering.scene.fake, "team/app", 4, 3_000_000);
    offering.pull("team/app", &image).await;
    offering
        .until("there is no room", |_| {
            offering
                .scene
                .node
                .log()
                .contains("there is no room without evicting")
        })
        .await;
    let left: Vec<_> = files(&disk.path().join("layers"));
    assert_eq!(left.len(), 1, "only the lock: {left:?}");
    let door = offering.scene.door("team/app");
    door.pull("v1", &image).await.expect("the image again");
}

/// Room that was there when the work began, and that another program takes in the middle.
#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_leaves_nothing_and_it_is_made_when_there_is_room() {
    let test =
        "a_disk_that_fills_up_in_the_middle_leaves_nothing_and_it_is_made_when_there_is_room";
    let Some(disk) = Tmpfs::mount(test, 16) else {
        return;
    };
    let machine = Machine::new();
    let layers = disk.path().join("layers");
    let directory = format!("directory = \"{}\"", layers.display());
    let offering = Offering::on(&directory, "", |node| machine.runs(node)).await;
    let holding = machine.hold_writes();
    let (image, diff_id) = one_layer(&offering.scene.fake, "team/app", 44, 5_000_000);
    offering.pull("team/app", &image).await;
    let tmp = layers.join("tmp");
    // Its index is there, and the file itself has begun.
    offering
        .until("it is being written", |_| files(&tmp).len() == 2)
        .await;
    let filled = disk.fill_up();
    drop(holding);
    offering.until_not_offered(&image, "No space left").await;
    let left = files(&layers);
    assert_eq!(left.len(), 1, "only the lock: {left:?}");
    let door = offering.scene.door("team/app");
    door.pull("v1", &image).await.expect("the image again");

    fs::remove_file(filled).expect("the other program's file");
    machine.pass(LATER);
    let hex = diff_id.trim_start_matches("sha256:");
    let place = layers
        .join("sha256")
        .join(&hex[..2])
        .join(format!("{hex}.erofs"));
    offering.until("it is made", |_| place.exists()).await;
    let layer = &image.layers[0].content;
    let made = fs::read(place).expect("a ready file");
    assert!(made.ends_with(&layer.read(0..layer.len())));
    assert_eq!(files(&tmp).len(), 0);
}

#[tokio::test]
async fn what_a_full_disk_refuses_leaves_nothing_and_is_made_when_there_is_room() {
    let machine = Machine::new();
    let offering = Offering::on("", "", |node| machine.runs(node)).await;
    let all = [Refused::Record, Refused::Sync, Refused::Name];
    for (seed, refused) in (45..).zip(all) {
        let refusing = machine.refuse(refused);
        let name = format!("team/app-{seed}");
        let (image, diff_id) = one_layer(&offering.scene.fake, &name, seed, 4000);
        let before = offering.files();
        offering.pull(&name, &image).await;
        offering.until_not_offered(&image, "No space left").await;
        assert_eq!(offering.files(), before, "{refused:?}");
        drop(refusing);
        machine.pass(LATER);
        offering.until_offered(&[&diff_id]).await;
        // The file and its origin.
        assert_eq!(offering.files().len(), before.len() + 2, "{refused:?}");
    }
}

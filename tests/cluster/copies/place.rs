//! Which member gets a copy, and which content is copied at all.

use larder_tests::image::{LayerSpec, build};
use larder_tests::members::upstream_bytes;
use larder_tests::scene::{committed, eventually};

use super::super::{REPOSITORY, beside, layers, within};
use super::{Kept, RECEIVED, ROOM, STEP, blobs};

const PRIVATE: &str = "team/private";
const USER: &str = "pod";
const PASSWORD: &str = "Hush-a-long-password-that-nobody-says-by-chance";

/// From now on this node's tier is too small for any layer.
async fn fill_up(kept: &Kept, number: usize) {
    let node = kept.cluster.node(number);
    let text = std::fs::read_to_string(node.config_file()).expect("a file");
    let small = text.replace(ROOM, &format!("{ROOM}max_size = \"1KiB\"\n"));
    std::fs::write(node.config_file(), small).expect("a file");
    eventually("it is read", || node.log().contains("was read again")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_member_takes_what_one_has_no_room_for() {
    let _machine = beside().await;
    let mut kept = Kept::of(3, ROOM).await;
    fill_up(&kept, 1).await;
    // With so many layers, some would be node 1's to keep.
    let image = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[1; 8]));
    kept.pull(0, "v1", &image).await;
    kept.until("the third has all layers", async |kept| {
        let store = kept.cluster.node(2).store();
        image
            .layers
            .iter()
            .all(|layer| committed(store, &layer.digest))
    })
    .await;
    for layer in &image.layers {
        assert!(!committed(kept.cluster.node(1).store(), &layer.digest));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_room_says_so() {
    let _machine = beside().await;
    let mut kept = Kept::of(2, ROOM).await;
    fill_up(&kept, 1).await;
    let image = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[4, 3]));
    kept.pull(0, "v1", &image).await;
    kept.until("doctor says so", async |kept| {
        let mut said = false;
        for node in kept.cluster.nodes() {
            let found = node.admin("/doctor").await;
            let findings = found["findings"].as_array().cloned().unwrap_or_default();
            said |= findings.iter().any(|finding| {
                let found = finding["found"].as_str().unwrap_or_default();
                finding["check"] == "copies" && found.contains("no other member takes them")
            });
        }
        said
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_content_is_not_copied() {
    let _machine = beside().await;
    let mut kept = Kept::of(3, ROOM).await;
    let image = build(&kept.fake, PRIVATE, "v1", &layers(1, &[2, 3]));
    kept.fake.require_bearer(PRIVATE, &[(USER, PASSWORD)]);
    let door = kept.cluster.door(0, &kept.fake, PRIVATE);
    let door = door.login(USER, PASSWORD, "v1").await.expect("a token");
    door.pull("v1", &image).await.expect("an image");
    let store = kept.cluster.node(0).store();
    for digest in blobs(&image) {
        eventually(digest, || committed(store, digest)).await;
    }
    kept.until_idle().await;
    let held = kept.holders(&image, &[0, 1, 2]);
    let alone = held.iter().filter(|held| **held == 1).count() as u64;
    assert!(alone > 0, "{held:?}");
    for _ in 0..40 {
        if kept.lacking("private").await == alone {
            break;
        }
        kept.pass(STEP).await;
    }
    assert_eq!(kept.lacking("private").await, alone);
    assert_eq!(kept.sum(RECEIVED).await, 0);
    assert_eq!(kept.holders(&image, &[0, 1, 2]), held);
}

/// A member that has a copy never asked the registry itself: it asks when the first client comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_makes_its_repository_public_to_nobody() {
    let _machine = beside().await;
    let mut kept = Kept::of(3, ROOM).await;
    let image = build(&kept.fake, REPOSITORY, "v1", &layers(1, &[2, 3]));
    // Both are stopped meanwhile: the root of a run would have asked the registry for it.
    for number in [1, 2] {
        kept.cluster.node_mut(number).kill9().await;
    }
    kept.pull(0, "v1", &image).await;
    for number in [1, 2] {
        kept.cluster.node_mut(number).restart().await;
    }
    kept.until_held(&image, &[0, 1, 2], 2).await;
    kept.fake.require_bearer(REPOSITORY, &[(USER, PASSWORD)]);
    let mut copies = 0;
    for number in [1, 2] {
        let door = kept.cluster.door(number, &kept.fake, REPOSITORY);
        for digest in blobs(&image) {
            if !committed(kept.cluster.node(number).store(), digest) {
                continue;
            }
            copies += 1;
            let answer = door.get(&format!("blobs/{digest}"), &[]).await;
            let status = answer.expect("an answer").status;
            assert!(matches!(status, 401 | 403), "{digest}: {status}");
        }
        let door = door.login(USER, PASSWORD, "v1").await.expect("a token");
        door.pull("v1", &image).await.expect("an image");
    }
    assert!(copies > 0, "no member has a copy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_content_that_may_be_copied_opens_for_a_proven_credential_alone() {
    let _machine = beside().await;
    let mut kept = Kept::keyed(3, "copies_private = true").await;
    let image = build(&kept.fake, PRIVATE, "v1", &layers(1, &[2, 3]));
    kept.fake.require_bearer(PRIVATE, &[(USER, PASSWORD)]);
    let door = kept.cluster.door(0, &kept.fake, PRIVATE);
    let door = door.login(USER, PASSWORD, "v1").await.expect("a token");
    door.pull("v1", &image).await.expect("an image");
    kept.until_held(&image, &[0, 1, 2], 2).await;
    kept.cluster.node_mut(0).kill9().await;
    let before = upstream_bytes(&kept.fake, &image);
    for number in [1, 2] {
        let door = kept.cluster.door(number, &kept.fake, PRIVATE);
        for path in blobs(&image) {
            let path = format!("blobs/{path}");
            let answer = door.get(&path, &[]).await.expect("an answer");
            assert!(
                matches!(answer.status, 401 | 403),
                "{path}: {}",
                answer.status
            );
        }
        if let Ok(wrong) = door.clone().login(USER, "a guess", "v1").await {
            let answer = wrong.get("manifests/v1", &[]).await.expect("an answer");
            assert!(matches!(answer.status, 401 | 403), "{}", answer.status);
        }
        let pull = async || {
            let door = door.clone().login(USER, PASSWORD, "v1").await?;
            door.pull("v1", &image).await
        };
        within("the right secret", 6 * STEP, pull).await;
    }
    let more = upstream_bytes(&kept.fake, &image) - before;
    assert!(more <= image.size() / 20, "{more} bytes from the upstream");
}

/// Where room is wanted, a blob that enough other members keep is evicted before a blob that was used longer ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_enough_others_keep_goes_first_and_no_copy_is_lost() {
    let _machine = beside().await;
    let mut kept = Kept::of(3, ROOM).await;
    let all = [0, 1, 2];
    let old = build(&kept.fake, REPOSITORY, "old", &layers(1, &[1]));
    kept.pull(0, "old", &old).await;
    kept.until_held(&old, &all, 2).await;
    kept.pass(STEP).await;
    let small = |seed| LayerSpec::new(seed, 256 << 10);
    let seeds: Vec<_> = (100..124).map(small).collect();
    let new = build(&kept.fake, REPOSITORY, "new", &seeds);
    for number in all {
        kept.pull(number, "new", &new).await;
    }
    // The keepers know all holders.
    for _ in 0..6 {
        kept.pass(STEP).await;
    }
    let node = kept.cluster.node(0);
    let whole = old.size() + new.size();
    let text = std::fs::read_to_string(node.config_file()).expect("a file");
    let less = format!("{ROOM}max_size = \"{}KiB\"\n", (whole - (300 << 10)) >> 10);
    std::fs::write(node.config_file(), text.replace(ROOM, &less)).expect("a file");
    let held = || {
        let layers = new.layers.iter();
        layers
            .filter(|layer| committed(node.store(), &layer.digest))
            .count()
    };
    eventually("something goes", || {
        held() < new.layers.len() || !committed(node.store(), &old.layers[0].digest)
    })
    .await;
    assert!(
        committed(node.store(), &old.layers[0].digest),
        "the old one went"
    );
    assert!(kept.holders(&new, &all).iter().all(|held| *held >= 2));
}

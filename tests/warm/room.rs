//! How much a set may hold, and what is dropped when there is too little room.

use std::time::Instant;

use larder_tests::fake::Match;
use larder_tests::http;
use larder_tests::scene::eventually;

use super::*;

const MB: u64 = 1_000_000;

fn set(fake: &FakeRegistry, store: &str, warm: &str, source: &str) -> String {
    let set = newest(fake, warm, "keep = \"0\"", source);
    set.replace("[store]\n", &format!("[store]\n{store}\n"))
}

/// A set is larger than the tier: its images come in order as far as they fit, and clients pull as usual.
#[tokio::test]
async fn a_set_larger_than_the_tier_leaves_room_for_clients() {
    let labs = Labs::with(&[], |_| String::new()).await;
    for week in 1..=10 {
        put(&labs.scene.fake, &format!("w_2026_{week}"), week, 2 * MB);
    }
    labs.configure(&set(
        &labs.scene.fake,
        "max_size = \"10MB\"",
        "",
        "newest = [{ match = \"w_#_#\", count = 10 }]",
    ));
    // Sets may use half of the tier.
    let status = labs
        .until("two are here", |status| {
            let state = |state: &str| {
                let images = list(status, "images").iter();
                images.filter(|image| image["state"] == state).count()
            };
            state("here") == 2 && state("no-room") == 8
        })
        .await;
    assert_eq!(tags(&status, "images")[..2], ["w_2026_10", "w_2026_9"]);
    assert_eq!(list(&status, "images_to_cache").len(), 8);
    // Clients pull more than is free: larder keeps it, and the set stays within its part of the tier.
    for seed in 0..8 {
        let digest = labs.scene.fake.put_blob_of("a/b", 50 + seed, 2 * MB);
        let answer = http::get(&labs.scene.blob("a/b", &digest), &[]).await;
        assert_eq!(answer.expect("an answer").status, 200);
        labs.scene.until_committed(&digest).await;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = labs.node().admin("/status").await;
        if status["store"]["bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes <= 10 * MB)
        {
            break;
        }
        assert!(Instant::now() < deadline, "{status:#}");
        tokio::time::sleep(GLANCE).await;
    }
    let status = labs.status().await;
    let here = list(&status, "images")
        .iter()
        .filter(|image| image["state"] == "here");
    assert_eq!(
        here.count(),
        2,
        "what the set holds goes after what is merely here: {status:#}"
    );
}

/// Where a tag's old and new image do not both fit, larder drops the old one first.
#[tokio::test]
async fn where_both_do_not_fit_the_old_image_goes_first() {
    let labs = Labs::with(&[], |_| String::new()).await;
    let old = put(&labs.scene.fake, "stable", 1, 3 * MB);
    labs.configure(&set(
        &labs.scene.fake,
        "max_size = \"10MB\"",
        "",
        "tags = [\"stable\"]\nlist = \"off\"",
    ));
    labs.until_here(&["stable"]).await;
    let gate = labs.scene.fake.gate(Match::blob(), 1000);
    let new = put(&labs.scene.fake, "stable", 2, 3 * MB);
    let status = labs
        .until("the new one comes", |status| {
            status["images"][0]["state"] == "coming"
        })
        .await;
    assert_eq!(
        list(&status, "left").len(),
        0,
        "the old one is let go of: {status:#}"
    );
    gate.open();
    labs.until_here(&["stable"]).await;
    assert!(has(labs.node(), &new));
    drop(old);
}

/// A person's pin is independent of a set: it stays when its image leaves the set.
#[tokio::test]
async fn a_pin_outlives_the_set() {
    let source = "newest = [{ match = \"w_#_#\", count = 1 }]";
    let labs = Labs::with(&["w_2026_1"], |fake| {
        newest(fake, "", "keep = \"0\"", source)
    })
    .await;
    labs.until_here(&["w_2026_1"]).await;
    let pins = || fs::read_to_string(labs.node().store().join("pins")).unwrap_or_default();
    assert_eq!(pins(), "", "a set pins nothing");
    let name = format!("{}/labs/lab:w_2026_1", labs.scene.fake.host());
    let pinned = labs.node().cli(&["pin", &name]).await;
    assert!(pinned.status.success(), "{pinned:?}");
    let before = pins();
    assert_eq!(before.lines().count(), 3);
    labs.put("w_2026_2", 2);
    labs.until_here(&["w_2026_2"]).await;
    labs.until("it left", |status| list(status, "left").is_empty())
        .await;
    assert_eq!(pins(), before);
    labs.configure("[store]\nmin_free = \"0\"\n");
    let file = labs.node().store().join("warm/labs");
    eventually("the set is no more", || !file.exists()).await;
    assert_eq!(pins(), before);
}

/// Images of a set do not age; images that the set has dropped do.
#[tokio::test]
async fn what_a_set_holds_does_not_age() {
    let labs = Labs::with(&["w_2026_1", "w_2026_2"], |fake| {
        set(
            fake,
            "ttl = \"2s\"",
            "",
            "newest = [{ match = \"w_#_#\", count = 1 }]",
        )
    })
    .await;
    let merely_here = labs.scene.fake.put_blob_of("a/b", 77, 1000);
    labs.until_here(&["w_2026_2"]).await;
    let answer = http::get(&labs.scene.blob("a/b", &merely_here), &[]).await;
    assert_eq!(answer.expect("an answer").status, 200);
    labs.scene.until_committed(&merely_here).await;
    // A round of eviction that takes this image would take the set's as well, if it might.
    eventually("it is evicted", || !labs.scene.committed(&merely_here)).await;
    let status = labs.status().await;
    assert!(is_here(&status, &["w_2026_2"]), "{status:#}");
}

/// Clients go first: while a client waits for bytes, larder fetches none for the set.
#[tokio::test]
async fn clients_go_before_a_set() {
    let labs = Labs::with(&["w_2026_1"], |_| String::new()).await;
    let wanted = labs.scene.fake.put_blob_of("a/b", 5, 3 * MB);
    let gate = labs.scene.fake.gate(Match::blob().repository("a/b"), 1000);
    let url = labs.scene.blob("a/b", &wanted);
    let client = tokio::spawn(async move { http::get(&url, &[]).await });
    gate.reached(1).await;
    labs.configure(&newest(
        &labs.scene.fake,
        "",
        "",
        "newest = [{ match = \"w_#_#\", count = 1 }]",
    ));
    labs.until("it is its turn", |status| {
        status["images"][0]["state"] == "coming"
    })
    .await;
    // larder goes on listing meanwhile.
    let lists = || labs.scene.fake.count(|seen| seen.kind == Kind::Tags);
    let before = lists();
    eventually("more looks", || lists() >= before + 2).await;
    let blobs = || {
        labs.scene
            .fake
            .count(|seen| seen.kind == Kind::Blob && seen.repository == "labs/lab")
    };
    assert_eq!(blobs(), 0);
    gate.open();
    assert_eq!(
        client.await.expect("a task").expect("an answer").status,
        200
    );
    labs.until_here(&["w_2026_1"]).await;
}

/// Warming keeps to its rate.
#[tokio::test]
async fn a_set_comes_at_its_rate() {
    let labs = Labs::with(&[], |_| String::new()).await;
    put(&labs.scene.fake, "w_2026_1", 1, 12 * MB);
    let begun = Instant::now();
    labs.configure(&newest(
        &labs.scene.fake,
        "max_rate = \"4MB\"",
        "",
        "newest = [{ match = \"w_#_#\", count = 1 }]",
    ));
    labs.until_here(&["w_2026_1"]).await;
    // larder reads a few MB ahead.
    assert!(begun.elapsed().as_secs() >= 1, "{:?}", begun.elapsed());
}

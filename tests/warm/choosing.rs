//! The repository's list changes, and the warm set follows it.

use std::fs;

use larder_tests::fake::{Fault, Kind, Match};
use larder_tests::http;
use serde_json::json;

use super::*;

const NEWEST: &str = "tags = [\"recommended\"]\nnewest = [{ match = \"w_#_#\", count = 2 }]";

#[tokio::test]
async fn the_newest_are_here_before_a_client_asks_and_an_unchanged_round_fetches_nothing() {
    let tags = ["w_2026_9", "w_2026_10", "w_2026_11", "d_2026_11_01"];
    let labs = Labs::with(&tags, |fake| newest(fake, "", "", NEWEST)).await;
    labs.put("recommended", 1);
    let status = labs.until_here(&["recommended", "w_2026_11"]).await;
    // Several tags of one image count as one.
    assert_eq!(
        status["images"][0]["tags"],
        json!(["recommended", "w_2026_10"])
    );
    assert_eq!(status["images_to_cache"], json!([]));
    let before = fetches(&labs.scene.fake);
    let lists = labs.scene.fake.count(|seen| seen.kind == Kind::Tags);
    eventually_more(&labs, lists + 2).await;
    assert_eq!(
        fetches(&labs.scene.fake),
        before,
        "an unchanged round makes no GET"
    );
    let other = labs.scene.fake.count(|seen| seen.reference == "w_2026_9");
    assert_eq!(other, 0, "only what is chosen is asked for");
}

/// One set with two registries. A registry that is down affects only its own images.
#[tokio::test]
async fn a_set_may_have_several_locations() {
    let labs = Labs::with(&["w_2026_1", "w_2026_2"], |_| String::new()).await;
    let there = FakeRegistry::start().await;
    let put_there =
        |tag: &str, seed| image::build(&there, "far/lab", tag, &[LayerSpec::new(seed, 1000)]);
    let other = put_there("w_2026_2", 50);
    let source = "newest = [{ match = \"w_#_#\", count = 1 }]";
    let upstream = format!(
        "[upstreams.\"{0}\"]\nendpoints = [\"http://{0}\"]\n",
        there.host()
    );
    let far = format!(
        "[[warm.sets.labs.from]]\nrepository = \"{}/far/lab\"\n{source}\n",
        there.host()
    );
    let here = newest(&labs.scene.fake, "", "", source);
    labs.configure(&format!("{upstream}{here}{far}"));
    let status = labs.until_here(&["w_2026_2", "w_2026_2"]).await;
    assert!(has(labs.node(), &other));
    let images = list(&status, "common_cache").iter();
    let urls: Vec<_> = images.map(|image| image["image_url"].as_str()).collect();
    let near = format!("{}/labs/lab:w_2026_2", labs.scene.fake.host());
    let far = format!("{}/far/lab:w_2026_2", there.host());
    assert_eq!(urls, [Some(&*near), Some(&*far)]);
    labs.scene.fake.stop().await;
    let newer = put_there("w_2026_3", 51);
    let status = labs
        .until("the other one goes on", |status| {
            tags(status, "images") == ["w_2026_2", "w_2026_3"]
                && list(status, "available_images").len() == 2
        })
        .await;
    assert!(has(labs.node(), &newer));
    let failing: Vec<_> = list(&status, "sources")
        .iter()
        .map(|source| source["failing_since"].is_u64())
        .collect();
    assert_eq!(failing, [true, false], "{status:#}");
}

async fn eventually_more(labs: &Labs, lists: usize) {
    larder_tests::scene::eventually("more lists", || {
        labs.scene.fake.count(|seen| seen.kind == Kind::Tags) >= lists
    })
    .await;
}

#[tokio::test]
async fn a_new_tag_is_fetched_and_an_image_that_left_is_kept() {
    let labs = Labs::with(&["w_2026_1", "w_2026_2"], |fake| {
        newest(
            fake,
            "",
            "keep = \"1h\"",
            "newest = [{ match = \"w_#_#\", count = 1 }]",
        )
    })
    .await;
    labs.until_here(&["w_2026_2"]).await;
    let new = labs.put("w_2026_3", 7);
    labs.until_here(&["w_2026_3"]).await;
    assert!(has(labs.node(), &new));
    let status = labs
        .until("it left", |status| tags(status, "left") == ["w_2026_2"])
        .await;
    assert_eq!(status["left"][0]["state"], "here");
    // Without a time to keep it, the set drops the image at once.
    labs.configure(&newest(
        &labs.scene.fake,
        "",
        "keep = \"0\"",
        "newest = [{ match = \"w_#_#\", count = 1 }]",
    ));
    labs.until("it is let go of", |status| tags(status, "left").is_empty())
        .await;
}

/// The set drops the old image of a tag only once the new one is whole.
#[tokio::test]
async fn a_moved_tag_lets_go_of_the_old_image_when_the_new_one_is_whole() {
    let labs = Labs::with(&["stable"], |fake| {
        newest(
            fake,
            "",
            "keep = \"0\"",
            "tags = [\"stable\"]\nlist = \"off\"",
        )
    })
    .await;
    labs.until_here(&["stable"]).await;
    let gate = labs.scene.fake.gate(Match::blob(), 1000);
    let new = labs.put("stable", 9);
    let status = labs
        .until("the new one comes", |status| {
            status["images"][0]["digest"] == new.manifest_digest.as_str()
                && status["images"][0]["state"] == "coming"
        })
        .await;
    assert_eq!(tags(&status, "left"), ["stable"], "{status:#}");
    assert_eq!(
        status["images_to_cache"][0]["image_hash"],
        new.manifest_digest.as_str()
    );
    gate.open();
    labs.until_here(&["stable"]).await;
    labs.until("the old one is let go of", |status| {
        list(status, "left").is_empty()
    })
    .await;
}

/// A registry that fails, or suddenly lists nothing, changes nothing, and the status says since when.
#[tokio::test]
async fn a_registry_that_fails_leaves_the_set_as_it_was() {
    let labs = Labs::with(&["w_2026_1"], |fake| newest(fake, "", "", NEWEST)).await;
    labs.put("recommended", 5);
    labs.until_here(&["recommended", "w_2026_1"]).await;
    let fault = labs.scene.fake.fault(Match::any(), Fault::status(503));
    let status = labs
        .until("it says so", |status| !status["error"].is_null())
        .await;
    assert_eq!(tags(&status, "images"), ["recommended", "w_2026_1"]);
    assert!(status["sources"][0]["failing_since"].is_u64(), "{status:#}");
    let listed = status["listed_at"].as_u64();
    assert!(listed.is_some(), "{status:#}");
    // The same when larder restarts meanwhile.
    let mut labs = labs;
    labs.scene.node.kill9().await;
    labs.scene.node.restart().await;
    let status = labs
        .until("it is known again", |status| {
            tags(status, "images").len() == 2
        })
        .await;
    assert!(!status["error"].is_null(), "{status:#}");
    assert_eq!(list(&status, "available_images").len(), 2, "{status:#}");
    fault.lift();
    labs.until_here(&["recommended", "w_2026_1"]).await;
}

/// A warmed image resolves by its tags while the registry is down.
#[tokio::test]
async fn tags_of_a_set_resolve_in_an_outage() {
    let labs = Labs::with(&["w_2026_1"], |fake| {
        newest(fake, "", "", "newest = [{ match = \"w_#_#\", count = 1 }]")
    })
    .await;
    labs.until_here(&["w_2026_1"]).await;
    labs.scene.fake.stop().await;
    let url = labs.scene.manifest("labs/lab", "w_2026_1");
    let answer = http::get(&url, &[]).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(answer.header("warning").is_some());
}

#[tokio::test]
async fn a_node_without_the_sets_labels_warms_nothing() {
    let labs = Labs::with(&["w_2026_1"], |fake| {
        newest(
            fake,
            "labels = { pool = \"base\" }",
            "nodes = { pool = \"labs|gpu\" }",
            NEWEST,
        )
    })
    .await;
    let status = labs.until("it was looked at", |status| {
        status["error"].is_null() && status["matches"] == false
    });
    assert_eq!(status.await["images"], json!([]));
    assert_eq!(fetches(&labs.scene.fake), 0);
    let set = "nodes = { pool = \"labs|gpu\" }";
    let source = "newest = [{ match = \"w_#_#\", count = 1 }]";
    labs.configure(&newest(
        &labs.scene.fake,
        "labels = { pool = \"gpu\" }",
        set,
        source,
    ));
    labs.until_here(&["w_2026_1"]).await;
}

/// larder reads the file again while it runs: a set that the file no longer names is gone, and its images may be
/// evicted.
#[tokio::test]
async fn a_set_is_removed_with_the_file() {
    let source = "newest = [{ match = \"w_#_#\", count = 1 }]";
    let labs = Labs::with(&["w_2026_1"], |fake| newest(fake, "", "", source)).await;
    labs.until_here(&["w_2026_1"]).await;
    let file = labs.node().store().join("warm/labs");
    assert!(fs::read_to_string(&file).is_ok_and(|text| text.contains("w_2026_1")));
    labs.configure("[store]\nmin_free = \"0\"\n");
    larder_tests::scene::eventually("the set is no more", || !file.exists()).await;
    assert_eq!(asked(labs.node(), "/warm?set=labs").await.0, 404);
    let (status, _) = shown(labs.node(), "/warm/").await;
    assert_eq!(status, 404);
}

/// larder reads the whole list, page by page, from a registry that ignores `n`.
#[tokio::test]
async fn all_pages_of_a_list_count() {
    let labs = Labs::with(&[], |_| String::new()).await;
    for week in 1..=5 {
        labs.put(&format!("w_2026_{week}"), week);
    }
    let numbered = |request: &larder_tests::fake::Request| !request.parameters("n").is_empty();
    let first = Match::tags().when(move |request: &larder_tests::fake::Request| {
        numbered(request) && request.parameters("last").is_empty()
    });
    labs.scene.fake.fault(first, Fault::status(400));
    labs.configure(&newest(
        &labs.scene.fake,
        "",
        "",
        "newest = [{ match = \"w_#_#\", count = 1 }]",
    ));
    labs.until_here(&["w_2026_5"]).await;
}

/// The platforms of a set may change while larder is down.
#[tokio::test]
async fn platforms_that_changed_before_a_start_are_brought() {
    let mut labs = Labs::with(&[], |_| String::new()).await;
    let layers = [LayerSpec::new(1, 100_000)];
    let index = image::build_index(&labs.scene.fake, "labs/lab", "w_2026_1", &layers);
    let configure = |labs: &Labs, platform: &str| {
        let set = format!("platforms = [\"{platform}\"]");
        let source = "newest = [{ match = \"w_#_#\", count = 1 }]";
        labs.configure(&newest(&labs.scene.fake, "", &set, source));
    };
    configure(&labs, "linux/amd64");
    labs.until_here(&["w_2026_1"]).await;
    let [amd64, arm64] = &index.images;
    assert!(has(labs.node(), amd64) && !has(labs.node(), arm64));
    labs.scene.node.terminate();
    labs.scene.node.wait().await;
    configure(&labs, "linux/arm64");
    labs.scene.node.restart().await;
    let there = || has(labs.node(), arm64);
    larder_tests::scene::eventually("the other platform is here", there).await;
    labs.until_here(&["w_2026_1"]).await;
}

//! `larder pin`, `unpin`, `evict`, `gc`, `verify`.

use larder_tests::image::{self, LayerSpec};
use serde_json::json;

use crate::{Kitchen, REGISTRY, assert_schema, assert_shown, stderr, stdout};

fn name(rest: &str) -> String {
    format!("{REGISTRY}/{rest}")
}

async fn stocked() -> Kitchen {
    let kitchen = Kitchen::new().await;
    for (repository, seed) in [("team/app", 1), ("team/web", 10)] {
        kitchen.put(repository, "v1", seed);
        kitchen
            .text(&["pull", &name(&format!("{repository}:v1"))])
            .await;
    }
    kitchen
}

#[tokio::test]
async fn pins_show_and_go() {
    let kitchen = stocked().await;
    let app = name("team/app:v1");
    let pinned = async || {
        let json = kitchen.json(&["images", &app], "images").await;
        json["images"][0]["pinned"].clone()
    };
    assert_eq!(pinned().await, false);
    assert_shown!(kitchen.text(&["pin", &app]).await);
    assert_eq!(pinned().await, true);
    let json = kitchen.json(&["unpin", &app], "acted").await;
    assert_eq!(json["blobs"], 4);
    assert_eq!(pinned().await, false);
}

#[tokio::test]
async fn one_image_is_evicted_and_others_stay() {
    let kitchen = stocked().await;
    assert_shown!(kitchen.text(&["evict", &name("team/app:v1")]).await);
    let json = kitchen.json(&["images"], "images").await;
    assert_eq!(json["images"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["images"][0]["repository"], "team/web");
    let json = kitchen
        .json(&["evict", "--upstream", REGISTRY], "acted")
        .await;
    assert_eq!(json["blobs"], 4);
    assert_eq!(
        kitchen.json(&["blobs"], "blobs").await,
        json!({"blobs": []})
    );
}

/// Images share layers. A layer stays while one image needs it, and stays pinned while one image is pinned.
#[tokio::test]
async fn what_images_share_stays() {
    let kitchen = Kitchen::new().await;
    let shared = LayerSpec::new(1, 50_000);
    let own = |seed| [shared, LayerSpec::new(seed, 60_000)];
    let one = image::build(&kitchen.fake, "team/one", "v1", &own(2));
    let two = image::build(&kitchen.fake, "team/two", "v1", &own(3));
    let (first, second) = (name("team/one:v1"), name("team/two:v1"));
    kitchen.text(&["pull", "--pin", &first, &second]).await;
    let pinned = async || -> Vec<String> {
        let json = kitchen.json(&["blobs"], "blobs").await;
        let blobs = json["blobs"].as_array().expect("a list").clone();
        let pinned = blobs.iter().filter(|blob| blob["pinned"] == true);
        let digest = |blob: &serde_json::Value| blob["digest"].as_str().map(str::to_owned);
        pinned.filter_map(digest).collect()
    };
    assert_eq!(pinned().await.len(), 7, "four each, one of them shared");
    let let_go = kitchen.json(&["unpin", &first], "acted").await;
    assert_eq!(let_go["blobs"], 3);
    let still = pinned().await;
    assert!(still.contains(&two.layers[0].digest) && !still.contains(&one.layers[1].digest));
    let evicted = kitchen.json(&["evict", &first], "acted").await;
    assert_eq!(evicted["blobs"], 3);
    assert!(kitchen.committed(&two.layers[0].digest), "the shared layer");
    assert!(!kitchen.committed(&one.layers[1].digest));
    kitchen.fake.stop().await;
    kitchen.client_pulls("team/two", "v1", &two).await;
}

#[tokio::test]
async fn what_is_not_here_is_named() {
    let kitchen = stocked().await;
    for command in ["pin", "unpin", "evict"] {
        let failed = kitchen.run(&[command, &name("team/none:v1")]).await.code(1);
        let told = stderr(&failed);
        assert!(
            told.contains("team/none:v1 is not known here"),
            "{command}: {told}"
        );
        let usage = kitchen.run(&[command, "Not A Name"]).await.code(2);
        assert!(stderr(&usage).contains("Not A Name"), "{command}");
    }
}

#[tokio::test]
async fn gc_says_what_it_did() {
    let kitchen = stocked().await;
    assert_shown!(kitchen.text(&["gc"]).await);
    let json = kitchen.json(&["gc"], "acted").await;
    assert_eq!(json, json!({"blobs": 0, "bytes": 0}));
}

#[tokio::test]
async fn verify_finds_what_has_rotted_and_says_so_by_its_exit_code() {
    let kitchen = stocked().await;
    assert_shown!(kitchen.text(&["verify"]).await);
    let sound = kitchen.json(&["verify"], "verify").await;
    assert_eq!((&sound["blobs"], &sound["rotten"]), (&json!(8), &json!([])));
    let blobs = kitchen.json(&["blobs", "--sort", "size"], "blobs").await;
    let digest = blobs["blobs"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    let hex = digest.trim_start_matches("sha256:");
    let file = kitchen
        .node
        .store()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(hex);
    rot(&file);
    let found = kitchen.run(&["verify", "--json"]).await.code(3);
    let json = serde_json::from_str(&stdout(&found)).expect("JSON");
    assert_schema(&json, "verify");
    assert_eq!(json["rotten"], json!([digest]));
    let again = kitchen.run(&["verify"]).await.success();
    assert!(
        stdout(&again).contains("7 blobs"),
        "it is out: {}",
        stdout(&again)
    );
}

/// Changes one byte in the middle of a file.
fn rot(file: &std::path::Path) {
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    let open = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file);
    let open = open.expect("the blob");
    let mut byte = [0];
    open.read_exact_at(&mut byte, 1_000_000).expect("a byte");
    open.write_all_at(&[!byte[0]], 1_000_000)
        .expect("another byte");
}

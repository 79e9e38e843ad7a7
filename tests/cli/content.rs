//! `larder status`, `images`, `blobs`: the content of this node.

use larder_tests::image::{self, LayerSpec};
use serde_json::{Value, json};

use crate::{Kitchen, assert_shown, stdout};

/// Three images, of which one is only partly on the node.
async fn stocked() -> Kitchen {
    let kitchen = Kitchen::new().await;
    let app = kitchen.put("team/app", "v1", 1);
    let web = kitchen.put("team/web", "stable", 10);
    let half = kitchen.put("other/half", "v2", 20);
    kitchen.client_pulls("team/app", "v1", &app).await;
    kitchen.client_pulls("team/web", "stable", &web).await;
    let url = format!("{}/v2/other/half", kitchen.node.url());
    let manifest = format!("{url}/manifests/v2?ns={}", crate::REGISTRY);
    larder_tests::http::get(&manifest, &[])
        .await
        .expect("the manifest");
    let blob = format!(
        "{url}/blobs/{}?ns={}",
        half.layers[0].digest,
        crate::REGISTRY
    );
    larder_tests::http::get(&blob, &[]).await.expect("a layer");
    // A blob is on the list a moment after it is on the disk.
    kitchen.until_listed(10).await;
    kitchen
}

#[tokio::test]
async fn status_shows_a_node_at_a_glance() {
    let kitchen = stocked().await;
    assert_shown!(kitchen.text(&["status"]).await);
    let json = kitchen.json(&["status"], "status").await;
    assert_eq!(json["store"]["blobs"], 10);
}

#[tokio::test]
async fn images_are_listed_with_how_much_of_them_is_here() {
    let kitchen = stocked().await;
    assert_shown!(kitchen.text(&["images", "--sort", "name"]).await);
    let json = kitchen.json(&["images"], "images").await;
    let find = |repository: &str| -> Value {
        let images = json["images"].as_array().expect("a list");
        let found = images
            .iter()
            .find(|image| image["repository"] == repository);
        found.expect("the image").clone()
    };
    let half = find("other/half");
    assert_eq!(
        (&half["present_blobs"], &half["blobs"]),
        (&json!(2), &json!(4))
    );
    assert!(
        half["present_bytes"].as_u64() < half["bytes"].as_u64(),
        "{half}"
    );
    let app = find("team/app");
    assert_eq!(app["present_bytes"], app["bytes"]);
    assert_eq!(app["tags"], json!(["v1"]));
    assert_eq!(
        (&app["public"], &app["pinned"]),
        (&json!(true), &json!(false))
    );
    let manifest = app["digest"].as_str().expect("a digest");
    let whole = kitchen.text(&["images", "--no-trunc"]).await;
    assert!(whole.contains(manifest), "{whole}");
}

#[tokio::test]
async fn images_are_found_by_prefix_and_sorted() {
    let kitchen = stocked().await;
    let names = async |arguments: &[&str]| -> Vec<String> {
        let json = kitchen.json(arguments, "images").await;
        let images = json["images"].as_array().expect("a list");
        let name = |image: &Value| image["repository"].as_str().expect("a name").to_owned();
        images.iter().map(name).collect()
    };
    let by_name = ["other/half", "team/app", "team/web"];
    assert_eq!(names(&["images", "--sort", "name"]).await, by_name);
    assert_eq!(names(&["images", "registry.test/team"]).await.len(), 2);
    assert_eq!(
        names(&["images", "registry.test/team/app:v1"]).await,
        ["team/app"]
    );
    assert!(names(&["images", "ghcr.io"]).await.is_empty());
    assert_shown!(kitchen.text(&["images", "ghcr.io"]).await);
}

/// An index counts as one image, and platforms that no client here pulled do not make it incomplete.
#[tokio::test]
async fn an_index_of_which_one_platform_is_here_is_whole() {
    let kitchen = Kitchen::new().await;
    let layers = [LayerSpec::new(1, 50_000)];
    let index = image::build_index(&kitchen.fake, "team/multi", "v1", &layers);
    let reference = format!("{}/team/multi:v1", crate::REGISTRY);
    kitchen
        .run(&["pull", "--platform", "linux/amd64", &reference])
        .await
        .success();
    let json = kitchen.json(&["images"], "images").await;
    let images = json["images"].as_array().expect("a list");
    assert_eq!(images.len(), 1, "{json:#}");
    assert_eq!(images[0]["digest"], index.digest);
    assert_eq!(images[0]["bytes"], images[0]["present_bytes"]);
    assert_eq!(images[0]["blobs"], 4);
}

#[tokio::test]
async fn blobs_are_listed_with_the_repositories_that_hold_them() {
    let kitchen = stocked().await;
    let half = ["blobs", "--sort", "size", "registry.test/other"];
    assert_shown!(kitchen.text(&half).await);
    let json = kitchen.json(&["blobs"], "blobs").await;
    assert_eq!(json["blobs"].as_array().map(Vec::len), Some(10));
    let largest = kitchen
        .json(&["blobs", "--sort", "size", "--limit", "3"], "blobs")
        .await;
    let sizes: Vec<_> = largest["blobs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|blob| blob["bytes"].as_u64().expect("a size"))
        .collect();
    assert_eq!(sizes.len(), 3);
    assert!(
        sizes.is_sorted_by(|a, b| a >= b) && sizes[1] > 2_000_000,
        "{sizes:?}"
    );
    let of_team = kitchen
        .json(&["blobs", "registry.test/other"], "blobs")
        .await;
    assert_eq!(of_team["blobs"].as_array().map(Vec::len), Some(2));
    let first = json["blobs"][0]["digest"].as_str().expect("a digest");
    let one = kitchen.json(&["blobs", &first[..20]], "blobs").await;
    assert_eq!(one["blobs"][0]["digest"], first);
}

/// A listing counts as no use: it refreshes no blob.
#[tokio::test]
async fn looking_is_no_use() {
    let kitchen = stocked().await;
    let used = async || kitchen.json(&["blobs", "--sort", "digest"], "blobs").await;
    let before = used().await;
    let now = || std::time::SystemTime::now();
    let begun = now();
    larder_tests::scene::eventually("a second has passed", || {
        now()
            .duration_since(begun)
            .is_ok_and(|past| past.as_millis() > 1100)
    })
    .await;
    kitchen.text(&["images"]).await;
    assert_eq!(used().await, before);
}

#[tokio::test]
async fn an_empty_node_says_what_to_do() {
    let kitchen = Kitchen::new().await;
    assert_shown!(kitchen.text(&["images"]).await);
    let json = kitchen.json(&["images"], "images").await;
    assert_eq!(json, json!({"images": []}));
    kitchen.json(&["blobs"], "blobs").await;
    let peers = kitchen.run(&["peers", "--json"]).await.success();
    assert_eq!(stdout(&peers), "null\n");
    assert_shown!(kitchen.text(&["peers"]).await);
}

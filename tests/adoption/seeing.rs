//! How commands and the status page show adopted content (promise P24).

use std::os::unix::fs::PermissionsExt as _;

use larder_tests::fake::FakeRegistry;
use larder_tests::holding::Holding;
use larder_tests::image::{LayerSpec, build};
use larder_tests::node::Node;

use super::{held, until, until_proven};

const REPOSITORY: &str = "team/app";

async fn said(node: &Node, arguments: &[&str]) -> String {
    let output = node.cli(arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.is_empty(), "{arguments:?}: {output:?}");
    text
}

#[tokio::test]
async fn what_the_runtime_holds_is_shown_as_such() {
    let fake = FakeRegistry::start().await;
    let layers = [LayerSpec::new(1, 200_000), LayerSpec::new(2, 10)];
    let image = build(&fake, REPOSITORY, "v1", &layers);
    let name = format!("{}/{REPOSITORY}:v1", fake.host());
    let mut holding = Holding::new();
    holding.pulled(&name, &image);
    holding.tell();
    let node = Node::builder()
        .upstream(&fake)
        .config(holding.config())
        .start()
        .await;
    until_proven(&node, 5).await;

    let images: serde_json::Value =
        serde_json::from_str(&said(&node, &["images", "--json"]).await).expect("JSON");
    let shown = &images["images"][0];
    assert_eq!(shown["tags"], serde_json::json!(["v1"]), "{images}");
    assert_eq!(shown["present_bytes"], image.size(), "{images}");
    assert_eq!(shown["last_used"], 0, "larder does not know: {images}");
    assert!(!said(&node, &["images"]).await.contains("ago"));

    let explained = said(&node, &["explain", &name]).await;
    assert!(explained.contains("held by the runtime"), "{explained}");
    let json: serde_json::Value =
        serde_json::from_str(&said(&node, &["explain", "--json", &name]).await).expect("JSON");
    let blobs = json["pull"]["blobs"].as_array().expect("blobs");
    assert_eq!(blobs.len(), 3);
    for blob in blobs {
        assert_eq!(
            (&blob["from"], &blob["in_runtime"]),
            (&"node".into(), &true.into()),
            "{json}"
        );
    }

    let doctor = said(&node, &["doctor", "--all"]).await;
    assert!(doctor.contains("4 of the 4 blobs"), "{doctor}");
    let page = node.metrics().await;
    assert!(!page.contains(&image.config_digest) && !page.contains(REPOSITORY));
}

#[tokio::test]
async fn doctor_says_when_a_file_is_not_what_its_name_says() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 100)]);
    let mut holding = Holding::new();
    holding.pulled(&format!("{}/{REPOSITORY}:v1", fake.host()), &image);
    holding.write(&image.config_digest, b"something else");
    holding.tell();
    let node = Node::builder()
        .upstream(&fake)
        .config(holding.config())
        .start()
        .await;
    until("wrong", 1, || held(&node, "wrong")).await;
    let doctor = said(&node, &["doctor"]).await;
    assert!(doctor.contains("1 of the 3 blobs"), "{doctor}");
    let there = std::fs::metadata(holding.path(&image.config_digest)).expect("it stays");
    assert_eq!(there.permissions().mode() & 0o777, 0o444);
}

#[tokio::test]
async fn doctor_says_when_the_content_store_is_somewhere_else() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 100)]);
    let mut holding = Holding::new();
    holding.pulled(&format!("{}/{REPOSITORY}:v1", fake.host()), &image);
    holding.tell();
    let away = holding.content().with_extension("away");
    std::fs::rename(holding.content(), away).expect("our own directory");
    let node = Node::builder()
        .upstream(&fake)
        .config(holding.config())
        .start()
        .await;
    until("gone", 3, || held(&node, "gone")).await;
    let doctor = said(&node, &["doctor"]).await;
    assert!(doctor.contains("none of the 3 blobs"), "{doctor}");
}

//! Without `[streaming]` nothing is made, and nothing is looked at.

use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::Scene;

use crate::{Offering, one_layer};

#[tokio::test]
async fn what_is_off_makes_no_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let layers = dir.path().join("layers");
    let config = format!("[streaming]\ndirectory = \"{}\"\n", layers.display());
    let scene = Scene::with(|node| node.config(config)).await;
    let image = image::build(&scene.fake, "team/app", "v1", &[LayerSpec::new(1, 100_000)]);
    let door = scene.door("team/app");
    door.pull("v1", &image).await.expect("the image");
    scene.until_committed(&image.layers[0].digest).await;
    // Meanwhile a node that was started later, and does offer layers, has made some ready.
    let offering = Offering::with("", "").await;
    let (other, diff_id) = one_layer(&offering.scene.fake, "team/app", 48, 4000);
    offering.pull("team/app", &other).await;
    offering.until_offered(&[&diff_id]).await;
    assert!(!layers.exists(), "{}", layers.display());
    // Nor is anything said of them.
    let images = scene.node.admin("/images").await;
    assert!(images["images"][0]["ready"].is_null(), "{images}");
    let name = format!("{}/team/app:v1", scene.fake.host());
    let said = scene.node.cli(&["explain", "--json", &name]).await;
    let said = String::from_utf8(said.stdout).expect("text");
    assert!(
        said.contains("\"blobs\"") && !said.contains("\"layers\""),
        "{said}"
    );
}

//! A manifest is never evicted before the content that it names: an image that can be resolved can be pulled, as far as
//! it is on this node (P21).

use std::time::Duration;

use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::{Scene, eventually};

use super::{MB, age, path};

#[tokio::test]
async fn a_manifest_goes_after_its_blobs() {
    let config = "[store]\nmax_size = \"18MB\"\nmin_free = \"0\"\n";
    let mut scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let layers = [
        LayerSpec::new(1, 4 * MB),
        LayerSpec::new(2, 4 * MB),
        LayerSpec::new(3, 4 * MB),
    ];
    let image = image::build(&scene.fake, "a/b", "v1", &layers);
    let pulled = scene.door("a/b").pull("v1", &image).await;
    pulled.expect("an image");
    let mut blobs: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.digest.clone())
        .collect();
    blobs.push(image.config_digest.clone());
    for digest in &blobs {
        scene.until_committed(digest).await;
    }
    scene.until_committed(&image.manifest_digest).await;
    // The manifest was used first, then one layer after the other.
    scene.node.terminate();
    scene.node.wait().await;
    age(
        &path(scene.node.store(), &image.manifest_digest),
        Duration::from_hours(100),
    );
    for (i, digest) in blobs.iter().enumerate() {
        age(
            &path(scene.node.store(), digest),
            Duration::from_hours(99 - i as u64),
        );
    }
    scene.node.restart().await;
    let here = |scene: &Scene| {
        blobs
            .iter()
            .filter(|digest| scene.committed(digest))
            .count()
    };
    for seed in 10..16 {
        let other = image::build(&scene.fake, "c/d", "v1", &[LayerSpec::new(seed, 4 * MB)]);
        let layer = &other.layers[0].digest;
        let answer = http::get_digest(&scene.blob("c/d", layer), &[])
            .await
            .expect("an answer");
        assert_eq!(&answer.digest, layer);
        scene.until_committed(layer).await;
        // The order matters: a layer that is here after the manifest was found missing was here before.
        let manifest = scene.committed(&image.manifest_digest);
        let left = here(&scene);
        assert!(
            manifest || left == 0,
            "{left} blobs are here without their manifest"
        );
    }
    // In the end the whole image is evicted.
    eventually("all of the image has gone", || here(&scene) == 0).await;
}

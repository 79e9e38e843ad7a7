//! The status page: which visitors may see it, what it says, and how it looks and behaves in a real browser.

use larder_tests::http;
use larder_tests::scene::Scene;

mod browser;
mod door;
mod words;

/// Pulls an image by its tag: the manifest, and all content that it names.
async fn pull(scene: &Scene, repository: &str, tag: &str) {
    let answer = http::get(&scene.manifest(repository, tag), &[]).await;
    let answer = answer.expect("an answer");
    let own = answer.header("docker-content-digest").expect("a digest");
    scene.until_committed(own).await;
    let manifest = answer.json();
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    for named in layers.iter().chain([&manifest["config"]]) {
        let digest = named["digest"].as_str().expect("a digest");
        let blob = http::get_digest(&scene.blob(repository, digest), &[]).await;
        assert_eq!(blob.expect("an answer").digest, digest);
        scene.until_committed(digest).await;
    }
}

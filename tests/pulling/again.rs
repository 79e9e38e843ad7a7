//! Pulled content is kept: the second pull, and a pull while the registry is down.

use larder_tests::fake::digest_of;
use larder_tests::http::{self, Response};
use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::Scene;

async fn get(url: &str) -> Response {
    let answer = http::get(url, &[]).await.expect("an answer");
    assert_eq!(
        (answer.status, &answer.error),
        (200, &None),
        "{url}: {}",
        answer.text()
    );
    answer
}

/// Pulls as containerd does: HEAD of the tag, GET of its digest, and everything in it by digest. Gives all digests.
async fn pull(scene: &Scene, repository: &str, tag: &str) -> Vec<String> {
    let head = http::head(&scene.manifest(repository, tag), &[]).await;
    let head = head.expect("an answer");
    assert_eq!(head.status, 200);
    let digest = head.header("docker-content-digest").expect("a digest");
    let mut digests = vec![digest.to_owned()];
    pull_manifest(scene, repository, digest, &mut digests).await;
    digests
}

async fn pull_manifest(scene: &Scene, repository: &str, digest: &str, digests: &mut Vec<String>) {
    let manifest = get(&scene.manifest(repository, digest)).await;
    assert_eq!(digest_of(&manifest.body), digest);
    let manifest = manifest.json();
    let child = |value: &serde_json::Value| {
        let digest = value["digest"].as_str();
        digest.expect("a digest").to_owned()
    };
    if let Some(manifests) = manifest["manifests"].as_array() {
        for manifest in manifests.iter().map(child) {
            digests.push(manifest.clone());
            Box::pin(pull_manifest(scene, repository, &manifest, digests)).await;
        }
        return;
    }
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    for blob in layers.iter().chain([&manifest["config"]]).map(child) {
        let answer = http::get_digest(&scene.blob(repository, &blob), &[]).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.error), (200, None));
        assert_eq!(answer.digest, blob);
        digests.push(blob);
    }
}

async fn pulled() -> (Scene, Vec<String>) {
    let scene = Scene::new().await;
    let layers = [
        LayerSpec::new(1, 100),
        LayerSpec::new(2, 2_000_000),
        LayerSpec::new(3, 20_000_000),
    ];
    image::build_index(&scene.fake, "team/app", "v1", &layers);
    let digests = pull(&scene, "team/app", "v1").await;
    for digest in &digests {
        scene.until_committed(digest).await;
    }
    (scene, digests)
}

#[tokio::test]
async fn the_second_pull_fetches_nothing() {
    let (scene, digests) = pulled().await;
    let bytes: u64 = digests.iter().map(|d| scene.fake.blob_bytes_sent(d)).sum();
    assert!(bytes > 44_000_000, "{bytes}");
    scene.fake.reset_counts();
    assert_eq!(pull(&scene, "team/app", "v1").await, digests);
    assert_eq!(scene.fetches(), 0);
    // One request to the registry: a HEAD of the tag.
    assert_eq!(scene.fake.count(|seen| seen.method == "HEAD"), 1);
    // The same content by prefix addressing, as podman asks.
    let prefix = format!("{}/v2/{}/team/app", scene.node.url(), scene.fake.host());
    let manifest = get(&format!("{prefix}/manifests/v1")).await;
    assert_eq!(digest_of(&manifest.body), digests[0]);
    assert_eq!(scene.fetches(), 0);
    assert_eq!(scene.fake.requests().len(), 2);
}

#[tokio::test]
async fn without_the_registry_what_is_here_is_served() {
    let (scene, digests) = pulled().await;
    scene.fake.stop().await;
    let answer = get(&scene.manifest("team/app", &digests[0])).await;
    assert_eq!(answer.header("warning"), None, "a digest is never old");
    // A pull by tag works, with a warning that it may be old.
    let url = scene.manifest("team/app", "v1");
    for answer in [http::get(&url, &[]).await, http::head(&url, &[]).await] {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("docker-content-digest"), Some(&*digests[0]));
        let warning = answer.header("warning").expect("a Warning");
        assert!(warning.starts_with("299 - \""), "{warning}");
    }
    assert_eq!(pull(&scene, "team/app", "v1").await, digests);
    // Content that is not here gets a refusal: containerd goes on to the registry itself.
    let absent = scene.manifest("team/app", "v2");
    let answer = http::get(&absent, &[]).await.expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE");
}

#[tokio::test]
async fn a_restart_keeps_what_was_pulled() {
    let (mut scene, digests) = pulled().await;
    scene.fake.stop().await;
    scene.node.restart().await;
    assert_eq!(pull(&scene, "team/app", "v1").await, digests);
    scene.node.kill9().await;
    scene.node.restart().await;
    assert_eq!(pull(&scene, "team/app", "v1").await, digests);
}

/// podman asks by tag, and at once again by the digest that it got.
#[tokio::test]
async fn a_manifest_is_here_as_soon_as_it_was_served() {
    let scene = Scene::new().await;
    for i in 0..50 {
        let image = image::build(
            &scene.fake,
            "team/app",
            &format!("v{i}"),
            &[LayerSpec::new(i, 10)],
        );
        get(&scene.manifest("team/app", &format!("v{i}"))).await;
        let answer = get(&scene.manifest("team/app", &image.manifest_digest)).await;
        assert_eq!(answer.body, image.manifest);
    }
    assert_eq!(scene.fetches(), 50);
}

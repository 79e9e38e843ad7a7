//! Requests for names that do not exist leave nothing behind, and entries that refer to nothing any more are swept
//! (P27).

use std::fs;
use std::time::Duration;

use data_encoding::BASE64;
use larder_tests::fake::Content;
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::{Scene, files};

use super::{MB, age, pull, whole};

const MADE_UP: u64 = 40;

async fn gc(scene: &Scene) {
    let done = scene.node.cli(&["gc"]).await;
    assert!(done.status.success(), "{done:?}");
}

#[tokio::test]
async fn made_up_names_leave_nothing_on_disk() {
    let mut scene = Scene::with(|node| node.log_level("info")).await;
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for n in 0..MADE_UP {
        let repository = format!("made/up/{n}");
        // Some do not exist, and some are private.
        if n % 2 == 0 {
            scene.fake.require_basic(&repository, "user", "password");
        }
        for path in [
            format!("{repository}/manifests/v1"),
            format!("{repository}/manifests/{digest}"),
            format!("{repository}/blobs/{digest}"),
            format!("{repository}/tags/list"),
        ] {
            let url = scene.path(&path);
            let secret = format!("Basic {}", BASE64.encode(format!("user:{n}").as_bytes()));
            for headers in [&[][..], &[("authorization", secret.as_str())]] {
                let answers = [
                    http::head(&url, headers).await,
                    http::get(&url, headers).await,
                ];
                for answer in answers {
                    let status = answer.expect("an answer").status;
                    assert!([401, 404, 405].contains(&status), "{status} for {path}");
                }
            }
        }
    }
    // A record of kept content is written, after all of the others.
    let content = Content::synthetic(1, MB);
    let kept = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &kept);
    assert_eq!(pull(&url, &content).await, whole(&content));
    scene.until_committed(&kept).await;
    scene.node.terminate();
    scene.node.wait().await;
    let repositories = scene.node.store().join("repositories");
    let of_registry = repositories.join(scene.fake.host());
    assert_eq!(files(&repositories), [of_registry.join("a/b/_log")]);
    let dirs = fs::read_dir(&of_registry).expect("a directory");
    assert_eq!(dirs.count(), 1, "a directory for each name");
    // There is no line for them in the record of grants either, and no other file.
    let grants = fs::read_to_string(scene.node.store().join("grants"));
    assert_eq!(grants.unwrap_or_default(), "");
    for file in files(scene.node.store()) {
        let text = fs::read(&file).expect("a file");
        let named = text.windows(7).any(|part| part == b"made/up");
        assert!(!named, "{}", file.display());
    }
}

#[tokio::test]
async fn what_leads_nowhere_any_more_is_swept() {
    let mut scene = Scene::with(|node| node.log_level("info")).await;
    let host = scene.fake.host();
    let pulled = async |repository: &str, seed| {
        let image = image::build(&scene.fake, repository, "v1", &[LayerSpec::new(seed, MB)]);
        for reference in ["v1", &image.manifest_digest] {
            let url = scene.manifest(repository, reference);
            assert_eq!(http::get(&url, &[]).await.expect("an answer").status, 200);
        }
        let layer = &image.layers[0];
        let url = scene.blob(repository, &layer.digest);
        assert_eq!(pull(&url, &layer.content).await, whole(&layer.content));
        scene.until_committed(&layer.digest).await;
        scene.until_committed(&image.manifest_digest).await;
        image
    };
    let gone = pulled("gone/a/b", 1).await;
    let kept = pulled("kept/a/b", 2).await;
    gc(&scene).await;
    let repositories = scene.node.store().join("repositories");
    assert_eq!(files(&repositories).len(), 2);
    let evicted = scene
        .node
        .cli(&["evict", &format!("{host}/gone/a/b:v1")])
        .await;
    assert!(evicted.status.success(), "{evicted:?}");
    assert!(!scene.committed(&gone.manifest_digest));
    gc(&scene).await;
    let log = repositories.join(&host).join("kept/a/b/_log");
    assert_eq!(files(&repositories), std::slice::from_ref(&log));
    assert!(!repositories.join(&host).join("gone").exists());
    // A swept name can be pulled again, and the others are unchanged.
    let url = scene.manifest("gone/a/b", "v1");
    assert_eq!(http::get(&url, &[]).await.expect("an answer").status, 200);
    scene.node.terminate();
    scene.node.wait().await;
    scene.node.restart().await;
    scene.fake.stop().await;
    for (repository, image) in [("gone/a/b", &gone), ("kept/a/b", &kept)] {
        let url = scene.manifest(repository, "v1");
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
    }
    let layer = &kept.layers[0];
    let url = scene.blob("kept/a/b", &layer.digest);
    assert_eq!(pull(&url, &layer.content).await, whole(&layer.content));
}

#[tokio::test]
async fn stores_that_were_set_aside_go_after_a_while() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let aside = [("set-aside-1", 8), ("set-aside-2", 1)].map(|(name, days)| {
        let dir = scene.node.store().join(name);
        fs::create_dir_all(dir.join("blobs")).expect("our own directory");
        fs::write(dir.join("blobs/something"), "x").expect("our own file");
        age(&dir, Duration::from_hours(24 * days));
        dir
    });
    gc(&scene).await;
    assert_eq!(aside.map(|dir| dir.exists()), [false, true]);
}

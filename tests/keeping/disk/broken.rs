//! A disk that takes no writes, loses what it held, or hangs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use larder_tests::fake::{Content, Match};
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::real::skipped;
use larder_tests::scene::{Compared, Scene, compare};

use super::{is_failing, until_it_keeps_again};
use crate::{MB, pull, sound_blobs, whole};

/// Makes directories refuse every change, even by root; undone when dropped.
struct Frozen(Vec<PathBuf>);

impl Frozen {
    fn new(test: &str, dirs: Vec<PathBuf>) -> Option<Self> {
        let frozen = Self(dirs);
        let done = frozen.0.iter().all(|dir| chattr("+i", dir));
        if !done {
            skipped(test, "directories cannot be made immutable here");
        }
        done.then_some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|dir| {
            chattr("-i", dir);
        });
    }
}

fn chattr(flag: &str, path: &Path) -> bool {
    let done = Command::new("chattr")
        .arg(flag)
        .arg(path)
        .stderr(std::process::Stdio::null())
        .status();
    done.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_store_that_cannot_be_written() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let here = Content::synthetic(1, 3 * MB);
    let digest = scene.fake.put_content("a/b", &here);
    let here_url = scene.blob("a/b", &digest);
    assert_eq!(pull(&here_url, &here).await, whole(&here));
    scene.until_committed(&digest).await;
    let store = scene.node.store();
    let dirs = ["tmp", "partial/sha256", "blobs/sha256"].map(|dir| store.join(dir));
    let Some(frozen) = Frozen::new("a_store_that_cannot_be_written", dirs.into()) else {
        return;
    };
    let image = image::build(
        &scene.fake,
        "a/b",
        "v1",
        &[LayerSpec::new(3, 20 * MB), LayerSpec::new(4, 10)],
    );
    for _ in 0..2 {
        let answer = http::get(&scene.manifest("a/b", "v1"), &[])
            .await
            .expect("an answer");
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
        for layer in &image.layers {
            let url = scene.blob("a/b", &layer.digest);
            assert_eq!(pull(&url, &layer.content).await, whole(&layer.content));
        }
        assert_eq!(pull(&here_url, &here).await, whole(&here));
    }
    assert!(is_failing(&scene).await);
    drop(frozen);
    until_it_keeps_again(&scene).await;
}

#[tokio::test]
async fn a_store_that_vanishes() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let content = Content::synthetic(1, 20 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(3, 10)]);
    let manifest = scene.manifest("a/b", "v1");
    let pulled = async || {
        assert_eq!(pull(&url, &content).await, whole(&content));
        let answer = http::get(&manifest, &[]).await.expect("an answer");
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
    };
    pulled().await;
    scene.until_committed(&digest).await;
    // In the middle of a pull, too.
    let other = Content::synthetic(2, 20 * MB);
    let slow = scene.fake.put_content("a/b", &other);
    let gate = scene.fake.gate(Match::blob().reference(&slow), 2 * MB);
    let mut stream = http::open(&scene.blob("a/b", &slow), &[])
        .await
        .expect("an answer");
    stream
        .read_exactly(1_000_000)
        .await
        .expect("the first bytes");
    gate.reached(1).await;
    for name in ["blobs", "partial", "repositories", "tmp", "quarantine"] {
        fs::remove_dir_all(scene.node.store().join(name)).expect("a directory");
    }
    gate.open();
    let rest = compare(&mut stream, &other, MB..20 * MB).await;
    assert_eq!(rest, Compared::whole(19 * MB));
    for _ in 0..3 {
        pulled().await;
    }
    until_it_keeps_again(&scene).await;
    pulled().await;
    scene.until_committed(&digest).await;
    sound_blobs(scene.node.store());
}

/// A write that never returns counts as one that fails: the body goes on without the disk.
#[tokio::test]
async fn a_disk_that_hangs() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let content = Content::synthetic(1, 30 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    // Each write of a checkpoint opens one of these pipes, and waits until a reader opens it.
    let pipes = (0..100).map(|number| {
        let name = format!("tmp/{}-{number}", scene.node.pid());
        scene.node.store().join(name)
    });
    let pipes: Vec<_> = pipes.collect();
    for pipe in &pipes {
        nix::unistd::mkfifo(pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    }
    let pulls = async || {
        for _ in 0..2 {
            assert_eq!(pull(&url, &content).await, whole(&content));
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(30), pulls()).await;
    assert!(done.is_ok(), "the body hangs as well");
    assert!(is_failing(&scene).await);
    // Then the disk comes back: the test opens every pipe, so that waiting writes end, and removes it.
    let open = |pipe: &PathBuf| {
        let open = fs::File::options().read(true).write(true).open(pipe);
        let _ = fs::remove_file(pipe);
        open
    };
    let _open: Vec<_> = pipes.iter().map(open).collect();
    until_it_keeps_again(&scene).await;
}

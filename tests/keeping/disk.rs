//! Disks that are full, read-only, or gone: larder is a plain proxy for as long as that lasts (P22).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::{Content, Fault, Match, Request, digest_of};
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::real::skipped;
use larder_tests::scene::{Compared, Scene, compare, eventually, files};
use larder_tests::tmpfs::Tmpfs;

use super::{MB, pull, sound_blobs, whole};

/// More than the file system below it holds.
const LARGE: u64 = 100 * MB;
const MIB: u64 = 64;

/// A node whose store is on a file system of 64 MiB.
async fn small(test: &str) -> Option<(Scene, Tmpfs)> {
    small_with(test, "").await
}

async fn small_with(test: &str, config: &str) -> Option<(Scene, Tmpfs)> {
    let tmpfs = Tmpfs::mount(test, MIB)?;
    let store = tmpfs.path().join("store");
    let scene = Scene::with(|node| node.store(store).config(config).log_level("info")).await;
    Some((scene, tmpfs))
}

/// Whether larder says that its disk fails: in its status, to the kubelet and in its metrics, once they agree.
async fn is_failing(scene: &Scene) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    let ready = format!("http://{}/readyz", scene.node.telemetry());
    loop {
        let status = scene.node.admin("/status").await;
        let state = status["store"]["state"].as_str().expect("a state");
        let ready = http::get(&ready, &[]).await.expect("an answer");
        // A node that cannot keep is still a node that serves.
        assert_eq!(ready.status, 200);
        let metric = scene.node.metric("larder_store_failing").await;
        let says = [
            state.contains("failing"),
            ready.text().contains("fails"),
            metric == Some(1.0),
        ];
        if says.iter().all(|one| *one == says[0]) {
            return says[0];
        }
        assert!(
            Instant::now() < deadline,
            "{state} / {} / {metric:?}",
            ready.text()
        );
    }
}

/// Pulls small blobs until one of them is kept, and larder says that all is well.
async fn until_it_keeps_again(scene: &Scene) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut seed = 1_000_000;
    loop {
        seed += 1;
        let content = Content::synthetic(seed, 100_000);
        let digest = scene.fake.put_content("a/b", &content);
        assert_eq!(
            pull(&scene.blob("a/b", &digest), &content).await,
            whole(&content)
        );
        // A blob that was passed on while the disk failed is not kept later: another one is pulled.
        let soon = Instant::now() + Duration::from_secs(1);
        while Instant::now() < soon {
            if !is_failing(scene).await && scene.committed(&digest) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(Instant::now() < deadline, "it never keeps anything again");
    }
}

/// What can never fit is nothing to make room for, and says nothing about the disk.
#[tokio::test]
async fn a_blob_larger_than_the_bound_is_passed_on_and_the_tier_goes_on() {
    let scene = Scene::with(|node| node.config("[store]\nmax_size = \"50MB\"")).await;
    let kept = Content::synthetic(7, MB);
    let kept_digest = scene.fake.put_content("a/b", &kept);
    assert_eq!(
        pull(&scene.blob("a/b", &kept_digest), &kept).await,
        whole(&kept)
    );
    scene.until_committed(&kept_digest).await;
    let content = Content::synthetic(1, LARGE);
    let digest = scene.fake.put_content("a/b", &content);
    for _ in 0..2 {
        let url = scene.blob("a/b", &digest);
        assert_eq!(pull(&url, &content).await, whole(&content));
    }
    assert!(!is_failing(&scene).await);
    assert!(scene.committed(&kept_digest), "it was evicted for nothing");
    assert!(!scene.committed(&digest));
}

#[tokio::test]
async fn a_blob_larger_than_the_disk_is_passed_on() {
    // The bound leaves it to the disk to say that it is full.
    let bound = "[store]\nmax_size = \"1GiB\"";
    let test = "a_blob_larger_than_the_disk_is_passed_on";
    let Some((scene, _tmpfs)) = small_with(test, bound).await else {
        return;
    };
    let content = Content::synthetic(1, LARGE);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    assert!(!is_failing(&scene).await);
    // Cold, and again while the disk is left alone, and in ranges.
    assert_eq!(pull(&url, &content).await, whole(&content));
    assert!(is_failing(&scene).await);
    assert_eq!(pull(&url, &content).await, whole(&content));
    let ranges = [
        ("bytes=0-99", 0, 100),
        ("bytes=99000000-99000099", 99 * MB, 99 * MB + 100),
        ("bytes=30000000-59999999", 30 * MB, 60 * MB),
        ("bytes=70000000-", 70 * MB, LARGE),
        ("bytes=0-", 0, LARGE),
        ("bytes=-1000", LARGE - 1000, LARGE),
    ];
    join_all(ranges.map(|(range, start, end)| {
        let (url, content) = (&url, &content);
        async move {
            let stream = http::open(url, &[("range", range)]).await;
            let mut stream = stream.expect("an answer");
            let compared = compare(&mut stream, content, start..end).await;
            assert_eq!(
                (stream.status, compared),
                (206, Compared::whole(end - start)),
                "{range}"
            );
        }
    }))
    .await;
    let several = http::get(&url, &[("range", "bytes=0-9,50000000-50000009")]).await;
    let several = several.expect("an answer");
    assert_eq!((several.status, several.complete), (206, true));
    assert!(
        several
            .body
            .windows(10)
            .any(|bytes| bytes == content.read(50 * MB..50 * MB + 10))
    );
    // A crowd.
    let crowd = join_all((0..4).map(|_| pull(&url, &content))).await;
    assert!(
        crowd.iter().all(|pulled| *pulled == whole(&content)),
        "{crowd:?}"
    );
    // Nothing partial stays, and what fits is kept.
    scene.until_idle().await;
    eventually("no partial stays", || {
        files(&scene.node.store().join("partial")).is_empty()
    })
    .await;
    assert!(!scene.committed(&digest));
    until_it_keeps_again(&scene).await;
    sound_blobs(scene.node.store());
}

/// What is passed on without being kept is checked all the same.
#[tokio::test]
async fn wrong_bytes_end_short_without_a_disk_too() {
    let Some((scene, _tmpfs)) = small("wrong_bytes_end_short_without_a_disk_too").await else {
        return;
    };
    let content = Content::synthetic(1, LARGE);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let at = 90 * MB;
    let lie = scene.fake.fault(Match::blob(), Fault::WrongBytes { at });
    for range in [None, Some("bytes=0-"), Some("bytes=80000000-")] {
        let start = if range == Some("bytes=80000000-") {
            80 * MB
        } else {
            0
        };
        let headers = range.map(|range| ("range", range));
        let stream = http::open(&url, headers.as_slice()).await;
        let mut stream = stream.expect("an answer");
        let compared = compare(&mut stream, &content, start..LARGE).await;
        assert_eq!(compared.differs_at, Some(at - start), "{range:?}");
        assert!(compared.error.is_some(), "{range:?}: it looked whole");
        assert!(
            compared.len <= LARGE - start - 65_536,
            "{range:?}: the tail was held back"
        );
    }
    lie.lift();
    assert_eq!(pull(&url, &content).await, whole(&content));
    // The small ones are checked before their first byte.
    let content = Content::synthetic(2, 5000);
    let digest = scene.fake.put_content("a/b", &content);
    let lie = scene.fake.fault(Match::blob(), Fault::WrongBytes { at: 1 });
    let answer = http::get(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    lie.lift();
    assert_eq!(
        pull(&scene.blob("a/b", &digest), &content).await,
        whole(&content)
    );
}

/// The disk is filled by somebody else, before a pull and in the middle of one, and made free again.
#[tokio::test]
async fn a_disk_that_others_fill_is_used_again_when_there_is_room() {
    let Some((scene, tmpfs)) =
        small("a_disk_that_others_fill_is_used_again_when_there_is_room").await
    else {
        return;
    };
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, 5 * MB)]);
    let kept = scene.blob("a/b", &image.layers[0].digest);
    assert_eq!(
        pull(&kept, &image.layers[0].content).await,
        whole(&image.layers[0].content)
    );
    scene.until_committed(&image.layers[0].digest).await;
    // In the middle of a pull.
    let content = Content::synthetic(2, 30 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let gate = scene.fake.gate(Match::blob().reference(&digest), 5 * MB);
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    stream
        .read_exactly(4_000_000)
        .await
        .expect("the first bytes");
    gate.reached(1).await;
    let foreign = tmpfs.fill_up();
    gate.open();
    let rest = compare(&mut stream, &content, 4 * MB..30 * MB).await;
    assert_eq!(rest, Compared::whole(26 * MB));
    eventually("no partial stays", || {
        files(&scene.node.store().join("partial")).is_empty()
    })
    .await;
    // A whole image, manifest included, on a disk that is full from the start.
    let _ = fs::remove_file(&foreign);
    let foreign = tmpfs.fill_up();
    let image = image::build(
        &scene.fake,
        "a/b",
        "v2",
        &[LayerSpec::new(3, 5 * MB), LayerSpec::new(4, 10)],
    );
    for _ in 0..2 {
        let pulled = scene.door("a/b").pull("v2", &image).await;
        pulled.expect("an image");
    }
    assert!(is_failing(&scene).await);
    fs::remove_file(foreign).expect("our own file");
    until_it_keeps_again(&scene).await;
    sound_blobs(scene.node.store());
}

/// A node that finds its disk full starts, and serves.
#[tokio::test]
async fn a_start_on_a_full_disk() {
    let Some((mut scene, tmpfs)) = small("a_start_on_a_full_disk").await else {
        return;
    };
    let content = Content::synthetic(1, 5 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    assert_eq!(pull(&url, &content).await, whole(&content));
    scene.until_committed(&digest).await;
    let foreign = tmpfs.fill_up();
    scene.node.kill9().await;
    scene.node.restart().await;
    assert_eq!(pull(&url, &content).await, whole(&content));
    let other = Content::synthetic(2, 8 * MB);
    let digest = scene.fake.put_content("a/b", &other);
    assert_eq!(
        pull(&scene.blob("a/b", &digest), &other).await,
        whole(&other)
    );
    fs::remove_file(foreign).expect("our own file");
    until_it_keeps_again(&scene).await;
}

/// The same where there was no store before, and the store that it makes when there is room.
#[tokio::test]
async fn a_first_start_on_a_full_disk() {
    let test = "a_first_start_on_a_full_disk";
    let Some(tmpfs) = Tmpfs::mount(test, MIB) else {
        return;
    };
    let foreign = tmpfs.fill_up();
    let store = tmpfs.path().join("store");
    let mut scene = Scene::with(|node| node.store(store).log_level("info")).await;
    assert!(is_failing(&scene).await);
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, 5 * MB)]);
    for _ in 0..2 {
        let head = http::head(&scene.manifest("a/b", "v1"), &[]).await;
        assert_eq!(head.expect("an answer").status, 200);
        let by_digest = scene.manifest("a/b", &image.manifest_digest);
        let answer = http::get(&by_digest, &[]).await.expect("an answer");
        assert_eq!((answer.status, &answer.body), (200, &image.manifest));
        let layer = &image.layers[0];
        let url = scene.blob("a/b", &layer.digest);
        assert_eq!(pull(&url, &layer.content).await, whole(&layer.content));
    }
    fs::remove_file(foreign).expect("our own file");
    until_it_keeps_again(&scene).await;
    sound_blobs(scene.node.store());
    // What it made is a store like any other.
    let content = Content::synthetic(2, MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    assert_eq!(pull(&url, &content).await, whole(&content));
    scene.until_committed(&digest).await;
    scene.node.kill9().await;
    scene.node.restart().await;
    scene.fake.stop().await;
    assert!(scene.committed(&digest));
    assert!(!is_failing(&scene).await);
}

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

/// The first bytes leave before there is a file. When there never is one, the digest still vouches for the very bytes
/// that were sent, not for what the source says of them later (P9).
#[tokio::test]
async fn what_was_sent_before_the_disk_failed_is_checked_too() {
    let mut short = 0;
    for seed in 0..10 {
        let scene = Scene::with(|node| node.log_level("info")).await;
        let partial = scene.node.store().join("partial/sha256");
        fs::remove_dir_all(&partial).expect("an empty directory");
        fs::write(&partial, "in the way").expect("a file");
        let content = Content::synthetic(seed, 20 * MB);
        let digest = scene.fake.put_content("a/b", &content);
        let once = Match::blob().method("GET").times(1);
        scene.fake.fault(once, Fault::WrongBytes { at: 1000 });
        let answer = http::get(&scene.blob("a/b", &digest), &[]).await;
        let answer = answer.expect("an answer");
        let right = digest_of(&answer.body) == digest;
        assert!(right || !answer.complete, "a complete answer that is wrong");
        short += u32::from(!answer.complete);
    }
    assert!(short > 0, "the wrong bytes were never sent");
}

/// Nothing is kept of a blob that is larger than the tier may be. From its middle on it is fetched a second time for its
/// digest, which vouches for the bytes that were sent only if both times brought the same (P9).
#[tokio::test]
async fn what_is_sent_from_the_middle_without_a_disk_is_checked_too() {
    let scene = Scene::with(|node| node.config("[store]\nmax_size = \"1MB\"\n")).await;
    let content = Content::synthetic(1, 3 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let range = [("range", "bytes=1000000-")];
    let sent = |request: &Request| {
        let range = request.header("range");
        range.is_some_and(|range| range.starts_with("bytes=1000000-"))
    };
    let wrong = Fault::WrongBytes { at: 2 * MB };
    let wrong = scene.fake.fault(Match::blob().when(sent).times(1), wrong);
    let answer = http::get(&url, &range).await.expect("an answer");
    assert_eq!(
        (wrong.hits(), answer.status, answer.complete),
        (1, 206, false)
    );
    let answer = http::get(&url, &range).await.expect("an answer");
    assert!(answer.complete && answer.body == content.read(MB..3 * MB));
}

/// A write that never returns is as good as one that fails: the body goes on without the disk.
#[tokio::test]
async fn a_disk_that_hangs() {
    let scene = Scene::with(|node| node.log_level("info")).await;
    let content = Content::synthetic(1, 30 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    // Whoever writes a checkpoint opens one of these, and waits for somebody who reads it.
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
    // And it comes back. Whoever waited takes its pipe with it.
    let open = |pipe: &PathBuf| {
        let open = fs::File::options().read(true).write(true).open(pipe);
        let _ = fs::remove_file(pipe);
        open
    };
    let _open: Vec<_> = pipes.iter().map(open).collect();
    until_it_keeps_again(&scene).await;
}

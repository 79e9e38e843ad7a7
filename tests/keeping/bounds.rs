//! The node tier stays within its bounds, and eviction disturbs no reader (P21).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use larder_tests::fake::{Content, Match};
use larder_tests::http;
use larder_tests::node::Node;
use larder_tests::scene::{Compared, Scene, compare, eventually, files};

use super::{MB, age, path, pull, sound_blobs, whole};

/// Bytes that count towards the bounds: all of a blob, and of a partial what is there.
fn occupied(node: &Node) -> u64 {
    let sum = |name: &str, of: fn(&fs::Metadata) -> u64| {
        let all = files(&node.store().join(name));
        all.iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|found| of(&found))
            .sum::<u64>()
    };
    sum("blobs", fs::Metadata::len) + sum("partial", |found| found.blocks() * 512)
}

fn store(text: &str) -> String {
    format!("[store]\n{text}\n")
}

/// Puts `count` blobs of `size` bytes and gives their URLs and contents.
fn put(scene: &Scene, first: u64, count: u64, size: u64) -> Vec<(String, Content)> {
    (first..first + count)
        .map(|seed| {
            let content = Content::synthetic(seed, size);
            (scene.fake.put_content("a/b", &content), content)
        })
        .collect()
}

async fn pull_all(scene: &Scene, blobs: &[(String, Content)]) {
    for (digest, content) in blobs {
        assert_eq!(
            pull(&scene.blob("a/b", digest), content).await,
            whole(content)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_is_bounded_while_much_is_pulled_and_read() {
    const MAX: u64 = 40 * MB;
    const BLOB: u64 = 5 * MB;
    let config = store("max_size = \"40MB\"\nmin_free = \"0\"");
    let scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let blobs = put(&scene, 0, 40, BLOB);
    // A reader that is slower than the eviction.
    let mut slow = Vec::new();
    for (digest, content) in &blobs[..3] {
        let url = scene.blob("a/b", digest);
        assert_eq!(pull(&url, content).await, whole(content));
        slow.push((http::open(&url, &[]).await.expect("an answer"), content));
    }
    for four in blobs[3..].chunks(4) {
        let pulls = four.iter().map(|(digest, content)| {
            let url = scene.blob("a/b", digest);
            async move { assert_eq!(pull(&url, content).await, whole(content)) }
        });
        futures_util::future::join_all(pulls).await;
        // A fill ends when its blob is on disk. The client has not waited for that.
        scene.until_idle().await;
        let ended = Instant::now();
        while occupied(&scene.node) > MAX {
            let late = ended.elapsed() > Duration::from_secs(1);
            assert!(
                !late,
                "{} of {MAX} after {:?}",
                occupied(&scene.node),
                ended.elapsed()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    // Within one blob of the bound: larder evicts no more than it must.
    assert!(
        occupied(&scene.node) >= MAX - 2 * BLOB,
        "{}",
        occupied(&scene.node)
    );
    for (stream, content) in &mut slow {
        assert_eq!(
            compare(stream, content, 0..BLOB).await,
            Compared::whole(BLOB)
        );
    }
    sound_blobs(scene.node.store());
    let metric = scene.node.metric("larder_store_size_bytes").await;
    assert!(
        metric.is_some_and(|bytes| bytes <= MAX as f64),
        "{metric:?}"
    );
}

/// A client that reads an evicted blob is served to the end, from the file that has no name any more.
#[tokio::test]
async fn a_reader_of_what_is_removed_is_not_cut_off() {
    let config = store("max_size = \"30MB\"\nmin_free = \"0\"");
    let scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let blobs = put(&scene, 0, 8, 20 * MB);
    pull_all(&scene, &blobs[..1]).await;
    let (digest, content) = &blobs[0];
    scene.until_committed(digest).await;
    let mut stream = http::open(&scene.blob("a/b", digest), &[])
        .await
        .expect("an answer");
    let head = stream
        .read_exactly(1_000_000)
        .await
        .expect("the first bytes");
    assert!(*head == content.read(0..MB));
    pull_all(&scene, &blobs[1..]).await;
    let rest = compare(&mut stream, content, MB..20 * MB).await;
    assert_eq!(rest, Compared::whole(19 * MB));
    eventually("it is within its bound", || {
        occupied(&scene.node) <= 30 * MB
    })
    .await;
}

#[tokio::test]
async fn the_least_recently_used_goes_first() {
    let config = store("max_size = \"25MB\"\nmin_free = \"0\"");
    let scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let blobs = put(&scene, 0, 4, 6 * MB);
    pull_all(&scene, &blobs).await;
    for (digest, _) in &blobs {
        scene.until_committed(digest).await;
    }
    // The end of a commit counts as a use.
    scene.until_idle().await;
    pull_all(&scene, &blobs[..2]).await;
    let more = put(&scene, 10, 1, 6 * MB);
    pull_all(&scene, &more).await;
    eventually("one has gone", || {
        blobs[2..]
            .iter()
            .filter(|(digest, _)| scene.committed(digest))
            .count()
            == 1
    })
    .await;
    assert!(
        !scene.committed(&blobs[2].0),
        "of the two, the older one goes"
    );
    for (digest, _) in blobs[..2].iter().chain(&more) {
        assert!(scene.committed(digest), "what was used last went first");
    }
}

#[tokio::test]
async fn what_nobody_uses_goes_after_its_time() {
    let config = store("ttl = \"1h\"");
    let mut scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let blobs = put(&scene, 0, 2, 100_000);
    pull_all(&scene, &blobs).await;
    for (digest, _) in &blobs {
        scene.until_committed(digest).await;
    }
    scene.node.kill9().await;
    for (i, (digest, _)) in blobs.iter().enumerate() {
        let old = Duration::from_secs(if i == 0 { 2 * 3600 } else { 1800 });
        age(&path(scene.node.store(), digest), old);
    }
    scene.node.restart().await;
    eventually("the old one goes", || !scene.committed(&blobs[0].0)).await;
    assert!(scene.committed(&blobs[1].0));
    // An evicted blob can be fetched again.
    pull_all(&scene, &blobs).await;
    scene.until_committed(&blobs[0].0).await;
}

/// Each registry may have its own ttl, or none.
#[tokio::test]
async fn the_time_of_a_registry_goes_before_that_of_all() {
    let patient = larder_tests::fake::FakeRegistry::start().await;
    let config = format!(
        "[store]\nttl = \"1h\"\n[upstreams.\"{}\"]\nendpoints = [\"{}\"]\nttl = \"0\"\n",
        patient.host(),
        patient.url()
    );
    let mut scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let content = [
        Content::synthetic(1, 100_000),
        Content::synthetic(2, 100_000),
    ];
    let here = scene.fake.put_content("a/b", &content[0]);
    let there = patient.put_content("a/b", &content[1]);
    assert_eq!(
        pull(&scene.blob("a/b", &here), &content[0]).await,
        whole(&content[0])
    );
    let url = format!(
        "{}/v2/a/b/blobs/{there}?ns={}",
        scene.node.url(),
        patient.host()
    );
    assert_eq!(pull(&url, &content[1]).await, whole(&content[1]));
    scene.until_committed(&here).await;
    scene.until_committed(&there).await;
    scene.node.terminate();
    scene.node.wait().await;
    for digest in [&here, &there] {
        age(
            &path(scene.node.store(), digest),
            Duration::from_hours(1000),
        );
    }
    scene.node.restart().await;
    eventually("the one goes", || !scene.committed(&here)).await;
    assert!(scene.committed(&there), "the other stays for ever");
}

#[tokio::test]
async fn pinned_content_stays() {
    let config = store("max_size = \"20MB\"\nmin_free = \"0\"\nttl = \"1h\"");
    let mut scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let blobs = put(&scene, 0, 6, 6 * MB);
    pull_all(&scene, &blobs[..1]).await;
    let pinned = &blobs[0].0;
    scene.until_committed(pinned).await;
    scene.node.kill9().await;
    fs::write(scene.node.store().join("pins"), format!("{pinned}\n")).expect("the pins");
    age(
        &path(scene.node.store(), pinned),
        Duration::from_hours(1000),
    );
    scene.node.restart().await;
    pull_all(&scene, &blobs[1..]).await;
    eventually("it is within its bound", || {
        occupied(&scene.node) <= 20 * MB
    })
    .await;
    assert!(scene.committed(pinned));
}

#[tokio::test]
async fn bounds_change_without_a_restart() {
    let scene = Scene::with(|node| node.config(store("min_free = \"0\"")).log_level("info")).await;
    let blobs = put(&scene, 0, 6, 5 * MB);
    pull_all(&scene, &blobs).await;
    for (digest, _) in &blobs {
        scene.until_committed(digest).await;
    }
    // A file that cannot be used changes nothing.
    fs::write(
        scene.node.config_file(),
        "[store]\nmax_size = \"5MB\"\nnonsense = 1\n",
    )
    .expect("a file");
    eventually("it is complained about", || {
        scene.node.log().contains("nonsense")
    })
    .await;
    assert!(blobs.iter().all(|(digest, _)| scene.committed(digest)));
    let pid = scene.node.pid();
    fs::write(
        scene.node.config_file(),
        store("max_size = \"16MB\"\nmin_free = \"0\""),
    )
    .expect("a file");
    eventually("it is within the new bound", || {
        occupied(&scene.node) <= 16 * MB
    })
    .await;
    assert_eq!(scene.node.pid(), pid);
    assert!(blobs.iter().any(|(digest, _)| scene.committed(digest)));
    let status = scene.node.admin("/status").await;
    assert_eq!(status["store"]["max_bytes"], 16 * MB);
    fs::write(scene.node.config_file(), store("min_free = \"0\"")).expect("a file");
    let deadline = Instant::now() + Duration::from_secs(20);
    while scene.node.admin("/status").await["store"]["max_bytes"] == 16 * MB {
        assert!(Instant::now() < deadline, "the old bound stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pull_all(&scene, &blobs).await;
    for (digest, _) in &blobs {
        scene.until_committed(digest).await;
    }
}

/// Partials without a fill count towards the bounds, too.
#[tokio::test]
async fn partials_that_nobody_wants_go_first() {
    let config = store("max_size = \"30MB\"\nmin_free = \"0\"");
    let scene = Scene::with(|node| node.config(config).log_level("info")).await;
    let blobs = put(&scene, 0, 4, 6 * MB);
    pull_all(&scene, &blobs).await;
    for (digest, _) in &blobs {
        scene.until_committed(digest).await;
    }
    // Ranges of two large blobs: they stay partials.
    for seed in [50, 51] {
        let content = Content::synthetic(seed, 100 * MB);
        let digest = scene.fake.put_content("a/b", &content);
        let range = [("range", "bytes=0-8999999")];
        let stream = http::open(&scene.blob("a/b", &digest), &range).await;
        let compared = compare(&mut stream.expect("an answer"), &content, 0..9 * MB).await;
        assert_eq!(compared, Compared::whole(9 * MB));
        scene.until_idle().await;
    }
    eventually("it is within its bound", || {
        occupied(&scene.node) <= 30 * MB
    })
    .await;
    assert!(
        blobs.iter().all(|(digest, _)| scene.committed(digest)),
        "blobs went before partials"
    );
    // From here on the registry gives no bytes: every blob is still in the tier.
    assert!(scene.fake.count(|seen| seen.method == "GET") > 0);
    let _ = scene.fake.gate(Match::blob(), 0);
    for (digest, content) in &blobs {
        assert_eq!(
            pull(&scene.blob("a/b", digest), content).await,
            whole(content)
        );
    }
}

//! A disk that hangs: a FIFO in place of a file blocks a reader until a writer opens it, or a library below the program
//! has calls that do not return. A request that needs that file ends in time, and everything else goes on (P12, P22).

mod beside;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use larder_tests::fake::{Content, Fault, Match};
use larder_tests::http;
use larder_tests::image::{self, Image, LayerSpec};
use larder_tests::machine::Machine;
use larder_tests::node::Node;
use larder_tests::scene::{Scene, committed, compare, eventually};

use super::{MB, path, pull, sound_blobs, whole};

/// How long a client waits for an answer's head; the machine may be busy.
const CLIENT: Duration = Duration::from_secs(15);

/// More requests than there are threads for blocking work.
const CROWD: u64 = 600;

/// A file that hangs until this is dropped.
struct Fifo(PathBuf);

impl Fifo {
    fn in_place_of(file: &Path) -> Self {
        let _ = fs::remove_file(file);
        let made = Command::new("mkfifo").arg(file).status();
        assert!(made.expect("mkfifo").success());
        Self(file.to_owned())
    }
}

impl Fifo {
    /// Replaces the FIFO with a file. The path always exists: a reader that was blocked continues with the new file.
    fn give_way_to(mut self, bytes: &[u8]) {
        let [aside, new] = ["aside", "new"].map(|name| self.0.with_extension(name));
        fs::hard_link(&self.0, &aside).expect("another name");
        fs::write(&new, bytes).expect("our own file");
        fs::rename(new, std::mem::replace(&mut self.0, aside)).expect("our own file");
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        // A reader that has the FIFO open, or waits to open it, gets an end of file.
        let _ = fs::OpenOptions::new().read(true).write(true).open(&self.0);
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let answered = tokio::time::timeout(CLIENT, future).await;
    answered.unwrap_or_else(|_| panic!("no answer in time: {what}"))
}

/// Checks the parts of a node that every client needs.
async fn lives(node: &Node) {
    for url in [
        format!("{}/v2/", node.url()),
        format!("http://{}/livez", node.telemetry()),
        format!("http://{}/metrics", node.telemetry()),
    ] {
        let answer = within(&url, http::get(&url, &[])).await;
        assert!(answer.expect("an answer").status < 500, "{url}");
    }
    let status = within("status", node.admin("/status")).await;
    assert!(status["store"]["state"].is_string(), "{status}");
}

/// Pulls as a runtime does.
async fn pulled(scene: &Scene, repository: &str, image: &Image) {
    let by_tag = scene.manifest(repository, "v1");
    let head = within("HEAD", http::head(&by_tag, &[])).await;
    assert_eq!(head.expect("an answer").status, 200, "{repository}");
    let by_digest = scene.manifest(repository, &image.manifest_digest);
    let answer = within("manifest", http::get(&by_digest, &[])).await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, &answer.body), (200, &image.manifest));
    for layer in &image.layers {
        let url = scene.blob(repository, &layer.digest);
        let came = within("layer", pull(&url, &layer.content)).await;
        assert_eq!(came, whole(&layer.content), "{repository}");
    }
}

fn log_of(scene: &Scene, repository: &str) -> PathBuf {
    let repositories = scene.node.store().join("repositories");
    let registry = scene.fake.host();
    repositories.join(registry).join(repository).join("_log")
}

#[tokio::test]
async fn a_log_that_hangs_holds_up_its_own_repository_and_for_a_moment() {
    let mut scene = Scene::with(|node| node.log_level("info")).await;
    let layers = |seed| [LayerSpec::new(seed, MB), LayerSpec::new(seed + 1, 10)];
    let hung = image::build(&scene.fake, "hung/a", "v1", &layers(1));
    let well = image::build(&scene.fake, "well/a", "v1", &layers(3));
    for (repository, image) in [("hung/a", &hung), ("well/a", &well)] {
        pulled(&scene, repository, image).await;
        for layer in &image.layers {
            scene.until_committed(&layer.digest).await;
        }
    }
    scene.node.terminate();
    scene.node.wait().await;
    let log = log_of(&scene, "hung/a");
    let before = fs::read(&log).expect("a log");
    let fifo = Fifo::in_place_of(&log);
    scene.node.restart().await;
    scene.fake.reset_counts();
    let crowd = join_all((0..CROWD).map(|_| async {
        let url = scene.manifest("hung/a", "v1");
        within("the crowd", http::get(&url, &[])).await
    }));
    let others = async {
        lives(&scene.node).await;
        pulled(&scene, "well/a", &well).await;
    };
    let (crowd, ()) = tokio::join!(crowd, others);
    for answer in crowd {
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, &answer.body), (200, &hung.manifest));
    }
    let fetched = |repository: &str| {
        scene.fake.count(|seen| {
            seen.method == "GET" && seen.path.contains(repository) && seen.path.contains("/blobs/")
        })
    };
    assert_eq!(fetched("well/a"), 0, "it is here");
    pulled(&scene, "hung/a", &hung).await;
    // larder keeps another blob once it tries the disk again.
    let new = Content::synthetic(9, MB);
    let digest = scene.fake.put_content("well/b", &new);
    let deadline = tokio::time::Instant::now() + CLIENT;
    while !scene.committed(&digest) {
        let came = within("a new one", pull(&scene.blob("well/b", &digest), &new)).await;
        assert_eq!(came, whole(&new));
        assert!(tokio::time::Instant::now() < deadline, "it is never kept");
    }
    lives(&scene.node).await;
    // The log can be read at last, and larder knows its content.
    fifo.give_way_to(&before);
    pulled(&scene, "hung/a", &hung).await;
    sound_blobs(scene.node.store());
    scene.node.terminate();
    within("the end", scene.node.wait()).await;
}

#[tokio::test]
async fn a_blob_that_hangs_is_passed_on_and_others_are_served() {
    let mut scene = Scene::with(|node| node.log_level("info")).await;
    let layers = [LayerSpec::new(1, 3 * MB), LayerSpec::new(2, 2 * MB)];
    let image = image::build(&scene.fake, "a/b", "v1", &layers);
    pulled(&scene, "a/b", &image).await;
    for layer in &image.layers {
        scene.until_committed(&layer.digest).await;
    }
    scene.until_committed(&image.manifest_digest).await;
    scene.node.terminate();
    scene.node.wait().await;
    // A layer, and a manifest, which larder reads whole.
    let [hung, well] = [&image.layers[0], &image.layers[1]];
    let store = scene.node.store().to_owned();
    let fifos = [&hung.digest, &image.manifest_digest]
        .map(|digest| Fifo::in_place_of(&path(&store, digest)));
    scene.node.restart().await;
    let crowd = join_all((0..CROWD).map(|at| {
        let url = scene.blob("a/b", &hung.digest);
        async move {
            let range = format!("bytes={at}-{at}");
            within("the crowd", http::get(&url, &[("range", &range)])).await
        }
    }));
    let others = async {
        lives(&scene.node).await;
        let url = scene.blob("a/b", &well.digest);
        let came = within("another", pull(&url, &well.content)).await;
        assert_eq!(came, whole(&well.content));
    };
    let (crowd, ()) = tokio::join!(crowd, others);
    for (at, answer) in crowd.into_iter().enumerate() {
        let answer = answer.expect("an answer");
        let byte = hung.content.read(at as u64..at as u64 + 1);
        assert_eq!((answer.status, answer.body.to_vec()), (206, byte.clone()));
    }
    for _ in 0..2 {
        pulled(&scene, "a/b", &image).await;
    }
    lives(&scene.node).await;
    drop(fifos);
    eventually("the FIFOs are taken out", || {
        // A FIFO is no blob: larder takes it for damaged, and fetches the blob again.
        fs::metadata(path(&store, &hung.digest)).map_or(true, |file| file.is_file())
    })
    .await;
    let deadline = tokio::time::Instant::now() + CLIENT;
    while !committed(&store, &hung.digest) {
        pulled(&scene, "a/b", &image).await;
        assert!(tokio::time::Instant::now() < deadline, "it is never kept");
    }
}

/// A disk may begin to hang while a file is open. The body of a client that has headers by then ends short; a later
/// client gets the blob from another source.
#[tokio::test]
async fn an_open_blob_that_hangs_ends_no_second_body() {
    let machine = Machine::new();
    let scene = Scene::with(|node| machine.runs(node).log_level("info")).await;
    let blobs = [1, 2].map(|seed| {
        let content = Content::synthetic(seed, 3 * MB);
        (scene.fake.put_content("a/b", &content), content)
    });
    for (digest, content) in &blobs {
        let came = pull(&scene.blob("a/b", digest), content).await;
        assert_eq!(came, whole(content));
        scene.until_committed(digest).await;
    }
    let [(hung, content), (well, other)] = &blobs;
    let url = scene.blob("a/b", hung);
    let hanging = machine.hang(&path(scene.node.store(), hung));
    let mut stream = within("headers", http::open(&url, &[]))
        .await
        .expect("headers");
    let first = compare(&mut stream, content, 0..content.len());
    let first = tokio::time::timeout(2 * CLIENT, first)
        .await
        .expect("an end");
    assert!(
        first.error.is_some() && first.differs_at.is_none(),
        "{first:?}"
    );
    scene.fake.reset_counts();
    let crowd = join_all((0..CROWD / 10).map(|at| {
        let url = &url;
        async move {
            let range = format!("bytes={at}-{at}");
            let answer = within("the crowd", http::get(url, &[("range", &range)])).await;
            answer.expect("an answer")
        }
    }));
    let others = async {
        lives(&scene.node).await;
        let came = within("another", pull(&scene.blob("a/b", well), other)).await;
        assert_eq!(came, whole(other));
    };
    let (crowd, ()) = tokio::join!(crowd, others);
    for (at, answer) in crowd.into_iter().enumerate() {
        let byte = content.read(at as u64..at as u64 + 1);
        assert_eq!((answer.status, answer.body.to_vec()), (206, byte));
    }
    assert_eq!(
        within("the whole", pull(&url, content)).await,
        whole(content)
    );
    let fetched = |digest: &str| scene.fake.count(|seen| seen.path.contains(digest));
    assert!(fetched(hung) > 0 && fetched(well) == 0);
    drop(hanging);
    let deadline = tokio::time::Instant::now() + CLIENT;
    loop {
        scene.fake.reset_counts();
        assert_eq!(within("the end", pull(&url, content)).await, whole(content));
        if fetched(hung) == 0 {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "it is never served again"
        );
    }
}

/// larder sends no more of a blob that it knows to be wrong, and its readers do not wait for the file's removal.
#[tokio::test]
async fn wrong_bytes_that_cannot_be_removed_end_their_bodies_all_the_same() {
    let machine = Machine::new();
    let scene = Scene::with(|node| machine.runs(node).log_level("info")).await;
    let content = Content::synthetic(1, 3 * MB);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let wrong = Match::blob().method("GET");
    let wrong = scene.fake.fault(wrong, Fault::WrongBytes { at: MB });
    let hanging = machine.keep_partials();
    let (status, came) = within("the wrong bytes", pull(&url, &content)).await;
    assert_eq!((status, came.differs_at), (200, Some(MB)));
    assert!(came.error.is_some(), "a complete answer that is wrong");
    wrong.lift();
    for _ in 0..2 {
        assert_eq!(
            within("the right ones", pull(&url, &content)).await,
            whole(&content)
        );
    }
    lives(&scene.node).await;
    drop(hanging);
    let deadline = tokio::time::Instant::now() + CLIENT;
    while !scene.committed(&digest) {
        assert_eq!(
            within("the end", pull(&url, &content)).await,
            whole(&content)
        );
        assert!(tokio::time::Instant::now() < deadline, "it is never kept");
    }
    sound_blobs(scene.node.store());
}

/// Two lookups for the same blob: when one hangs, the other still answers.
#[tokio::test]
async fn a_blob_that_hangs_does_not_hide_what_its_manifest_says_of_it() {
    let mut scene = Scene::with(|node| node.log_level("info")).await;
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, 3 * MB)]);
    let layer = &image.layers[0];
    pulled(&scene, "a/b", &image).await;
    scene.until_committed(&layer.digest).await;
    scene.until_committed(&image.manifest_digest).await;
    scene.node.terminate();
    scene.node.wait().await;
    let fifo = Fifo::in_place_of(&path(scene.node.store(), &layer.digest));
    scene.node.restart().await;
    let name = format!("{}/a/b:v1", scene.fake.host());
    let explained = ["explain", &*name];
    let explained = scene.node.cli(&explained);
    within("an explanation", explained).await;
    scene.fake.fault(Match::blob(), Fault::IgnoreRange);
    scene.fake.fault(Match::blob(), Fault::NoLength);
    let head = within("HEAD", http::head(&scene.blob("a/b", &layer.digest), &[])).await;
    let head = head.expect("an answer");
    let length = head.header("content-length").map(str::to_owned);
    let told = Some(layer.content.len().to_string());
    assert_eq!((head.status, length), (200, told));
    drop(fifo);
}

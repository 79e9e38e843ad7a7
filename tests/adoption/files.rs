//! The runtime's files vanish, change, hang, or cannot be read. larder then serves the right bytes from wherever it can
//! get them, and changes nothing in the runtime's store.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use larder_tests::fake::{Content, FakeRegistry};
use larder_tests::holding::Holding;
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::machine::Machine;
use larder_tests::members::Door;
use larder_tests::node::{Node, NodeBuilder, larder_program};
use larder_tests::scene::{Compared, committed, compare, eventually};

use super::{copied_nothing, guesses, held, until, until_proven};

const REPOSITORY: &str = "team/app";
const LAYER: u64 = 3_000_000;

struct Scene {
    fake: FakeRegistry,
    node: Node,
    holding: Holding,
    image: Image,
}

impl Scene {
    /// A node whose runtime has pulled an image.
    async fn with(more: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let fake = FakeRegistry::start().await;
        let layers = [LayerSpec::new(1, LAYER), LayerSpec::new(2, 100_000)];
        let image = build(&fake, REPOSITORY, "v1", &layers);
        let mut holding = Holding::new();
        holding.pulled(&format!("{}/{REPOSITORY}:v1", fake.host()), &image);
        holding.tell();
        let builder = Node::builder().upstream(&fake).config(holding.config());
        let node = more(builder).start().await;
        Self {
            fake,
            node,
            holding,
            image,
        }
    }

    /// The same, once all of the image is proven.
    async fn proven() -> Self {
        let scene = Self::with(|node| node).await;
        until_proven(&scene.node, 5).await;
        scene.fake.reset_counts();
        scene
    }

    fn door(&self) -> Door {
        Door::of(&self.node, &self.fake.host(), REPOSITORY)
    }

    fn layer(&self) -> &str {
        &self.image.layers[0].digest
    }

    fn content(&self) -> &Content {
        &self.image.layers[0].content
    }

    /// The layer comes whole and right from the registry, and from then on from larder's own copy.
    async fn comes_from_the_registry(&self) {
        self.door().blob(self.layer()).await.expect("the layer");
        assert!(self.fake.blob_bytes_sent(self.layer()) >= self.content().len());
        let own = || committed(self.node.store(), self.layer());
        eventually("larder's own copy", own).await;
    }
}

#[tokio::test]
async fn all_of_an_image_is_served_from_the_runtimes_files() {
    let mut scene = Scene::proven().await;
    scene.fake.stop().await;
    let door = scene.door();
    door.pull(&scene.image.manifest_digest, &scene.image)
        .await
        .expect("the image");
    let part = door.part(
        scene.layer(),
        scene.content(),
        "bytes=1000-299999",
        1000..300_000,
    );
    part.await.expect("a part");
    // A proof outlives a restart; the file is hashed again at its first use.
    scene.node.restart().await;
    let door = scene.door();
    super::retried(Duration::from_secs(20), || door.pull("v1", &scene.image)).await;
    copied_nothing(&scene.node);
    assert_eq!(scene.fake.requests().len(), 0);
}

#[tokio::test]
async fn a_file_that_is_gone_is_a_miss() {
    let scene = Scene::proven().await;
    scene.door().blob(scene.layer()).await.expect("the layer");
    fs::remove_file(scene.holding.path(scene.layer())).expect("our own file");
    scene.comes_from_the_registry().await;
}

#[tokio::test]
async fn a_file_that_goes_while_it_is_sent_is_sent_to_its_end() {
    let scene = Scene::proven().await;
    let rest = format!("blobs/{}", scene.layer());
    let mut stream = scene.door().open(&rest, &[]).await.expect("the layer");
    assert_eq!(stream.status, 200);
    fs::remove_file(scene.holding.path(scene.layer())).expect("our own file");
    let len = scene.content().len();
    let came = compare(&mut stream, scene.content(), 0..len).await;
    assert_eq!(came, Compared::whole(len));
    assert_eq!(scene.fake.requests().len(), 0);
}

#[tokio::test]
async fn a_file_that_is_replaced_is_hashed_again_and_not_served() {
    let scene = Scene::proven().await;
    scene.door().blob(scene.layer()).await.expect("the layer");
    let other = Content::synthetic(9, scene.content().len());
    let bytes = other.read(0..other.len());
    scene.holding.write(scene.layer(), &bytes);
    scene.comes_from_the_registry().await;
    assert_eq!(held(&scene.node, "wrong").await, 1);
    let there = fs::read(scene.holding.path(scene.layer())).expect("the file");
    assert!(there == bytes, "larder has changed it");
}

#[tokio::test]
async fn a_file_that_is_written_into_is_hashed_again_and_not_served() {
    let scene = Scene::proven().await;
    scene.door().blob(scene.layer()).await.expect("the layer");
    let path = scene.holding.path(scene.layer());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("our own file");
    let mut file = fs::File::options()
        .write(true)
        .open(&path)
        .expect("our own file");
    file.seek(SeekFrom::Start(LAYER / 2)).expect("our own file");
    file.write_all(&[0x55; 64]).expect("our own file");
    drop(file);
    scene.comes_from_the_registry().await;
}

/// Each file of another image is right again once the runtime has fetched it again.
#[tokio::test]
async fn a_file_that_comes_back_is_served_again() {
    let scene = Scene::proven().await;
    let path = scene.holding.path(scene.layer());
    let bytes = fs::read(&path).expect("the file");
    scene.holding.write(scene.layer(), &bytes[..1000]);
    let door = scene.door();
    scene.fake.stop().await;
    assert!(door.blob(scene.layer()).await.is_err(), "half of it");
    scene.holding.write(scene.layer(), &bytes);
    scene.holding.tell();
    super::retried(Duration::from_secs(20), || door.blob(scene.layer())).await;
    copied_nothing(&scene.node);
}

/// A read of the runtime's directory that does not return delays a request for a moment. larder does not take its own
/// disk for a broken one.
#[tokio::test]
async fn a_directory_that_hangs_holds_up_nothing_else() {
    let machine = Machine::new();
    let scene = Scene::with(|node| machine.runs(node)).await;
    until_proven(&scene.node, 5).await;
    scene.fake.reset_counts();
    let hanging = machine.hang(&scene.holding.path(scene.layer()));
    let begun = Instant::now();
    let door = scene.door();
    // The body that has begun ends short; the next request uses another source.
    let first = door.blob(scene.layer()).await;
    assert!(first.is_err(), "it does not hang");
    scene.comes_from_the_registry().await;
    assert!(begun.elapsed() < Duration::from_mins(1));
    let status = scene.node.admin("/status").await;
    assert_eq!(status["store"]["state"], "ready", "{status}");
    drop(hanging);
    door.pull("v1", &scene.image).await.expect("the image");
}

/// As in a pod: uid 0 without capabilities.
fn without_capabilities(node: NodeBuilder, dir: &std::path::Path) -> NodeBuilder {
    let script = dir.join("larder");
    let program = larder_program();
    let text = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all -- {} \"$@\"\n",
        program.display()
    );
    fs::write(&script, text).expect("our own file");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our own file");
    node.program(script)
}

#[tokio::test]
async fn root_without_capabilities_reads_it_and_says_where_it_cannot() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 100_000)]);
    let mut holding = Holding::new();
    holding.pulled(&format!("{}/{REPOSITORY}:v1", fake.host()), &image);
    holding.tell();
    let blobs = holding.content().join("blobs");
    let mode = |mode| fs::set_permissions(&blobs, fs::Permissions::from_mode(mode));
    mode(0o000).expect("our own directory");
    let node = Node::builder().upstream(&fake).config(holding.config());
    let node = without_capabilities(node, dir.path()).start().await;
    until("unreadable", 1, || held(&node, "unreadable")).await;
    assert_eq!(guesses(&node, "proven").await, 0);
    let door = Door::of(&node, &fake.host(), REPOSITORY);
    door.pull("v1", &image).await.expect("from the registry");
    mode(0o755).expect("our own directory");
    // larder looks at the files again with the next report.
    holding.tell();
    until_proven(&node, 4).await;
}

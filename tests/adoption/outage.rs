//! An image that a node's runtime pulled before larder came, and a registry that is gone.

use std::time::Duration;

use data_encoding::BASE64;
use larder_tests::fake::FakeRegistry;
use larder_tests::holding::Holding;
use larder_tests::image::{Image, LayerSpec, build, build_index};
use larder_tests::members::{Cluster, Door};

use super::{copied_nothing, until_proven};

const REPOSITORY: &str = "team/app";

/// The holder learns to which repository the image belongs; then another node pulls it from the holder, by tag and by
/// digest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_pulls_it_and_the_holder_keeps_no_copy() {
    let fake = FakeRegistry::start().await;
    let layers = [LayerSpec::new(1, 3_000_000), LayerSpec::new(2, 700)];
    let index = build_index(&fake, REPOSITORY, "v1", &layers);
    let mut holding = Holding::new();
    let name = format!("{}/{REPOSITORY}:v1", fake.host());
    holding.pulled_index(&name, &index, 0);
    holding.tell();
    let cluster = Cluster::of(3)
        .upstream(&fake)
        .config_of(0, &holding.config())
        .start()
        .await;
    // The tag, two manifests, the configuration, two layers.
    until_proven(cluster.node(0), 6).await;
    for layer in &index.images[0].layers {
        assert!(fake.blob_bytes_sent(&layer.digest) <= 2 * 4096);
    }
    fake.stop().await;
    fake.reset_counts();
    let wanted = index.platform(0);
    for (number, reference) in [(1, "v1"), (2, &*index.digest)] {
        let door = cluster.door(number, &fake, REPOSITORY);
        super::retried(Duration::from_secs(10), || door.pull(reference, wanted)).await;
    }
    let door = cluster.door(0, &fake, REPOSITORY);
    super::retried(Duration::from_secs(10), || door.pull("v1", wanted)).await;
    copied_nothing(cluster.node(0));
    assert_eq!(fake.requests().len(), 0, "the registry is down");
}

/// Without the registry, larder does not know to which repository the image belongs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_origin_has_confirmed_is_not_served() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 100_000)]);
    let mut holding = Holding::new();
    let name = format!("{}/{REPOSITORY}:v1", fake.host());
    holding.pulled(&name, &image);
    holding.tell();
    fake.stop().await;
    let cluster = Cluster::of(2)
        .upstream(&fake)
        .config_of(0, &holding.config())
        .start()
        .await;
    let node = cluster.node(0);
    super::until("hashed", 3, || super::held(node, "adopted")).await;
    super::until("asked in vain", 1, || super::answers(node, "later")).await;
    let digest = &image.layers[0].digest;
    let paths = [
        "manifests/v1".to_owned(),
        format!("manifests/{}", image.manifest_digest),
        format!("blobs/{digest}"),
    ];
    for number in 0..2 {
        let door = cluster.door(number, &fake, REPOSITORY);
        for path in &paths {
            let answer = door.get(path, &[]).await.expect("an answer");
            assert_eq!(answer.status, 503, "node {number} {path}");
        }
    }
    // larder serves it once the registry has been back for a moment.
    fake.start_again().await;
    until_proven(node, 4).await;
    fake.stop().await;
    let door = cluster.door(1, &fake, REPOSITORY);
    super::retried(Duration::from_secs(10), || door.pull("v1", &image)).await;
    copied_nothing(node);
}

pub(super) const USER: &str = "pod";
pub(super) const PASSWORD: &str = "Hush-a-password-that-nobody-says-by-chance";

/// Every request for the image gives none of its bytes.
pub(super) async fn gets_nothing(who: &str, door: &Door, image: &Image) {
    let layer = &image.layers[0];
    let secrets = [
        image.config.slice(..40).to_vec(),
        image.manifest.slice(..40).to_vec(),
        layer.content.read(600..640),
    ];
    for path in [
        "manifests/v1".to_owned(),
        format!("manifests/{}", image.manifest_digest),
        format!("blobs/{}", image.config_digest),
        format!("blobs/{}", layer.digest),
    ] {
        let answer = door.get(&path, &[]).await.expect("an answer");
        assert!(answer.status >= 400, "{who} {path}: {}", answer.status);
        for secret in &secrets {
            let found = answer.body.windows(40).any(|window| window == secret);
            assert!(!found, "{who} {path}");
        }
    }
}

/// Clients without a secret and with a wrong one get none of it.
pub(super) async fn strangers_get_nothing(at: &str, door: &Door, image: &Image) {
    gets_nothing(&format!("nobody {at}"), door, image).await;
    let wrong = BASE64.encode(format!("{USER}:wrong").as_bytes());
    let wrong = door.clone().showing(&format!("Basic {wrong}"));
    gets_nothing(&format!("a stranger {at}"), &wrong, image).await;
}

/// A runtime that has an image asks for its tag alone. With the right that this proves, larder proves the rest of the
/// image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_image_whose_tag_was_asked_for_survives_its_registry() {
    let fake = FakeRegistry::start().await;
    let index = build_index(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 300_000)]);
    fake.require_bearer(REPOSITORY, &[(USER, PASSWORD)]);
    let mut holding = Holding::new();
    let name = format!("{}/{REPOSITORY}:v1", fake.host());
    holding.pulled_index(&name, &index, 0);
    holding.tell();
    let cluster = Cluster::of(2)
        .upstream(&fake)
        .config_of(0, &holding.config())
        .start()
        .await;
    let holder = cluster.node(0);
    super::until("hashed", 4, || super::held(holder, "adopted")).await;
    let door = cluster.door(0, &fake, REPOSITORY);
    let own = door.login(USER, PASSWORD, "v1").await.expect("a token");
    let head = own.answer(own.call("HEAD", "manifests/v1")).await;
    assert_eq!(head.expect("an answer").status, 200);
    super::until("proven", 4, || super::answers(holder, "proven")).await;
    fake.stop().await;
    let door = cluster.door(1, &fake, REPOSITORY);
    gets_nothing("nobody", &door, &index.images[0]).await;
    let other = door.login(USER, PASSWORD, "v1").await.expect("a token");
    super::retried(Duration::from_secs(10), || {
        other.pull("v1", index.platform(0))
    })
    .await;
    copied_nothing(holder);
}

/// A private image, and a registry that is down: the caller whose credential has opened the image gets it from the
/// holder, and no other caller does. The holder has proven it without a copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_content_needs_a_credential_that_was_proven_before() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 3_000_000)]);
    fake.require_basic(REPOSITORY, USER, PASSWORD);
    let mut holding = Holding::new();
    let name = format!("{}/{REPOSITORY}:v1", fake.host());
    holding.pulled(&name, &image);
    holding.tell();
    let cluster = Cluster::of(2)
        .upstream(&fake)
        .config_of(0, &holding.config())
        .start()
        .await;
    let holder = cluster.node(0);
    super::until("hashed", 3, || super::held(holder, "adopted")).await;
    super::until("refused", 4, || super::guesses(holder, "refused")).await;
    assert_eq!(super::guesses(holder, "proven").await, 0);
    let doors: Vec<Door> = (0..2)
        .map(|number| cluster.door(number, &fake, REPOSITORY))
        .collect();
    for door in &doors {
        gets_nothing("without a credential", door, &image).await;
    }
    let own = doors[0]
        .clone()
        .login(USER, PASSWORD, "v1")
        .await
        .expect("a token");
    own.pull("v1", &image).await.expect("the image");
    copied_nothing(holder);
    assert!(fake.blob_bytes_sent(&image.layers[0].digest) <= 2 * 4096 + 2);

    fake.stop().await;
    let other = doors[1]
        .clone()
        .login(USER, PASSWORD, "v1")
        .await
        .expect("a token");
    super::retried(Duration::from_secs(10), || other.pull("v1", &image)).await;
    for (number, door) in doors.iter().enumerate() {
        strangers_get_nothing(&format!("at {number}"), door, &image).await;
    }
    copied_nothing(holder);
}

//! The matrix of P16 for content that the runtime holds. Labels and names only suggest a repository, and prove nothing.
//! No caller without a right gets private bytes, and no tag counts until an origin has confirmed it.

use larder_tests::fake::{Content, FakeRegistry};
use larder_tests::holding::Holding;
use larder_tests::image::{Image, LayerSpec, OCI_MANIFEST, build};
use larder_tests::members::{Cluster, Door};
use serde_json::json;

use super::{copied_nothing, guesses, held, until};

const HOME: &str = "team/secret";
const USER: &str = "owner";
const PASSWORD: &str = "Hush-the-owners-password";

/// How private content comes to be suggested for a registry that does not hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nominated {
    /// containerd labels content that it already had when another registry's manifest names it. The label has no port.
    Label,
    /// The stranger's registry has a manifest that names the private digests.
    Manifest,
    /// `ctr images tag`: a name that no registry knows.
    Name,
    /// Nothing names it.
    Nothing,
    /// The stranger's registry has other bytes of the same length under the private digests.
    OtherBytes,
    /// The stranger's registry knows the first half of the private bytes.
    Half,
}

const ALL: [Nominated; 6] = [
    Nominated::Label,
    Nominated::Manifest,
    Nominated::Name,
    Nominated::Nothing,
    Nominated::OtherBytes,
    Nominated::Half,
];

fn repository(nominated: Nominated) -> String {
    format!("evil/{nominated:?}").to_lowercase()
}

/// What the stranger's registry serves under a digest in place of `content`.
fn false_bytes(nominated: Nominated, content: &Content) -> Content {
    let len = content.len();
    let known = if nominated == Nominated::Half {
        len / 2
    } else {
        0
    };
    let mut bytes = content.read(0..known);
    bytes.extend(Content::synthetic(99, len - known).read(0..len - known));
    Content::bytes(bytes)
}

fn nominate(nominated: Nominated, stranger: &FakeRegistry, image: &Image, holding: &mut Holding) {
    let repository = repository(nominated);
    let name = format!("{}/{repository}:v1", stranger.host());
    let layer = &image.layers[0];
    // The repository is there, and public.
    stranger.put_manifest(
        &repository,
        Some("own"),
        OCI_MANIFEST,
        "{\"schemaVersion\": 2}",
    );
    match nominated {
        Nominated::Label => {
            for digest in [&image.manifest_digest, &image.config_digest, &layer.digest] {
                holding.label(digest, "127.0.0.1", &repository);
            }
        }
        Nominated::Manifest => {
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "annotations": {"by": "a stranger"},
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": image.config_digest, "size": image.config.len()},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.content.len()}],
            });
            let manifest = manifest.to_string();
            let digest =
                stranger.put_manifest(&repository, Some("v1"), OCI_MANIFEST, manifest.clone());
            holding.put(manifest.as_bytes());
            holding.name(&name, &digest, image);
        }
        Nominated::Name => holding.name(&name, &image.manifest_digest, image),
        Nominated::Nothing => {}
        Nominated::OtherBytes | Nominated::Half => {
            for (digest, content) in [
                (&image.config_digest, Content::bytes(image.config.clone())),
                (&layer.digest, layer.content.clone()),
            ] {
                stranger.put_blob_under(&repository, digest, &false_bytes(nominated, &content));
            }
            holding.name(&name, &image.manifest_digest, image);
        }
    }
}

/// None of the private bytes came. Bytes that the stranger's registry has itself may come.
fn nothing(what: &str, body: &[u8], image: &Image) {
    let layer = &image.layers[0].content;
    let half = layer.len() / 2 + 100;
    let config = image.config.len() / 2 + 1;
    let secrets = [
        image.config.slice(config..config + 40).to_vec(),
        image.manifest.slice(..40).to_vec(),
        layer.read(half..half + 40),
    ];
    for secret in secrets {
        assert!(!body.windows(40).any(|window| window == secret), "{what}");
    }
}

async fn asks(who: &str, door: &Door, image: &Image, tag: &str) {
    let layer = &image.layers[0].digest;
    for (method, path, range) in [
        ("GET", format!("manifests/{tag}"), None),
        ("HEAD", format!("manifests/{}", image.manifest_digest), None),
        ("GET", format!("manifests/{}", image.manifest_digest), None),
        ("HEAD", format!("blobs/{layer}"), None),
        ("GET", format!("blobs/{layer}"), None),
        ("GET", format!("blobs/{layer}"), Some("bytes=60000-61000")),
        ("GET", format!("blobs/{layer}"), Some("bytes=-40")),
        ("GET", format!("blobs/{}", image.config_digest), None),
    ] {
        let what = format!("{who}: {method} {path} {range:?}");
        let call = door.call(method, &path);
        let call = match range {
            Some(range) => call.header("range", range),
            None => call,
        };
        // A body of wrong bytes ends short, which is an error here.
        if let Ok(answer) = door.answer(call).await {
            nothing(&what, &answer.body, image);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nominated_content_is_neither_served_nor_resolved() {
    let (home, stranger) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = build(&home, HOME, "v1", &[LayerSpec::new(1, 100_000)]);
    home.require_basic(HOME, USER, PASSWORD);
    let mut holding = Holding::new();
    holding.put_image(&image);
    for nominated in ALL {
        nominate(nominated, &stranger, &image, &mut holding);
    }
    holding.name(
        &format!("{}/{HOME}:v1", home.host()),
        &image.manifest_digest,
        &image,
    );
    holding.tell();
    let cluster = Cluster::of(2)
        .upstream(&home)
        .upstream(&stranger)
        .config_of(0, &holding.config())
        .start()
        .await;
    let holder = cluster.node(0);
    until("hashed", 4, || held(holder, "adopted")).await;
    // larder has asked once for everything that is suggested.
    until("settled", 1, async || {
        let open = guesses(holder, "nominated").await + guesses(holder, "hashed").await;
        u64::from(open == 0)
    })
    .await;
    // The stranger's registry has proven only its own manifest and its tag.
    assert_eq!(guesses(holder, "proven").await, 2);
    for up in [true, false] {
        if !up {
            home.stop().await;
            stranger.stop().await;
        }
        for number in 0..2 {
            for nominated in ALL {
                let door = cluster.door(number, &stranger, &repository(nominated));
                let who = format!("node {number}, up {up}, {nominated:?}");
                let tag = if nominated == Nominated::Manifest {
                    "own"
                } else {
                    "v1"
                };
                asks(&who, &door, &image, tag).await;
            }
            let door = cluster.door(number, &home, HOME);
            asks(
                &format!("node {number}, up {up}, home"),
                &door,
                &image,
                "v1",
            )
            .await;
        }
    }
    copied_nothing_private(holder, &image);
}

fn copied_nothing_private(node: &larder_tests::node::Node, image: &Image) {
    for digest in [&image.layers[0].digest, &image.config_digest] {
        assert!(
            !larder_tests::scene::committed(node.store(), digest),
            "{digest}"
        );
    }
}

/// Another repository of the same registry holds the content as well: one byte from there proves that, as always. The
/// first proof needs all the bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repository_of_the_same_registry_gets_it_by_its_own_proof() {
    let fake = FakeRegistry::start().await;
    let layers = [LayerSpec::new(1, 100_000)];
    let image = build(&fake, "team/app", "v1", &layers);
    build(&fake, "team/same", "v1", &layers);
    let mut holding = Holding::new();
    holding.pulled(&format!("{}/team/app:v1", fake.host()), &image);
    holding.tell();
    let node = larder_tests::node::Node::builder()
        .upstream(&fake)
        .config(holding.config());
    let node = node.start().await;
    super::until_proven(&node, 4).await;
    fake.reset_counts();
    let layer = &image.layers[0].digest;
    let door = Door::of(&node, &fake.host(), "team/same");
    door.blob(layer).await.expect("the layer");
    assert!(fake.blob_bytes_sent(layer) <= 1, "one byte proves it");
    let nowhere = Door::of(&node, &fake.host(), "no/where");
    let answer = nowhere
        .get(&format!("blobs/{layer}"), &[])
        .await
        .expect("an answer");
    assert_eq!(answer.status, 404);
    copied_nothing(&node);
}

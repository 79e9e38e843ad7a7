//! What is never offered, and what is withdrawn. A runtime asks nobody before it mounts a ready file.

use larder_tests::fake::{FakeRegistry, digest_of};
use larder_tests::image::Image;
use larder_tests::machine::Machine;
use larder_tests::scene::files;
use serde_json::Value;

use crate::{Offering, gzip, inode, one_layer, push, push_naming, tar};

/// Gives time for something that must not happen: another image is offered meanwhile.
async fn meanwhile(offering: &Offering) {
    let (other, diff_id) = one_layer(&offering.scene.fake, "team/meanwhile", 99, 5000);
    offering.pull("team/meanwhile", &other).await;
    offering.until_offered(&[&diff_id]).await;
}

/// The image of another team names a diffID that it does not have: what is behind that name would be anybody's.
#[tokio::test]
async fn an_image_whose_configuration_names_a_foreign_layer_offers_nothing() {
    let offering = Offering::with("", "").await;
    let tars = [
        tar(&[("first", b"its own")]),
        tar(&[("second", b"made up")]),
    ];
    let victim = digest_of(b"a layer of another team");
    let diff_ids = [digest_of(&tars[0]), victim.clone()];
    let blobs = [gzip(&tars[0]), gzip(&tars[1])];
    let image = push(&offering.scene.fake, "team/liar", &blobs, &diff_ids);
    offering.pull("team/liar", &image).await;
    offering
        .until_not_offered(&image, "names other layers")
        .await;
    // Nor does one whose configuration names more layers than there are.
    let more = [digest_of(&tars[0]), digest_of(&tars[1]), victim.clone()];
    let image = push(&offering.scene.fake, "team/more", &blobs, &more);
    offering.pull("team/more", &image).await;
    offering
        .until_not_offered(&image, "names other layers")
        .await;
    meanwhile(&offering).await;
    for diff_id in [&victim, &diff_ids[0], &digest_of(&tars[1])] {
        assert!(!offering.is_offered(diff_id), "{diff_id}");
    }
}

async fn pull_private(offering: &Offering) -> (Image, String) {
    let fake = &offering.scene.fake;
    let (image, diff_id) = one_layer(fake, "team/secret", 5, 4000);
    fake.require_basic("team/secret", "user", "password");
    let door = offering.scene.door("team/secret");
    let door = door.login("user", "password", "v1").await.expect("a token");
    door.pull("v1", &image).await.expect("the image");
    offering
        .scene
        .until_committed(&image.layers[0].digest)
        .await;
    offering.lists(&image);
    (image, diff_id)
}

#[tokio::test]
async fn a_private_layer_is_not_offered() {
    let offering = Offering::with("", "").await;
    let (image, diff_id) = pull_private(&offering).await;
    offering.until_not_offered(&image, "not every client").await;
    meanwhile(&offering).await;
    assert!(!offering.is_offered(&diff_id));
}

/// Anyone can push a manifest that names another team's layer, with the diffID that it really has.
#[tokio::test]
async fn a_public_image_that_names_a_private_layer_does_not_open_it() {
    let offering = Offering::with("", "").await;
    let fake = &offering.scene.fake;
    let (secret, diff_id) = pull_private(&offering).await;
    let layer = &secret.layers[0].content;
    let bytes = bytes::Bytes::from(layer.read(0..layer.len()));
    let diff_ids = std::slice::from_ref(&diff_id);
    let attack = push_naming(fake, "team/attack", &[bytes], diff_ids);
    let door = offering.scene.door("team/attack");
    let got = door.get("manifests/v1", &[]).await.expect("an answer");
    assert_eq!(got.status, 200);
    let config = format!("blobs/{}", attack.config_digest);
    let got = door.get(&config, &[]).await.expect("an answer");
    assert_eq!(got.status, 200);
    offering.lists(&attack);
    meanwhile(&offering).await;
    assert!(!offering.is_offered(&diff_id));
}

#[tokio::test]
async fn a_private_layer_is_offered_if_the_operator_says_so() {
    let offering = Offering::with("private = true", "").await;
    let (_, diff_id) = pull_private(&offering).await;
    let shown = offering.until_offered(&[&diff_id]).await;
    let ground = |shown: &Value| shown["layers"][0]["ground"] == "private";
    assert!(ground(&shown), "{shown}");
}

/// What the node's own credentials open belongs to every client of the node, until the operator says otherwise.
#[tokio::test]
async fn what_the_operator_shares_is_offered_for_as_long_as_it_is_shared() {
    let fake = FakeRegistry::start().await;
    let secrets = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = secrets.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (user, password) = (file("username", "node"), file("password", "secret"));
    let shared = "access = \"shared\"\n";
    let upstream = format!(
        "[upstreams.\"{}\"]\nendpoints = [\"{}\"]\n{shared}credentials = {{ username_file = \"{user}\", password_file = \"{password}\" }}\n",
        fake.host(),
        fake.url(),
    );
    let (image, diff_id) = one_layer(&fake, "team/app", 12, 4000);
    fake.require_basic("team/app", "node", "secret");
    let offering = Offering::of(fake, &upstream, "", |node| node).await;
    offering.pull("team/app", &image).await;
    let shown = offering.until_offered(&[&diff_id]).await;
    assert_eq!(shown["layers"][0]["ground"], "shared", "{shown}");
    let path = offering.scene.node.config_file();
    let config = std::fs::read_to_string(&path).expect("a file");
    std::fs::write(&path, config.replace(shared, "")).expect("a file");
    offering
        .until("it is withdrawn", |_| offering.files().is_empty())
        .await;
}

/// A repository is closed, and larder hears it with an anonymous client.
async fn close(offering: &Offering, repository: &str) {
    let fake = &offering.scene.fake;
    fake.require_basic(repository, "user", "password");
    let url = offering.scene.manifest(repository, "v1");
    let heard = larder_tests::http::Call::get(&url).send().await;
    assert_eq!(heard.expect("an answer").status, 401);
}

/// A repository that is closed: what it offered goes, once a report that is newer says that nothing refers to it.
#[tokio::test]
async fn what_is_not_public_any_more_is_withdrawn() {
    let offering = Offering::with("", "").await;
    let fake = &offering.scene.fake;
    let (image, diff_id) = one_layer(fake, "team/app", 6, 4000);
    offering.pull("team/app", &image).await;
    offering.until_offered(&[&diff_id]).await;
    close(&offering, "team/app").await;
    offering
        .until("it is withdrawn", |shown| {
            shown["layers"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    assert_eq!(offering.files().len(), 0, "{:?}", offering.files());
    let removed = "larder_ready_layers_removed_total{reason=\"withdrawn\"}";
    offering.until("it is counted", |_| true).await;
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    while offering.scene.node.metric(removed).await != Some(1.0) {
        assert!(std::time::Instant::now() < deadline, "it is not counted");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn what_never_says_is_not_offered_and_nor_is_a_layer_that_it_shares() {
    let never = "never = [\"*/team/infra*\", \"namespace:kube-system\"]";
    let offering = Offering::with(never, "").await;
    let fake = &offering.scene.fake;
    let (infra, infra_id) = one_layer(fake, "team/infra-agent", 7, 4000);
    offering.pull("team/infra-agent", &infra).await;
    let (system, system_id) = one_layer(fake, "team/dns", 8, 4000);
    offering.uses("container", "kube-system", &system);
    offering.pull("team/dns", &system).await;
    let (pause, pause_id) = one_layer(fake, "team/pause", 9, 4000);
    offering.uses("sandbox", "default", &pause);
    offering.pull("team/pause", &pause).await;
    let (own, own_id) = one_layer(fake, "mirror/larder", 10, 4000);
    offering.pull("mirror/larder", &own).await;
    offering.until_not_offered(&infra, "never").await;
    offering.until_not_offered(&system, "never").await;
    offering.until_not_offered(&pause, "sandboxes").await;
    offering.until_not_offered(&own, "larder's own").await;
    // An image of a team that is built on one of them.
    let base = infra.layers[0]
        .content
        .read(0..infra.layers[0].content.len());
    let top = tar(&[("top", b"of a team")]);
    let top_id = digest_of(&top);
    let both = [infra_id.clone(), top_id.clone()];
    let image = push(fake, "team/built-on", &[base.into(), top], &both);
    offering.uses("container", "default", &image);
    offering.pull("team/built-on", &image).await;
    offering.until_offered(&[&top_id]).await;
    for diff_id in [&infra_id, &system_id, &pause_id, &own_id] {
        assert!(!offering.is_offered(diff_id), "{diff_id}");
    }
}

/// A pod of kube-system that comes later: what was offered goes again.
#[tokio::test]
async fn an_image_that_kube_system_begins_to_use_is_withdrawn() {
    let offering = Offering::with("", "").await;
    let (image, diff_id) = one_layer(&offering.scene.fake, "team/app", 11, 4000);
    offering.pull("team/app", &image).await;
    offering.until_offered(&[&diff_id]).await;
    offering.uses("container", "kube-system", &image);
    offering
        .until("it is withdrawn", |_| offering.files().is_empty())
        .await;
}

/// A layer of two images: when one of them may offer it no more, the other speaks for it.
#[tokio::test]
async fn another_image_that_may_be_offered_speaks_for_a_layer_that_they_share() {
    let offering = Offering::with("", "").await;
    let fake = &offering.scene.fake;
    let (first, diff_id) = one_layer(fake, "team/first", 13, 4000);
    offering.pull("team/first", &first).await;
    offering.until_offered(&[&diff_id]).await;
    let made = inode(&offering.path(&diff_id));
    let shared = &first.layers[0].content;
    let shared = bytes::Bytes::from(shared.read(0..shared.len()));
    let top = tar(&[("top", b"of the second")]);
    let top_id = digest_of(&top);
    let both = [diff_id.clone(), top_id.clone()];
    let second = push(fake, "team/second", &[shared, top], &both);
    offering.pull("team/second", &second).await;
    offering.until_offered(&[&top_id]).await;
    close(&offering, "team/first").await;
    let name = format!("{}/team/second", fake.host());
    let speaks = |shown: &Value| {
        let layers = shown["layers"].as_array();
        layers.is_some_and(|layers| layers.iter().all(|layer| layer["image"] == *name))
    };
    let shown = offering.until("the second speaks for both", speaks).await;
    assert_eq!(shown["layers"].as_array().map(Vec::len), Some(2), "{shown}");
    assert_eq!(
        inode(&offering.path(&diff_id)),
        made,
        "the file is as it was"
    );
}

/// A repository that is closed while its layers are made.
#[tokio::test]
async fn what_is_closed_while_it_is_made_is_not_offered() {
    let machine = Machine::new();
    let offering = Offering::on("", "", |node| machine.runs(node)).await;
    let (image, diff_id) = one_layer(&offering.scene.fake, "team/app", 14, 300_000);
    let holding = machine.hold_writes();
    offering.pull("team/app", &image).await;
    let tmp = offering.layers().join("tmp");
    offering
        .until("it is being written", |_| files(&tmp).len() == 2)
        .await;
    close(&offering, "team/app").await;
    drop(holding);
    offering.until_not_offered(&image, "not every client").await;
    meanwhile(&offering).await;
    assert!(!offering.is_offered(&diff_id));
    // It was not offered for a moment either: one was.
    let made = "larder_ready_layers_made_total{outcome=\"offered\"}";
    let made = offering.scene.node.metric(made).await;
    assert!(made.is_some_and(|made| made < 1.5), "{made:?}");
    assert_eq!(files(&offering.layers()).len(), 3, "{:?}", offering.files());
}

/// Which pods use an image is known only from a report that was begun after the image came.
#[tokio::test]
async fn nothing_is_offered_before_a_report_that_was_begun_after_the_pull() {
    let offering = Offering::with("", "").await;
    let (other, other_id) = one_layer(&offering.scene.fake, "team/other", 15, 4000);
    offering.pull("team/other", &other).await;
    offering.until_offered(&[&other_id]).await;
    let (image, diff_id) = one_layer(&offering.scene.fake, "team/app", 16, 4000);
    offering.pull("team/app", &image).await;
    // The last report was begun before the pull, and larder looks again after it.
    let why = "has not reported since";
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    loop {
        let images = offering.scene.node.admin("/images").await.to_string();
        if images.contains(why) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{images}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(!offering.is_offered(&diff_id));
    offering.until_offered(&[&diff_id]).await;
}

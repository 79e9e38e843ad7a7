//! Members give a layer's index only to callers with the right that the layer itself needs (promise P16). A node
//! believes an index only if a member of the cluster made it, and only until the layer itself proves or disproves it
//! (promise P33).

mod signed;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_layer::envelope::ENVELOPE;
use larder_layer::format::FOOTER;
use larder_shared::Digest;
use larder_tests::fake::{Content, FakeRegistry};
use larder_tests::image::{Image, LayerSpec, build as build_image};
use larder_tests::members::{Cluster, Door, FakePeer, Manner, Plan};
use larder_tests::scene::{committed, eventually};
use serde_json::Value;
use tempfile::TempDir;

use self::signed::{lie, signed};
use super::trust::{parsed, speak};
use super::{MIB, REPOSITORY, beside};

/// Nodes build indexes when the machine is idle.
const PATIENCE: Duration = Duration::from_mins(2);
const KEY: &str = "a key of the cluster that has enough bytes\n";
const UNBELIEVED: &str = r#"larder_layer_index_work_total{outcome="unbelieved"}"#;
const FETCHED: &str = r#"larder_layer_index_work_total{outcome="fetched"}"#;
const PROVEN: &str = r#"larder_layer_index_work_total{outcome="proven"}"#;
const DISPROVED: &str = r#"larder_layer_index_work_total{outcome="disproved"}"#;
const BUILT: &str = r#"larder_layer_index_work_total{outcome="built"}"#;

/// A plan of nodes that keep indexes, with directories for their ready files.
fn plan(count: usize, fake: &FakeRegistry) -> (Plan, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut plan = Cluster::of(count).upstream(fake).key(KEY);
    for number in 0..count {
        let layers = dir.path().join(number.to_string());
        let text = format!(
            "[streaming]\nmode = \"lazy\"\nmin_layer = \"0\"\ndirectory = \"{}\"\n",
            layers.display()
        );
        plan = plan.config_of(number, &text);
    }
    (plan, dir)
}

fn image(fake: &FakeRegistry) -> Image {
    build_image(fake, REPOSITORY, "v1", &[LayerSpec::new(1, 5 * MIB)])
}

/// Where a store keeps the index of a layer: the node's own one, and another member's.
fn kept(store: &Path, layer: &str) -> (PathBuf, PathBuf) {
    let (algorithm, hex) = layer.split_once(':').expect("a digest");
    let own = store
        .join("indexes")
        .join(algorithm)
        .join(&hex[..2])
        .join(hex);
    let foreign = own.with_extension("foreign");
    (own, foreign)
}

/// Makes the node look at its images again and again, until the condition holds.
async fn looked(door: &Door, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}");
        // Each manifest that a node serves makes it look.
        let answer = door.get("manifests/v1", &[]).await;
        assert_eq!(answer.expect("an answer").status, 200, "{what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits for what a node knows once it has listed its disk.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A node pulls an image and builds its index.
async fn pull_and_build(cluster: &Cluster, number: usize, door: &Door, image: &Image) {
    door.pull("v1", image).await.expect("an image");
    let (store, layer) = (cluster.node(number).store(), &image.layers[0].digest);
    eventually(layer, || committed(store, layer)).await;
    let (own, _) = kept(store, layer);
    looked(door, "the index is built", async || own.exists()).await;
}

/// Asks for the first layer's index as the start of a container would, for a caller without a credential.
async fn ask(
    cluster: &Cluster,
    number: usize,
    fake: &FakeRegistry,
    repository: &str,
    layer: &str,
    size: u64,
) -> (u16, Value) {
    let path = format!(
        "/index?registry={}&repository={repository}&layer={layer}&size={size}",
        fake.host()
    );
    let node = cluster.node(number);
    let answer = node.admin_request("GET", &path, Bytes::new()).await;
    let answer = answer.expect("an answer");
    let text = answer.text();
    let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (answer.status, json)
}

async fn ask_for(cluster: &Cluster, number: usize, fake: &FakeRegistry, image: &Image) -> Value {
    let layer = &image.layers[0];
    let size = layer.content.len();
    let (status, said) = ask(cluster, number, fake, REPOSITORY, &layer.digest, size).await;
    assert_eq!(status == 200, said["made"].is_string(), "{status} {said}");
    said
}

/// A client of the node asks for the image's manifest alone.
async fn knows(cluster: &Cluster, number: usize, fake: &FakeRegistry) {
    let door = cluster.door(number, fake, REPOSITORY);
    let answer = door.get("manifests/v1", &[]).await;
    assert_eq!(answer.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_the_index_that_another_one_built_and_proves_it_later() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let (plan, _dir) = plan(2, &fake);
    let mut cluster = plan.start().await;
    let second = cluster.door(1, &fake, REPOSITORY);
    pull_and_build(&cluster, 0, &cluster.door(0, &fake, REPOSITORY), &image).await;
    knows(&cluster, 1, &fake).await;
    fake.stop().await;

    let said = ask_for(&cluster, 1, &fake, &image).await;
    assert_eq!(said["made"], "elsewhere", "{}", cluster.node(1).log());
    let maker = cluster.peer_address(0).to_string();
    assert!(said["maker"].as_str().unwrap().contains(&maker), "{said}");
    assert_eq!(cluster.node(1).metric(FETCHED).await, Some(1.0));
    let layer = image.layers[0].digest.clone();
    let (own, foreign) = kept(cluster.node(1).store(), &layer);
    assert!(foreign.exists() && !own.exists());
    // The index is on the node's disk now, and outlives the process.
    cluster.node_mut(1).restart().await;
    assert!(foreign.exists());

    // The layer comes whole from the other member, and confirms the index.
    second.pull("v1", &image).await.expect("an image");
    let node = cluster.node(1);
    eventually(&layer, || committed(node.store(), &layer)).await;
    looked(&second, "it is proven", async || own.exists()).await;
    assert!(!foreign.exists());
    // The file exists a moment before it is counted.
    until("it is counted", async || {
        node.metric(PROVEN).await == Some(1.0)
    })
    .await;
    let counts = [
        node.metric(BUILT).await,
        node.metric(PROVEN).await,
        node.metric(DISPROVED).await,
    ];
    assert_eq!(counts, [Some(1.0), Some(1.0), Some(0.0)]);
    let said = ask_for(&cluster, 1, &fake, &image).await;
    assert_eq!(said["made"], "here");

    // A damaged index is built anew at the next start, before another member asks for it.
    let sound = fs::read(&own).expect("an index");
    let mut damaged = sound.clone();
    damaged[9] ^= 1;
    fs::write(&own, damaged).expect("an index");
    cluster.node_mut(1).restart().await;
    let anew = async || fs::read(&own).is_ok_and(|bytes| bytes == sound);
    looked(&second, "it is made anew", anew).await;

    // The index is removed together with its blob.
    let name = format!("{}/{REPOSITORY}:v1", fake.host());
    let evicted = cluster.node(1).cli(&["evict", &name]).await;
    assert!(evicted.status.success(), "{evicted:?}");
    assert!(!own.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_layers_index_is_not_there_for_those_that_may_not_read_the_layer() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let private = "team/private";
    let image = build_image(&fake, private, "v1", &[LayerSpec::new(2, 5 * MIB)]);
    fake.require_bearer(private, &[("pod", "a-secret-of-the-pod")]);
    let public = build_image(&fake, REPOSITORY, "v1", &[LayerSpec::new(3, MIB)]);
    let (plan, _dir) = plan(2, &fake);
    let member = plan.authority().client(Some(&plan.authority().member()));
    let cluster = plan.start().await;
    let door = cluster.door(0, &fake, private);
    let door = door.login("pod", "a-secret-of-the-pod", "v1").await;
    pull_and_build(&cluster, 0, &door.expect("a token"), &image).await;
    let other = cluster.door(0, &fake, REPOSITORY);
    pull_and_build(&cluster, 0, &other, &public).await;
    knows(&cluster, 1, &fake).await;

    // A client of either node, by the private repository's name and by a public one.
    let unknown = Digest::sha256(b"unknown").to_string();
    let layer = &image.layers[0];
    let size = layer.content.len();
    for number in [0, 1] {
        for repository in [private, REPOSITORY] {
            let denied = ask(&cluster, number, &fake, repository, &layer.digest, size).await;
            let unknown = ask(&cluster, number, &fake, repository, &unknown, size).await;
            assert_eq!(denied.0, 404, "node {number}, {repository}: {denied:?}");
            assert_eq!(denied, unknown);
        }
        let given = ask_for(&cluster, number, &fake, &public).await;
        assert!(given["made"].is_string(), "node {number}: {given}");
    }

    // A member, by a repository that is not known to hold the layer.
    let raw = async |repository: &str, layer: &str| {
        let said = format!(
            "GET /larder/v1/indexes?registry={}&repository={repository}&layer={layer} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            fake.host()
        );
        let answer = speak(cluster.peer_address(0), member.clone(), &said).await;
        let answer = answer.expect("an answer");
        let (status, body) = parsed(&answer);
        (status, body.to_vec())
    };
    let unknown = raw(REPOSITORY, &unknown).await;
    assert_eq!(unknown.0, 404);
    assert_eq!(raw(REPOSITORY, &layer.digest).await, unknown);
    assert_eq!(raw("team/nothing", &layer.digest).await, unknown);
    let (status, body) = raw(private, &layer.digest).await;
    assert_eq!(status, 200);
    assert!(body.len() > FOOTER + ENVELOPE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_key_nothing_is_believed() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let (plan, _dir) = plan(3, &fake);
    let other = "another key, with as many bytes as are needed\n";
    let plan = plan.key_of(1, None).key_of(2, Some(other));
    let cluster = plan.start().await;
    pull_and_build(&cluster, 0, &cluster.door(0, &fake, REPOSITORY), &image).await;
    for number in [1, 2] {
        knows(&cluster, number, &fake).await;
        let said = ask_for(&cluster, number, &fake, &image).await;
        assert_eq!(said["made"], Value::Null, "node {number}: {said}");
        let (own, foreign) = kept(cluster.node(number).store(), &image.layers[0].digest);
        assert!(!own.exists() && !foreign.exists());
    }
    assert_eq!(cluster.node(1).metric(UNBELIEVED).await, Some(0.0));
    assert_eq!(cluster.node(2).metric(UNBELIEVED).await, Some(1.0));
    let log = cluster.node(2).log();
    let maker = cluster.peer_address(0).to_string();
    let named = |line: &str| line.contains(&maker) && line.contains("not believed");
    assert!(log.lines().any(named), "{log}");
    // Without a key a node warns of it.
    let doctor = cluster.node(1).admin("/doctor").await.to_string();
    assert!(doctor.contains("the cluster has no key"), "{doctor}");
}

/// One node, and a fake member that gives the index of the test's choice.
async fn beside_a_liar(
    fake: &FakeRegistry,
    image: &Image,
    given: &Content,
) -> (Cluster, FakePeer, TempDir) {
    let (plan, dir) = plan(1, fake);
    let plan = plan.stranger(1);
    let authority = plan.authority();
    let tls = authority.server(&authority.member());
    let liar = FakePeer::start(plan.address(1), Some(tls), Manner::Honest).await;
    let cluster = plan.start().await;
    knows(&cluster, 0, fake).await;
    liar.hold(&image.layers[0].digest, given);
    (cluster, liar, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_gives_another_index_than_was_signed_is_refused_and_named() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let right = signed(&image, "a member", KEY, |_| {});
    let right = right.read(0..right.len());
    let mut changed = right.clone();
    changed[right.len() - ENVELOPE - FOOTER - 8] ^= 1;
    let mut renamed = right.clone();
    renamed[right.len() - ENVELOPE + 80] ^= 1;
    let wrong_key = signed(
        &image,
        "a member",
        "a key that is not the cluster's at all",
        |_| {},
    );
    for (what, given) in [
        ("changed", Content::bytes(changed)),
        ("another maker", Content::bytes(renamed)),
        ("cut", Content::bytes(right[..right.len() - 1].to_vec())),
        ("wrong key", wrong_key),
    ] {
        let (cluster, liar, _dir) = beside_a_liar(&fake, &image, &given).await;
        let said = ask_for(&cluster, 0, &fake, &image).await;
        assert_eq!(said["made"], Value::Null, "{what}: {said}");
        assert_eq!(
            cluster.node(0).metric(UNBELIEVED).await,
            Some(1.0),
            "{what}"
        );
        let (log, address) = (cluster.node(0).log(), liar.address().to_string());
        let named = |line: &str| line.contains(&address) && line.contains("not believed");
        assert!(log.lines().any(named), "{what}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_lie_is_found_out_when_the_layer_is_whole() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let wrong = signed(&image, "10.9.9.9:7422 liar", KEY, |index| lie(index));
    let (mut cluster, liar, _dir) = beside_a_liar(&fake, &image, &wrong).await;
    let said = ask_for(&cluster, 0, &fake, &image).await;
    assert_eq!(said["made"], "elsewhere", "{}", cluster.node(0).log());
    liar.behave(Manner::Says(404));

    let door = cluster.door(0, &fake, REPOSITORY);
    pull_and_build(&cluster, 0, &door, &image).await;
    let node = cluster.node(0);
    until("it is counted", async || {
        node.metric(DISPROVED).await == Some(1.0)
    })
    .await;
    let layer = &image.layers[0].digest;
    let (own, foreign) = kept(node.store(), layer);
    assert!(own.exists() && !foreign.exists());
    let named = |line: &str| line.contains("10.9.9.9:7422 liar") && line.contains("wrong index");
    until("it is named", async || node.log().lines().any(named)).await;
    let aside = fs::read_dir(node.store().join("quarantine")).expect("a directory");
    assert_eq!(aside.count(), 1);

    // The node remembers the lie, also after a restart. It believes no index of that member any more, not even a right
    // one.
    for restart in [true, false] {
        let node = cluster.node(0);
        until("doctor names it", async || {
            let doctor = node.admin("/doctor").await.to_string();
            doctor.contains("10.9.9.9:7422 liar")
        })
        .await;
        if restart {
            cluster.node_mut(0).restart().await;
        }
    }
    let name = format!("{}/{REPOSITORY}:v1", fake.host());
    cluster.node(0).cli(&["evict", &name]).await;
    liar.hold(layer, &signed(&image, "10.9.9.9:7422 liar", KEY, |_| {}));
    liar.behave(Manner::Honest);
    knows(&cluster, 0, &fake).await;
    let said = ask_for(&cluster, 0, &fake, &image).await;
    assert_eq!(said["made"], Value::Null, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_object_store_gives_an_index_after_its_maker_is_gone() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = image(&fake);
    let bucket = tempfile::tempdir().expect("a directory");
    // A right that was proven not long ago is enough, as for the layer itself.
    let store = format!(
        "[access]\nttl = \"0s\"\n[cluster.object_store]\nurl = \"file://{}\"\n",
        bucket.path().display()
    );
    let (plan, _dir) = plan(2, &fake);
    let mut cluster = plan.config(&store).start().await;
    pull_and_build(&cluster, 0, &cluster.door(0, &fake, REPOSITORY), &image).await;
    let (_, hex) = image.layers[0].digest.split_once(':').expect("a digest");
    let dir = bucket.path().join("blobs/sha256").join(&hex[..2]);
    let object = dir.join(format!("{hex}.lazy1"));
    eventually("the index is written", || {
        object.exists() && dir.join(hex).exists()
    })
    .await;
    // By the name of another repository, which is public too, the bucket gives no index.
    let other = "team/other";
    build_image(&fake, other, "v1", &[LayerSpec::new(9, MIB)]);
    let door = cluster.door(1, &fake, other);
    let answer = door.get("manifests/v1", &[]).await;
    assert_eq!(answer.expect("an answer").status, 200);
    knows(&cluster, 1, &fake).await;
    fake.stop().await;
    let gone = cluster.node_mut(0);
    gone.terminate();
    gone.wait().await;

    // An index that was changed in the bucket is not believed.
    let right = fs::read(&object).expect("an object");
    let mut changed = right.clone();
    changed[right.len() - ENVELOPE - FOOTER - 8] ^= 1;
    fs::write(&object, changed).expect("an object");
    let said = ask_for(&cluster, 1, &fake, &image).await;
    assert_eq!(said["made"], Value::Null, "{said}");
    assert_eq!(cluster.node(1).metric(UNBELIEVED).await, Some(1.0));

    fs::write(&object, right).expect("an object");
    cluster.node_mut(1).restart().await;
    let layer = &image.layers[0];
    let size = layer.content.len();
    let by_other = ask(&cluster, 1, &fake, other, &layer.digest, size).await;
    assert_eq!(by_other.0, 404);
    until("the object store gives it", async || {
        ask_for(&cluster, 1, &fake, &image).await["made"] == "elsewhere"
    })
    .await;
    let by_other = ask(&cluster, 1, &fake, other, &layer.digest, size).await;
    assert_eq!(by_other.0, 404);
}

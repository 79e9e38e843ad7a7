//! The digest that the tag points to, and which content of the image is on this node.

use std::time::Duration;

use larder_tests::fake::FakeRegistry;
use larder_tests::image::{LayerSpec, build};
use larder_tests::node::Node;
use larder_tests::scene::{committed, eventually};

use super::{Client, REPOSITORY, Who, agrees, explain, layers, name, steps, until_kept};

#[tokio::test]
async fn cold_then_warm_then_moved_and_by_digest() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    let node = Node::builder().upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");

    let cold = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&cold, "tag"), ["new"], "{cold:#}");
    assert_eq!(steps(&cold, "access"), ["public"]);
    assert_eq!(steps(&cold, "manifest"), ["miss"]);
    assert_eq!(steps(&cold, "upstream"), ["answered"]);
    assert_eq!(cold["pull"]["manifest_here"], false);
    until_kept(&node, &image).await;

    let warm = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&warm, "tag"), ["unchanged"], "{warm:#}");
    assert_eq!(steps(&warm, "blobs"), ["hit"]);
    assert_eq!(warm["pull"]["blobs"].as_array().unwrap().len(), 3);
    let digest = name(&fake, &format!("team/app@{}", image.manifest_digest));
    let warm = agrees(&node, &[&fake], &digest, Who::Nobody).await;
    assert_eq!(steps(&warm, "manifest"), ["hit"], "{warm:#}");

    // Half of the next image is here. By digest it is a hit only once a client has asked for it.
    let next = build(
        &fake,
        REPOSITORY,
        "v2",
        &[LayerSpec::new(1, 100_000), LayerSpec::new(3, 900_000)],
    );
    fake.retag(REPOSITORY, "v1", &next.manifest_digest);
    let moved = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&moved, "tag"), ["changed"], "{moved:#}");
    until_kept(&node, &next).await;

    let third = build(
        &fake,
        REPOSITORY,
        "v3",
        &[LayerSpec::new(1, 100_000), LayerSpec::new(4, 900_000)],
    );
    let digest = name(&fake, &format!("team/app@{}", third.manifest_digest));
    let cold = agrees(&node, &[&fake], &digest, Who::Nobody).await;
    assert_eq!(steps(&cold, "manifest"), ["miss"], "{cold:#}");
    let missing = agrees(&node, &[&fake], &name(&fake, "team/app:no"), Who::Nobody).await;
    assert_eq!(steps(&missing, "tag"), ["missing"], "{missing:#}");
}

#[tokio::test]
async fn what_of_an_image_is_here() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    let node = Node::builder().upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");
    // A manifest alone.
    let mut client = Client::of(&node, &fake.host(), REPOSITORY, Who::Nobody);
    client.ask("GET", "manifests/v1").await;
    let none = explain(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&none, "blobs"), ["miss"], "{none:#}");
    // One layer is here, and a part of the other.
    let [small, large] = [0, 1].map(|at| image.layers[at].digest.clone());
    client.ask("GET", &format!("blobs/{small}")).await;
    eventually("it is kept", || committed(node.store(), &small)).await;
    let part = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&part, "blobs"), ["partial"], "{part:#}");
    let blobs = part["pull"]["blobs"].as_array().unwrap();
    let from = |digest: &str| blobs.iter().find(|b| b["digest"] == digest).unwrap()["from"].clone();
    assert_eq!(
        (from(&small), from(&large)),
        ("node".into(), "upstream".into())
    );

    // In another repository of the registry the same layers are here once that repository confirms them. In another
    // registry they are not.
    until_kept(&node, &image).await;
    build(&fake, "team/other", "v1", &layers());
    let other = name(&fake, "team/other:v1");
    Client::of(&node, &fake.host(), "team/other", Who::Nobody)
        .ask("GET", "manifests/v1")
        .await;
    let same = agrees(&node, &[&fake], &other, Who::Nobody).await;
    assert_eq!(steps(&same, "blobs"), ["hit"], "{same:#}");
}

#[tokio::test]
async fn another_registrys_word_proves_nothing() {
    let (one, two) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = build(&one, REPOSITORY, "v1", &layers());
    build(&two, REPOSITORY, "v1", &layers());
    let node = Node::builder().upstream(&one).upstream(&two).start().await;
    Client::of(&node, &one.host(), REPOSITORY, Who::Nobody)
        .pull("v1")
        .await;
    until_kept(&node, &image).await;
    Client::of(&node, &two.host(), REPOSITORY, Who::Nobody)
        .ask("GET", "manifests/v1")
        .await;
    let said = agrees(
        &node,
        &[&one, &two],
        &name(&two, "team/app:v1"),
        Who::Nobody,
    )
    .await;
    assert_eq!(steps(&said, "blobs"), ["miss"], "{said:#}");
}

#[tokio::test]
async fn fresh_tags_and_outages() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    let config = format!(
        "[tags]\ntimeout = \"300ms\"\n[upstreams.{:?}]\nendpoints = [{:?}]\ntags = [{{ match = \"f*\", fresh_for = \"1h\" }}]\n",
        fake.host(),
        fake.url()
    );
    fake.retag(REPOSITORY, "f1", &image.manifest_digest);
    let node = Node::builder().config(config).start().await;
    let (asked, fresh) = (name(&fake, "team/app:v1"), name(&fake, "team/app:f1"));
    for reference in ["v1", "f1"] {
        Client::of(&node, &fake.host(), REPOSITORY, Who::Nobody)
            .pull(reference)
            .await;
    }
    until_kept(&node, &image).await;
    let said = agrees(&node, &[&fake], &fresh, Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["fresh"], "{said:#}");
    assert_eq!(steps(&said, "upstream"), ["unasked"]);

    fake.stop().await;
    let said = agrees(&node, &[&fake], &asked, Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["stale"], "{said:#}");
    assert_eq!(steps(&said, "upstream"), ["unanswered"]);
    let said = agrees(&node, &[&fake], &fresh, Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["fresh"], "{said:#}");
    let said = agrees(&node, &[&fake], &name(&fake, "team/cold:v1"), Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["failed"], "{said:#}");

    fake.start_again().await;
    fake.delete_tag(REPOSITORY, "v1");
    // The breaker may have opened meanwhile: until a probe succeeds, larder serves what it knows.
    eventually_asked(&node, &fake, &asked).await;
    let said = agrees(&node, &[&fake], &asked, Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["stale"], "{said:#}");
    assert!(said.to_string().contains("does not have it"), "{said:#}");
}

/// Waits until larder asks the registry again.
async fn eventually_asked(node: &Node, fake: &FakeRegistry, image: &str) {
    for _ in 0..500 {
        let said = explain(node, &[fake], image, Who::Nobody).await;
        if said.to_string().contains("does not have it") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the registry is not asked again");
}

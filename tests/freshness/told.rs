//! A runtime that has the image asks only for the tag's digest, by HEAD. In an outage, the registry's last answer to
//! that HEAD is enough for the runtime (P12, P14).

use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::http::{Call, Response};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use larder_tests::scene::eventually;

use super::{NEW, OLD, REPOSITORY, answer, is_stale};

/// A registry with `team/app:v1`, and a node that a client has asked for it by HEAD alone.
struct Told {
    fake: FakeRegistry,
    node: Node,
    digest: String,
}

impl Told {
    async fn new(config: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let digest = fake.put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, OLD);
        let config = config.replace("HOST", &fake.host());
        let node = Node::builder().upstream(&fake).config(config).start().await;
        let told = Self { fake, node, digest };
        let head = told.ask("HEAD", "v1").await;
        told.points_to(&head, &told.digest, false);
        told
    }

    async fn ask(&self, method: &str, reference: &str) -> Response {
        let (node, host) = (self.node.url(), self.fake.host());
        let url = format!("{node}/v2/{REPOSITORY}/manifests/{reference}?ns={host}");
        answer(Call::new(method, url)).await
    }

    /// The headers by which a runtime compares the tag with its own image.
    fn points_to(&self, head: &Response, digest: &str, stale: bool) {
        let length = if digest == self.digest { OLD } else { NEW }.len();
        let told = (
            head.status,
            head.header("docker-content-digest"),
            head.header("content-type"),
            head.header("content-length"),
            is_stale(head),
        );
        let length = length.to_string();
        let wanted = (200, Some(digest), Some(OCI_MANIFEST), Some(&*length), stale);
        assert_eq!(told, wanted);
    }

    /// Waits until the registry's answer would survive a kill.
    async fn until_kept(&self) {
        let repositories = self.node.store().join("repositories");
        let log = repositories
            .join(self.fake.host())
            .join(REPOSITORY)
            .join("_log");
        eventually("the tag is on disk", || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            log.contains("\"v1\"")
        })
        .await;
    }
}

#[tokio::test]
async fn a_head_is_answered_in_an_outage_though_the_manifest_was_never_here() {
    let mut told = Told::new("").await;
    told.until_kept().await;
    told.fake.stop().await;
    for _ in 0..2 {
        let head = told.ask("HEAD", "v1").await;
        told.points_to(&head, &told.digest, true);
        // Requests that need bytes fail, and so does a tag of which larder knows nothing.
        for (method, reference) in [("GET", "v1"), ("GET", &*told.digest), ("HEAD", "v2")] {
            let answer = told.ask(method, reference).await;
            assert_eq!(answer.status, 503, "{method} {reference}");
        }
        told.node.kill9().await;
        told.node.restart().await;
    }
    // Once the registry answers again, its answer counts.
    told.fake.start_again().await;
    let new = told
        .fake
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
    let mut head = told.ask("HEAD", "v1").await;
    for _ in 0..200 {
        if !is_stale(&head) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        head = told.ask("HEAD", "v1").await;
    }
    told.points_to(&head, &new, false);
    told.fake.stop().await;
    told.points_to(&told.ask("HEAD", "v1").await, &new, true);
}

/// A manifest on the node is the better answer, since the client can get it. The registry's later answer counts once
/// that manifest is gone.
#[tokio::test]
async fn the_manifest_that_is_here_comes_first() {
    let told = Told::new("").await;
    assert_eq!(told.ask("GET", &told.digest).await.status, 200);
    told.fake
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
    let head = told.ask("HEAD", "v1").await;
    assert!(!is_stale(&head) && head.header("docker-content-digest") != Some(&*told.digest));
    told.fake.stop().await;
    told.points_to(&told.ask("HEAD", "v1").await, &told.digest, true);
    let manifest = told.ask("GET", "v1").await;
    assert_eq!((manifest.status, manifest.text()), (200, OLD.to_owned()));
}

/// Captive portals and limits are outages as well.
#[tokio::test]
async fn whatever_kind_of_outage_it_is() {
    for fault in [Fault::status(500), Fault::status(429), Fault::page(200)] {
        let told = Told::new("[tags]\ntimeout = \"600ms\"\n").await;
        told.fake.fault(Match::any(), fault);
        for _ in 0..2 {
            told.points_to(&told.ask("HEAD", "v1").await, &told.digest, true);
        }
    }
}

#[tokio::test]
async fn a_refusal_a_deletion_and_the_operator_end_it() {
    // A caller that was refused gets nothing, also in the outage that follows.
    let mut told = Told::new("").await;
    told.until_kept().await;
    told.fake.fault(Match::any(), Fault::denied(403));
    assert_eq!(told.ask("HEAD", "v1").await.status, 401);
    told.fake.stop().await;
    for _ in 0..2 {
        let head = told.ask("HEAD", "v1").await;
        assert!(matches!(head.status, 401 | 503), "{head:?}");
        told.node.restart().await;
    }

    let mut told = Told::new("[tags]\nwhen_deleted = \"forget\"").await;
    told.fake.delete_tag(REPOSITORY, "v1");
    assert_eq!(told.ask("HEAD", "v1").await.status, 404);
    told.fake.stop().await;
    for _ in 0..2 {
        assert_eq!(told.ask("HEAD", "v1").await.status, 503);
        told.node.restart().await;
    }

    let told = Told::new("[tags]\nwhen_unreachable = \"fail\"").await;
    told.fake.stop().await;
    assert_eq!(told.ask("HEAD", "v1").await.status, 503);
}

//! While the registry answers: one request to it for each resolve, or none where the operator configures that (P13),
//! and what an answer costs when the registry is far away.

use std::time::{Duration, Instant};

use larder_tests::fake::{FakeRegistry, Fault, Gate, Match};
use larder_tests::http::{self, Call};
use larder_tests::image::{self, LayerSpec, OCI_MANIFEST};
use larder_tests::node::Node;
use larder_tests::scene::{Scene, eventually};

use super::{NEW, OLD, REPOSITORY, Tagged, is_stale};

#[tokio::test]
async fn a_tag_is_asked_about_at_every_resolve() {
    let tagged = Tagged::new("").await;
    for resolves in 1..=3 {
        assert_eq!(tagged.head("v1").await.status, 200);
        assert_eq!((tagged.asked("HEAD"), tagged.asked("GET")), (resolves, 0));
    }
    let new = tagged
        .fake
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
    let answer = tagged.get("v1").await;
    assert_eq!((answer.status, answer.text()), (200, NEW.to_owned()));
    assert_eq!(answer.header("docker-content-digest"), Some(&*new));
    assert!(!is_stale(&answer));
    assert_eq!((tagged.asked("HEAD"), tagged.asked("GET")), (4, 1));
    // The old manifest stays available by its digest, and the tag may move back to it.
    let old = tagged.old.clone();
    assert_eq!(tagged.get(&old).await.text(), OLD);
    tagged.fake.retag(REPOSITORY, "v1", &old);
    assert_eq!(tagged.get("v1").await.text(), OLD);
    assert_eq!((tagged.asked("HEAD"), tagged.asked("GET")), (5, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn askers_at_once_share_one_question() {
    let tagged = Tagged::new("[tags]\ntimeout = \"4s\"").await;
    let gate = Gate::new(0);
    tagged
        .fake
        .fault(Match::manifest(), Fault::Hold(gate.clone()));
    let crowd: Vec<_> = (0..16)
        .map(|i| {
            let url = tagged.url("v1");
            tokio::spawn(async move {
                let answer = if i % 2 == 0 {
                    http::get(&url, &[]).await
                } else {
                    http::head(&url, &[]).await
                };
                answer.expect("an answer")
            })
        })
        .collect();
    gate.reached(1).await;
    // The node has read all requests: a later client would rightly cause another one.
    eventually("16 requests are read", || {
        tagged.node.unread_and_open() == (0, 16)
    })
    .await;
    gate.open();
    for client in crowd {
        let answer = client.await.expect("no panic");
        assert_eq!(answer.status, 200);
        assert!(!is_stale(&answer));
    }
    assert_eq!((tagged.asked("HEAD"), tagged.asked("GET")), (1, 0));
}

#[tokio::test]
async fn a_fresh_tag_is_not_asked_about() {
    let config = "[tags]\nfresh_for = \"1h\"\n[upstreams.\"HOST\"]\n\
                  tags = [{ match = \"latest\", fresh_for = \"0\" }, { match = \"n*\", fresh_for = \"1s\" }]";
    let tagged = Tagged::new(config).await;
    for tag in ["latest", "nightly"] {
        tagged.fake.retag(REPOSITORY, tag, &tagged.old);
        assert_eq!(tagged.get(tag).await.status, 200);
    }
    tagged.fake.reset_counts();
    // The rule of all tags.
    tagged
        .fake
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
    for _ in 0..3 {
        let answer = tagged.get("v1").await;
        assert_eq!((answer.text(), is_stale(&answer)), (OLD.to_owned(), false));
        assert_eq!(tagged.head("v1").await.status, 200);
    }
    assert_eq!(tagged.fake.requests(), []);
    // The rule for this tag.
    assert_eq!(tagged.head("latest").await.status, 200);
    assert_eq!((tagged.asked("HEAD"), tagged.asked("GET")), (1, 0));
    // A rule with a time: larder asks once it is over, and not before.
    let deadline = Instant::now() + Duration::from_secs(10);
    while tagged.asked("HEAD") == 1 {
        assert!(Instant::now() < deadline, "it is never asked about again");
        assert_eq!(tagged.head("nightly").await.status, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((tagged.asked("HEAD"), tagged.asked("GET")), (2, 0));
    assert_eq!(tagged.head("nightly").await.status, 200);
    assert_eq!(tagged.asked("HEAD"), 2);
}

/// When a registry gives no digest to a HEAD, or knows no HEAD, larder asks with GET.
#[tokio::test]
async fn a_head_that_tells_no_digest_is_followed_by_a_get() {
    for (fault, gets) in [(Fault::NoDigestHeader, 1), (Fault::status(405), 1)] {
        let tagged = Tagged::new("").await;
        tagged
            .fake
            .fault(Match::manifest().method("HEAD"), fault.clone());
        let answer = tagged.head("v1").await;
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*tagged.old),
            "{fault:?}"
        );
        assert_eq!((tagged.asked("HEAD"), tagged.asked("GET")), (1, gets));
        let new = tagged
            .fake
            .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
        let answer = tagged.get("v1").await;
        assert_eq!((answer.status, answer.text()), (200, NEW.to_owned()));
        assert_eq!(answer.header("docker-content-digest"), Some(&*new));
        // The tag is deleted, and this kind of registry says so, too.
        tagged.fake.delete_tag(REPOSITORY, "v1");
        let answer = tagged.get("v1").await;
        assert_eq!(
            (answer.status, answer.text(), is_stale(&answer)),
            (200, NEW.to_owned(), true),
            "{fault:?}"
        );
        tagged
            .fake
            .fault(Match::manifest().method("GET"), Fault::status(500));
        let answer = tagged.get("v1").await;
        assert_eq!(
            (answer.status, answer.text(), is_stale(&answer)),
            (200, NEW.to_owned(), true),
            "{fault:?}"
        );
    }
}

/// A tag has moved to a manifest that cannot be fetched: the old manifest is still served.
#[tokio::test]
async fn a_new_manifest_that_cannot_be_fetched_does_not_cost_the_old_one() {
    let tagged = Tagged::new("").await;
    tagged
        .fake
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
    let armed = tagged
        .fake
        .fault(Match::manifest().method("GET"), Fault::status(500));
    let answer = tagged.get("v1").await;
    assert_eq!(
        (answer.status, answer.text(), is_stale(&answer)),
        (200, OLD.to_owned(), true)
    );
    tagged.fake.stop().await;
    let answer = tagged.get("v1").await;
    assert_eq!(
        (answer.status, answer.text(), is_stale(&answer)),
        (200, OLD.to_owned(), true)
    );
    armed.lift();
    tagged.fake.start_again().await;
    tagged
        .until("the new one", |answer| {
            answer.text() == NEW && !is_stale(answer)
        })
        .await;
}

/// A client sees a new digest by HEAD alone. larder keeps the old manifest all the same.
#[tokio::test]
async fn an_answer_to_head_alone_does_not_cost_the_old_manifest() {
    let tagged = Tagged::new("").await;
    let new = tagged
        .fake
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
    assert_eq!(
        tagged.head("v1").await.header("docker-content-digest"),
        Some(&*new)
    );
    tagged.fake.stop().await;
    let answer = tagged.get("v1").await;
    assert_eq!(
        (answer.status, answer.text(), is_stale(&answer)),
        (200, OLD.to_owned(), true)
    );
    tagged.fake.start_again().await;
    // containerd's pull: HEAD, then GET by digest. From then on the tag points to the new manifest.
    tagged
        .until("the new one", |answer| !is_stale(answer))
        .await;
    let newer = format!("{NEW} ");
    let digest = tagged
        .fake
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, newer.clone());
    assert_eq!(
        tagged.head("v1").await.header("docker-content-digest"),
        Some(&*digest)
    );
    assert_eq!(tagged.get(&digest).await.text(), newer);
    tagged.fake.stop().await;
    let answer = tagged.get("v1").await;
    assert_eq!(
        (answer.status, answer.text(), is_stale(&answer)),
        (200, newer, true)
    );
}

#[tokio::test]
async fn a_warm_pull_waits_for_a_far_registry_once_by_tag_and_never_by_digest() {
    const FAR: Duration = Duration::from_millis(200);
    let scene = Scene::new().await;
    let layers = [LayerSpec::new(1, 3_000_000), LayerSpec::new(2, 100)];
    let image = image::build(&scene.fake, "a/b", "v1", &layers);
    let mut urls = vec![
        scene.manifest("a/b", &image.manifest_digest),
        scene.blob("a/b", &image.config_digest),
    ];
    urls.extend(
        image
            .layers
            .iter()
            .map(|layer| scene.blob("a/b", &layer.digest)),
    );
    let tag = scene.manifest("a/b", "v1");
    let pull = async || {
        let begun = Instant::now();
        for url in &urls {
            let answer = http::get(url, &[]).await.expect("an answer");
            assert_eq!((answer.status, answer.error), (200, None));
        }
        begun.elapsed()
    };
    assert_eq!(http::get(&tag, &[]).await.expect("an answer").status, 200);
    pull().await;
    for layer in &image.layers {
        scene.until_committed(&layer.digest).await;
    }
    scene.fake.reset_counts();
    scene.fake.fault(Match::any(), Fault::Delay(FAR));
    let took = pull().await;
    assert!(took < FAR, "{took:?}");
    assert_eq!(scene.fake.requests(), []);
    let begun = Instant::now();
    assert_eq!(http::head(&tag, &[]).await.expect("an answer").status, 200);
    pull().await;
    let took = begun.elapsed();
    assert!(took >= FAR && took < FAR * 2, "{took:?}");
    assert_eq!(scene.fake.requests().len(), 1);
    assert_eq!(scene.fake.count(|seen| seen.method == "HEAD"), 1);
}

/// The same where larder knows nothing yet, and where its verdict is old.
#[tokio::test]
async fn a_registry_without_head_answers_a_head_at_once() {
    let codes = [400, 404, 405, 501];
    futures_util::future::join_all(codes.map(without_head)).await;
}

async fn without_head(code: u16) {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, OLD);
    fake.fault(Match::manifest().method("HEAD"), Fault::status(code));
    let builder = Node::builder().upstream(&fake);
    let node = builder.config("[access]\nttl = \"1s\"\n").start().await;
    for reference in ["v1", &digest, "v1", &digest] {
        let url = format!(
            "{}/v2/{REPOSITORY}/manifests/{reference}?ns={}",
            node.url(),
            fake.host()
        );
        for method in ["HEAD", "GET"] {
            let answer = Call::new(method, &url).send().await.expect("an answer");
            let told = answer.header("docker-content-digest");
            assert_eq!(
                (answer.status, told),
                (200, Some(&*digest)),
                "{code}: {method} {reference}"
            );
            assert!(!is_stale(&answer), "{code}: {method} {reference}");
            // Until the verdict is old again.
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
    }
}

//! A mirror may supply bytes, but its answers grant no right: only the origin proves one (promises P16, P17).

use larder_tests::fake::{Content, FakeRegistry, Fault, Gate, Match};
use larder_tests::http::Call;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use larder_tests::scene::{committed, eventually};

use crate::private::{Private, Who, confidential, refused};

/// The registry's name for both endpoints. It does not resolve.
const REGISTRY: &str = "registry.test";

const REPOSITORY: &str = "team/app";

struct Behind {
    mirror: FakeRegistry,
    origin: FakeRegistry,
    scene: Private,
    owner: Who,
    content: bytes::Bytes,
    digest: String,
}

impl Behind {
    /// A mirror that serves everybody, in front of an origin that serves only `owner`.
    async fn new(more: &str) -> Self {
        let (mirror, origin) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let owner = Who::new("owner");
        let content = confidential("blob");
        let digest = mirror.put_blob(REPOSITORY, content.clone());
        for fake in [&mirror, &origin] {
            fake.put_blob(REPOSITORY, content.clone());
            fake.put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, content.clone());
        }
        origin.require_bearer(REPOSITORY, &[owner.pair()]);
        let config = format!(
            "[upstreams.\"{REGISTRY}\"]\nendpoints = [\"{}\", \"{}\"]\n{more}",
            mirror.url(),
            origin.url()
        );
        let scene = Private::start(Node::builder().config(config)).await;
        Self {
            mirror,
            origin,
            scene,
            owner,
            content,
            digest,
        }
    }

    fn urls(&self) -> Vec<String> {
        let paths = [
            format!("blobs/{}", self.digest),
            format!("manifests/{}", self.digest),
            "manifests/v1".to_owned(),
        ];
        let url = |path: &String| {
            format!(
                "{}/v2/{REPOSITORY}/{path}?ns={REGISTRY}",
                self.scene.node.url()
            )
        };
        paths.iter().map(url).collect()
    }

    async fn end(self) {
        self.scene.end(&[&self.mirror, &self.origin]).await;
    }
}

/// Cold and cached, whichever URL is asked first.
#[tokio::test]
async fn what_a_mirror_gives_away_the_origin_still_guards() {
    for first in 0..3 {
        let place = Behind::new("").await;
        let stranger = Who::new("owner");
        for round in ["cold", "cached"] {
            for url in place.urls().iter().cycle().skip(first).take(3) {
                for who in [&Who::Nobody, &stranger] {
                    for call in [
                        Call::get(url),
                        Call::new("HEAD", url),
                        Call::get(url).header("range", "bytes=0-3"),
                    ] {
                        let answer = place.scene.ask(who, call).await;
                        refused(
                            &format!("{round} {url} {who:?}"),
                            &answer,
                            &place.content[..4],
                        );
                    }
                }
                let answer = place.scene.get(&place.owner, url).await;
                assert_eq!(
                    (answer.status, &answer.body),
                    (200, &place.content),
                    "{round} {url}"
                );
            }
        }
        let mirrored = place.mirror.requests();
        assert!(
            mirrored
                .iter()
                .any(|seen| seen.status == 200 && seen.bytes_sent > 0)
        );
        for seen in mirrored {
            assert_eq!(
                seen.authorization, None,
                "a credential for the origin was sent to a mirror"
            );
        }
        let given: u64 = place
            .origin
            .requests()
            .iter()
            .filter(|seen| seen.status < 300 && seen.kind != larder_tests::fake::Kind::Token)
            .map(|seen| seen.bytes_sent)
            .sum();
        assert!(given <= 4, "{given} bytes from the origin");
        place.end().await;
    }
}

#[tokio::test]
async fn what_came_through_a_mirror_is_kept() {
    let place = Behind::new("").await;
    let url = &place.urls()[0];
    assert_eq!(place.scene.get(&place.owner, url).await.body, place.content);
    eventually("it is committed", || {
        committed(place.scene.node.store(), &place.digest)
    })
    .await;
    for fake in [&place.mirror, &place.origin] {
        fake.reset_counts();
    }
    assert_eq!(place.scene.get(&place.owner, url).await.body, place.content);
    for fake in [&place.mirror, &place.origin] {
        assert_eq!(fake.requests(), []);
    }
    place.end().await;
}

#[tokio::test]
async fn a_mirror_that_proves_access_is_asked_instead_of_the_origin() {
    let place = Behind::new("proves_access = true\n").await;
    let reader = Who::new("reader");
    place.mirror.require_bearer(REPOSITORY, &[reader.pair()]);
    for _ in 0..2 {
        for url in place.urls() {
            let answer = place.scene.get(&reader, &url).await;
            assert_eq!(
                (answer.status, &answer.body),
                (200, &place.content),
                "{url}"
            );
        }
    }
    assert!(place.mirror.count(|seen| seen.authorization.is_some()) > 0);
    let given = place
        .origin
        .count(|seen| seen.status < 300 && seen.repository == REPOSITORY);
    assert_eq!(given, 0);
    place.end().await;
}

/// The attacker's mirror, in front of the attacker's own registry. The mirror may claim anything about another
/// registry's digests.
#[tokio::test]
async fn a_mirror_opens_no_other_registry() {
    let place = Behind::new("").await;
    let victim = FakeRegistry::start().await;
    let (content, user) = (confidential("victim"), Who::new("user"));
    let digest = victim.put_blob("secret/app", content.clone());
    victim.require_basic("secret/app", user.pair().0, user.pair().1);
    let wrong = Content::bytes(vec![b'x'; content.len()]);
    place.mirror.put_blob_under(REPOSITORY, &digest, &wrong);
    place.origin.put_blob_under(REPOSITORY, &digest, &wrong);
    let config = format!(
        "[upstreams.\"{REGISTRY}\"]\nendpoints = [\"{}\", \"{}\"]\n",
        place.mirror.url(),
        place.origin.url()
    );
    let scene = Private::start(Node::builder().config(config).upstream(&victim)).await;
    let url = scene.blob(&victim, "secret/app", &digest);
    assert_eq!(scene.get(&user, &url).await.body, content);
    eventually("it is committed", || committed(scene.node.store(), &digest)).await;
    let url = format!(
        "{}/v2/{REPOSITORY}/blobs/{digest}?ns={REGISTRY}",
        scene.node.url()
    );
    for who in [&Who::Nobody, &place.owner, &user] {
        for call in [
            Call::get(&url),
            Call::get(&url).header("range", "bytes=0-7"),
            Call::new("HEAD", &url),
        ] {
            let answer = scene.ask(who, call).await;
            let leaked = answer.body.windows(8).any(|window| window == &content[..8]);
            assert!(!leaked, "{who:?}: {}", answer.text());
        }
    }
    scene.end(&[&victim, &place.mirror, &place.origin]).await;
    place.end().await;
}

/// A mirror with `proves_access` hangs: larder makes the proof at the origin.
#[tokio::test]
async fn a_mirror_that_proves_access_and_hangs_leaves_the_proof_to_the_origin() {
    let place = Behind::new("proves_access = true\n").await;
    let second = Who::new("second");
    for fake in [&place.mirror, &place.origin] {
        fake.require_bearer(REPOSITORY, &[place.owner.pair(), second.pair()]);
    }
    for url in &place.urls() {
        assert_eq!(place.scene.get(&place.owner, url).await.status, 200);
    }
    eventually("it is committed", || {
        committed(place.scene.node.store(), &place.digest)
    })
    .await;
    let gate = Gate::new(0);
    place.mirror.fault(Match::any(), Fault::Hold(gate.clone()));
    for url in [&place.urls()[1], &place.urls()[0]] {
        let answer = place.scene.get(&second, url).await;
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
    }
    let stranger = place.scene.get(&Who::new("third"), &place.urls()[1]).await;
    refused("a stranger", &stranger, &place.content);
    gate.open();
    place.end().await;
}

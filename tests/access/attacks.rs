//! Attempts to reach private bytes without a right: by another repository, by another registry, by a running fill, and
//! by what a crash left (promise P16).

use larder_tests::fake::{Content, FakeRegistry, Fault, Match};
use larder_tests::http::{Call, Response};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::scene::{committed, eventually};

use crate::private::{Private, Who, confidential, refused};

/// Two repositories of one registry, one of them private and in the cache.
struct Neighbours {
    fake: FakeRegistry,
    scene: Private,
    owner: Who,
    other: Who,
    content: bytes::Bytes,
    digest: String,
}

impl Neighbours {
    async fn new(toml: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let (owner, other) = (Who::new("owner"), Who::new("other"));
        let content = confidential("blob");
        let digest = fake.put_blob("team/app", content.clone());
        fake.put_blob("public/app", "public");
        fake.put_blob("other/app", "other");
        fake.require_bearer("team/app", &[owner.pair()]);
        fake.require_bearer("other/app", &[other.pair()]);
        let scene = Private::configured(&[&fake], toml).await;
        Self {
            fake,
            scene,
            owner,
            other,
            content,
            digest,
        }
    }

    /// Pulls the content of each repository, so that it is cached.
    async fn warm(&self) {
        let url = self.scene.blob(&self.fake, "team/app", &self.digest);
        assert_eq!(self.scene.get(&self.owner, &url).await.body, self.content);
        for (who, repository, text) in [
            (&Who::Nobody, "public/app", "public"),
            (&self.other, "other/app", "other"),
        ] {
            let digest = larder_tests::fake::digest_of(text.as_bytes());
            let url = self.scene.blob(&self.fake, repository, &digest);
            assert_eq!(self.scene.get(who, &url).await.text(), text);
        }
        eventually("it is committed", || {
            committed(self.scene.node.store(), &self.digest)
        })
        .await;
    }

    /// Every request that could open the digest through a repository that does not hold it.
    async fn through(&self, who: &Who, repository: &str) -> Vec<Response> {
        let mut answers = Vec::new();
        for kind in ["blobs", "manifests"] {
            let url = self
                .scene
                .path(&self.fake, &format!("{repository}/{kind}/{}", self.digest));
            for call in [
                Call::get(&url),
                Call::new("HEAD", &url),
                Call::get(&url).header("range", "bytes=0-7"),
                Call::get(&url).header("range", "bytes=-8"),
            ] {
                answers.push(self.scene.ask(who, call).await);
            }
        }
        answers
    }

    async fn end(self) {
        self.scene.end(&[&self.fake]).await;
    }
}

#[tokio::test]
async fn the_rights_for_one_repository_open_no_other() {
    let place = Neighbours::new("").await;
    place.warm().await;
    for (who, repository) in [
        (&Who::Nobody, "public/app"),
        (&place.owner, "public/app"),
        (&place.other, "public/app"),
        (&place.other, "other/app"),
        (&place.other, "team/app"),
        (&Who::Nobody, "team/app"),
    ] {
        for answer in place.through(who, repository).await {
            refused(&format!("{who:?} {repository}"), &answer, &place.content);
        }
    }
    place.end().await;
}

/// An outage bridges a right only to content that the repository is known to hold.
#[tokio::test]
async fn an_outage_opens_nothing_through_another_repository() {
    let place = Neighbours::new("[access]\nttl = \"1s\"\ngrace = \"1h\"\n").await;
    place.warm().await;
    place.fake.stop().await;
    // Verdicts count whole seconds: all of them are older than the ttl soon.
    let public = place.scene.blob(
        &place.fake,
        "public/app",
        &larder_tests::fake::digest_of(b"public"),
    );
    for _ in 0..150 {
        for (who, repository) in [(&Who::Nobody, "public/app"), (&place.other, "other/app")] {
            let url = place.scene.blob(&place.fake, repository, &place.digest);
            let answer = place.scene.get(who, &url).await;
            refused(&format!("{who:?} {repository}"), &answer, &place.content);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    for (who, repository) in [(&Who::Nobody, "public/app"), (&place.other, "other/app")] {
        for answer in place.through(who, repository).await {
            refused(&format!("{who:?} {repository}"), &answer, &place.content);
        }
    }
    assert_eq!(
        place.scene.get(&Who::Nobody, &public).await.text(),
        "public"
    );
    let url = place.scene.blob(&place.fake, "team/app", &place.digest);
    assert_eq!(
        place.scene.get(&place.owner, &url).await.body,
        place.content
    );
    place.end().await;
}

/// An attacker's registry that knows the digest, and answers anything that helps it.
#[tokio::test]
async fn another_registry_that_claims_a_digest_gets_nothing() {
    let place = Neighbours::new("").await;
    place.warm().await;
    // It has other bytes under that digest, since it does not have the right ones.
    let attacker = FakeRegistry::start().await;
    let false_bytes = Content::bytes(vec![b'x'; place.content.len()]);
    attacker.put_blob_under("evil/app", &place.digest, &false_bytes);
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{0}","size":{1}}},"layers":[]}}"#,
        place.digest,
        place.content.len()
    );
    attacker.put_manifest("evil/app", Some("v1"), OCI_MANIFEST, manifest);
    let scene = Private::start(
        larder_tests::node::Node::builder()
            .upstream(&place.fake)
            .upstream(&attacker),
    )
    .await;
    // A new node with both registries, warmed the same way.
    let url = scene.blob(&place.fake, "team/app", &place.digest);
    assert_eq!(scene.get(&place.owner, &url).await.body, place.content);
    eventually("it is committed", || {
        committed(scene.node.store(), &place.digest)
    })
    .await;
    let url = scene.manifest(&attacker, "evil/app", "v1");
    assert_eq!(scene.get(&Who::Nobody, &url).await.status, 200);
    // Whatever header larder records of that registry names the digest.
    let media_type = format!("{OCI_MANIFEST}; of={}", place.digest);
    attacker.put_manifest("evil/app", Some("v3"), &media_type, "{}");
    let url = scene.manifest(&attacker, "evil/app", "v3");
    assert_eq!(scene.get(&Who::Nobody, &url).await.text(), "{}");
    // The attacker's tag, which claims to be that very digest.
    let headers = [
        ("Docker-Content-Digest", place.digest.clone()),
        ("Content-Type", OCI_MANIFEST.to_owned()),
    ];
    attacker.fault(
        Match::manifest().reference("v2").method("HEAD"),
        Fault::Status {
            code: 200,
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body: vec![b'x'; place.content.len()].into(),
        },
    );
    let tag = scene.manifest(&attacker, "evil/app", "v2");
    for method in ["HEAD", "GET", "HEAD"] {
        let answer = scene.send(Call::new(method, &tag)).await;
        assert!(
            !answer.body.starts_with(&place.content[..8]),
            "{}",
            answer.text()
        );
    }
    for path in ["blobs", "manifests"] {
        let url = scene.path(&attacker, &format!("evil/app/{path}/{}", place.digest));
        for call in [
            Call::get(&url),
            Call::new("HEAD", &url),
            Call::get(&url).header("range", "bytes=0-7"),
            Call::get(&url),
        ] {
            let answer = scene.send(call).await;
            let found = answer
                .body
                .windows(8)
                .any(|window| window == &place.content[..8]);
            assert!(!found, "{}", answer.text());
            // A complete answer would need the right digest, which these bytes have not: the body ends short, or the
            // request is refused.
            assert!(answer.status != 200 || answer.body.is_empty() || !answer.complete);
        }
    }
    // A redirect to the cached blob's registry gives nothing either: that registry refuses.
    let to = format!("{}/v2/team/app/blobs/{}", place.fake.url(), place.digest);
    attacker.fault(
        Match::any(),
        Fault::Redirect {
            to: larder_tests::fake::Target::Url(to),
            status: 307,
        },
    );
    let url = scene.blob(&attacker, "evil/app", &place.digest);
    refused(
        "redirect",
        &scene.send(Call::get(&url)).await,
        &place.content,
    );
    attacker.clear_faults();
    // Once the attacker's registry has the right bytes, larder serves them, and fetches every byte from there.
    attacker.put_blob_under(
        "evil/app",
        &place.digest,
        &Content::bytes(place.content.clone()),
    );
    attacker.reset_counts();
    let answer = scene
        .get(
            &Who::Nobody,
            &scene.blob(&attacker, "evil/app", &place.digest),
        )
        .await;
    if answer.status == 200 {
        assert_eq!(answer.body, place.content);
        assert!(attacker.blob_bytes_sent(&place.digest) >= place.content.len() as u64);
    }
    scene.end(&[&place.fake, &attacker]).await;
    place.end().await;
}

//! Ways to private bytes that are none: another repository, another registry, a running fill, what a crash left
//! (promise P16).

use larder_tests::fake::{Content, FakeRegistry, Fault, Match};
use larder_tests::http::{Call, Response};
use larder_tests::scene::{committed, eventually};

use crate::private::{Private, Who, confidential, refused};

const MB: u64 = 1_000_000;

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

    /// The owner, the public repository and the other one are pulled from.
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

    /// Everything that could open the digest through a repository that does not hold it.
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

/// A right that an outage bridges is one for what the repository is known to hold.
#[tokio::test]
async fn an_outage_opens_nothing_through_another_repository() {
    let place = Neighbours::new("[access]\nttl = \"1s\"\ngrace = \"1h\"\n").await;
    place.warm().await;
    place.fake.stop().await;
    // Verdicts count by the second: all of them are older than the ttl soon.
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

/// Somebody else's registry that knows the digest and says whatever it takes.
#[tokio::test]
async fn another_registry_that_claims_a_digest_gets_nothing() {
    let place = Neighbours::new("").await;
    place.warm().await;
    // Its own bytes under that digest: it does not have the right ones.
    let attacker = FakeRegistry::start().await;
    let false_bytes = Content::bytes(vec![b'x'; place.content.len()]);
    attacker.put_blob_under("evil/app", &place.digest, &false_bytes);
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{0}","size":{1}}},"layers":[]}}"#,
        place.digest,
        place.content.len()
    );
    attacker.put_manifest(
        "evil/app",
        Some("v1"),
        larder_tests::image::OCI_MANIFEST,
        manifest,
    );
    let scene = Private::start(
        larder_tests::node::Node::builder()
            .upstream(&place.fake)
            .upstream(&attacker),
    )
    .await;
    // A node of its own with both registries, warmed the same way.
    let url = scene.blob(&place.fake, "team/app", &place.digest);
    assert_eq!(scene.get(&place.owner, &url).await.body, place.content);
    eventually("it is committed", || {
        committed(scene.node.store(), &place.digest)
    })
    .await;
    let url = scene.manifest(&attacker, "evil/app", "v1");
    assert_eq!(scene.get(&Who::Nobody, &url).await.status, 200);
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
            // A complete answer has the right digest, and it has not: it ends short or is refused.
            assert!(answer.status != 200 || answer.body.is_empty() || !answer.complete);
        }
    }
    // It cannot redirect to what is cached either: the registry that it leads to refuses.
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
    // With the right bytes of its own, it serves them: from there, every one of them.
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

/// A private blob that is only half here: its registry is at the gate.
struct HalfHere {
    fake: FakeRegistry,
    attacker: FakeRegistry,
    scene: Private,
    owner: Who,
    other: Who,
    content: Content,
    digest: String,
}

impl HalfHere {
    async fn new() -> Self {
        let (fake, attacker) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let (owner, other) = (Who::new("owner"), Who::new("other"));
        let content = Content::synthetic(fastrand::u64(..), 3 * MB);
        let digest = fake.put_content("team/app", &content);
        fake.put_blob("public/app", "public");
        fake.put_blob("other/app", "other");
        fake.require_bearer("team/app", &[owner.pair()]);
        fake.require_bearer("other/app", &[other.pair()]);
        // The attacker knows the digest and the length, and has other bytes.
        attacker.put_blob_under("evil/app", &digest, &Content::zeros(3 * MB));
        attacker.put_blob("evil/app", "evil");
        let scene = Private::before(&[&fake, &attacker]).await;
        let place = Self {
            fake,
            attacker,
            scene,
            owner,
            other,
            content,
            digest,
        };
        for (who, fake, repository, text) in [
            (&Who::Nobody, &place.fake, "public/app", "public"),
            (&place.other, &place.fake, "other/app", "other"),
            (&Who::Nobody, &place.attacker, "evil/app", "evil"),
        ] {
            let url = place.scene.blob(
                fake,
                repository,
                &larder_tests::fake::digest_of(text.as_bytes()),
            );
            assert_eq!(place.scene.get(who, &url).await.text(), text);
        }
        place
    }

    /// What anyone without a right to `team/app` gets of the first 8 KB and of everything.
    async fn nobody_gets_it(&self) {
        let wrong = Who::new("owner");
        for (who, fake, repository) in [
            (&Who::Nobody, &self.fake, "team/app"),
            (&wrong, &self.fake, "team/app"),
            (&self.other, &self.fake, "team/app"),
            (&Who::Nobody, &self.fake, "public/app"),
            (&self.owner, &self.fake, "public/app"),
            (&self.other, &self.fake, "other/app"),
        ] {
            let url = self.scene.blob(fake, repository, &self.digest);
            for call in [
                Call::get(&url).header("range", "bytes=0-8191"),
                Call::get(&url),
                Call::get(&url).header("range", "bytes=0-99,200-299"),
                Call::new("HEAD", &url),
            ] {
                let what = format!("{who:?} {repository} {call:?}");
                let answer = self.scene.ask(who, call).await;
                refused(&what, &answer, &self.content.read(0..64));
            }
        }
        // The attacker's registry gives its own bytes at the most.
        let url = self.scene.blob(&self.attacker, "evil/app", &self.digest);
        for call in [
            Call::get(&url).header("range", "bytes=0-8191"),
            Call::get(&url),
        ] {
            let answer = self.scene.send(call).await;
            let byte = answer.body.iter().find(|byte| **byte != 0);
            assert!(
                answer.status >= 400 || byte.is_none(),
                "bytes of another registry"
            );
        }
    }
}

#[tokio::test]
async fn a_running_fill_is_joined_only_with_a_right_to_it() {
    let place = HalfHere::new().await;
    let gate = place
        .fake
        .gate(Match::blob().repository("team/app").method("GET"), MB);
    let url = place.scene.blob(&place.fake, "team/app", &place.digest);
    let token = {
        let answer = place.scene.send(Call::get(&url)).await;
        place
            .scene
            .token(&place.owner, &crate::private::Challenge::of(&answer))
            .await
    };
    let call = Call::get(&url).header("authorization", &format!("Bearer {token}"));
    let mut reader = call.open().await.expect("an answer");
    let begin = reader.read_exactly(500_000).await.expect("500 kB");
    assert!(*begin == place.content.read(0..500_000));
    gate.reached(1).await;
    place.nobody_gets_it().await;
    gate.open();
    let rest = reader.rest().await;
    assert!(rest.complete, "{:?}", rest.error);
    assert!(*rest.body == place.content.read(500_000..3 * MB));
    place.scene.end(&[&place.fake, &place.attacker]).await;
}

#[tokio::test]
async fn what_a_crash_left_opens_only_with_a_right_to_it() {
    let mut place = HalfHere::new().await;
    let gate = place
        .fake
        .gate(Match::blob().repository("team/app").method("GET"), MB);
    let url = place.scene.blob(&place.fake, "team/app", &place.digest);
    let sent = Who::Sends(place.owner.basic());
    let Who::Sends(authorization) = &sent else {
        unreachable!()
    };
    let call = Call::get(&url).header("authorization", authorization);
    let mut reader = call.open().await.expect("an answer");
    reader.read_exactly(500_000).await.expect("500 kB");
    let store = place.scene.node.store().to_owned();
    let spans = || {
        larder_tests::scene::files(&store.join("partial"))
            .iter()
            .any(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "spans")
            })
    };
    gate.reached(1).await;
    // What is present is written down now and then, when more comes.
    let mut through = MB;
    while !spans() {
        through += 10_000;
        assert!(through < 2 * MB, "no checkpoint is written");
        gate.let_through(through);
        gate.reached(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    place.scene.node.kill9().await;
    drop(reader);
    place.scene.node.restart().await;
    place.nobody_gets_it().await;
    gate.open();
    let answer = place.scene.ask(&sent, Call::get(&url)).await;
    assert_eq!((answer.status, answer.complete), (200, true));
    assert!(*answer.body == place.content.read(0..3 * MB));
    place.scene.end(&[&place.fake, &place.attacker]).await;
}

//! A private blob that is only half here: while its fill runs, and after a crash. A caller that joins another caller's
//! fill needs a right to this very digest (promise P16).

use larder_tests::fake::{Content, FakeRegistry, Match};
use larder_tests::http::Call;

use crate::private::{Private, Who, refused};

const MB: u64 = 1_000_000;

/// A private blob that is only half here: its registry waits at the gate.
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
        // The attacker's registry knows the digest and the length, and has other bytes.
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

    /// What callers without a right to `team/app` get of the first 8 KB and of the whole blob.
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
        // At most, the attacker's registry gives its own bytes.
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
    // The store records which spans are present only from time to time, as more bytes come.
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

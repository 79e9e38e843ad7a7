//! An unauthorised client cannot tell what is cached: the answer, its cost and its time are the same either way.

use std::time::{Duration, Instant};

use larder_tests::fake::{Content, FakeRegistry, Fault, Match};
use larder_tests::http::Call;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::scene::{committed, eventually};

use crate::private::{Private, Who, refused};

const REPOSITORY: &str = "team/app";

/// The requests to a registry for one answer: kind and status of each, and whether it carried a credential.
type Questions = Vec<(String, bool)>;

struct Place {
    fake: FakeRegistry,
    scene: Private,
    owner: Who,
    /// A blob and a manifest each: in the cache, at the registry alone, and nowhere.
    digests: [[String; 2]; 3],
}

impl Place {
    async fn new() -> Self {
        let fake = FakeRegistry::start().await;
        let owner = Who::new("owner");
        let put = |n: u64| {
            let content = Content::synthetic(n, 100_000);
            let manifest = format!("{{\"n\":{n}}}");
            let manifest = fake.put_manifest(REPOSITORY, None, OCI_MANIFEST, manifest);
            [fake.put_content(REPOSITORY, &content), manifest]
        };
        let digests = [
            put(1),
            put(2),
            ["c", "d"].map(|c| format!("sha256:{}", c.repeat(64))),
        ];
        fake.require_bearer(REPOSITORY, &[owner.pair()]);
        let scene = Private::before(&[&fake]).await;
        // The owner sends its secret at once: larder has not learnt yet that the repository is private.
        let sent = Who::Sends(owner.basic());
        let [blob, manifest] = &digests[0];
        assert_eq!(
            scene
                .get(&sent, &scene.blob(&fake, REPOSITORY, blob))
                .await
                .status,
            200
        );
        assert_eq!(
            scene
                .get(&sent, &scene.manifest(&fake, REPOSITORY, manifest))
                .await
                .status,
            200
        );
        for digest in &digests[0] {
            eventually("it is committed", || committed(scene.node.store(), digest)).await;
        }
        Self {
            fake,
            scene,
            owner,
            digests,
        }
    }

    /// A blob and a manifest, whole, in part and without a body.
    fn calls(&self, [blob, manifest]: &[String; 2]) -> Vec<Call> {
        let blob = self.scene.blob(&self.fake, REPOSITORY, blob);
        let manifest = self.scene.manifest(&self.fake, REPOSITORY, manifest);
        vec![
            Call::get(&blob),
            Call::get(&blob).header("range", "bytes=0-9"),
            Call::new("HEAD", &blob),
            Call::get(&manifest),
            Call::new("HEAD", &manifest),
        ]
    }
}

#[tokio::test]
async fn the_questions_are_the_same_whatever_is_here() {
    let mut seen: Vec<Vec<Questions>> = Vec::new();
    let mut statuses = Vec::new();
    for state in 0..3 {
        let mut all = Vec::new();
        let mut answers = Vec::new();
        for call in 0..5 {
            // Each request comes from a caller that larder has not met before.
            for known in [false, true] {
                let place = Place::new().await;
                let stranger = Who::Sends(Who::new("owner").basic());
                let who = if known { &stranger } else { &Who::Nobody };
                place.fake.reset_counts();
                let asking = place.calls(&place.digests[state])[call].clone();
                let answer = place.scene.ask(who, asking).await;
                refused(&format!("{state}"), &answer, b"\x00\x00");
                answers.push((
                    answer.status,
                    answer.header("content-length").map(str::to_owned),
                    answer.text().len(),
                ));
                // Only requests before the answer count. Afterwards larder asks for another subject, to see whether the
                // whole repository is refused.
                let mut asked = place.fake.requests();
                let digest = &place.digests[state][usize::from(call > 2)];
                let last = asked.iter().rposition(|seen| seen.reference == *digest);
                asked.truncate(last.expect("the registry was asked") + 1);
                let kind = |seen: &larder_tests::fake::Seen| {
                    (
                        format!("{:?} {}", seen.kind, seen.status),
                        seen.authorization.is_some(),
                    )
                };
                all.push(asked.iter().map(kind).collect());
                place.scene.end(&[&place.fake]).await;
            }
        }
        seen.push(all);
        statuses.push(answers);
    }
    assert_eq!(statuses[0], statuses[1]);
    assert_eq!(statuses[1], statuses[2]);
    assert_eq!(seen[0], seen[1], "cached, and at the registry alone");
    assert_eq!(seen[1], seen[2], "at the registry alone, and nowhere");
}

/// The same while the registry is down, also to a caller that was refused before: larder answers by itself.
#[tokio::test]
async fn an_outage_tells_nothing_either() {
    let place = Place::new().await;
    place.fake.stop().await;
    let stranger = Who::Sends(Who::new("owner").basic());
    let mut answers = Vec::new();
    for digests in &place.digests {
        let mut told = Vec::new();
        for who in [&Who::Nobody, &stranger] {
            for call in place.calls(digests) {
                let answer = place.scene.ask(who, call).await;
                refused("down", &answer, b"\x00\x00");
                told.push((answer.status, answer.text().len()));
            }
        }
        answers.push(told);
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[1], answers[2]);
    place.scene.end(&[&place.fake]).await;
}

/// The registry takes 60 ms for every request, so one request more or less shows in the time.
#[tokio::test]
async fn the_time_is_the_same_whatever_is_here() {
    let place = Place::new().await;
    place
        .fake
        .fault(Match::any(), Fault::Delay(Duration::from_millis(60)));
    for call in 0..5 {
        let mut shortest = [Duration::MAX; 2];
        for _ in 0..5 {
            for (state, shortest) in shortest.iter_mut().enumerate() {
                // Each request comes from a caller that was not refused before.
                let stranger = Who::Sends(Who::new("owner").basic());
                let call = place.calls(&place.digests[state])[call].clone();
                let since = Instant::now();
                let answer = place.scene.ask(&stranger, call).await;
                *shortest = since.elapsed().min(*shortest);
                assert_eq!(answer.status, 401);
            }
        }
        let [cached, uncached] = shortest;
        assert!(
            cached.abs_diff(uncached) < Duration::from_millis(45),
            "{call}: {cached:?} and {uncached:?}"
        );
    }
    let url = place
        .scene
        .blob(&place.fake, REPOSITORY, &place.digests[1][0]);
    assert_eq!(place.scene.get(&place.owner, &url).await.status, 200);
    place.scene.end(&[&place.fake]).await;
}

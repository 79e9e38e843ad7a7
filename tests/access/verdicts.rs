//! What larder remembers of a right: for which caller, for how long, and what voids it (promises P13 to P17).

use std::time::Duration;

use larder_tests::fake::{FakeRegistry, Fault, Kind, Match, Request, Seen};
use larder_tests::http::Call;
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::scene::{committed, eventually};

use crate::private::{Challenge, Private, Who, refused, until};

const REPOSITORY: &str = "team/app";

struct Place {
    fake: FakeRegistry,
    scene: Private,
    owner: Who,
    image: Image,
}

impl Place {
    async fn new(toml: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let owner = Who::new("owner");
        let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 1000)]);
        fake.require_bearer(REPOSITORY, &[owner.pair()]);
        let scene = Private::configured(&[&fake], toml).await;
        Self {
            fake,
            scene,
            owner,
            image,
        }
    }

    /// By tag, by digest, and every blob.
    fn urls(&self) -> Vec<String> {
        let mut paths = vec!["manifests/v1".to_owned()];
        paths.push(format!("manifests/{}", self.image.manifest_digest));
        paths.extend(
            self.digests()
                .iter()
                .skip(1)
                .map(|digest| format!("blobs/{digest}")),
        );
        let url = |path: &String| self.scene.path(&self.fake, &format!("{REPOSITORY}/{path}"));
        paths.iter().map(url).collect()
    }

    fn by_tag(&self) -> String {
        self.scene.manifest(&self.fake, REPOSITORY, "v1")
    }

    fn digests(&self) -> Vec<&String> {
        let layers = self.image.layers.iter().map(|layer| &layer.digest);
        [&self.image.manifest_digest, &self.image.config_digest]
            .into_iter()
            .chain(layers)
            .collect()
    }

    /// Pulls the whole image; every part of it comes.
    async fn pull(&self, who: &Who) {
        for url in self.urls() {
            let answer = self.scene.get(who, &url).await;
            assert_eq!(answer.status, 200, "{url}: {}", answer.text());
            assert!(!answer.body.is_empty());
        }
    }

    async fn warm(&self, who: &Who) {
        self.pull(who).await;
        for digest in self.digests() {
            eventually("it is committed", || {
                committed(self.scene.node.store(), digest)
            })
            .await;
        }
        self.fake.reset_counts();
    }

    async fn nothing_for(&self, who: &Who) {
        for url in self.urls() {
            let answer = self.scene.get(who, &url).await;
            refused(&url, &answer, b"schemaVersion");
            assert_eq!(answer.status, 401, "{}", answer.text());
        }
    }

    async fn end(self) {
        self.scene.end(&[&self.fake]).await;
    }
}

#[tokio::test]
async fn a_warm_pull_by_digest_asks_nobody_and_one_by_tag_asks_once() {
    let place = Place::new("").await;
    place.warm(&place.owner).await;
    for url in &place.urls()[1..] {
        let answer = place.scene.get(&place.owner, url).await;
        assert_eq!(answer.status, 200);
        assert_eq!(place.scene.head(&place.owner, url).await.status, 200);
    }
    assert_eq!(place.fake.requests(), [], "by digest");
    assert_eq!(
        place.scene.get(&place.owner, &place.by_tag()).await.body,
        place.image.manifest
    );
    let asked = place.fake.requests();
    let [
        Seen {
            method,
            kind,
            authorization,
            status,
            ..
        },
    ] = &asked[..]
    else {
        panic!("by tag: {asked:?}");
    };
    assert_eq!((&**method, *kind, *status), ("HEAD", Kind::Manifest, 200));
    assert!(
        authorization
            .as_ref()
            .is_some_and(|sent| sent.starts_with("Bearer "))
    );
    place.end().await;
}

/// A caller that has the image asks by HEAD alone. In an outage it gets the same digest again, and no other caller
/// does.
#[tokio::test]
async fn in_an_outage_a_tag_resolves_only_for_the_caller_that_had_it() {
    let mut place = Place::new("").await;
    let tag = place.by_tag();
    assert_eq!(place.scene.head(&place.owner, &tag).await.status, 200);
    place.fake.stop().await;
    for _ in 0..2 {
        let tag = place.by_tag();
        let head = place.scene.head(&place.owner, &tag).await;
        let digest = head.header("docker-content-digest");
        assert_eq!(digest, Some(&*place.image.manifest_digest));
        assert!(head.header("warning").is_some());
        for who in [Who::Nobody, Who::new("owner"), Who::new("second")] {
            let head = place.scene.head(&who, &tag).await;
            assert!(matches!(head.status, 401 | 503), "{who:?}: {head:?}");
            assert_eq!(head.header("docker-content-digest"), None, "{who:?}");
        }
        place.scene.node.restart().await;
    }
    place.end().await;
}

#[tokio::test]
async fn within_fresh_for_a_tag_asks_nobody_either() {
    let place = Place::new("[tags]\nfresh_for = \"1h\"\n").await;
    place.warm(&place.owner).await;
    place.pull(&place.owner).await;
    assert_eq!(place.fake.requests(), []);
    place.nothing_for(&Who::Nobody).await;
    place.nothing_for(&Who::new("owner")).await;
    place.end().await;
}

#[tokio::test]
async fn everyone_proves_a_right_of_their_own() {
    let place = Place::new("").await;
    place.warm(&place.owner).await;
    let second = Who::new("second");
    let wrong = Who::new("owner");
    place
        .fake
        .require_bearer(REPOSITORY, &[place.owner.pair(), second.pair()]);
    let url = &place.urls()[2];
    assert_eq!(place.scene.get(&second, url).await.status, 200);
    let own = place.fake.count(|seen| {
        seen.authorization.as_deref() == Some(&*second.basic()) && seen.status == 200
    });
    assert_eq!(own, 1, "the second has not shown its own credential");
    place.nothing_for(&wrong).await;
    place.nothing_for(&Who::Nobody).await;
    // Both callers are known by now: these pulls ask the registry nothing.
    place.fake.reset_counts();
    for who in [&place.owner, &second] {
        assert_eq!(place.scene.get(who, url).await.status, 200);
    }
    assert_eq!(place.fake.requests(), []);
    place.end().await;
}

/// Registries check the token alone, so a token would be a proof for as long as it lasts.
#[tokio::test]
async fn a_token_that_outlives_its_credential_is_no_proof_for_long() {
    let place = Place::new("[access]\nttl = \"1s\"\n").await;
    place.fake.token_lifetime(Duration::from_hours(1));
    place.warm(&place.owner).await;
    let successor = Who::new("successor");
    // The registry still accepts tokens that it has given out.
    place.fake.require_bearer(REPOSITORY, &[successor.pair()]);
    let url = &place.urls()[1];
    until("the token is no proof", async || {
        place.scene.get(&place.owner, url).await.status == 401
    })
    .await;
    place.end().await;
}

/// The same for an anonymous token, after the repository has become private.
#[tokio::test]
async fn an_anonymous_token_that_outlives_what_is_public_is_no_proof_for_long() {
    let place = Place::new("[access]\nttl = \"1s\"\n").await;
    place.fake.token_lifetime(Duration::from_hours(1));
    place.fake.allow_anonymous(REPOSITORY);
    place.warm(&Who::Nobody).await;
    // The registry still accepts tokens that it has given out.
    place.fake.require_bearer(REPOSITORY, &[place.owner.pair()]);
    let url = &place.urls()[1];
    until("the token is no proof", async || {
        place.scene.get(&Who::Nobody, url).await.status == 401
    })
    .await;
    place.end().await;
}

/// A restart keeps a verdict, and also the knowledge that anonymous clients are refused.
#[tokio::test]
async fn a_restart_forgets_no_verdict() {
    let mut place = Place::new("").await;
    place.warm(&place.owner).await;
    place.scene.node.restart().await;
    let wrong = Who::new("owner");
    for url in &place.urls()[1..] {
        assert_eq!(
            Challenge::of(&place.scene.get(&Who::Nobody, url).await).error,
            None
        );
        assert_eq!(place.scene.get(&place.owner, url).await.status, 200);
    }
    assert_eq!(place.fake.requests(), []);
    // The same in an outage: the challenge comes first, so that the right secret can follow.
    place.fake.stop().await;
    place.scene.node.restart().await;
    place.pull(&place.owner).await;
    for url in place.urls() {
        let challenge = Challenge::of(&place.scene.get(&Who::Nobody, &url).await);
        assert!(
            challenge
                .realm
                .ends_with(&format!("/token/{}", place.fake.host()))
        );
        let answer = place.scene.get(&wrong, &url).await;
        refused(&url, &answer, b"schemaVersion");
    }
    place.end().await;
}

#[tokio::test]
async fn a_refused_caller_loses_its_right_at_once() {
    for code in [401, 403] {
        let mut place = Place::new("").await;
        place.warm(&place.owner).await;
        // Within the ttl larder has not learnt of it yet; the next request to the registry shows it.
        let armed = place
            .fake
            .fault(Match::any().with_credentials(), Fault::denied(code));
        let answer = place.scene.get(&place.owner, &place.by_tag()).await;
        refused("by tag", &answer, b"schemaVersion");
        armed.lift();
        place
            .fake
            .require_bearer(REPOSITORY, &[Who::new("successor").pair()]);
        place.fake.revoke_tokens();
        place.nothing_for(&place.owner).await;
        // Neither an outage nor a restart brings it back.
        place.fake.stop().await;
        place.nothing_for(&place.owner).await;
        place.scene.node.restart().await;
        for url in place.urls() {
            let answer = place.scene.get(&place.owner, &url).await;
            refused(&url, &answer, b"schemaVersion");
        }
        place.end().await;
    }
}

/// larder notices soon when a right is granted late, and a client never waits for a public image.
#[tokio::test]
async fn what_becomes_public_or_private_is_noticed() {
    let place = Place::new("[access]\nttl = \"1s\"\n").await;
    place.warm(&place.owner).await;
    place.nothing_for(&Who::Nobody).await;
    place.fake.make_public(REPOSITORY);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while place.scene.get(&Who::Nobody, &place.by_tag()).await.status != 200 {
        assert!(std::time::Instant::now() < deadline, "it stays private");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    place.pull(&Who::Nobody).await;
    place.fake.require_bearer(REPOSITORY, &[place.owner.pair()]);
    assert_eq!(
        place.scene.get(&Who::Nobody, &place.by_tag()).await.status,
        401
    );
    place.nothing_for(&Who::Nobody).await;
    place.end().await;
}

#[tokio::test]
async fn what_is_public_stays_public_in_an_outage() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &[LayerSpec::new(1, 1000)]);
    let scene = Private::configured(&[&fake], "[access]\nttl = \"1s\"\ngrace = \"0s\"\n").await;
    let place = Place {
        fake,
        scene,
        owner: Who::new("owner"),
        image,
    };
    place.warm(&Who::Nobody).await;
    place.fake.stop().await;
    let since = std::time::Instant::now();
    while since.elapsed() < std::time::Duration::from_secs(3) {
        for who in [&Who::Nobody, &Who::Sends(place.owner.basic())] {
            place.pull(who).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    place.end().await;
}

/// Only a refusal takes a right away. Any other failure of a token server is an outage.
#[tokio::test]
async fn a_token_server_that_fails_refuses_nobody() {
    for code in [302, 404, 408, 418, 500] {
        let place = Place::new("[access]\nttl = \"1s\"\n").await;
        place.fake.allow_anonymous(REPOSITORY);
        place.warm(&place.owner).await;
        place.warm(&Who::Nobody).await;
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        place.fake.revoke_tokens();
        let armed = place.fake.fault(Match::token(), Fault::status(code));
        for who in [&Who::Nobody, &place.owner] {
            let answer = place.scene.get(who, &place.by_tag()).await;
            assert_eq!(answer.status, 200, "{code} {who:?}: {}", answer.text());
            assert!(answer.header("warning").is_some(), "{code} {who:?}");
        }
        assert!(armed.hits() > 0);
        armed.lift();
        place.fake.reset_counts();
        let answer = place.scene.get(&Who::Nobody, &place.by_tag()).await;
        assert_eq!((answer.status, answer.header("warning")), (200, None));
        let shown = |seen: &Seen| seen.kind == Kind::Token && seen.authorization.is_some();
        assert_eq!(
            place.fake.count(shown),
            0,
            "{code}: nobody was asked for a secret"
        );
        place.end().await;
    }
}

/// larder respects a token server's limit as it does the registry's own.
#[tokio::test]
async fn a_token_server_that_limits_is_left_alone() {
    let place = Place::new("[access]\nttl = \"1s\"\n").await;
    place.fake.allow_anonymous(REPOSITORY);
    place.warm(&Who::Nobody).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    place.fake.revoke_tokens();
    let later = Fault::Status {
        code: 429,
        headers: vec![("Retry-After".to_owned(), "60".to_owned())],
        body: "".into(),
    };
    let armed = place.fake.fault(Match::token(), later);
    let mut asked = Vec::new();
    for _ in 0..3 {
        let answer = place.scene.get(&Who::Nobody, &place.by_tag()).await;
        assert_eq!(
            (answer.status, answer.header("warning").is_some()),
            (200, true)
        );
        asked.push(armed.hits());
    }
    assert!(asked[0] > 0 && asked[0] == asked[2], "{asked:?}");
    place.end().await;
}

/// A limit on anonymous requests makes larder ask the client for its secret, which may have a quota of its own.
#[tokio::test]
async fn an_anonymous_limit_asks_for_a_secret_first() {
    let place = Place::new("").await;
    let status = |code: u16, name: &str, value: &str, body: &str| Fault::Status {
        code,
        headers: vec![(name.to_owned(), value.to_owned())],
        body: body.to_owned().into(),
    };
    // As at Docker Hub: everyone gets a token, and the limit belongs to the token.
    let anonymous = |request: &Request| request.header("authorization").is_none();
    place.fake.fault(
        Match::token().when(anonymous),
        status(
            200,
            "Content-Type",
            "application/json",
            "{\"token\":\"anonymous\"}",
        ),
    );
    let limited = |request: &Request| request.header("authorization") == Some("Bearer anonymous");
    place.fake.fault(
        Match::any().when(limited),
        status(429, "Retry-After", "30", ""),
    );
    let url = place.by_tag();
    for agent in ["containerd/v1.7.0", "skopeo/1.9"] {
        let call = || Call::get(&url).header("user-agent", agent);
        let challenge = Challenge::of(&place.scene.send(call()).await);
        assert_eq!(challenge.error, None);
        // Without a secret the client has nothing more to show.
        let token = place.scene.token(&Who::Nobody, &challenge).await;
        let sent = format!("Bearer {token}");
        let answer = place
            .scene
            .send(call().header("authorization", &sent))
            .await;
        let status = if agent.starts_with("containerd") {
            503
        } else {
            429
        };
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
        assert!(answer.header("retry-after").is_some());
    }
    // With a secret it gets the image, although the registry limits all other callers.
    place.pull(&place.owner).await;
    place.end().await;
}

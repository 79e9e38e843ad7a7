//! The challenge and the token endpoint: how a client learns that it needs credentials, and which token it gets for
//! them (promise P17).

use larder_tests::fake::FakeRegistry;
use larder_tests::http::{self, Call, Response};

use crate::private::{Challenge, Private, Who, confidential, encoded, refused, secret};

pub const REPOSITORY: &str = "team/app";

pub struct Place {
    pub fake: FakeRegistry,
    pub scene: Private,
    pub owner: Who,
    pub content: bytes::Bytes,
    pub digest: String,
}

impl Place {
    pub async fn new() -> Self {
        let fake = FakeRegistry::start().await;
        let owner = Who::new("owner");
        let content = confidential("blob");
        let digest = fake.put_blob(REPOSITORY, content.clone());
        fake.require_bearer(REPOSITORY, &[owner.pair()]);
        let config = format!(
            "[registry]\nallow_hosts = [\"mirror.internal\", \"node-1\"]\n\
             [upstreams.\"{}\"]\nalias = \"fake\"\n",
            fake.host()
        );
        let scene = Private::configured(&[&fake], config).await;
        Self {
            fake,
            scene,
            owner,
            content,
            digest,
        }
    }

    pub fn url(&self) -> String {
        self.scene.blob(&self.fake, REPOSITORY, &self.digest)
    }

    /// The blob with this `Authorization`.
    pub async fn with(&self, authorization: &str) -> Response {
        self.scene
            .send(Call::get(self.url()).header("authorization", authorization))
            .await
    }

    /// The challenge of an answer that carries no content.
    pub fn challenge(&self, answer: &Response) -> Challenge {
        refused("refused", answer, &self.content);
        Challenge::of(answer)
    }

    pub async fn opens(&self, token: &str) {
        let answer = self.with(&format!("Bearer {token}")).await;
        assert_eq!((answer.status, &answer.body), (200, &self.content));
    }

    pub async fn post(&self, form: &[(&str, &str)]) -> Response {
        let url = format!("{}/token/{}", self.scene.node.url(), self.fake.host());
        let pair = |(name, value): &(&str, &str)| format!("{name}={}", encoded(value));
        let body = form.iter().map(pair).collect::<Vec<_>>().join("&");
        let call = Call::new("POST", url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        self.scene.send(call).await
    }

    pub async fn end(self) {
        self.scene.end(&[&self.fake]).await;
    }
}

#[tokio::test]
async fn its_realm_is_where_the_client_already_is() {
    let place = Place::new().await;
    let port = place
        .scene
        .node
        .addr()
        .rsplit_once(':')
        .expect("a port")
        .1
        .to_owned();
    let expected = |host: &str| Challenge {
        realm: format!("http://{host}/token/{}", place.fake.host()),
        service: "larder".to_owned(),
        scope: Some(format!("repository:{REPOSITORY}:pull")),
        error: None,
    };
    let addr = place.scene.node.addr().to_owned();
    let own = place.challenge(&place.scene.send(Call::get(place.url())).await);
    assert_eq!(own, expected(&addr));
    // By another name, and by the prefix as podman has it.
    let path = place.url().replace(&place.scene.node.url(), "");
    let by_prefix = format!("/v2/fake/{REPOSITORY}/blobs/{}", place.digest);
    for host in [
        format!("localhost:{port}"),
        "mirror.internal:7420".to_owned(),
        "node-1".to_owned(),
        "[::1]:7420".to_owned(),
    ] {
        for path in [&path, &by_prefix] {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = http::raw(&addr, request.as_bytes())
                .await
                .expect("an answer");
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
            let realm = format!("Bearer realm=\"http://{host}/token/{}\"", place.fake.host());
            assert!(answer.contains(&realm), "{realm}: {answer}");
        }
    }
    place.end().await;
}

/// Whatever a client puts in `Host` and `ns`, the answer has exactly one challenge.
#[tokio::test]
async fn nothing_can_be_smuggled_into_it() {
    let place = Place::new().await;
    let addr = place.scene.node.addr().to_owned();
    let path = place.url().replace(&place.scene.node.url(), "");
    for host in [
        "a\",error=\"x",
        "evil.example/x?",
        "user@evil.example",
        "evil.example\tx",
        "evil.example, Basic realm=\"x\"",
        "evil.example#",
        "%0d%0aX-Evil: 1",
        "",
    ] {
        for line in [format!("Host: {host}\r\n"), String::new()] {
            let request = format!("GET {path} HTTP/1.1\r\n{line}Connection: close\r\n\r\n");
            let answer = http::raw(&addr, request.as_bytes())
                .await
                .expect("an answer");
            let answer = String::from_utf8_lossy(&answer).to_lowercase();
            assert!(
                !answer.contains("evil") && !answer.contains("basic"),
                "{host:?}: {answer}"
            );
            assert!(answer.starts_with("http/1.1 4"), "{host:?}: {answer}");
            let status = answer.split(' ').nth(1).expect("a status");
            // larder refuses a `Host` that is no name of the node; without a `Host`, it has no realm to name.
            let unnamed = host.is_empty() || line.is_empty();
            let expected = if unnamed { "401" } else { "403" };
            assert!(status == expected || status == "400", "{host:?}: {answer}");
            assert!(!answer.contains("confidential"), "{host:?}");
        }
    }
    for ns in [
        "a\"b",
        "a%22,error=%22x",
        "a%0d%0ab",
        "..%2f..%2fetc",
        "a/b",
    ] {
        let request = format!(
            "GET /v2/{REPOSITORY}/manifests/v1?ns={ns} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
        );
        let answer = http::raw(&addr, request.as_bytes())
            .await
            .expect("an answer");
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        assert!(answer.starts_with("http/1.1 400"), "{ns}: {answer}");
        assert!(!answer.contains("www-authenticate"), "{ns}: {answer}");
    }
    place.end().await;
}

#[tokio::test]
async fn it_says_what_is_wrong_once_something_was_shown() {
    let place = Place::new().await;
    let challenge = place.challenge(&place.scene.send(Call::get(place.url())).await);
    let wrong = Who::new("owner");
    let token = place.scene.token(&wrong, &challenge).await;
    let anonymous = place.scene.token(&Who::Nobody, &challenge).await;
    for shown in [
        format!("Bearer {token}"),
        format!("Bearer {anonymous}"),
        wrong.basic(),
        format!("Bearer {}", secret()),
    ] {
        let answer = place.with(&shown).await;
        let told = place.challenge(&answer);
        assert_eq!(told.error.as_deref(), Some("insufficient_scope"), "{shown}");
        assert_eq!(
            (told.realm, told.scope),
            (challenge.realm.clone(), challenge.scope.clone())
        );
    }
    // A token of larder's own form that larder does not know (any more).
    let unknown = format!("larder_{:064x}", fastrand::u128(..));
    let told = place.challenge(&place.with(&format!("Bearer {unknown}")).await);
    assert_eq!(told.error.as_deref(), Some("invalid_token"));
    // Values that cannot be parsed at all.
    for broken in [
        "Basic %%%",
        "Basic",
        "Negotiate abc",
        "Basic dXNlcg==",
        "Bearer",
    ] {
        let answer = place.with(broken).await;
        assert_eq!(answer.status, 401, "{broken}");
        refused(broken, &answer, &place.content);
    }
    place.end().await;
}

/// podman and skopeo ask `/v2/` alone to learn whether they should show credentials.
#[tokio::test]
async fn the_root_asks_for_any_token() {
    let place = Place::new().await;
    let root = format!("{}/v2/", place.scene.node.url());
    let told = Challenge::of(&place.scene.send(Call::get(&root)).await);
    assert_eq!(told.realm, format!("{}/token", place.scene.node.url()));
    assert_eq!((told.scope.clone(), told.error.clone()), (None, None));
    let anonymous = place.scene.token(&Who::Nobody, &told).await;
    for shown in [
        format!("Bearer {anonymous}"),
        place.owner.basic(),
        format!("Bearer {}", secret()),
    ] {
        let answer = place
            .scene
            .send(Call::get(&root).header("authorization", &shown))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let unknown = Call::get(&root).header("authorization", "Bearer larder_0000");
    assert_eq!(
        Challenge::of(&place.scene.send(unknown).await)
            .error
            .as_deref(),
        Some("invalid_token")
    );
    // With prefix addressing the scope names the registry, as the path does.
    let url = format!(
        "{}?service=larder&scope=repository:fake/{REPOSITORY}:pull",
        told.realm
    );
    let call = Call::get(url).header("authorization", &place.owner.basic());
    place
        .opens(&place.scene.token_of(&place.scene.send(call).await))
        .await;
    // Without a scope, larder refuses a secret: it could not keep the secret in a token for a later request.
    let answer = place
        .scene
        .send(Call::get(&told.realm).header("authorization", &place.owner.basic()))
        .await;
    assert_eq!(answer.status, 401);
    place.end().await;
}

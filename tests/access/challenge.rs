//! The challenge and the token endpoint: how a client learns whom to tell who it is, and what it gets for it
//! (promise P17).

use data_encoding::BASE64;
use larder_tests::fake::{FakeRegistry, IDENTITY_TOKEN, Kind};
use larder_tests::http::{self, Call, Response};

use crate::private::{Challenge, Private, Who, basic, confidential, refused, secret};

const REPOSITORY: &str = "team/app";

struct Place {
    fake: FakeRegistry,
    scene: Private,
    owner: Who,
    content: bytes::Bytes,
    digest: String,
}

impl Place {
    async fn new() -> Self {
        let fake = FakeRegistry::start().await;
        let owner = Who::new("owner");
        let content = confidential("blob");
        let digest = fake.put_blob(REPOSITORY, content.clone());
        fake.require_bearer(REPOSITORY, &[owner.pair()]);
        let alias = format!("[upstreams.\"{}\"]\nalias = \"fake\"\n", fake.host());
        let scene = Private::configured(&[&fake], alias).await;
        Self {
            fake,
            scene,
            owner,
            content,
            digest,
        }
    }

    fn url(&self) -> String {
        self.scene.blob(&self.fake, REPOSITORY, &self.digest)
    }

    /// The blob with this `Authorization`.
    async fn with(&self, authorization: &str) -> Response {
        self.scene
            .send(Call::get(self.url()).header("authorization", authorization))
            .await
    }

    /// The challenge of an answer that holds nothing.
    fn challenge(&self, answer: &Response) -> Challenge {
        refused("refused", answer, &self.content);
        Challenge::of(answer)
    }

    async fn opens(&self, token: &str) {
        let answer = self.with(&format!("Bearer {token}")).await;
        assert_eq!((answer.status, &answer.body), (200, &self.content));
    }

    async fn post(&self, form: &[(&str, &str)]) -> Response {
        let url = format!("{}/token/{}", self.scene.node.url(), self.fake.host());
        let pair = |(name, value): &(&str, &str)| format!("{name}={}", encoded(value));
        let body = form.iter().map(pair).collect::<Vec<_>>().join("&");
        let call = Call::new("POST", url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        self.scene.send(call).await
    }

    async fn end(self) {
        self.scene.end(&[&self.fake]).await;
    }
}

/// A value of a form.
fn encoded(value: &str) -> String {
    let one = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
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

/// Whatever is in `Host` and `ns`, the challenge stays one challenge.
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
            assert!(matches!(status, "400" | "401"), "{host:?}: {answer}");
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
    // One of larder's own that it does not know (any more).
    let unknown = format!("larder_{:064x}", fastrand::u128(..));
    let told = place.challenge(&place.with(&format!("Bearer {unknown}")).await);
    assert_eq!(told.error.as_deref(), Some("invalid_token"));
    // What cannot be read at all.
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

#[tokio::test]
async fn every_way_to_say_who_one_is_leads_to_a_token() {
    let place = Place::new().await;
    let identity = secret();
    let (user, password) = place.owner.pair();
    place
        .fake
        .require_bearer(REPOSITORY, &[(user, password), (IDENTITY_TOKEN, &identity)]);
    let scope = format!("repository:{REPOSITORY}:pull");
    let challenge = place.challenge(&place.scene.send(Call::get(place.url())).await);
    // GET with Basic, as containerd falls back to, podman and Docker do.
    let token = place.scene.token(&place.owner, &challenge).await;
    place.opens(&token).await;
    // A username of <token> says that the password is an identity token.
    let call = Call::get(challenge.url()).header("authorization", &basic("<token>", &identity));
    place
        .opens(&place.scene.token_of(&place.scene.send(call).await))
        .await;
    // POST, as containerd does first.
    let common = [
        ("service", "larder"),
        ("scope", &*scope),
        ("client_id", "containerd-client"),
    ];
    let form = [
        &[
            ("grant_type", "password"),
            ("username", user),
            ("password", password),
        ],
        &common[..],
    ]
    .concat();
    let answer = place.post(&form).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    place.opens(&place.scene.token_of(&answer)).await;
    let form = [
        &[
            ("grant_type", "refresh_token"),
            ("refresh_token", &*identity),
        ],
        &common[..],
    ]
    .concat();
    place
        .opens(&place.scene.token_of(&place.post(&form).await))
        .await;
    // Two tokens are two tokens.
    assert_ne!(token, place.scene.token(&place.owner, &challenge).await);
    // An anonymous one is one, too: for public images.
    let anonymous = place.scene.token(&Who::Nobody, &challenge).await;
    refused(
        "anonymous",
        &place.with(&format!("Bearer {anonymous}")).await,
        &place.content,
    );
    place.fake.make_public(REPOSITORY);
    let public = place.fake.put_blob("public/app", "public");
    let url = place.scene.blob(&place.fake, "public/app", &public);
    for token in [&anonymous, &token] {
        let call = Call::get(&url).header("authorization", &format!("Bearer {token}"));
        assert_eq!(place.scene.send(call).await.text(), "public");
    }
    place.end().await;
}

/// What larder asks with on behalf of such a client.
#[tokio::test]
async fn the_registry_is_asked_in_its_own_way() {
    let place = Place::new().await;
    let identity = secret();
    place
        .fake
        .require_bearer(REPOSITORY, &[(IDENTITY_TOKEN, &identity)]);
    let answer = place.with(&basic("<token>", &identity)).await;
    assert_eq!(answer.body, place.content);
    let tokens = |method: &str| {
        place
            .fake
            .count(|seen| seen.kind == Kind::Token && seen.method == method && seen.status == 200)
    };
    assert_eq!((tokens("GET"), tokens("POST")), (0, 1));
    let (user, password) = place.owner.pair();
    place.fake.require_bearer(REPOSITORY, &[(user, password)]);
    assert_eq!(place.with(&place.owner.basic()).await.body, place.content);
    assert_eq!((tokens("GET"), tokens("POST")), (1, 1));
    // A larder token never leaves the node, nor does a password reach anything but the token endpoint.
    for seen in place.fake.requests() {
        let sent = seen.authorization.unwrap_or_default();
        assert!(!sent.contains("larder_"), "{sent}");
        assert!(
            seen.kind == Kind::Token || !sent.starts_with("Basic"),
            "{} {}",
            seen.path,
            sent
        );
    }
    place.end().await;
}

#[tokio::test]
async fn the_registrys_own_token_is_forwarded() {
    let place = Place::new().await;
    let url = format!(
        "{}/token?service=fake-registry&scope=repository:{REPOSITORY}:pull",
        place.fake.url()
    );
    let answer = http::get(&url, &[("authorization", &place.owner.basic())])
        .await
        .expect("a token");
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    place.fake.reset_counts();
    place.opens(&token).await;
    let sent = format!("Bearer {token}");
    assert_eq!(place.fake.count(|seen| seen.kind == Kind::Token), 0);
    assert!(
        place
            .fake
            .count(|seen| seen.authorization.as_deref() == Some(&*sent))
            > 0
    );
    // It is a right like any other: nobody else's, and over when the registry says so.
    refused(
        "nobody",
        &place.scene.send(Call::get(place.url())).await,
        &place.content,
    );
    let url = place.scene.manifest(&place.fake, REPOSITORY, "v1");
    place.fake.revoke_tokens();
    let told = Challenge::of(
        &place
            .scene
            .send(Call::get(url).header("authorization", &sent))
            .await,
    );
    assert_eq!(told.error.as_deref(), Some("insufficient_scope"));
    refused("revoked", &place.with(&sent).await, &place.content);
    place.end().await;
}

/// podman and skopeo learn only at `/v2/` that there may be something to show.
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
    // There the scope names the registry, as the path does.
    let url = format!(
        "{}?service=larder&scope=repository:fake/{REPOSITORY}:pull",
        told.realm
    );
    let call = Call::get(url).header("authorization", &place.owner.basic());
    place
        .opens(&place.scene.token_of(&place.scene.send(call).await))
        .await;
    // Without one, a secret is nobody's: it is not kept for whoever comes next.
    let answer = place
        .scene
        .send(Call::get(&told.realm).header("authorization", &place.owner.basic()))
        .await;
    assert_eq!(answer.status, 401);
    place.end().await;
}

#[tokio::test]
async fn a_token_is_good_at_one_registry() {
    let place = Place::new().await;
    let other = FakeRegistry::start().await;
    let content = confidential("elsewhere");
    let digest = other.put_blob(REPOSITORY, content.clone());
    let manifest = other.put_manifest(
        REPOSITORY,
        Some("v1"),
        larder_tests::image::OCI_MANIFEST,
        content.clone(),
    );
    // The same user with the same password: still, it was shown for the first registry.
    other.require_bearer(REPOSITORY, &[place.owner.pair()]);
    let scene = Private::before(&[&place.fake, &other]).await;
    let challenge = Challenge::of(
        &scene
            .send(Call::get(scene.blob(
                &place.fake,
                REPOSITORY,
                &place.digest,
            )))
            .await,
    );
    let token = scene.token(&place.owner, &challenge).await;
    let sent = format!("Bearer {token}");
    let url = scene.blob(&place.fake, REPOSITORY, &place.digest);
    assert_eq!(
        scene
            .send(Call::get(url).header("authorization", &sent))
            .await
            .body,
        place.content
    );
    for url in [
        scene.blob(&other, REPOSITORY, &digest),
        scene.manifest(&other, REPOSITORY, &manifest),
        scene.manifest(&other, REPOSITORY, "v1"),
    ] {
        for round in 0..2 {
            let answer = scene
                .send(Call::get(&url).header("authorization", &sent))
                .await;
            refused("the other registry", &answer, &content);
            let told = Challenge::of(&answer);
            assert_eq!(
                told.realm,
                format!("{}/token/{}", scene.node.url(), other.host())
            );
            if round == 0 {
                // Cached there, it is as closed.
                assert_eq!(
                    scene.get(&Who::Sends(place.owner.basic()), &url).await.body,
                    content
                );
            }
        }
    }
    let strange = other.requests();
    let strange = strange
        .iter()
        .filter(|seen| seen.authorization.as_deref() == Some(&*sent));
    assert_eq!(strange.count(), 0);
    scene.end(&[&place.fake, &other]).await;
    place.end().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let place = Place::new().await;
    let huge = format!("{}{}", secret(), "x".repeat(100 << 10));
    let (user, _) = place.owner.pair();
    let answer = place
        .post(&[
            ("grant_type", "password"),
            ("username", user),
            ("password", &huge),
        ])
        .await;
    assert_eq!(answer.status, 401, "{}", answer.text());
    for form in [
        vec![("grant_type", "client_credentials"), ("password", "x")],
        vec![("grant_type", "")],
    ] {
        assert_eq!(place.post(&form).await.status, 401);
    }
    let call =
        Call::new("POST", format!("{}/token", place.scene.node.url())).body(vec![0xff, 0xfe]);
    assert_eq!(place.scene.send(call).await.status, 401);
    let url = format!("{}/token/not%2Fa%2Fregistry", place.scene.node.url());
    assert_eq!(place.scene.send(Call::get(url)).await.status, 400);
    // Larger than any head may be.
    let huge = format!("Bearer {}", "x".repeat(1 << 20));
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: {huge}\r\n\r\n");
    let answer = http::raw(place.scene.node.addr(), request.as_bytes())
        .await
        .expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    // 3 KB, as a cloud's key file has, are none too many.
    let key = format!("{{\"key\": \"{}\"}}", secret().repeat(60));
    let owner = [("_json_key", &*key)];
    place.fake.require_bearer(REPOSITORY, &owner);
    let pair = format!("_json_key:{key}");
    let answer = place
        .with(&format!("Basic {}", BASE64.encode(pair.as_bytes())))
        .await;
    assert_eq!(answer.body, place.content);
    place.end().await;
}

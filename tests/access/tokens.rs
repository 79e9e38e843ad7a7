//! The token endpoint: every way to show credentials, what a token is good for, and which credentials larder shows to
//! the registry (promise P17).

use data_encoding::BASE64;
use larder_tests::fake::{FakeRegistry, Fault, IDENTITY_TOKEN, Kind, Match};
use larder_tests::http::{self, Call};

use crate::challenge::{Place, REPOSITORY};
use crate::private::{Challenge, Private, Who, basic, confidential, refused, secret};

#[tokio::test]
async fn every_way_to_show_a_credential_leads_to_a_token() {
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
    // An anonymous token is a token as well: it is for public images.
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

/// The credentials that larder shows to the registry for such a client.
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
    // A larder token never leaves the node, and a password goes to the token endpoint alone.
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
    // The right is like any other: no other caller has it, and it ends when the registry says so.
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
    // The user and the password are the same, but the client showed them for the first registry.
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
                // The content is as closed when it is cached there.
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
    // Longer than any request head may be.
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
    // 3 KB, as in a cloud's key file, is not too long.
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

/// A client may name any registry, and larder keeps its answers: so tokens and challenges have a maximum length.
#[tokio::test]
async fn what_is_too_long_is_not_kept() {
    let place = Place::new().await;
    let says = |code, name: &str, value: String, body: String| Fault::Status {
        code,
        headers: vec![(name.to_owned(), value)],
        body: body.into(),
    };
    let token = |length| {
        let token = "t".repeat(length);
        let json = format!("{{\"token\":\"{token}\"}}");
        says(200, "Content-Type", "application/json".to_owned(), json)
    };
    let shown = |seen: &larder_tests::fake::Seen| {
        let sent = seen.authorization.as_deref();
        seen.kind == Kind::Blob && sent.is_some_and(|sent| sent.starts_with("Bearer t"))
    };
    // In the other order, the challenge that is kept would be met first.
    for (length, asks) in [(5 << 10, false), (3 << 10, true)] {
        place.fake.clear_faults();
        place.fake.reset_counts();
        let (url, scope) = (place.fake.url(), "s".repeat(length));
        let challenge = format!("Bearer realm=\"{url}/token\",service=\"f\",scope=\"{scope}\"");
        let refuses = says(401, "WWW-Authenticate", challenge, String::new());
        place.fake.fault(Match::blob(), refuses);
        let answer = place.with(&Who::new("owner").basic()).await;
        assert!(matches!(answer.status, 401 | 503), "{}", answer.text());
        let tokens = place.fake.count(|seen| seen.kind == Kind::Token);
        assert_eq!(tokens > 0, asks, "{length}");
    }
    for (length, is_shown) in [(60 << 10, true), (70 << 10, false)] {
        place.fake.clear_faults();
        place.fake.reset_counts();
        place.fake.fault(Match::token(), token(length));
        let answer = place.with(&Who::new("owner").basic()).await;
        assert!(matches!(answer.status, 401 | 503), "{}", answer.text());
        assert_eq!(place.fake.count(shown) > 0, is_shown, "{length}");
    }
    place.end().await;
}

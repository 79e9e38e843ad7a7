//! Basic, Bearer and the token endpoint.

use std::time::Duration;

use data_encoding::BASE64;
use larder_tests::fake::{FakeRegistry, Fault, IDENTITY_TOKEN, Match};
use larder_tests::http::{self, Call, Response};

const CHALLENGE: &str = "www-authenticate";

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64.encode(format!("{user}:{password}").as_bytes())
    )
}

struct Scene {
    fake: FakeRegistry,
    digest: String,
}

impl Scene {
    async fn new() -> Self {
        let fake = FakeRegistry::start().await;
        let digest = fake.put_blob("team/app", "text");
        fake.put_blob("team/other", "text");
        Self { fake, digest }
    }

    async fn get(&self, repository: &str, authorization: Option<&str>) -> Response {
        let url = format!("{}/v2/{repository}/blobs/{}", self.fake.url(), self.digest);
        let headers = authorization.map(|value| ("authorization", value));
        http::get(&url, headers.as_slice())
            .await
            .expect("an answer")
    }

    /// The token endpoint's answer to a GET for pulling from `repository`.
    async fn token(&self, repository: &str, authorization: Option<&str>) -> Response {
        let query = format!("service=fake-registry&scope=repository:{repository}:pull");
        let url = format!("{}/token?{query}", self.fake.url());
        let headers = authorization.map(|value| ("authorization", value));
        http::get(&url, headers.as_slice())
            .await
            .expect("an answer")
    }

    async fn post_token(&self, form: &str) -> Response {
        let call = Call::new("POST", format!("{}/token", self.fake.url()));
        let sent = call.body(form.to_owned()).send().await;
        sent.expect("an answer")
    }
}

fn bearer(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    let json = response.json();
    assert_eq!(json["token"], json["access_token"]);
    format!("Bearer {}", json["token"].as_str().expect("a token"))
}

#[tokio::test]
async fn basic_opens_one_repository() {
    let scene = Scene::new().await;
    scene.fake.require_basic("team/app", "ann", "secret");
    let refused = scene.get("team/app", None).await;
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.header(CHALLENGE),
        Some("Basic realm=\"fake-registry\"")
    );
    assert_eq!(refused.json()["errors"][0]["code"], "UNAUTHORIZED");
    let wrong = basic("ann", "guess");
    assert_eq!(scene.get("team/app", Some(&wrong)).await.status, 401);
    let right = basic("ann", "secret");
    assert_eq!(scene.get("team/app", Some(&right)).await.status, 200);
    assert_eq!(scene.get("team/other", None).await.status, 200);
    scene.fake.make_public("team/app");
    assert_eq!(scene.get("team/app", None).await.status, 200);
}

#[tokio::test]
async fn a_token_opens_what_its_user_may_read() {
    let scene = Scene::new().await;
    scene
        .fake
        .require_bearer("team/app", &[("ann", "1"), ("bob", "2")]);
    scene.fake.require_bearer("team/other", &[("eve", "3")]);
    let refused = scene.get("team/app", None).await;
    let challenge = format!(
        "Bearer realm=\"{}/token\",service=\"fake-registry\",scope=\"repository:team/app:pull\"",
        scene.fake.url()
    );
    assert_eq!(
        (refused.status, refused.header(CHALLENGE)),
        (401, Some(&*challenge))
    );

    for (user, password) in [("ann", "1"), ("bob", "2")] {
        let granted = scene.token("team/app", Some(&basic(user, password))).await;
        let token = bearer(&granted);
        assert_eq!(scene.get("team/app", Some(&token)).await.status, 200);
        let elsewhere = scene.get("team/other", Some(&token)).await;
        assert_eq!(elsewhere.status, 401);
        let why = elsewhere.header(CHALLENGE).expect("a challenge");
        assert!(why.ends_with(",error=\"insufficient_scope\""), "{why}");
    }
    let wrong = scene.token("team/app", Some(&basic("ann", "2"))).await;
    assert_eq!(wrong.status, 401);
    // Another user's right password gives a token that opens nothing here.
    let eve = bearer(&scene.token("team/app", Some(&basic("eve", "3"))).await);
    assert_eq!(scene.get("team/app", Some(&eve)).await.status, 401);
    let anonymous = bearer(&scene.token("team/app", None).await);
    assert_eq!(scene.get("team/app", Some(&anonymous)).await.status, 401);
    assert_eq!(
        scene.get("team/app", Some(&basic("ann", "1"))).await.status,
        401
    );
}

#[tokio::test]
async fn tokens_can_be_posted_for() {
    let scene = Scene::new().await;
    scene
        .fake
        .require_bearer("team/app", &[("ann", "p&1"), (IDENTITY_TOKEN, "long")]);
    let scope = "service=fake-registry&scope=repository%3Ateam%2Fapp%3Apull&client_id=x";
    for form in [
        format!("grant_type=password&username=ann&password=p%261&{scope}"),
        format!("grant_type=refresh_token&refresh_token=long&{scope}"),
    ] {
        let token = bearer(&scene.post_token(&form).await);
        assert_eq!(
            scene.get("team/app", Some(&token)).await.status,
            200,
            "{form}"
        );
    }
    let wrong = format!("grant_type=refresh_token&refresh_token=short&{scope}");
    assert_eq!(scene.post_token(&wrong).await.status, 401);
}

#[tokio::test]
async fn anonymous_tokens_and_their_end() {
    let scene = Scene::new().await;
    scene.fake.require_bearer("team/app", &[("ann", "1")]);
    scene.fake.allow_anonymous("team/app");
    assert_eq!(scene.get("team/app", None).await.status, 401);
    let answer = scene.token("team/app", None).await;
    assert_eq!(answer.json()["expires_in"], 300);
    let token = bearer(&answer);
    assert_eq!(scene.get("team/app", Some(&token)).await.status, 200);

    scene.fake.revoke_tokens();
    let refused = scene.get("team/app", Some(&token)).await;
    let why = refused.header(CHALLENGE).expect("a challenge");
    assert!(why.ends_with(",error=\"invalid_token\""), "{why}");
    scene.fake.token_lifetime(Duration::ZERO);
    let token = bearer(&scene.token("team/app", None).await);
    assert_eq!(scene.get("team/app", Some(&token)).await.status, 401);
}

#[tokio::test]
async fn the_ping_challenges_once_anything_needs_credentials() {
    let scene = Scene::new().await;
    let url = format!("{}/v2/", scene.fake.url());
    let ping = async |headers: &[(&str, &str)]| http::get(&url, headers).await.expect("an answer");
    assert_eq!(ping(&[]).await.status, 200);
    scene.fake.require_basic("team/other", "ann", "1");
    let challenge = ping(&[]).await;
    assert_eq!(
        challenge.header(CHALLENGE),
        Some("Basic realm=\"fake-registry\"")
    );
    assert_eq!(
        ping(&[("authorization", &basic("ann", "1"))]).await.status,
        200
    );
    scene.fake.allow_anonymous("team/app");
    let challenge = ping(&[]).await;
    assert_eq!(challenge.status, 401);
    assert!(
        challenge
            .header(CHALLENGE)
            .expect("a challenge")
            .starts_with("Bearer ")
    );
    let token = bearer(&scene.token("team/app", None).await);
    assert_eq!(ping(&[("authorization", &token)]).await.status, 200);
}

#[tokio::test]
async fn faults_of_the_status_come_before_access() {
    let scene = Scene::new().await;
    scene.fake.require_basic("team/app", "ann", "1");
    let right = basic("ann", "1");
    let armed = scene
        .fake
        .fault(Match::blob().with_credentials(), Fault::status(403));
    assert_eq!(scene.get("team/app", None).await.status, 401);
    assert_eq!(scene.get("team/app", Some(&right)).await.status, 403);
    armed.lift();
    scene.fake.fault(Match::blob().times(1), Fault::status(429));
    assert_eq!(scene.get("team/app", None).await.status, 429);
    scene.fake.fault(Match::token(), Fault::status(500));
    assert_eq!(scene.token("team/app", None).await.status, 500);
}

//! `larder upstreams`: the state of the registries, and test connections.

use larder_tests::fake::{Fault, Match};
use serde_json::{Value, json};

use crate::{Kitchen, REGISTRY, assert_schema, assert_shown, stdout};

async fn one(kitchen: &Kitchen) -> Value {
    let json = kitchen.json(&["upstreams", REGISTRY], "upstreams").await;
    json["upstreams"][0].clone()
}

#[tokio::test]
async fn configured_and_used_registries_are_listed() {
    let kitchen = Kitchen::new().await;
    let app = kitchen.put("team/app", "v1", 1);
    kitchen.client_pulls("team/app", "v1", &app).await;
    assert_shown!(kitchen.text(&["upstreams"]).await);
    let upstream = one(&kitchen).await;
    assert_eq!(upstream["repositories"], 1);
    assert_eq!(upstream["configured"], true);
    assert_eq!(upstream["endpoints"][0]["state"], "ok");
    let other = kitchen.json(&["upstreams", "quay.io"], "upstreams").await;
    assert_eq!(other["upstreams"][0]["configured"], false);
}

#[tokio::test]
async fn a_registry_that_limits_requests_is_shown_as_silent() {
    let kitchen = Kitchen::new().await;
    let limited = Fault::Status {
        code: 429,
        headers: vec![("retry-after".to_owned(), "70".to_owned())],
        body: "".into(),
    };
    kitchen.fake.fault(Match::any(), limited);
    let url = format!(
        "{}/v2/team/app/manifests/v1?ns={REGISTRY}",
        kitchen.node.url()
    );
    larder_tests::http::get(&url, &[]).await.expect("an answer");
    let endpoint = one(&kitchen).await["endpoints"][0].clone();
    assert_eq!(endpoint["state"], "silent");
    let left = endpoint["silent_seconds"].as_u64().expect("seconds");
    assert!((1..=70).contains(&left), "{endpoint}");
}

/// A maintenance page gives a 503 with a time, for minutes after the registry is back. The command reports exactly
/// that, and when larder will ask again.
#[tokio::test]
async fn a_registry_that_is_not_available_is_told_as_that() {
    let kitchen = Kitchen::new().await;
    let maintenance = Fault::Status {
        code: 503,
        headers: vec![("retry-after".to_owned(), "3600".to_owned())],
        body: "<html>back soon</html>".into(),
    };
    kitchen.fake.fault(Match::any(), maintenance);
    let pulled = kitchen
        .run(&["pull", &format!("{REGISTRY}/team/app:v1")])
        .await;
    let pulled = pulled.failure();
    let why = String::from_utf8_lossy(&pulled.get_output().stderr).into_owned();
    assert!(why.contains("answers 503"), "{why}");
    kitchen.fake.reset_counts();
    let found = kitchen.run(&["upstreams", "--check"]).await.code(3);
    let told = stdout(&found);
    for words in ["answers 503", "left alone for 3", "a probe may go in"] {
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
    assert!(!told.contains("limits requests"), "{told}");
    assert_eq!(
        kitchen.fake.count(|_| true),
        0,
        "its first minute is not over"
    );
}

#[tokio::test]
async fn a_test_connection_gives_a_verdict() {
    let kitchen = Kitchen::new().await;
    assert_shown!(kitchen.text(&["upstreams", "--check"]).await);
    let before = kitchen.fake.requests().len();
    kitchen.json(&["upstreams"], "upstreams").await;
    assert_eq!(
        kitchen.fake.requests().len(),
        before,
        "without --check nobody is asked"
    );
    kitchen.fake.stop().await;
    let found = kitchen
        .run(&["upstreams", "--check", "--json"])
        .await
        .code(3);
    let json: Value = serde_json::from_str(&stdout(&found)).expect("JSON");
    assert_schema(&json, "upstreams");
    let checks = &json["upstreams"][0]["checks"];
    assert_eq!(checks[0]["severity"], json!("error"), "{checks}");
    let found = kitchen.run(&["upstreams", "--check"]).await.code(3);
    assert!(stdout(&found).starts_with("error"), "{}", stdout(&found));
}

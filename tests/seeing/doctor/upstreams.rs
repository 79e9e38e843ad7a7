//! Registries: whether they can be reached, and with which credentials.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::http::Call;
use larder_tests::node::Node;
use serde_json::Value;

use super::{checks, doctor, finds};

#[tokio::test]
async fn an_upstream_that_is_down_or_none_or_limits_is_found() {
    let fake = FakeRegistry::start().await;
    let mirror = FakeRegistry::start().await;
    let (url, second) = (fake.url(), mirror.url());
    let config = format!("[upstreams.\"r.example\"]\nendpoints = [{second:?}, {url:?}]\n");
    let node = Node::builder().config(config).start().await;
    let armed = fake.fault(Match::ping(), Fault::status(404));
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["upstream"]);
    finds(&wrong, "upstream", "404", "endpoints");
    armed.lift();

    mirror.stop().await;
    let wrong = doctor(&node).await;
    assert_eq!(wrong[0]["severity"], "warning", "the origin is there");
    finds(&wrong, "upstream", &mirror.host(), "firewalls");
    fake.stop().await;
    let wrong = doctor(&node).await;
    assert!(wrong.iter().any(|f| f["severity"] == "error"), "{wrong:#?}");

    fake.start_again().await;
    mirror.start_again().await;
    let limited = Fault::Status {
        code: 429,
        headers: vec![("Retry-After".to_owned(), "600".to_owned())],
        body: Bytes::new(),
    };
    fake.fault(Match::any(), limited);
    mirror.fault(Match::any(), Fault::status(404));
    let pull = format!("{}/v2/team/app/manifests/v1?ns=r.example", node.url());
    Call::get(pull).send().await.unwrap();
    fake.reset_counts();
    let wrong = doctor(&node).await;
    finds(&wrong, "upstream", "limits requests", "quota");
    assert_eq!(fake.count(|_| true), 0, "it asked to be left alone");
}

#[tokio::test]
async fn a_name_that_nobody_knows_and_a_clock_that_is_wrong_are_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder()
        .upstream(&fake)
        .upstream_at("r.example", "http://no-such-name.invalid")
        .start()
        .await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["dns", "upstream"], "{wrong:#?}");
    finds(&wrong, "dns", "no-such-name.invalid", "dnsPolicy");

    let past = Fault::Status {
        code: 200,
        headers: vec![("Date".into(), "Sun, 06 Nov 1994 08:49:37 GMT".into())],
        body: Bytes::new(),
    };
    fake.fault(Match::ping(), past);
    let node = Node::builder().upstream(&fake).start().await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["clock"], "{wrong:#?}");
    finds(&wrong, "clock", "ahead of", "chronyc");
}

#[tokio::test]
async fn credentials_that_are_missing_or_refused_are_found_and_never_shown() {
    let fake = FakeRegistry::start().await;
    fake.put_blob("team/app", "x");
    fake.require_bearer("team/app", &[("node", "right-pw-1234")]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let config = format!(
        "[upstreams.{:?}]\nendpoints = [{:?}]\ncredentials = {{ username_file = {:?}, password_file = {:?} }}\n",
        fake.host(),
        fake.url(),
        path("user"),
        path("password"),
    );
    let node = Node::builder().config(config).start().await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["credentials"], "{wrong:#?}");
    finds(&wrong, "credentials", "user", "fix");

    let put = |name: &str, text: &str| {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    put("user", "node");
    put("password", "wrong-pw-1234");
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["credentials"], "{wrong:#?}");
    finds(&wrong, "credentials", "refuses them", "new ones");
    assert!(!format!("{wrong:?}").contains("wrong-pw"), "{wrong:?}");

    put("password", "right-pw-1234");
    assert_eq!(doctor(&node).await, Vec::<Value>::new());
    let all = node.admin("/doctor").await.to_string();
    assert!(
        all.contains("accepted") && !all.contains("right-pw"),
        "{all}"
    );

    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(path("password"), fs::Permissions::from_mode(0o644)).unwrap();
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["permissions"], "{wrong:#?}");
    finds(&wrong, "permissions", &path("password"), "chmod");
}

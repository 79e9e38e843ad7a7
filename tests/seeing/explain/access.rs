//! The credential, and so the right, that a pull uses.

use std::fs;

use larder_tests::fake::FakeRegistry;
use larder_tests::image::build;
use larder_tests::node::Node;

use serde_json::Value;

use super::{PASSWORD, REPOSITORY, USER, Who, agrees, explain, layers, name, steps, until_kept};

#[tokio::test]
async fn private_with_and_without_rights() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    fake.require_bearer(REPOSITORY, &[(USER, PASSWORD)]);
    let node = Node::builder().upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");
    for warm in [false, true] {
        let nobody = agrees(&node, &[&fake], &tag, Who::Nobody).await;
        assert_eq!(steps(&nobody, "access"), ["challenged"], "{nobody:#}");
        assert!(nobody["pull"]["digest"].is_null(), "{nobody:#}");
        let wrong = agrees(&node, &[&fake], &tag, Who::Wrong).await;
        assert_eq!(
            steps(&wrong, "access"),
            ["challenged", "refused"],
            "{wrong:#}"
        );
        let holder = agrees(&node, &[&fake], &tag, Who::Holder).await;
        assert_eq!(
            steps(&holder, "access"),
            ["challenged", "own-credentials"],
            "{holder:#}"
        );
        assert_eq!(holder["pull"]["manifest_here"], warm, "{holder:#}");
        until_kept(&node, &image).await;
    }
    // In an outage an earlier right still counts, and no other caller learns what is here.
    fake.stop().await;
    let holder = agrees(&node, &[&fake], &tag, Who::Holder).await;
    assert_eq!(steps(&holder, "tag"), ["stale"], "{holder:#}");
    let nobody = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert!(
        !nobody.to_string().contains(&image.config_digest),
        "{nobody:#}"
    );
}

/// larder does not ask a registry whose refusal it remembers. `explain` then says so, and does not claim that the
/// registry answered: the registry may be down.
#[tokio::test]
async fn a_refusal_that_is_remembered_is_no_answer_of_now() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    fake.require_bearer(REPOSITORY, &[(USER, PASSWORD)]);
    let node = Node::builder().upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");
    agrees(&node, &[&fake], &tag, Who::Holder).await;
    until_kept(&node, &image).await;
    fake.stop().await;
    let said = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&said, "access"), ["challenged"], "{said:#}");
    assert_eq!(steps(&said, "upstream"), ["unasked"], "{said:#}");
    for step in ["access", "upstream"] {
        let detail = details(&said, step);
        let known = format!("{} refused a request without a credential", fake.host());
        assert!(detail.contains(&known), "{said:#}");
        assert!(
            detail.contains(" s ago, when this node asked it"),
            "{said:#}"
        );
    }
    // larder does not ask a registry that the operator forbids, either.
    let node = Node::builder().start().await;
    let said = explain(&node, &[], "127.0.0.1:1/team/app:v1", Who::Nobody).await;
    assert_eq!(steps(&said, "upstream"), ["unasked"], "{said:#}");
}

fn details(said: &Value, step: &str) -> String {
    let steps = said["steps"].as_array().unwrap().iter();
    let mut of = steps.filter(|one| one["step"] == step);
    of.next().unwrap()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_nodes_own_credentials() {
    let fake = FakeRegistry::start().await;
    build(&fake, REPOSITORY, "v1", &layers());
    fake.require_bearer(REPOSITORY, &[(USER, PASSWORD)]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("user"), USER).unwrap();
    fs::write(path("password"), PASSWORD).unwrap();
    for (access, outcome) in [
        ("shared", "node-credentials"),
        ("per-credential", "challenged"),
    ] {
        let config = format!(
            "[upstreams.{:?}]\nendpoints = [{:?}]\naccess = {access:?}\ncredentials = {{ username_file = {:?}, password_file = {:?} }}\n",
            fake.host(),
            fake.url(),
            path("user"),
            path("password"),
        );
        let node = Node::builder().config(config).start().await;
        let said = agrees(&node, &[&fake], &name(&fake, "team/app:v1"), Who::Nobody).await;
        assert_eq!(steps(&said, "access"), [outcome], "{said:#}");
    }
}

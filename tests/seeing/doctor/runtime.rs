//! containerd's files, the ports that the files name, and the daemon behind those ports.

use std::fs;

use larder_tests::fake::FakeRegistry;
use larder_tests::node::Node;

use super::{Runtime, checks, doctor, finds, section};

#[tokio::test]
async fn a_daemon_that_is_not_there_is_found() {
    let fake = FakeRegistry::start().await;
    let mut node = Node::builder().upstream(&fake).start().await;
    node.terminate();
    node.wait().await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["daemon"]);
    finds(&wrong, "daemon", "admin.sock", "start it");
}

#[tokio::test]
async fn what_keeps_containerd_from_larder_is_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    let url = node.url();
    let larder = section(&url, "");

    // containerd's own configuration.
    let runtime = Runtime::of(&node);
    runtime.configure("");
    let wrong = runtime.doctor(&node).await;
    finds(&wrong, "runtime", "sets no config_path", "config_path = ");
    let certs = runtime.certs().display().to_string();
    runtime.configure(&format!("{certs}:/etc/docker/certs.d"));
    let wrong = runtime.doctor(&node).await;
    assert_eq!(checks(&wrong), ["runtime"]);
    finds(&wrong, "runtime", "find no hosts.toml", "config_path = ");

    // The files.
    for (name, text, found, mend) in [
        (
            "_default",
            String::new(),
            "does not name larder",
            "larder install",
        ),
        (
            "_default",
            "[host".to_owned(),
            "ignores this file",
            "fix the file",
        ),
        (
            "_default",
            format!("{}{larder}", section("https://mirror.example", "")),
            "before larder",
            "move larder's section",
        ),
        (
            "_default",
            format!("server = \"{url}\"\n{larder}"),
            "no pull works while larder is down",
            "`server`",
        ),
        (
            "_default",
            section(&url, "skip_verify = true"),
            "tries TLS",
            "remove",
        ),
        (
            "_default",
            format!("[host.\"{url}\"]\ncapabilities = [\"pull\"]\n"),
            "lack pull or resolve",
            "capabilities",
        ),
        (
            "_default",
            section(&url.replace("http:", "https:"), ""),
            "plain HTTP",
            "http://",
        ),
        (
            "ghcr.io",
            section("https://mirror.example", ""),
            "hides _default",
            "larder install --registry ghcr.io",
        ),
    ] {
        let runtime = Runtime::of(&node);
        runtime.host(name, &text);
        let wrong = runtime.doctor(&node).await;
        assert_eq!(checks(&wrong), ["hosts"], "{text}: {wrong:#?}");
        finds(&wrong, "hosts", found, mend);
    }
    let runtime = Runtime::of(&node);
    fs::create_dir(runtime.certs().join("r.example_5000_")).unwrap();
    let wrong = runtime.doctor(&node).await;
    finds(
        &wrong,
        "hosts",
        "hides _default",
        "--registry r.example:5000",
    );
    fs::remove_dir_all(runtime.certs()).unwrap();
    let wrong = runtime.doctor(&node).await;
    finds(
        &wrong,
        "hosts",
        "every pull bypasses larder",
        "larder install",
    );
}

#[tokio::test]
async fn somebody_else_on_the_port_and_a_source_that_is_refused_are_found() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder()
        .upstream(&fake)
        .config("[registry]\nallow_from = [\"192.0.2.1\"]\n")
        .start()
        .await;
    let wrong = doctor(&node).await;
    assert_eq!(checks(&wrong), ["ports", "sources"], "{wrong:#?}");
    finds(&wrong, "ports", "refuses this node", "allow_from");
    finds(&wrong, "sources", "not this node's", "allow_from");

    let node = Node::builder().upstream(&fake).start().await;
    let runtime = Runtime::of(&node);
    let dir = runtime.certs().display().to_string();
    fs::remove_dir_all(runtime.certs()).unwrap();
    let install = ["install", "--containerd-certs-dir", &dir, "--address"];
    let done = node.cli(&[&install[..], &[&fake.url()]].concat()).await;
    assert!(done.status.success(), "{done:?}");
    let wrong = runtime.doctor(&node).await;
    assert_eq!(checks(&wrong), ["ports"], "{wrong:#?}");
    finds(
        &wrong,
        "ports",
        "it is not larder",
        "the program that listens there",
    );
}

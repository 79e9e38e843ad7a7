//! `larder pull`: images into the node tier before a client asks.

use std::process::Stdio;

use assert_cmd::assert::OutputAssertExt as _;
use larder_tests::fake::{Fault, Match};
use larder_tests::image::{self, LayerSpec};
use larder_tests::node::larder_program;
use larder_tests::scene::eventually;
use serde_json::json;

use crate::{Kitchen, REGISTRY, assert_schema, assert_shown, stderr, stdout};

fn name(rest: &str) -> String {
    format!("{REGISTRY}/{rest}")
}

#[tokio::test]
async fn what_was_pulled_is_served_without_the_registry() {
    let kitchen = Kitchen::new().await;
    let app = kitchen.put("team/app", "v1", 1);
    let pulled = kitchen.text(&["pull", &name("team/app:v1")]).await;
    assert_shown!(pulled);
    for layer in &app.layers {
        assert!(kitchen.committed(&layer.digest), "when it says so");
    }
    assert!(kitchen.committed(&app.manifest_digest));
    assert_eq!(kitchen.fake.bytes_sent(), app.size(), "each byte once");
    kitchen.fake.stop().await;
    kitchen.client_pulls("team/app", "v1", &app).await;
}

#[tokio::test]
async fn a_second_pull_fetches_nothing() {
    let kitchen = Kitchen::new().await;
    let app = kitchen.put("team/app", "v1", 1);
    let first = kitchen.json(&["pull", &name("team/app:v1")], "pull").await;
    assert_eq!(first["images"][0]["fetched_bytes"], app.size());
    assert_eq!(first["images"][0]["bytes"], app.size());
    assert_eq!(first["images"][0]["digest"], app.manifest_digest);
    let sent = kitchen.fake.bytes_sent();
    let second = kitchen.json(&["pull", &name("team/app:v1")], "pull").await;
    assert_eq!(second["images"][0]["fetched_blobs"], 0);
    assert_eq!(kitchen.fake.bytes_sent(), sent);
    assert_shown!(kitchen.text(&["pull", &name("team/app:v1")]).await);
}

#[tokio::test]
async fn a_platform_is_chosen_and_others_are_left() {
    let kitchen = Kitchen::new().await;
    let layers = [LayerSpec::new(1, 50_000), LayerSpec::new(7, 60_000)];
    let index = image::build_index(&kitchen.fake, "team/multi", "v1", &layers);
    let [amd, arm] = &index.images;
    let reference = name("team/multi:v1");
    let pull = async |more: &[&str]| {
        let mut arguments = vec!["pull", reference.as_str()];
        arguments.extend(more);
        kitchen.json(&arguments, "pull").await["images"][0].clone()
    };
    let pulled = pull(&["--platform", "linux/arm64"]).await;
    assert_eq!(pulled["platforms"], json!(["linux/arm64"]));
    assert_eq!(pulled["digest"], index.digest);
    assert!(kitchen.committed(&arm.layers[0].digest));
    assert!(!kitchen.committed(&amd.manifest_digest));
    let pulled = pull(&["--all-platforms"]).await;
    assert_eq!(pulled["platforms"], json!(["linux/amd64", "linux/arm64"]));
    assert!(kitchen.committed(&amd.layers[0].digest));
    let none = kitchen
        .run(&["pull", &reference, "--platform", "linux/s390x"])
        .await;
    assert_shown!(stderr(&none.code(1)));
}

#[tokio::test]
async fn this_nodes_own_platform_is_the_default() {
    let kitchen = Kitchen::new().await;
    let layers = [LayerSpec::new(1, 50_000)];
    let index = image::build_index(&kitchen.fake, "team/multi", "v1", &layers);
    kitchen.text(&["pull", &name("team/multi:v1")]).await;
    let own = match std::env::consts::ARCH {
        "x86_64" => 0,
        "aarch64" => 1,
        // No image exists for this machine, and the pull above has failed.
        other => panic!("no image for {other}"),
    };
    assert!(kitchen.committed(&index.images[own].layers[0].digest));
    assert!(!kitchen.committed(&index.images[1 - own].layers[0].digest));
}

/// A list is warmed in advance: several images at once, one of which does not exist.
#[tokio::test]
async fn a_list_is_pulled_and_what_fails_is_named() {
    let kitchen = Kitchen::new().await;
    let one = kitchen.put("team/one", "v1", 1);
    let two = kitchen.put("team/two", "v1", 10);
    let list = kitchen.node.store().join("../list");
    let text = format!(
        "# for the next release\n{}\n\n{}  # soon\n{}\n",
        name("team/one:v1"),
        name("team/none:v1"),
        name("team/two:v1")
    );
    std::fs::write(&list, text).expect("a file");
    let list = list.to_str().expect("a path");
    let pulled = kitchen
        .run(&["pull", "--file", list, "--json"])
        .await
        .code(1);
    let json = serde_json::from_str(&stdout(&pulled)).expect("JSON");
    assert_schema(&json, "pull");
    assert_eq!(json["images"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["failed"][0]["image"], name("team/none:v1"));
    assert_shown!(stderr(&pulled));
    for image in [one, two] {
        assert!(kitchen.committed(&image.layers[1].digest));
    }
    std::fs::write(list, "registry.test/UPPER:v1\n").expect("a file");
    let bad = kitchen.run(&["pull", "--file", list]).await.code(1);
    assert!(
        stderr(&bad).contains("line 1: registry.test/UPPER:v1"),
        "{}",
        stderr(&bad)
    );
}

#[tokio::test]
async fn what_is_private_needs_a_password_and_stays_private() {
    let kitchen = Kitchen::new().await;
    let app = kitchen.put("team/secret", "v1", 1);
    kitchen
        .fake
        .require_basic("team/secret", "ci", "hunter2-hunter2");
    let reference = name("team/secret:v1");
    let refused = kitchen.run(&["pull", &reference]).await.code(1);
    assert_shown!(stderr(&refused));
    let with = async |password: &'static str| {
        let (socket, reference) = (kitchen.node.socket(), reference.clone());
        let run = move || {
            assert_cmd::Command::new(larder_program())
                .args(["pull", &reference, "--username", "ci", "--password-stdin"])
                .env("LARDER_SOCKET", socket)
                .write_stdin(format!("{password}\n"))
                .timeout(std::time::Duration::from_mins(1))
                .assert()
        };
        tokio::task::spawn_blocking(run).await.expect("it runs")
    };
    let wrong = with("wrong").await.code(1);
    assert!(stderr(&wrong).contains("are the name and the password right?"));
    assert!(!kitchen.committed(&app.layers[0].digest));
    let right = with("hunter2-hunter2").await.success();
    assert!(!stdout(&right).contains("hunter2") && !stderr(&right).contains("hunter2"));
    assert!(kitchen.committed(&app.layers[0].digest));
    assert!(
        !kitchen.node.log().contains("hunter2"),
        "no secret in the log"
    );
    let url = format!(
        "{}/v2/team/secret/manifests/v1?ns={REGISTRY}",
        kitchen.node.url()
    );
    let anybody = larder_tests::http::get(&url, &[]).await.expect("an answer");
    assert_eq!(anybody.status, 401, "nobody else may read it for that");
}

/// Where the command names no user, larder uses the node's own credentials, also where clients need their own.
#[tokio::test]
async fn the_nodes_own_credentials_stand_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let (user, password) = (dir.path().join("user"), dir.path().join("password"));
    std::fs::write(&user, "ci").expect("a file");
    std::fs::write(&password, "hunter2-hunter2").expect("a file");
    let fake = larder_tests::fake::FakeRegistry::start().await;
    let config = format!(
        "[upstreams.\"{REGISTRY}\"]\nendpoints = [\"{}\"]\ncredentials = {{ username_file = {user:?}, password_file = {password:?} }}\n",
        fake.url()
    );
    let node = larder_tests::node::Node::builder()
        .config(config)
        .start()
        .await;
    let kitchen = Kitchen { fake, node };
    let app = kitchen.put("team/secret", "v1", 1);
    kitchen
        .fake
        .require_basic("team/secret", "ci", "hunter2-hunter2");
    kitchen.text(&["pull", &name("team/secret:v1")]).await;
    assert!(kitchen.committed(&app.layers[1].digest));
    let url = format!(
        "{}/v2/team/secret/manifests/v1?ns={REGISTRY}",
        kitchen.node.url()
    );
    let anybody = larder_tests::http::get(&url, &[]).await.expect("an answer");
    assert_eq!(anybody.status, 401);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed() {
    let kitchen = Kitchen::new().await;
    let layers = [LayerSpec::new(1, 8_000_000)];
    let app = image::build(&kitchen.fake, "team/app", "v1", &layers);
    kitchen
        .fake
        .fault(Match::blob().times(2), Fault::TruncateAfter(1_000_000));
    kitchen.text(&["pull", &name("team/app:v1")]).await;
    assert!(kitchen.committed(&app.layers[0].digest));
}

/// Stopping the command stops the pull, and damages nothing.
#[tokio::test]
async fn an_interrupted_pull_is_clean() {
    let kitchen = Kitchen::new().await;
    let app = kitchen.put("team/app", "v1", 1);
    let gate = kitchen.fake.gate(Match::blob(), 50_000);
    // A shell's background jobs ignore the signal, and the child would inherit that.
    let mut child = std::process::Command::new("env")
        .arg("--default-signal=INT")
        .arg(larder_program())
        .args(["pull", &name("team/app:v1")])
        .env("LARDER_SOCKET", kitchen.node.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    gate.reached(1).await;
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("a signal");
    eventually("the command has ended", || {
        child.try_wait().expect("a child").is_some()
    })
    .await;
    let output = child.wait_with_output().expect("its output");
    assert!(output.stdout.is_empty());
    gate.open();
    kitchen.text(&["pull", &name("team/app:v1")]).await;
    kitchen.client_pulls("team/app", "v1", &app).await;
}

#[tokio::test]
async fn pulled_and_pinned_in_one() {
    let kitchen = Kitchen::new().await;
    kitchen.put("team/app", "v1", 1);
    kitchen.text(&["pull", "--pin", &name("team/app:v1")]).await;
    let images = kitchen.json(&["images"], "images").await;
    assert_eq!(images["images"][0]["pinned"], true);
}

/// A pull that the store cannot keep is no success.
#[tokio::test]
async fn what_is_too_large_for_the_tier_is_no_success() {
    let kitchen = Kitchen::with(|node| node.config("[store]\nmax_size = \"1MiB\"\n")).await;
    kitchen.put("team/app", "v1", 1);
    let failed = kitchen.run(&["pull", &name("team/app:v1")]).await.code(1);
    assert!(stderr(&failed).contains("max_size"), "{}", stderr(&failed));
}

#[tokio::test]
async fn what_is_said_wrongly_is_told_at_once() {
    let run = |arguments: &[&str]| {
        std::process::Command::new(larder_program())
            .args(arguments)
            .output()
            .expect("it runs")
            .assert()
    };
    for (arguments, told) in [
        (&["pull"][..], "<REF>..."),
        (&["pull", "UPPER"], "UPPER"),
        (&["pull", "a", "--platform", "linux"], "os/architecture"),
        (
            &["pull", "a", "--platform", "linux/amd64", "--all-platforms"],
            "cannot be used with",
        ),
        (&["pull", "a", "--username", "me"], "--password-stdin"),
    ] {
        let text = stderr(&run(arguments).code(2));
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
}

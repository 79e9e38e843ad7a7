//! larder's configuration: a mistake is reported with its place and its fix, and changes take effect.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use larder_tests::fake::FakeRegistry;
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::{Node, larder_program};
use larder_tests::scene::{Scene, eventually};
use nix::sys::signal::Signal;

/// Runs the program to its end, without the caller's environment.
fn larder(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(larder_program());
    command.args(arguments).env_clear().stdin(Stdio::null());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_file_with_a_mistake_is_refused_with_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("larder.toml");
    let path = file.to_str().expect("a path");
    for (text, complaint) in [
        (
            "[store]\nmax_sise = \"80%\"\n",
            "2:1: unknown key `max_sise` in [store]: did you mean `max_size`?",
        ),
        (
            "[registry]\nlisten = 7420\n",
            "2:10: `listen` in [registry] is the number 7420",
        ),
        (
            "[store]\nmax_size = \"50 apples\"\n",
            "2:12: `max_size` in [store] is \"50 apples\"",
        ),
        (
            "[tags]\n\n\ntimeout = \"2\"\n",
            "4:11: `timeout` in [tags] is \"2\": the unit is missing",
        ),
        (
            "[upstreams.\"ghcr.io\"]\nendpoints = [\"ftp://x\"]\n",
            "2:14: ",
        ),
        ("[store\n", "1:7: not TOML: "),
    ] {
        std::fs::write(&file, text).expect("a file");
        let store = dir.path().join("store");
        let serve = [
            "serve",
            "--config",
            path,
            "--store",
            store.to_str().expect("a path"),
        ];
        for arguments in [
            &serve[..],
            &["config", "check", "--config", path],
            &["config", "show", "--config", path],
        ] {
            let (code, out, error) = larder(arguments);
            assert_eq!(code, Some(1), "{arguments:?}: {error}");
            assert!(
                error.starts_with(&format!("larder: {path}:{complaint}")),
                "{arguments:?}: {error}"
            );
            assert_eq!(
                (error.lines().count(), out.as_str()),
                (1, ""),
                "{arguments:?}: {error}"
            );
        }
        assert!(!store.exists(), "nothing was begun");
    }
    std::fs::write(&file, "[tags]\nfresh_for = \"5m\"\n").expect("a file");
    let (code, out, _) = larder(&["config", "check", "--config", path]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "the configuration is valid\n")
    );
    let (code, shown, _) = larder(&["config", "show", "--config", path]);
    assert_eq!(code, Some(0));
    // The printed configuration can be read again, and gives the same output.
    std::fs::write(&file, &shown).expect("a file");
    assert_eq!(
        larder(&["config", "show", "--config", path]),
        (Some(0), shown, String::new())
    );
}

#[test]
fn a_command_line_with_a_mistake_is_refused() {
    for (arguments, complaint) in [
        (&["serve", "--listen", "nonsense"][..], "nonsense"),
        (&["serve", "--telemetry", "nonsense"], "or `off`"),
        (&["serve", "--expose", "nonsense"], "or `off`"),
        (&["serve", "--stor", "/x"], "--store"),
        (&["serv"], "serve"),
        (&["explain"], "REF"),
        (&["status", "surplus"], "surplus"),
    ] {
        let (code, _, error) = larder(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert!(error.contains(complaint), "{arguments:?}: {error}");
    }
    for (arguments, complaint) in [
        (&["serve", "--upstream", "nonsense"][..], "nonsense"),
        (
            &["serve", "--config", "/nowhere/larder.toml"],
            "/nowhere/larder.toml",
        ),
        (
            &["status", "--socket", "/nowhere/larder.sock"],
            "/nowhere/larder.sock",
        ),
    ] {
        let (code, _, error) = larder(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        assert!(
            error.starts_with("larder: ") && error.contains(complaint),
            "{arguments:?}: {error}"
        );
    }
}

#[tokio::test]
async fn what_is_taken_is_said() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().expect("a directory");
    let place = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
    let own_socket = scene.node.socket();
    let own_socket = own_socket.to_str().expect("a path");
    // A store in use is not among these cases: see `handover`.
    for (listen, socket, store, complaints) in [
        (
            scene.node.addr(),
            &*place("s1"),
            &*place("d1"),
            [scene.node.addr(), "--listen"],
        ),
        (
            "127.0.0.1:0",
            own_socket,
            &place("d2"),
            [own_socket, "--socket"],
        ),
    ] {
        let (code, _, error) = larder(&[
            "serve",
            "--listen",
            listen,
            "--telemetry",
            "off",
            "--socket",
            socket,
            "--store",
            store,
        ]);
        assert_eq!(code, Some(1), "{error}");
        assert!(
            complaints.iter().all(|word| error.contains(word)),
            "{complaints:?}: {error}"
        );
    }
    // The larder that was there first still runs.
    assert_eq!(
        scene.node.admin("/status").await["listen"]["registry"],
        scene.node.addr()
    );
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_a_bad_one_does_not() {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("team/app", Some("v1"), OCI_MANIFEST, "{}");
    let upstream =
        |name: &str| format!("[upstreams.\"{name}\"]\nendpoints = [\"{}\"]\n", fake.url());
    let node = Node::builder()
        .config(upstream("one.example"))
        .start()
        .await;
    let status = async |name: &str| {
        let url = format!("{}/v2/team/app/manifests/v1?ns={name}", node.url());
        http::get(&url, &[]).await.expect("an answer").status
    };
    assert_eq!(status("one.example").await, 200);
    let deny = "[registry]\ndeny = [\"one.example\"]\n".to_owned();
    std::fs::write(node.config_file(), deny + &upstream("two.example")).expect("a file");
    let deadline = Instant::now() + Duration::from_secs(10);
    while status("two.example").await != 200 {
        assert!(Instant::now() < deadline, "{}", node.log());
    }
    assert_eq!(status("one.example").await, 403);

    std::fs::write(node.config_file(), "[store]\nmax_sise = \"1GiB\"\n").expect("a file");
    let complaint = "2:1: unknown key `max_sise` in [store]: did you mean `max_size`?";
    eventually("the mistake is in the log", || {
        node.log().contains(complaint)
    })
    .await;
    assert_eq!(
        (status("two.example").await, status("one.example").await),
        (200, 403)
    );
}

#[tokio::test]
async fn a_pod_learns_which_other_addresses_may_connect() {
    for (told, status) in [("192.0.2.9", 403), ("192.0.2.9,127.0.0.1", 401)] {
        let node = Node::builder()
            .config("[registry]\nallow_from = [\"192.0.2.1\"]\n")
            .env("LARDER_ALLOW_FROM", told)
            .start()
            .await;
        let answer = http::get(&format!("{}/v2/", node.url()), &[]).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, status, "{told}");
        // The refusal names the address that the operator has to add to the list.
        let named = String::from_utf8_lossy(&answer.body).contains("127.0.0.1 is not it");
        assert_eq!(named, status == 403, "{told}");
    }
}

/// The flag's `off` overrides the file's setting, as `--telemetry=off` does.
#[tokio::test]
async fn nothing_is_exposed_where_a_flag_says_off() {
    let node = Node::builder()
        .config("[telemetry]\nexpose = \"192.0.2.1:7421\"\n")
        .arg("--expose=off")
        .start()
        .await;
    assert!(!node.metrics().await.is_empty());
}

/// SIGHUP reloads, as in other daemons. It would end a process that does not catch it.
#[tokio::test]
async fn a_hangup_has_the_configuration_read_again() {
    let mut scene = Scene::with(|node| node.config("[tags]\n").log_level("info")).await;
    let said = |scene: &Scene, what: &str| scene.node.log().matches(what).count();
    for times in 1..=2 {
        scene.node.signal(Signal::SIGHUP);
        let unchanged = "SIGHUP: the configuration was read again";
        eventually("it is read", || said(&scene, unchanged) == times).await;
    }
    // larder complains about an unusable file each time that the operator asks for a reload.
    std::fs::write(scene.node.config_file(), "[store\n").expect("a file");
    let complaint = "the configuration cannot be used";
    eventually("it is found", || said(&scene, complaint) == 1).await;
    scene.node.signal(Signal::SIGHUP);
    eventually("it is said again", || said(&scene, complaint) == 2).await;
    assert!(scene.node.ended().is_none());
    let mut bare = Scene::with(|node| node.shipped_min_free().log_level("info")).await;
    bare.node.signal(Signal::SIGHUP);
    let nothing = "SIGHUP: there is no configuration file";
    eventually("there is none", || said(&bare, nothing) == 1).await;
    assert!(bare.node.ended().is_none());
}

/// The keys of a section of the schema, and those of the sections in it, by the headings of docs/configuration.md.
fn keys_of(schema: &serde_json::Value, heading: &str, found: &mut BTreeSet<(String, String)>) {
    let sections = |section: &serde_json::Value| section["properties"].as_object().cloned();
    for (name, section) in sections(schema).unwrap_or_default() {
        let inner = if heading.is_empty() {
            name.clone()
        } else {
            format!("{heading}.{name}")
        };
        // Sections with tables of their own, on the page as in the file.
        match (&*inner, &section["additionalProperties"]) {
            ("upstreams" | "warm.sets", one) => keys_of(one, &format!("{inner}.\"NAME\""), found),
            (_, _) if heading.is_empty() || inner == "cluster.object_store" => {
                keys_of(&section, &inner, found);
            }
            _ => {
                found.insert((heading.to_owned(), name));
            }
        }
    }
}

/// Reader, schema and page must agree. Another test compares the first two (tests/rollout/values.rs).
#[test]
fn the_page_on_the_configuration_has_a_row_for_every_key_and_no_other() {
    let (code, schema, complaint) = larder(&["config", "schema"]);
    assert_eq!(code, Some(0), "{complaint}");
    let schema = serde_json::from_str(&schema).expect("JSON");
    let mut keys = BTreeSet::new();
    keys_of(&schema, "", &mut keys);
    assert!(keys.len() > 30, "{keys:?}");

    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let mut rows = BTreeSet::new();
    let mut heading = String::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cell = row.split(" | ").next().unwrap_or_default();
        if let Some(section) = cell.strip_prefix("**`[") {
            section.trim_end_matches("]`**").clone_into(&mut heading);
        } else if !heading.is_empty() {
            let names = cell
                .split(", ")
                .map(|name| name.trim_matches('`').to_owned());
            rows.extend(names.map(|name| (heading.clone(), name)));
        }
    }
    let apart: Vec<_> = keys.symmetric_difference(&rows).collect();
    assert!(
        apart.is_empty(),
        "docs/configuration.md and the schema differ in {apart:?}"
    );
}

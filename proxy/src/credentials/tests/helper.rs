//! Docker credential helpers as real processes.

use super::*;

fn source() -> config::Credentials {
    config::Credentials::Helper {
        name: "test".to_owned(),
    }
}

const NAME: &str = "docker-credential-test";
const IMAGE: &str = "reg.example.com/app";

#[tokio::test]
async fn what_a_helper_answers() {
    let key = json_key();
    for (username, secret, expected) in [
        ("AWS", "p", vec![basic("AWS", "p")]),
        ("_json_key", key.as_str(), vec![basic("_json_key", &key)]),
        ("<token>", "refresh", vec![token("refresh")]),
        ("", "", vec![]),
    ] {
        let node = Node::new();
        let answer = serde_json::json!({"ServerURL": "x", "Username": username, "Secret": secret});
        node.write("answer", answer.to_string());
        // A helper that does not read its standard input is no error.
        node.script(NAME, "exec cat answer");
        assert_eq!(node.lookup(IMAGE, &source()).await, Ok(expected));
    }
    let node = Node::new();
    node.script(
        NAME,
        "echo 'credentials not found in native keychain'; exit 1",
    );
    assert_eq!(node.lookup(IMAGE, &source()).await, Ok(vec![]));
}

#[tokio::test]
async fn a_helper_that_fails_is_named_without_its_words() {
    let node = Node::with_time(Duration::from_secs(30));
    let refused = || async { node.refused(IMAGE, &source()).await };
    assert_eq!(
        refused().await,
        "docker-credential-test: is not there, or its interpreter is not: put the program there"
    );
    node.write(NAME, "#!/bin/sh\n");
    assert_eq!(
        refused().await,
        "docker-credential-test: may not be run: make it executable by the user that larder runs as"
    );
    fs::remove_file(node.path(NAME)).unwrap();
    node.script(NAME, "echo hunter2; echo hunter2 >&2; exit 3");
    assert_eq!(
        refused().await,
        "docker-credential-test: failed (exit status: 3): run it by hand, or see in larder's log at level debug what it complained of"
    );
    node.script(NAME, "echo hunter2");
    assert_eq!(
        refused().await,
        "docker-credential-test: answered what no helper does: not JSON, at line 1, column 1: is it the right program?"
    );
    node.script(NAME, "exec cat /dev/zero");
    assert_eq!(
        refused().await,
        "docker-credential-test: wrote over 1 MiB and was killed: is it the right program?"
    );
    // A helper that prints many complaints may still succeed.
    node.script(
        NAME,
        "head -c 300000 /dev/zero >&2; echo '{\"Username\":\"me\",\"Secret\":\"a\"}'",
    );
    assert_eq!(
        node.lookup(IMAGE, &source()).await,
        Ok(vec![basic("me", "a")])
    );
}

#[tokio::test]
async fn a_helper_that_hangs_is_killed_with_its_children_and_reaped() {
    let node = Node::with_time(Duration::from_secs(2));
    node.script(NAME, "sleep 1000 & echo $$ $! > pids; wait");
    let error = node.lookup(IMAGE, &source()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Timeout);
    assert_eq!(
        error.to_string(),
        format!(
            "{}: did not end within 2s and was killed: run it by hand to see why",
            node.path(NAME).display()
        )
    );
    let pids = fs::read_to_string(node.path("pids")).unwrap();
    let (own, child) = pids.trim().split_once(' ').unwrap();
    // larder reaps the helper. The process that adopts orphans here, if there is one, reaps the helper's child.
    assert!(!PathBuf::from(format!("/proc/{own}")).exists());
    until("the child of the helper is dead", || {
        fs::read_to_string(format!("/proc/{child}/stat"))
            .map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "))
    })
    .await;
}

#[tokio::test]
async fn an_answer_is_shared_and_kept_for_a_while() {
    let node = Node::new();
    node.script(
        NAME,
        "echo x >> calls; while [ ! -e go ]; do sleep 0.01; done; echo '{\"Username\":\"me\",\"Secret\":\"a\"}'",
    );
    let source = source();
    let askers = (0..8).map(|_| node.lookup(IMAGE, &source));
    let askers = futures_util::future::join_all(askers);
    let release = async {
        node.until_lines("calls", 1).await;
        node.write("go", "");
    };
    let (found, ()) = tokio::join!(askers, release);
    assert!(found.iter().all(|f| f == &Ok(vec![basic("me", "a")])));
    node.lookup(IMAGE, &source).await.unwrap();
    assert_eq!(node.lines("calls").len(), 1);
    node.lookup("other.example.com/app", &source).await.unwrap();
    assert_eq!(node.lines("calls").len(), 2);
}

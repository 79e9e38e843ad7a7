//! What commands say when the daemon is not there, is busy, or is of another version.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::assert::OutputAssertExt as _;
use larder_tests::node::larder_program;
use tempfile::TempDir;

use crate::{Kitchen, assert_shown, seen, stderr, stdout};

/// Every command that asks the daemon.
const ASKING: &[&[&str]] = &[
    &["status"],
    &["explain", "nginx"],
    &["images"],
    &["blobs"],
    &["layers"],
    &["pull", "nginx"],
    &["pin", "nginx"],
    &["unpin", "nginx"],
    &["evict", "nginx"],
    &["gc"],
    &["verify"],
    &["peers"],
    &["upstreams"],
    &["log"],
    &["log", "debug"],
];

fn directory() -> TempDir {
    let builder = tempfile::Builder::new().prefix("larder-node-").tempdir();
    builder.expect("a directory")
}

fn larder(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(larder_program())
        .args(arguments)
        .env("LARDER_SOCKET", socket)
        .output()
        .expect("it runs")
}

#[test]
fn without_a_daemon_every_command_says_what_to_do() {
    let dir = directory();
    let nowhere = dir.path().join("admin.sock");
    for arguments in ASKING {
        for json in [false, true] {
            let mut arguments = arguments.to_vec();
            arguments.extend(json.then_some("--json"));
            let output = larder(&nowhere, &arguments).assert().code(1);
            let told = stderr(&output);
            assert!(
                told.contains("there is no admin socket at"),
                "{arguments:?}: {told}"
            );
            // A list of pulls has the outcome of each in its JSON.
            if arguments[0] != "pull" {
                assert_eq!(stdout(&output), "", "{arguments:?}");
            }
        }
    }
    assert_shown!(seen(&larder(&nowhere, &["status"])));
}

#[tokio::test]
async fn a_daemon_that_was_killed_leaves_a_socket_where_nobody_listens() {
    let mut kitchen = Kitchen::new().await;
    kitchen.node.kill9().await;
    assert_shown!(seen(&kitchen.node.cli(&["status"]).await));
}

#[test]
fn what_is_no_socket_is_called_so() {
    let dir = directory();
    let file = dir.path().join("admin.sock");
    std::fs::write(&file, "").expect("a file");
    assert_shown!(seen(&larder(&file, &["status"])));
}

/// Only the socket's owner may open it.
#[test]
fn a_socket_that_may_not_be_opened_is_called_so() {
    let dir = directory();
    let socket = dir.path().join("admin.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
        .expect("permissions");
    let output = if nix::unistd::geteuid().is_root() {
        // Root may open anything: become the user `nobody` for a moment. The program has to lie where that user may
        // read it.
        let program = dir.path().join("larder");
        std::fs::copy(larder_program(), &program).expect("a copy");
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program)
            .arg("status")
            .env("LARDER_SOCKET", &socket)
            .output()
            .expect("setpriv, of util-linux")
    } else {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000))
            .expect("permissions");
        larder(&socket, &["status"])
    };
    assert_shown!(seen(&output));
}

/// A daemon that accepts connections and never answers.
#[test]
fn a_busy_daemon_is_waited_for_so_long_and_no_longer() {
    let dir = directory();
    let socket = dir.path().join("admin.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    for arguments in ASKING {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--timeout", "1"]);
        let output = larder(&socket, &arguments).assert().code(1);
        let told = stderr(&output);
        assert!(
            told.contains("did not answer within 1 s"),
            "{arguments:?}: {told}"
        );
    }
    assert_shown!(seen(&larder(&socket, &["status", "--timeout", "1"])));
}

/// A daemon of another version: it answers each request with this.
fn answering(socket: &Path, version: Option<&str>, status: &str, body: &str) {
    let listener = UnixListener::bind(socket).expect("a socket");
    let version = version.map_or(String::new(), |version| {
        format!("larder-version: {version}\r\n")
    });
    let answer = format!(
        "HTTP/1.1 {status}\r\n{version}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

const STATUS: &str = r#"{"version":"9.0.0","uptime_seconds":5,"listen":{"registry":"127.0.0.1:7420","telemetry":null},
    "store":{"path":"/var/lib/larder","blobs":1,"bytes":2,"partial_bytes":0,"max_bytes":3,"free_bytes":4,"state":"ready"},
    "fills":[],"upstreams":[],"served":{"requests":0,"node_bytes":0,"cluster_bytes":0,"upstream_bytes":0},
    "moods":["bright"]}"#;

/// The command ignores fields that a newer daemon adds, and says that the daemon is newer.
#[test]
fn a_newer_daemon_is_understood() {
    let dir = directory();
    let socket = dir.path().join("admin.sock");
    answering(&socket, Some("9.0.0"), "200 OK", STATUS);
    let output = larder(&socket, &["status"]).assert().success();
    assert!(
        stdout(&output).contains("1 blob, 2 B"),
        "{}",
        stdout(&output)
    );
    assert!(
        stderr(&output).contains("the daemon is larder 9.0.0 and this command is larder 0."),
        "{}",
        stderr(&output)
    );
    let json = larder(&socket, &["status", "--json"]).assert().success();
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).expect("JSON");
    crate::assert_schema(&json, "status");
}

/// The command names the fields that an older daemon does not send.
#[test]
fn what_an_older_daemon_does_not_say_is_named() {
    let dir = directory();
    let socket = dir.path().join("admin.sock");
    answering(
        &socket,
        Some("0.0.9"),
        "200 OK",
        &STATUS.replace("\"blobs\"", "\"pieces\""),
    );
    assert_shown!(seen(&larder(&socket, &["status"])));
}

#[test]
fn what_an_older_daemon_does_not_know_is_named() {
    let dir = directory();
    let socket = dir.path().join("admin.sock");
    answering(
        &socket,
        Some("0.0.9"),
        "404 Not Found",
        "there is GET /status\n",
    );
    for arguments in ASKING {
        let output = larder(&socket, arguments).assert().code(1);
        let told = stderr(&output);
        let known = [
            "the daemon, larder 0.0.9, does not know /",
            "the daemon is larder 0.0.9",
        ];
        assert!(
            known.iter().all(|known| told.contains(known)),
            "{arguments:?}: {told}"
        );
    }
    assert_shown!(seen(&larder(&socket, &["images"])));
}

/// Another program listens on the socket.
#[test]
fn what_is_no_larder_is_called_so() {
    let dir = directory();
    let socket = dir.path().join("admin.sock");
    answering(
        &socket,
        None,
        "404 Not Found",
        "{\"message\":\"page not found\"}",
    );
    assert_shown!(seen(&larder(&socket, &["images"])));
    let other = dir.path().join("other.sock");
    let listener = UnixListener::bind(&other).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    let output = larder(&other, &["images"]).assert().code(1);
    assert!(
        stderr(&output).contains("does not answer like larder"),
        "{}",
        stderr(&output)
    );
}

/// A daemon whose disk hangs: it does not answer `/status`; it answers its own checks, and they name the disk.
#[test]
fn the_daemons_own_checks_are_asked_for_though_its_status_is_not_answered() {
    let dir = directory();
    let socket = dir.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let finding = r#"{"findings":[{"check":"disk","severity":"error","found":"the disk hangs","mend":"look at it"}]}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nlarder-version: 0.0.9\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{finding}",
        finding.len()
    );
    std::thread::spawn(move || {
        let mut unanswered = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap_or(0);
            if head[..length].starts_with(b"GET /doctor") {
                let _ = stream.write_all(answer.as_bytes());
            } else {
                unanswered.push(stream);
            }
        }
    });
    let output = larder(&socket, &["doctor", "--timeout", "1"])
        .assert()
        .code(3);
    let told = stdout(&output);
    assert!(told.contains("error    disk: the disk hangs"), "{told}");
    assert!(
        told.contains("did not answer within 1 s") && !told.contains("start it"),
        "{told}"
    );
}

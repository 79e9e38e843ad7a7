//! What the watcher reports when something is wrong. No such trouble ends it or spoils its file.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use larder_tests::node::larder_program;
use serde_json::Value;

use crate::fake::{Fake, INTERNAL, Reply, UNIMPLEMENTED, bare_containerd};
use larder_tests::watcher::{Watcher, as_nobody, directory, once};

/// The output of `--once` for this socket. It writes no file.
fn complaint(socket: &Path) -> String {
    let dir = directory();
    let output = once(socket, &dir.path().join("runtime.json"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let left = std::fs::read_dir(dir.path())
        .expect("the directory")
        .count();
    assert_eq!(left, 0, "it left something behind");
    said
}

fn assert_says(said: &str, words: &[&str]) {
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

#[test]
fn a_socket_that_is_missing_or_none_is_called_so() {
    let dir = directory();
    let socket = dir.path().join("containerd.sock");
    assert_says(
        &complaint(&socket),
        &["there is no socket at", "start the runtime"],
    );
    std::fs::write(&socket, "").expect("a file");
    assert_says(&complaint(&socket), &["is no socket", "--socket"]);
    std::fs::remove_file(&socket).expect("a file");
    drop(UnixListener::bind(&socket).expect("a socket"));
    assert_says(
        &complaint(&socket),
        &["no process listens", "mount the directory"],
    );
}

#[test]
fn a_socket_that_may_not_be_used_is_called_so() {
    let dir = directory();
    let socket = dir.path().join("containerd.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
    };
    mode(&socket, 0o600);
    mode(dir.path(), 0o777);
    // The program must lie where the user may read it.
    let program = dir.path().join("larder");
    std::fs::copy(larder_program(), &program).expect("a copy");
    let output = as_nobody(program.as_os_str())
        .args(["runtime", "--once", "--socket"])
        .arg(&socket)
        .arg("--file")
        .arg(dir.path().join("runtime.json"))
        .output()
        .expect("setpriv, of util-linux");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_says(&said, &["may not use", "as root"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_runtime_is_called_so() {
    let dir = directory();
    let path = |name: &str| dir.path().join(name);
    // Other protocols: one that speaks first, and HTTP/1, as of docker.sock.
    let greetings: [(&str, &[u8]); 2] = [
        ("mail.sock", b"220 mail.example ESMTP\r\n"),
        (
            "docker.sock",
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        ),
    ];
    for (name, greeting) in greetings {
        let listener = UnixListener::bind(path(name)).expect("a socket");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = stream.write_all(greeting);
            }
        });
        assert_says(
            &complaint(&path(name)),
            &["is neither containerd nor a CRI runtime"],
        );
    }
    // A gRPC server with another service.
    let _other = Fake::start(&path("other.sock"), |_| Reply::Code(UNIMPLEMENTED));
    assert_says(
        &complaint(&path("other.sock")),
        &["is neither containerd nor a CRI runtime"],
    );
}

#[test]
fn a_file_that_cannot_be_written_is_called_so() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = directory();
    let socket = dir.path().join("containerd.sock");
    let _fake = runtime.block_on(async { Fake::start(&socket, bare_containerd) });
    let output = once(&socket, &dir.path().join("missing/runtime.json"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_says(&said, &["cannot write", "make its directory"]);
}

/// The watcher asks again and again, logs the trouble once, and goes on when the runtime answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_hangs_is_told_of_once_and_never_stops_it() {
    let dir = directory();
    let socket = dir.path().join("containerd.sock");
    let silent = Fake::silent(&socket);
    let mut watcher = Watcher::start(&socket, &["--every", "1s"]);
    watcher
        .holds("three attempts", |_| silent.connections() > 3)
        .await;
    let told = watcher.log().matches("does not answer").count();
    assert_eq!(told, 1, "{}", watcher.log());
    assert_eq!(watcher.report(), None);

    drop(silent);
    std::fs::remove_file(&socket).expect("the socket");
    let _fake = Fake::start(&socket, bare_containerd);
    let report = watcher.until("a file", |_| true).await;
    assert_eq!(report["runtime"]["name"], "containerd");
    watcher
        .says("the runtime answers again: containerd v9.9.9")
        .await;
    watcher.terminate();
}

/// Each call in turn is refused, or hangs in the middle of its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_fails_leaves_the_old_file() {
    let questions = [
        "Namespaces/List",
        "Images/List",
        "Containers/ListStream",
        "Introspection/Plugins",
        "Snapshots/List",
        "Content/List",
    ];
    for failure in [Reply::Code(INTERNAL), Reply::Stuck(Vec::new())] {
        let dir = directory();
        let socket = dir.path().join("containerd.sock");
        let good = Fake::start(&socket, bare_containerd);
        let mut watcher = Watcher::start(&socket, &["--every", "1s"]);
        watcher.until("a file", |_| true).await;
        drop(good);
        for question in questions {
            std::fs::remove_file(&socket).expect("the socket");
            let reply = failure.clone();
            let fake = Fake::start(&socket, move |asked| {
                if asked == question {
                    return reply.clone();
                }
                bare_containerd(asked)
            });
            // The log names the call.
            watcher.says(&format!(".{question}")).await;
            let old = std::fs::read(watcher.file()).expect("a file");
            let seen = fake.connections();
            watcher
                .holds("two more attempts", |_| fake.connections() > seen + 1)
                .await;
            assert_eq!(
                std::fs::read(watcher.file()).expect("a file"),
                old,
                "{question}"
            );
            drop(fake);
        }
        std::fs::remove_file(&socket).expect("the socket");
        let old = watcher.report().expect("a file");
        let _good = Fake::start(&socket, bare_containerd);
        watcher
            .until("a newer file", |report| {
                report["at"].as_u64() > old["at"].as_u64()
            })
            .await;
    }
}

/// The watcher is killed while it writes. A reader sees the old file, whole, and the next watcher removes the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_a_round_leaves_no_half_file() {
    let dir = directory();
    let socket = dir.path().join("containerd.sock");
    let good = Fake::start(&socket, bare_containerd);
    let mut watcher = Watcher::start(&socket, &["--every", "1s"]);
    let old = watcher.until("a file", |_| true).await;
    drop(good);
    std::fs::remove_file(&socket).expect("the socket");
    let stuck = Fake::start(&socket, |asked| match asked {
        "Content/List" => Reply::Stuck(vec![crate::confined::blobs(0..500)]),
        other => bare_containerd(other),
    });
    let drafted = |watcher: &Watcher| watcher.files().iter().any(|name| name != "runtime.json");
    watcher.holds("a draft", drafted).await;
    // SIGKILL, at once.
    let mut watcher = watcher.killed_and_started(&socket, &["--every", "1s"]);
    let seen: Value = watcher.report().expect("the old file");
    assert!(seen["at"].as_u64() >= old["at"].as_u64() && seen["content"] == old["content"]);
    drop(stuck);
    std::fs::remove_file(&socket).expect("the socket");
    let _good = Fake::start(&socket, bare_containerd);
    watcher
        .until("a newer file", |report| {
            report["at"].as_u64() > seen["at"].as_u64()
        })
        .await;
    watcher
        .holds("what was left is swept", |watcher| !drafted(watcher))
        .await;
}

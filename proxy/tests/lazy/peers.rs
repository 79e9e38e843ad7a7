//! Peers of the holder and their messages. The bytes are those of docs/holder.md.

use std::{
    fs,
    io::Read as _,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::Command,
};

use larder::sys::passed::Packets;

use crate::{
    reading::read,
    setup::{Setup, until},
};

const REFUSED: u16 = 0;
const HELLO: u16 = 1;
const CONNECTION: u16 = 2;
const READY: u16 = 3;

fn message(version: u16, kind: u16, body: &[u8]) -> Vec<u8> {
    let head = [
        b"larder-h".to_vec(),
        version.to_le_bytes().into(),
        kind.to_le_bytes().into(),
    ];
    [&head.concat(), body].concat()
}

/// Connects, sends these messages, and returns the first answer. `None` if the holder closed the connection.
async fn hears(socket: &Path, says: &[Vec<u8>]) -> Option<(u16, Vec<u8>, Option<OwnedFd>)> {
    let packets = Packets::connect(socket).expect("a holder");
    for message in says {
        packets.send(message, None).await.expect("it listens");
    }
    let mut buffer = [0; 8192];
    let (length, mut fds) = packets.receive(&mut buffer).await.ok()?;
    let bytes = &buffer[..length];
    let kind = u16::from_le_bytes(bytes.get(10..12)?.try_into().ok()?);
    assert_eq!(&bytes[..8], b"larder-h");
    Some((kind, bytes[12..].to_vec(), fds.pop()))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn what_is_no_peer_is_refused_in_words_and_hurts_nothing() {
    let setup = Setup::new();
    let mut holder = setup.holder(&[]);
    let _daemon = setup.daemon(0);
    let refused = |says: &[Vec<u8>]| {
        let heard = runtime().block_on(hears(&setup.socket(), says));
        let (kind, body, _) = heard.expect("a word");
        assert_eq!(kind, REFUSED, "{says:?}");
        String::from_utf8(body).expect("words")
    };
    let hello = |role: u8| message(1, HELLO, &[role]);
    assert!(refused(&[message(9, HELLO, &[1])]).contains("version 9"));
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 8000],
        message(1, HELLO, &[7]),
        message(1, READY, &[]),
        message(1, 99, &[]),
    ] {
        assert!(refused(&[garbage]).contains("does not speak"));
    }
    // A daemon sends a connection without its descriptor.
    let bare = message(1, CONNECTION, &[1; 12]);
    assert!(refused(&[hello(1), bare]).contains("does not speak"));
    assert!(holder.is_running());
    read(&setup.made(1), 1).expect("the daemon serves");
}

/// By a connection's numbers the holder aborts it: a daemon cannot name another program's.
#[test]
fn a_connection_that_no_holder_has_made_is_not_taken() {
    let setup = Setup::new();
    let holder = setup.holder(&[]);
    let daemon = setup.daemon(2);
    let gives = async {
        let packets = Packets::connect(&setup.socket()).expect("a holder");
        let any = fs::File::open("/dev/null").expect("a file");
        let foreign = [&7_u64.to_le_bytes()[..], &1_u32.to_le_bytes()].concat();
        let foreign = message(1, CONNECTION, &foreign);
        packets.send(&message(1, HELLO, &[1]), None).await?;
        packets.send(&foreign, Some(any.as_fd())).await?;
        packets.send(&message(1, READY, &[]), None).await?;
        until("it is refused", || holder.log().contains("is not taken"));
        std::io::Result::Ok(())
    };
    runtime().block_on(gives).expect("the holder listens");
    assert!(!holder.log().contains("gives a connection back"));
    setup.until_told(&daemon, "held true");
    read(&setup.made(1), 1).expect("the daemon serves again");
}

#[test]
fn only_the_daemons_user_may_connect() {
    let setup = Setup::new();
    fs::set_permissions(
        setup.dir(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("a directory");
    let _holder = setup.holder(&["--daemon-uid", "65534"]);
    let socket = fs::metadata(setup.socket()).expect("a socket");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&socket), 65534);
    // The same user is refused as an operator.
    let larder = env!("CARGO_BIN_EXE_larder");
    let open = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", "--", larder, "--version"])
        .output();
    if !open.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: user 65534 may not run {larder}");
        return;
    }
    let asked = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--clear-groups",
            "--",
            larder,
            "hold",
            "--uninstall",
            "--socket",
        ])
        .arg(setup.socket())
        .output()
        .expect("setpriv");
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.contains("may not connect as Operator"), "{said}");
}

/// The kernel sends INIT once. A daemon that dies after it took INIT must not lose it.
#[test]
fn init_that_a_daemon_has_taken_and_not_answered_comes_again() {
    let setup = Setup::new();
    let _holder = setup.holder(&[]);
    let hello = message(1, HELLO, &[1]);
    let ready = message(1, READY, &[]);
    let heard = runtime().block_on(hears(&setup.socket(), &[hello, ready]));
    let (kind, _, fd) = heard.expect("a connection");
    assert_eq!(kind, CONNECTION);
    let mut connection = fs::File::from(fd.expect("a descriptor"));
    let mut request = vec![0; 65_536];
    let mut length = 0;
    until("INIT", || {
        length = connection.read(&mut request).unwrap_or(0);
        length > 0
    });
    assert_eq!(request[4], 26, "INIT");
    assert!(!larder::sys::fuse::is_over(connection.as_fd()));
    drop(connection);
    let _daemon = setup.daemon(0);
    read(&setup.made(1), 1).expect("INIT is answered");
}

//! Floods of connections: strangers, idle clients and unfinished requests keep no client out, and use memory for a
//! short time only (promises P19 and P27).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use larder_tests::http::{self, Call};
use larder_tests::members::Cluster;
use larder_tests::node::Node;
use larder_tests::scene::{Scene, eventually};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

const KIB: usize = 1 << 10;

/// Addresses of this machine that the configuration below does not allow.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

async fn connect_from(from: Ipv4Addr, to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind(SocketAddr::new(from.into(), 0))
        .expect("an address");
    let to = to.parse().expect("an address");
    socket.connect(to).await.expect("a connection")
}

/// Opens connections that send `part` of a request and nothing more.
async fn half(from: Ipv4Addr, to: &str, count: usize, part: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut tcp = connect_from(from, to).await;
        // larder may have closed a refused connection already.
        let _ = tcp.write_all(part).await;
        held.push(tcp);
    }
    held
}

/// Anonymous resident memory, in MiB.
fn memory(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        / 1024
}

async fn answers(url: &str) -> bool {
    let answer = tokio::time::timeout(Duration::from_secs(2), http::get(url, &[])).await;
    matches!(answer, Ok(Ok(answer)) if matches!(answer.status, 200 | 401))
}

/// Asks until it gets an answer, long before idle connections end.
async fn until_answered(url: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !answers(url).await {
        assert!(Instant::now() < deadline, "{url} is not answered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn strangers_take_no_place() {
    let scene = Scene::with(|node| node.config("[registry]\nallow_from = [\"127.0.0.1\"]\n")).await;
    let url = format!("{}/v2/", scene.node.url());
    let addr = scene.node.addr();
    // A stranger that sends a request gets the reason.
    let told = Call::get(&url).from_address(STRANGER).send().await;
    let told = told.expect("an answer");
    assert_eq!(told.status, 403, "{}", told.text());
    assert!(told.text().contains("127.0.0.2"), "{}", told.text());

    let mut strangers = half(STRANGER, addr, 2200, b"").await;
    strangers.extend(
        half(
            STRANGER,
            addr,
            100,
            b"GET /v2/ HTTP/1.1\r\nhost: localhost\r\n",
        )
        .await,
    );
    for _ in 0..10 {
        assert!(answers(&url).await, "strangers keep a client out");
    }
    // The connections end within seconds, not within the minute that a client has.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    for tcp in &mut strangers {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout_at(deadline, tcp.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a stranger's connection is kept");
        assert!(!rest.starts_with(b"HTTP/1.1 2"));
    }
    let turned_away = scene.node.metric("larder_turned_away_total").await;
    assert!(turned_away > Some(1000.0), "{turned_away:?}");
    let told = Call::get(&url).from_address(STRANGER).send().await;
    assert_eq!(
        told.expect("an answer").status,
        403,
        "places are free again"
    );
}

#[tokio::test]
async fn idle_connections_give_way() {
    let scene = Scene::new().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 100_000_000);
    // A client whose answer is under way keeps its place, however many others come.
    let mut working = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    let first = working.read_exactly(1).await;
    first.expect("the first byte");
    let idle = half(Ipv4Addr::LOCALHOST, scene.node.addr(), 2100, b"").await;
    until_answered(&format!("{}/v2/", scene.node.url())).await;
    drop(idle);
    let rest = working.rest().await;
    assert!(rest.complete, "{:?}", rest.error);

    let telemetry = scene.node.telemetry();
    let idle = half(
        Ipv4Addr::LOCALHOST,
        telemetry,
        300,
        b"GET /livez HTTP/1.1\r\n",
    )
    .await;
    until_answered(&format!("http://{telemetry}/livez")).await;
    drop(idle);
}

#[tokio::test]
async fn unfinished_heads_cost_little_and_their_memory_returns() {
    let scene = Scene::new().await;
    let url = format!("{}/v2/", scene.node.url());
    until_answered(&url).await;
    let before = memory(&scene.node);
    let long = "a".repeat(300 * KIB);
    let part = format!("GET /v2/ HTTP/1.1\r\nhost: localhost\r\nx: {long}");
    let just = &part.as_bytes()[..60 * KIB];
    let mut held = half(Ipv4Addr::LOCALHOST, scene.node.addr(), 1900, just).await;
    held.extend(half(Ipv4Addr::LOCALHOST, scene.node.addr(), 100, part.as_bytes()).await);
    eventually("all is read", || scene.node.unread_and_open().0 == 0).await;
    let flooded = memory(&scene.node);
    assert!(answers(&url).await, "a client is kept out");
    drop(held);
    eventually("memory returns", || memory(&scene.node) < before + 40).await;
    // 2,000 heads of 64 KiB, in buffers that grow by doubling.
    assert!(flooded < before + 270, "{before} MiB, then {flooded} MiB");
    until_answered(&url).await;
}

/// Sends bytes and gives what comes back until the end, or until nothing comes for two seconds.
async fn told(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    let _ = io.write_all(bytes).await;
    let mut answer = Vec::new();
    let silence = Duration::from_secs(2);
    while let Ok(Ok(read)) = tokio::time::timeout(silence, io.read_buf(&mut answer)).await {
        if read == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

async fn unix(path: &Path) -> UnixStream {
    UnixStream::connect(path).await.expect("a connection")
}

async fn tcp(addr: &str) -> TcpStream {
    TcpStream::connect(addr).await.expect("a connection")
}

#[tokio::test]
async fn heads_have_a_bound_on_every_port() {
    let config = "[telemetry]\nexpose = \"127.0.0.1:0\"\n";
    let cluster = Cluster::of(1).tls_off().config(config).start().await;
    let node = cluster.node(0);
    let listen = node.admin("/status").await["listen"].clone();
    let address = |name: &str| {
        let address = listen[name].as_str();
        address
            .unwrap_or_else(|| panic!("no {name} in {listen}"))
            .to_owned()
    };
    let head = |path: &str, header: usize, end: &str| {
        let header = "b".repeat(header);
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\na: {header}{end}"
        );
        head.into_bytes()
    };
    for (port, path) in [
        ("registry", "/v2/"),
        ("telemetry", "/livez"),
        ("exposed", "/livez"),
        ("peers", "/larder/v1/alive"),
        ("admin", "/status"),
    ] {
        let send = async |bytes: &[u8]| match port {
            "admin" => told(unix(&node.socket()).await, bytes).await,
            port => told(tcp(&address(port)).await, bytes).await,
        };
        let answer = send(&head(path, 48 * KIB, "\r\n\r\n")).await;
        let fine = answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 401");
        assert!(fine, "{port}: {answer:.200}");
        for (length, end) in [(66 * KIB, "\r\n\r\n"), (66 * KIB, ""), (300 * KIB, "")] {
            let answer = send(&head(path, length, end)).await;
            assert!(
                answer.starts_with("HTTP/1.1 431 "),
                "{port}, {length}: {answer:.200}"
            );
        }
    }
}

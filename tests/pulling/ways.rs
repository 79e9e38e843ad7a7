//! Ways to a registry: proxies from the environment, certificates that larder trusts, and certificates that larder
//! shows (promise P26).

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder_tests::fake::FakeRegistry;
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The first line of a request to the proxy, and its credentials.
type Passed = (String, Option<String>);

/// A proxy that wants a password, and connects everything to one address.
struct Proxy {
    address: String,
    seen: Arc<Mutex<Vec<Passed>>>,
}

impl Proxy {
    async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (to, noted) = (to.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    let _ = Self::serve(stream, &to, &noted).await;
                });
            }
        });
        Self { address, seen }
    }

    async fn serve(
        mut client: TcpStream,
        to: &str,
        seen: &Mutex<Vec<Passed>>,
    ) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let shown = head.lines().find_map(|line| {
            line.to_lowercase()
                .starts_with("proxy-authorization: ")
                .then(|| line[21..].to_owned())
        });
        seen.lock()
            .expect("no panic")
            .push((first.clone(), shown.clone()));
        // ann:right
        if shown.as_deref() != Some("Basic YW5uOnJpZ2h0") {
            let refusal =
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
            return client.write_all(refusal).await;
        }
        let mut parts = first.split(' ');
        let (method, url) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let path = url
            .strip_prefix("http://")
            .and_then(|rest| Some(&rest[rest.find('/')?..]));
        let path = path.ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut passed = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        for line in lines.filter(|line| !line.is_empty()) {
            if !line.to_lowercase().starts_with("proxy-") {
                passed.push_str(line);
                passed.push_str("\r\n");
            }
        }
        passed.push_str("\r\n");
        let mut server = TcpStream::connect(to).await?;
        server.write_all(passed.as_bytes()).await?;
        copy_bidirectional(&mut client, &mut server)
            .await
            .map(|_| ())
    }

    fn seen(&self) -> Vec<Passed> {
        self.seen.lock().expect("no panic").clone()
    }
}

async fn status(node: &Node, registry: &str, path: &str) -> u16 {
    let url = format!("{}/v2/a/b/{path}?ns={registry}", node.url());
    http::get(&url, &[]).await.expect("an answer").status
}

#[tokio::test]
async fn a_proxys_password_is_shown_for_plain_http_and_no_proxy_is_read_as_go_reads_it() {
    let fake = FakeRegistry::start().await;
    let blob = fake.put_blob_of("a/b", 1, 100_000);
    let path = format!("blobs/{blob}");
    for (no_proxy, by_proxy) in [
        ("", true),
        ("other.test,registry.test:81", true),
        ("*.registry.test", true),
        ("registry.test:80", false),
        ("*.test", false),
        ("test", false),
    ] {
        let proxy = Proxy::start(fake.host()).await;
        let node = Node::builder()
            .upstream_at("registry.test", "http://registry.test")
            .env("HTTP_PROXY", format!("http://ann:right@{}", proxy.address))
            .env("NO_PROXY", no_proxy)
            .start()
            .await;
        let got = status(&node, "registry.test", &path).await;
        let seen = proxy.seen();
        assert_eq!(
            (got == 200, !seen.is_empty()),
            (by_proxy, by_proxy),
            "{no_proxy:?}: {got}, {seen:?}"
        );
        assert!(!node.log().contains("right"), "the password is in the log");
        // No registry gets the proxy's password.
        let leaked = fake
            .requests()
            .iter()
            .any(|seen| format!("{seen:?}").contains("YW5uOnJpZ2h0"));
        assert!(!leaked);
    }
}

/// TLS in front of a registry, with a configuration that can be changed.
struct Front {
    host: String,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Front {
    async fn start(to: String, config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let config = Arc::new(Mutex::new(config));
        let current = Arc::clone(&config);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::clone(&current.lock().expect("no panic")));
                let to = to.clone();
                tokio::spawn(async move {
                    let mut tls = acceptor.accept(stream).await?;
                    let mut server = TcpStream::connect(to).await?;
                    copy_bidirectional(&mut tls, &mut server).await
                });
            }
        });
        Self { host, config }
    }

    fn change(&self, config: Arc<ServerConfig>) {
        *self.config.lock().expect("no panic") = config;
    }
}

/// A certificate and its key.
struct Pair {
    certificate: Certificate,
    params: CertificateParams,
    key: KeyPair,
}

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {ca}"));
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

/// A certificate as `openssl req -x509` makes it: it calls itself an authority.
fn self_signed(name: &str) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let params = params(name, true);
    let certificate = params.self_signed(&key).expect("a certificate");
    Pair {
        certificate,
        params,
        key,
    }
}

fn authority(name: &str) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let mut params = params(name, true);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).expect("a certificate");
    Pair {
        certificate,
        params,
        key,
    }
}

fn signed(name: &str, by: &Pair) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let params = params(name, false);
    let issuer = Issuer::from_params(&by.params, &by.key);
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    Pair {
        certificate,
        params,
        key,
    }
}

fn server(pair: &Pair, clients: Option<&Pair>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("protocol versions");
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(authority.certificate.der().clone())
                .expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
        None => builder.with_no_client_auth(),
    };
    let chain: Vec<CertificateDer<'static>> = vec![pair.certificate.der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.key.serialize_der()));
    Arc::new(builder.with_single_cert(chain, key).expect("a certificate"))
}

const ADDRESS: &str = "127.0.0.1";

#[tokio::test]
async fn a_self_signed_servers_certificate_is_trusted_and_nothing_else_of_its_kind() {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{}");
    let named = self_signed(ADDRESS);
    let front = Front::start(fake.host(), server(&named, None)).await;
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.pem");
    let write = |pem: String| std::fs::write(&ca, pem).expect("a file");
    let config = format!(
        "[tags]\nwhen_unreachable = \"fail\"\n[upstreams.\"r.example\"]\nendpoints = [\"https://{}\"]\nca = \"{}\"\n",
        front.host,
        ca.display()
    );
    let other = self_signed(ADDRESS);
    let elsewhere = self_signed("127.0.0.2");
    let real = authority("an authority");
    for (what, trusted, shown, works) in [
        ("itself", &named, &named, true),
        ("another of the same name", &named, &other, false),
        (
            "one that it has signed",
            &named,
            &signed(ADDRESS, &named),
            false,
        ),
        ("itself at another address", &elsewhere, &elsewhere, false),
        ("an authority's", &real, &signed(ADDRESS, &real), true),
        ("one of another authority", &real, &named, false),
    ] {
        write(trusted.certificate.pem());
        front.change(server(shown, None));
        // A new node, so that no connection of the case before is used.
        let node = Node::builder().config(config.as_str()).start().await;
        let got = status(&node, "r.example", "manifests/v1").await;
        assert_eq!(got == 200, works, "{what}: {got}\n{}", node.log());
    }
    // Both in one file.
    write(named.certificate.pem() + &real.certificate.pem());
    let node = Node::builder().config(config.as_str()).start().await;
    for shown in [&signed(ADDRESS, &real), &named] {
        front.change(server(shown, None));
        assert_eq!(status(&node, "r.example", "manifests/v1").await, 200);
    }
}

fn write_pair(dir: &Path, pair: &Pair) {
    // The key is replaced first, as in some rotations: for a moment key and certificate do not match.
    std::fs::write(dir.join("key.pem"), pair.key.serialize_pem()).expect("a file");
    std::fs::write(dir.join("cert.pem"), pair.certificate.pem()).expect("a file");
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_read_again_when_it_changes() {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{}");
    let (servers, first, second) = (
        authority("servers"),
        authority("first"),
        authority("second"),
    );
    let own = signed(ADDRESS, &servers);
    let front = Front::start(fake.host(), server(&own, Some(&first))).await;
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(dir.path().join("ca.pem"), servers.certificate.pem()).expect("a file");
    let upstream = format!(
        "[tags]\nwhen_unreachable = \"fail\"\n[upstreams.\"r.example\"]\nendpoints = [\"https://{}\"]\nca = \"{}\"\n",
        front.host,
        at("ca.pem")
    );
    let bare = Node::builder().config(upstream.as_str()).start().await;
    assert_eq!(status(&bare, "r.example", "manifests/v1").await, 503);

    write_pair(dir.path(), &signed("a node", &first));
    let config = format!(
        "{upstream}client_cert = \"{}\"\nclient_key = \"{}\"\n",
        at("cert.pem"),
        at("key.pem")
    );
    let node = Node::builder().config(config.as_str()).start().await;
    assert_eq!(status(&node, "r.example", "manifests/v1").await, 200);
    assert_eq!(fake.count(|seen| seen.method == "GET"), 1);

    // Files that cannot be used leave the earlier certificate in force.
    std::fs::write(dir.path().join("cert.pem"), "nothing").expect("a file");
    let broken = Instant::now();
    while broken.elapsed() < Duration::from_secs(6) {
        assert_eq!(status(&node, "r.example", "manifests/v1").await, 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    front.change(server(&own, Some(&second)));
    write_pair(dir.path(), &signed("a node", &second));
    // Open connections were made with the old certificate: a new node begins with none of them.
    let deadline = Instant::now() + Duration::from_secs(20);
    let fresh = Node::builder().config(config.as_str()).start().await;
    assert_eq!(status(&fresh, "r.example", "manifests/v1").await, 200);
    loop {
        let log = node.log();
        if log.contains("read again and") {
            break;
        }
        assert!(Instant::now() < deadline, "it is not read again");
        assert_eq!(status(&node, "r.example", "manifests/v1").await, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status(&node, "r.example", "manifests/v1").await, 200);
    for node in [&bare, &node, &fresh] {
        assert!(!node.log().contains("PRIVATE KEY"));
    }
}

//! Neither a token server nor a redirect can lead larder, or a secret, to an address where it should not go (promise
//! P20). `tests/correctness` shows the same for the names in a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_tests::fake::{FakeRegistry, Fault, Match, Target};
use larder_tests::http::Call;
use larder_tests::image::OCI_MANIFEST;
use tokio::net::TcpListener;

use crate::private::{Private, Who, confidential, refused};

const REPOSITORY: &str = "team/app";

/// A port of this machine that the configuration does not name, with a count of its connections.
struct Trap {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Trap {
    async fn set() -> Self {
        let first = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = first.local_addr().expect("an address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let mut listeners = vec![first];
        for host in ["127.0.0.2", "127.255.255.254", "[::1]"] {
            // A machine may have no IPv6.
            listeners.extend(TcpListener::bind(format!("{host}:{port}")).await.ok());
        }
        for listener in listeners {
            let counted = Arc::clone(&connections);
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, connections }
    }

    /// Every way to write this machine, and every metadata service.
    fn places(&self) -> Vec<String> {
        let port = self.port;
        let own = [
            "127.0.0.1",
            "127.1",
            "127.0.0.2",
            "127.255.255.254",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "0",
            "0.0.0.0",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:7f00:0001]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
        ];
        let metadata = [
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "0xa9.0xfe.0xa9.0xfe",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[64:ff9b::a9fe:a9fe]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "100.100.100.200",
            "168.63.129.16",
            "169.254.170.2",
        ];
        let own = own.iter().map(|host| format!("{host}:{port}"));
        let metadata = metadata.iter().map(|host| (*host).to_owned());
        own.chain(metadata).collect()
    }
}

struct Place {
    fake: FakeRegistry,
    scene: Private,
    trap: Trap,
    owner: Who,
    digest: String,
    content: bytes::Bytes,
}

impl Place {
    async fn new() -> Self {
        let fake = FakeRegistry::start().await;
        let owner = Who::new("owner");
        let content = confidential("blob");
        let digest = fake.put_blob(REPOSITORY, content.clone());
        fake.put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, content.clone());
        let scene = Private::before(&[&fake]).await;
        Self {
            fake,
            scene,
            trap: Trap::set().await,
            owner,
            digest,
            content,
        }
    }

    /// Asks with a secret and without one: neither request leads anywhere.
    async fn leads_nowhere(&self, what: &str) {
        for who in [&Who::Nobody, &Who::Sends(self.owner.basic())] {
            for url in [
                self.scene.blob(&self.fake, REPOSITORY, &self.digest),
                self.scene.manifest(&self.fake, REPOSITORY, "v1"),
            ] {
                let answer = self.scene.ask(who, Call::get(url)).await;
                refused(what, &answer, &self.content);
                assert_eq!(answer.header("location"), None, "{what}");
            }
        }
    }

    async fn end(self) {
        assert_eq!(
            self.trap.connections.load(Ordering::SeqCst),
            0,
            "it was connected to"
        );
        self.scene.end(&[&self.fake]).await;
    }
}

#[tokio::test]
async fn no_realm_leads_to_this_node_or_to_a_metadata_service() {
    let place = Place::new().await;
    for to in place.trap.places() {
        for scheme in ["http", "https"] {
            place.fake.clear_faults();
            let realm = format!("{scheme}://{to}/token");
            let challenge = format!(
                "Bearer realm=\"{realm}\",service=\"x\",scope=\"repository:{REPOSITORY}:pull\""
            );
            let fault = Fault::Status {
                code: 401,
                headers: vec![("WWW-Authenticate".to_owned(), challenge)],
                body: "".into(),
            };
            place.fake.fault(Match::any(), fault);
            place.leads_nowhere(&realm).await;
        }
    }
    // The secret went nowhere, not even to the registry that asked for it.
    assert_eq!(place.fake.count(|seen| seen.authorization.is_some()), 0);
    place.end().await;
}

#[tokio::test]
async fn no_redirect_leads_to_this_node_or_to_a_metadata_service() {
    let place = Place::new().await;
    for to in place.trap.places() {
        for url in [
            format!("http://{to}/v2/x"),
            format!("https://{to}/v2/x"),
            format!("//{to}/v2/x"),
        ] {
            place.fake.clear_faults();
            place.fake.fault(
                Match::any(),
                Fault::Redirect {
                    to: Target::Url(url.clone()),
                    status: 307,
                },
            );
            place.leads_nowhere(&url).await;
        }
    }
    place.end().await;
}

/// A token server may not send the secret on either.
#[tokio::test]
async fn no_realm_redirects_to_this_node_or_to_a_metadata_service() {
    let place = Place::new().await;
    place.fake.require_bearer(REPOSITORY, &[place.owner.pair()]);
    for status in [301, 302, 303, 307, 308] {
        for to in place.trap.places() {
            for url in [format!("http://{to}/token"), format!("https://{to}/token")] {
                place.fake.clear_faults();
                let redirect = Fault::Redirect {
                    to: Target::Url(url.clone()),
                    status,
                };
                place.fake.fault(Match::token(), redirect);
                place.leads_nowhere(&url).await;
            }
        }
    }
    place.end().await;
}

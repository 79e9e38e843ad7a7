//! A loopback address that the operator has opened for one registry is not open to another registry (promise P20).
//! Takes root.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_tests::fake::{FakeRegistry, Fault, Match, Target};
use larder_tests::hosts::Net;
use larder_tests::http;
use larder_tests::node::Node;
use tokio::net::TcpListener;

#[tokio::test]
async fn no_registry_leads_to_the_loopback_endpoint_of_another() {
    let net = Net::new(1);
    let host = net.host(0);
    let fake = FakeRegistry::start_in(net.upstream()).await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let bound = host.run(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        port
    });
    let port = bound.await;
    let config = format!(
        "[upstreams.\"elsewhere.test\"]\nendpoints = [\"{}\"]\n\
         [upstreams.\"local.test\"]\nendpoints = [\"http://127.0.0.1:{port}\"]\n",
        fake.url()
    );
    let node = Node::builder().config(config).host(host).start().await;
    let digest = format!("sha256:{}", "ab".repeat(32));
    for place in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("127.1:{port}"),
    ] {
        let challenge = format!("Bearer realm=\"http://{place}/token\",service=\"x\"");
        for fault in [
            Fault::Redirect {
                to: Target::Url(format!("http://{place}/v2/a/b/blobs/{digest}")),
                status: 307,
            },
            Fault::Status {
                code: 401,
                headers: vec![("WWW-Authenticate".to_owned(), challenge)],
                body: "".into(),
            },
        ] {
            fake.clear_faults();
            let case = format!("{place} {fault:?}");
            fake.fault(Match::any(), fault);
            for path in ["manifests/v1".to_owned(), format!("blobs/{digest}")] {
                let url = format!("{}/v2/a/b/{path}?ns=elsewhere.test", node.url());
                let answer = node.near(async move { http::get(&url, &[]).await }).await;
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 403, "{case}: {}", answer.text());
            }
        }
    }
    assert!(fake.requests().len() >= 12, "it was asked");
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

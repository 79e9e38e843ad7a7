//! No client can use larder to reach an address that it should not (promise P20).

use std::time::Duration;

use larder_tests::fake::{FakeRegistry, Fault, Match, Target};
use larder_tests::http::{self, Response};
use larder_tests::node::Node;
use larder_tests::scene::Scene;

fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

/// GET and HEAD, manifests and blobs, in both addressings where the name allows it.
async fn ask(node: &Node, registry: &str) -> Vec<(String, Response)> {
    let encoded = registry.replace('[', "%5B").replace(']', "%5D");
    let mut answers = Vec::new();
    for what in [
        "manifests/v1".to_owned(),
        format!("blobs/{}", digest()),
        "tags/list".to_owned(),
    ] {
        for path in [
            format!("/v2/a/b/{what}?ns={encoded}"),
            format!("/v2/{encoded}/a/b/{what}"),
        ] {
            let url = format!("{}{path}", node.url());
            for answer in [http::get(&url, &[]).await, http::head(&url, &[]).await] {
                answers.push((path.clone(), answer.expect("an answer")));
            }
        }
    }
    answers
}

#[tokio::test]
async fn own_addresses_in_every_spelling() {
    let victim = FakeRegistry::start().await;
    let secure = FakeRegistry::start_tls().await;
    let node = Node::builder().start().await;
    for fake in [&victim, &secure] {
        let port = fake.host().rsplit_once(':').expect("a port").1.to_owned();
        for host in [
            "127.0.0.1",
            "localhost",
            "127.1",
            "127.0.0.2",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "0",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "LOCALHOST",
            "localhost.",
        ] {
            for (path, answer) in ask(&node, &format!("{host}:{port}")).await {
                // Refused as an address, as a name, or unknown to DNS. With prefix addressing, some are no registry at
                // all and mean Docker Hub, which cannot be reached here.
                assert!(
                    matches!(answer.status, 400 | 403 | 503),
                    "{path}: {}",
                    answer.text()
                );
            }
        }
    }
    for fake in [&victim, &secure] {
        assert_eq!((fake.connections(), fake.requests().len()), (0, 0));
    }
    // Names that are plainly addresses are refused as addresses.
    let host = victim.host();
    for (path, answer) in ask(&node, &host).await {
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
        assert!(answer.body.is_empty() || answer.json()["errors"][0]["code"] == "DENIED");
    }
    assert_eq!(victim.connections(), 0);
}

#[tokio::test]
async fn metadata_services() {
    let node = Node::builder().start().await;
    for host in [
        "169.254.169.254",
        "169.254.169.254:80",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
    ] {
        for (path, answer) in ask(&node, host).await {
            assert_eq!(answer.status, 403, "{path}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn redirects_to_what_nobody_named() {
    let victim = FakeRegistry::start().await;
    let digest = victim.put_blob("a/b", "secret");
    let scene = Scene::new().await;
    scene.fake.put_blob_under(
        "a/b",
        &digest,
        &larder_tests::fake::Content::bytes("secret"),
    );
    let port = victim.host().rsplit_once(':').expect("a port").1.to_owned();
    for to in [
        format!("http://127.0.0.1:{port}/v2/a/b/blobs/{digest}"),
        format!("http://localhost:{port}/v2/a/b/blobs/{digest}"),
        format!("http://2130706433:{port}/v2/a/b/blobs/{digest}"),
        format!("http://[::ffff:127.0.0.1]:{port}/v2/a/b/blobs/{digest}"),
        format!("//127.0.0.1:{port}/v2/a/b/blobs/{digest}"),
        format!("http://user:pw@127.0.0.1:{port}/v2/a/b/blobs/{digest}"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
        "http://".to_owned(),
        String::new(),
    ] {
        scene.fake.clear_faults();
        let target = Target::Url(to.clone());
        scene.fake.fault(
            Match::any(),
            Fault::Redirect {
                to: target,
                status: 307,
            },
        );
        for url in [
            scene.blob("a/b", &digest),
            scene.manifest("a/b", "v1"),
            scene.path("a/b/tags/list"),
        ] {
            for answer in [http::get(&url, &[]).await, http::head(&url, &[]).await] {
                let answer = answer.expect("an answer");
                assert!(
                    matches!(answer.status, 403 | 503),
                    "{to}: {} {}",
                    answer.status,
                    answer.text()
                );
                assert_eq!(answer.header("location"), None);
            }
        }
    }
    assert_eq!((victim.connections(), victim.requests().len()), (0, 0));
    scene.fake.clear_faults();
    let answer = http::get(&scene.blob("a/b", &digest), &[]).await;
    assert_eq!(answer.expect("an answer").text(), "secret");
}

#[tokio::test]
async fn token_realms_that_nobody_named() {
    let victim = FakeRegistry::start().await;
    let scene = Scene::new().await;
    for realm in [
        format!("http://{}/token", victim.host()),
        format!(
            "http://localhost:{}/token",
            victim.host().rsplit_once(':').expect("a port").1
        ),
        "http://169.254.169.254/token".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        scene.fake.clear_faults();
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"x\",scope=\"repository:a/b:pull\"");
        let headers = vec![("WWW-Authenticate".to_owned(), challenge)];
        scene.fake.fault(
            Match::any(),
            Fault::Status {
                code: 401,
                headers,
                body: "".into(),
            },
        );
        for url in [scene.blob("a/b", &digest()), scene.manifest("a/b", "v1")] {
            let asked = tokio::time::timeout(Duration::from_secs(6), http::get(&url, &[])).await;
            let answer = asked.expect("in time").expect("an answer");
            assert!(
                matches!(answer.status, 401 | 403 | 503),
                "{realm}: {}",
                answer.text()
            );
        }
    }
    assert_eq!((victim.connections(), victim.requests().len()), (0, 0));
}

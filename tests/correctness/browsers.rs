//! A browser on the node runs other people's pages. No such page reaches the registry port or the status page, while
//! larder answers every client of a registry (promises P19 and P20).

use larder_tests::http::{self, Call};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::scene::Scene;

/// Sends a head to `address`, line by line, and gives the status and the whole answer.
async fn send(address: &str, lines: &[&str]) -> (u16, String) {
    let head = format!("{}\r\n\r\n", lines.join("\r\n"));
    let answer = http::raw(address, head.as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer.expect("an answer")).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or(0), answer)
}

async fn scene(config: &str) -> Scene {
    let scene = Scene::with(|node| node.config(config)).await;
    scene
        .fake
        .put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{\"schemaVersion\":2}");
    scene
}

/// This machine's name, as the kernel has it.
fn own_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.expect("a name").trim().to_owned()
}

#[tokio::test]
async fn every_clients_head_request_is_answered() {
    let scene = scene("[registry]\nallow_hosts = [\"mirror.corp.example\"]\n").await;
    let (address, own) = (scene.node.addr().to_owned(), own_name());
    let (_, port) = address.rsplit_once(':').expect("a port");
    let accept = "Accept: application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, */*";
    let by_ns = format!("/v2/a/b/manifests/v1?ns={}", scene.fake.host());
    let by_prefix = format!("/v2/{}/a/b/manifests/v1", scene.fake.host());
    // Each client's way to name the node, and its other headers. A pod reaches the port by the node's address or name.
    for (client, path, host, version, others) in [
        (
            "containerd/2.3.4",
            &by_ns,
            format!("127.0.0.1:{port}"),
            "1.1",
            &["Accept-Encoding: zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"][..],
        ),
        (
            "containerd/1.6.20",
            &by_ns,
            format!("localhost:{port}"),
            "1.1",
            &["Accept-Encoding: gzip"],
        ),
        (
            "containerd/2.3.4",
            &by_ns,
            format!("[::1]:{port}"),
            "1.1",
            &[],
        ),
        (
            "cri-o/1.36.0 go/go1.25",
            &by_prefix,
            format!("127.0.0.1:{port}"),
            "1.1",
            &["Docker-Distribution-Api-Version: registry/2.0"],
        ),
        (
            "containers/5.36.1 (github.com/containers/image)",
            &by_prefix,
            format!("localhost:{port}"),
            "1.1",
            &["Docker-Distribution-Api-Version: registry/2.0"],
        ),
        (
            "docker/29.7.2 go/go1.25 git-commit/x kernel/6.1 os/linux arch/amd64 UpstreamClient(Docker-Client/29.7.2 \\(linux\\))",
            &by_prefix,
            format!("127.0.0.1:{port}"),
            "1.1",
            &["Connection: close"],
        ),
        (
            "containerd/2.2+unknown",
            &by_ns,
            format!("localhost:{port}"),
            "1.1",
            &[],
        ),
        (
            "buildkit/v0.26",
            &by_ns,
            format!("localhost:{port}"),
            "1.1",
            &[],
        ),
        (
            "crane/0.20 go-containerregistry/0.20",
            &by_prefix,
            format!("127.0.0.1:{port}"),
            "1.1",
            &["Accept-Encoding: gzip"],
        ),
        (
            "oras-go",
            &by_prefix,
            format!("localhost:{port}"),
            "1.1",
            &["Accept-Encoding: gzip"],
        ),
        (
            "Helm/4.1",
            &by_prefix,
            format!("10.0.0.7:{port}"),
            "1.1",
            &["Accept-Encoding: gzip"],
        ),
        (
            "python-requests/2.32",
            &by_prefix,
            format!("{}:{port}", own.to_uppercase()),
            "1.1",
            &["Accept-Encoding: gzip, deflate", "Connection: keep-alive"],
        ),
        (
            "curl/8",
            &by_prefix,
            own.split('.').next().unwrap_or_default().to_owned(),
            "1.1",
            &[],
        ),
        (
            "flux/v2",
            &by_prefix,
            "Mirror.corp.example.:443".to_owned(),
            "1.1",
            &[],
        ),
        ("curl/8", &by_prefix, String::new(), "1.0", &[]),
        // A person types the URL.
        (
            "Mozilla/5.0",
            &by_prefix,
            format!("localhost:{port}"),
            "1.1",
            &[
                "Sec-Fetch-Site: none",
                "Sec-Fetch-Mode: navigate",
                "Sec-Fetch-Dest: document",
            ],
        ),
    ] {
        let agent = format!("User-Agent: {client}");
        let request = format!("GET {path} HTTP/{version}");
        let named = format!("Host: {host}");
        let mut lines = vec![request.as_str(), &agent, accept];
        if !host.is_empty() {
            lines.push(&named);
        }
        lines.extend(others);
        lines.push("Connection: close");
        let (status, answer) = send(&address, &lines).await;
        assert_eq!(status, 200, "{lines:?}: {answer}");
    }
    // In a request to a proxy, the target itself names the node.
    let absolute = format!("GET http://localhost:{port}{by_ns} HTTP/1.1");
    let (status, answer) = send(&address, &[&absolute, "Connection: close"]).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn no_page_of_another_site_gets_an_answer() {
    let scene = scene("[registry]\nallow_hosts = [\"mirror.corp.example\"]\n").await;
    let address = scene.node.addr().to_owned();
    let evil = format!("Host: {}.evil.example", own_name());
    for path in [
        format!("/v2/a/b/manifests/v1?ns={}", scene.fake.host()),
        format!("/v2/{}/a/b/tags/list", scene.fake.host()),
        "/v2/".to_owned(),
        "/token".to_owned(),
        "/".to_owned(),
    ] {
        for headers in [
            // Names that DNS may point at this node.
            &["Host: evil.example"][..],
            &["Host: evil.example:7420"],
            &["Host: localhost.evil.example"],
            &["Host: 127.0.0.1.evil.example"],
            &["Host: corp.example"],
            &["Host: x.mirror.corp.example"],
            &[evil.as_str()],
            &["Host: user@evil.example"],
            &["Host: localhost", "Host: evil.example"],
            // Requests that a page's script sends.
            &["Host: localhost", "Origin: http://evil.example"],
            &["Host: localhost", "Origin: null"],
            &["Host: 127.0.0.1", "Origin: http://127.0.0.1:3000"],
            &["Host: localhost", "Sec-Fetch-Site: cross-site"],
            &["Host: localhost", "Sec-Fetch-Site: same-site"],
            &[
                "Host: localhost",
                "Sec-Fetch-Site: cross-site",
                "Sec-Fetch-Mode: navigate",
                "Sec-Fetch-Dest: document",
            ],
        ] {
            let request = format!("GET {path} HTTP/1.1");
            let mut lines = vec![request.as_str(), "Connection: close"];
            lines.extend(headers);
            let (status, answer) = send(&address, &lines).await;
            let refused = status == 403 && answer.contains("DENIED");
            // A request with a second Host is not valid HTTP.
            assert!(
                refused || (status == 400 && headers.len() == 2),
                "{lines:?}: {answer}"
            );
            assert!(
                !answer.to_lowercase().contains("access-control-"),
                "{answer}"
            );
        }
        let absolute = format!("GET http://evil.example{path} HTTP/1.1");
        let (status, answer) = send(
            &address,
            &[&absolute, "Host: localhost", "Connection: close"],
        )
        .await;
        assert_eq!(status, 403, "{answer}");
    }
    // larder takes no secret that a page posts.
    let posted = Call::new("POST", format!("{}/token", scene.node.url()))
        .header("origin", "http://evil.example")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=password&username=u&password=p")
        .send()
        .await;
    assert_eq!(posted.expect("an answer").status, 403);
    assert_eq!(scene.fake.requests().len(), 0);
}

/// Whatever a registry calls its content, a browser neither guesses its type nor runs it.
#[tokio::test]
async fn nothing_from_upstream_runs_in_a_browser() {
    let scene = scene("").await;
    let page = "<script>alert(1)</script>";
    let blob = scene.fake.put_blob("a/b", page);
    let manifest = scene.fake.put_manifest("a/b", None, "text/html", page);
    let missing = format!("sha256:{}", "ab".repeat(32));
    for path in [
        format!("a/b/blobs/{blob}"),
        format!("a/b/manifests/{manifest}"),
        "a/b/manifests/v1".to_owned(),
        "a/b/tags/list".to_owned(),
        format!("a/b/referrers/{manifest}"),
        format!("a/b/blobs/{missing}"),
        "a/b/nonsense".to_owned(),
    ] {
        for answer in [
            http::get(&scene.path(&path), &[]).await,
            http::head(&scene.path(&path), &[]).await,
            http::get(&scene.path(&path), &[("range", "bytes=0-3")]).await,
            http::get(&scene.path(&path), &[("origin", "http://evil.example")]).await,
        ] {
            let answer = answer.expect("an answer");
            let policy = answer.header("content-security-policy").unwrap_or_default();
            assert_eq!(
                answer.header("x-content-type-options"),
                Some("nosniff"),
                "{path}"
            );
            assert!(
                policy.split("; ").any(|rule| rule == "sandbox"),
                "{path}: {policy}"
            );
            assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
        }
    }
}

/// The status page's port accepts the same hosts; a health check may send no name.
#[tokio::test]
async fn the_telemetry_port_has_the_same_names() {
    let scene = scene("[registry]\nallow_hosts = [\"mirror.corp.example\"]\n").await;
    let telemetry = scene.node.telemetry().to_owned();
    let own = format!("Host: {}", own_name());
    for (path, host, wanted) in [
        ("/", "Host: mirror.corp.example:7421", 200),
        ("/", own.as_str(), 200),
        ("/", "Host: evil.example", 421),
        ("/", "Accept: */*", 421),
        ("/metrics", "Host: localhost", 200),
        ("/metrics", "Host: 10.0.0.7:7421", 200),
        ("/metrics", "Host: evil.example", 421),
        ("/readyz", "Accept: */*", 200),
        ("/livez", "Host: evil.example", 421),
    ] {
        let request = format!("GET {path} HTTP/1.1");
        let (status, answer) = send(&telemetry, &[&request, host, "Connection: close"]).await;
        assert_eq!(status, wanted, "{path} {host}: {answer}");
    }
}

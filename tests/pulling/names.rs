//! Both addressings and their combinations (promises P1 and P2).

use larder_tests::fake::{FakeRegistry, Kind};
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;

/// Puts a manifest that names its registry and repository, so that an answer shows where it came from.
fn put(fake: &FakeRegistry, registry: &str, repository: &str) -> String {
    let text = format!("{{\"schemaVersion\":2,\"from\":\"{registry}/{repository}\"}}");
    fake.put_manifest(repository, Some("v1"), OCI_MANIFEST, text.clone());
    text
}

async fn get(node: &Node, path: &str, ns: Option<&str>) -> http::Response {
    let query = ns.map_or(String::new(), |ns| format!("?ns={ns}"));
    let url = format!("{}/v2/{path}/manifests/v1{query}", node.url());
    http::get(&url, &[]).await.expect("an answer")
}

#[tokio::test]
async fn both_addressings_and_their_combinations() {
    let (hub, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let port = other.host();
    let config = format!(
        "[upstreams.\"docker.io\"]\nendpoints = [\"{}\"]\nalias = \"hub\"\n\
         [upstreams.\"ghcr.io\"]\nendpoints = [\"{url}\"]\n\
         [upstreams.\"{port}\"]\nendpoints = [\"{url}\"]\nalias = \"local\"\n",
        hub.url(),
        url = other.url(),
    );
    let node = Node::builder().config(config).start().await;
    let encoded = port.replace(':', "%3A");
    let with_port = format!("{port}/team/app");
    for (path, ns, at, repository) in [
        ("library/nginx", Some("docker.io"), &hub, "library/nginx"),
        ("nginx", Some("docker.io"), &hub, "library/nginx"),
        ("nginx", Some("index.docker.io"), &hub, "library/nginx"),
        ("nginx", Some("registry-1.docker.io"), &hub, "library/nginx"),
        ("nginx", None, &hub, "library/nginx"),
        ("library/nginx", None, &hub, "library/nginx"),
        ("owner/app", None, &hub, "owner/app"),
        ("docker.io/nginx", None, &hub, "library/nginx"),
        ("docker.io/library/nginx", None, &hub, "library/nginx"),
        ("index.docker.io/nginx", None, &hub, "library/nginx"),
        ("registry-1.docker.io/owner/app", None, &hub, "owner/app"),
        ("docker.io/nginx", Some("docker.io"), &hub, "library/nginx"),
        (
            "registry-1.docker.io/library/nginx",
            Some("docker.io"),
            &hub,
            "library/nginx",
        ),
        ("hub/nginx", None, &hub, "library/nginx"),
        ("hub/owner/app", None, &hub, "owner/app"),
        // With `ns`, an alias is a part of the repository's name.
        ("hub/nginx", Some("docker.io"), &hub, "hub/nginx"),
        ("team/app", Some("ghcr.io"), &other, "team/app"),
        ("team/app", Some("GHCR.io"), &other, "team/app"),
        ("ghcr.io/team/app", None, &other, "team/app"),
        ("ghcr.io/team/app", Some("ghcr.io"), &other, "team/app"),
        ("app", Some("ghcr.io"), &other, "app"),
        ("a/b/c/d/e", Some("ghcr.io"), &other, "a/b/c/d/e"),
        ("ghcr.io/a/b/c/d/e", None, &other, "a/b/c/d/e"),
        // larder removes the prefix only when it is the registry of `ns`.
        (
            "ghcr.io/team/app",
            Some("docker.io"),
            &hub,
            "ghcr.io/team/app",
        ),
        (
            "docker.io/nginx",
            Some("ghcr.io"),
            &other,
            "docker.io/nginx",
        ),
        ("hub/nginx", Some("ghcr.io"), &other, "hub/nginx"),
        ("team/app", Some(port.as_str()), &other, "team/app"),
        ("team/app", Some(encoded.as_str()), &other, "team/app"),
        (with_port.as_str(), None, &other, "team/app"),
        ("local/team/app", None, &other, "team/app"),
        (
            "local/team/app",
            Some(port.as_str()),
            &other,
            "local/team/app",
        ),
    ] {
        let name = if std::ptr::eq(at, &raw const hub) {
            "hub"
        } else {
            "other"
        };
        let text = put(at, name, repository);
        let answer = get(&node, path, ns).await;
        assert_eq!((answer.status, answer.text()), (200, text), "{path} {ns:?}");
        let repeated = answer.header("oci-namespace");
        match ns {
            None => assert_eq!(repeated, None, "{path}"),
            // Docker Hub's three names are one, and case does not matter.
            Some(ns) if ns.ends_with("docker.io") => assert_eq!(repeated, Some("docker.io")),
            Some(ns) => assert_eq!(
                repeated,
                Some(&*ns.replace("%3A", ":").to_lowercase()),
                "{path} {ns}"
            ),
        }
    }
    // A `hosts.toml` for every registry makes containerd ask larder also for images whose name has larder's own port.
    let own = node.addr().replace("127.0.0.1", "localhost");
    for ns in [&own, node.addr()] {
        for path in ["ghcr.io/team/app", "local/team/app"] {
            let answer = get(&node, path, Some(ns)).await;
            let there = "{\"schemaVersion\":2,\"from\":\"other/team/app\"}";
            assert_eq!(
                (answer.status, &*answer.text()),
                (200, there),
                "{path} {ns}"
            );
        }
    }
    // All of Docker Hub's names share one cache: nothing was fetched twice.
    let fetched = |seen: &larder_tests::fake::Seen| {
        seen.kind == Kind::Manifest && seen.method == "GET" && seen.repository == "library/nginx"
    };
    assert_eq!(hub.count(fetched), 1);
}

#[tokio::test]
async fn the_default_upstream_is_whom_nobody_names() {
    let fake = FakeRegistry::start().await;
    let config = format!(
        "[registry]\ndefault_upstream = \"ghcr.io\"\n[upstreams.\"ghcr.io\"]\nendpoints = [\"{}\"]\n",
        fake.url()
    );
    let node = Node::builder().config(config).start().await;
    for repository in ["team/app", "app"] {
        let text = put(&fake, "default", repository);
        let answer = get(&node, repository, None).await;
        // No `library/`: that is Docker Hub's alone.
        assert_eq!((answer.status, answer.text()), (200, text));
    }
}

#[tokio::test]
async fn an_empty_configuration_works() {
    for node in [Node::builder().config(""), Node::builder()] {
        let node = node.start().await;
        for path in ["/v2/", "/v2", "/v2/?ns=docker.io"] {
            let answer = http::get(&format!("{}{path}", node.url()), &[]).await;
            let answer = answer.expect("an answer");
            // podman and skopeo ask here alone to learn whether they should show credentials.
            assert_eq!(answer.status, 401, "{}", answer.text());
            let challenge = format!("Bearer realm=\"{}/token\"", node.url());
            let told = answer.header("www-authenticate").expect("a challenge");
            assert!(told.starts_with(&challenge), "{told}");
            let token = http::get(&format!("{}/token", node.url()), &[]).await;
            let token = token.expect("an answer").json()["token"].clone();
            let bearer = format!("Bearer {}", token.as_str().expect("a token"));
            let url = format!("{}{path}", node.url());
            let answer = http::get(&url, &[("authorization", &bearer)]).await;
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.text()), (200, "{}".to_owned()));
            assert_eq!(
                answer.header("docker-distribution-api-version"),
                Some("registry/2.0")
            );
        }
    }
}

#[tokio::test]
async fn what_the_operator_denies_is_not_asked_for() {
    let fake = FakeRegistry::start().await;
    put(&fake, "x", "team/app");
    let name = fake.host();
    let upstreams = format!("[upstreams.\"{name}\"]\nendpoints = [\"{}\"]\n", fake.url());
    for rule in [
        format!("deny = [\"{name}\"]"),
        "allow = [\"docker.io\"]".to_owned(),
        "deny = [\"127.*\"]".to_owned(),
    ] {
        let config = format!("[registry]\n{rule}\n{upstreams}");
        let node = Node::builder().config(config).start().await;
        let answer = get(&node, "team/app", Some(&name)).await;
        assert_eq!(answer.status, 403, "{rule}: {}", answer.text());
        assert_eq!(answer.json()["errors"][0]["code"], "DENIED");
    }
    assert_eq!(fake.connections(), 0);
}

/// All spellings of a registry that reach the same address are one registry: one cache, one section, one rule.
#[tokio::test]
async fn a_registry_has_one_name_however_it_is_spelled() {
    let named = [
        "registry.test",
        "Registry.TEST",
        "registry.test.",
        "registry.test:443",
        "registry.test:00443",
        "REGISTRY.test.:443",
    ];
    let v4 = [
        "127.0.0.1:5000",
        "127.0.0.1:05000",
        "127.1:5000",
        "0x7f.0.0.1:5000",
        "2130706433:5000",
        "%5B::ffff:127.0.0.1%5D:5000",
        "%5B0:0:0:0:0:FFFF:7f00:1%5D:5000",
    ];
    let v6 = [
        "%5B::1%5D:5000",
        "%5B0:0:0::0001%5D:5000",
        "%5B0::0:1%5D:005000",
    ];
    for spellings in [&named[..], &v4, &v6] {
        let fake = FakeRegistry::start().await;
        let text = put(&fake, "one", "team/app");
        // The configuration file has each spelling in turn.
        for (i, said) in spellings.iter().enumerate() {
            let said = said.replace("%5B", "[").replace("%5D", "]");
            let upstream = format!("[upstreams.\"{said}\"]\nendpoints = [\"{}\"]\n", fake.url());
            let node = Node::builder().config(upstream.clone()).start().await;
            fake.reset_counts();
            for spelling in spellings {
                let prefixed = format!("{spelling}/team/app");
                for (path, ns) in [
                    ("team/app", Some(*spelling)),
                    (&prefixed, None),
                    (&prefixed, Some(*spelling)),
                ] {
                    let answer = get(&node, path, ns).await;
                    assert_eq!(
                        (answer.status, answer.text()),
                        (200, text.clone()),
                        "{said}: {path} {ns:?}"
                    );
                }
            }
            let fetched = fake.count(|seen| seen.kind == Kind::Manifest && seen.method == "GET");
            assert_eq!(fetched, 1, "{said}: one cache");
            for rule in [
                format!("deny = [\"{said}\"]"),
                "allow = [\"docker.io\"]".to_owned(),
                format!("default_upstream = \"{said}\""),
            ] {
                let node = Node::builder().config(format!("[registry]\n{rule}\n{upstream}"));
                let node = node.start().await;
                let spelling = spellings[(i + 1) % spellings.len()];
                let answer = get(&node, "team/app", Some(spelling)).await;
                if rule.starts_with("default") {
                    assert_eq!(get(&node, "team/app", None).await.text(), text, "{rule}");
                    continue;
                }
                assert_eq!(answer.status, 403, "{rule} {spelling}: {}", answer.text());
            }
        }
    }
}

/// Patterns match a registry however it is spelled.
#[tokio::test]
async fn a_pattern_is_for_a_registry_however_either_is_spelled() {
    let fake = FakeRegistry::start().await;
    put(&fake, "x", "team/app");
    let upstream = format!(
        "[upstreams.\"registry.test\"]\nendpoints = [\"{}\"]\n",
        fake.url()
    );
    for (pattern, status) in [
        ("*.test", 403),
        ("*.TEST.", 403),
        ("registry.*:443", 403),
        ("registry.*:0443", 403),
        ("registry.test:*", 403),
        ("registry.test:80", 200),
        ("*:5000", 200),
        ("registry.test.*", 200),
    ] {
        let node =
            Node::builder().config(format!("[registry]\ndeny = [\"{pattern}\"]\n{upstream}"));
        let node = node.start().await;
        for spelling in ["registry.test", "registry.TEST.:0443", "registry.test:443"] {
            let answer = get(&node, "team/app", Some(spelling)).await;
            assert_eq!(answer.status, status, "{pattern} {spelling}");
        }
    }
}

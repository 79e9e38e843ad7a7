//! Bad input of every kind gets a clear error of the registry API. Nothing is written, and no upstream is asked
//! (promises P19 and P20).

use larder_tests::http::{Call, Response};
use larder_tests::scene::{Scene, files};

/// Sends every request. Each is refused with this status and code, and has no other effect.
async fn assert_refused(scene: &Scene, calls: Vec<(&str, String)>, status: u16, code: &str) {
    let before = files(scene.node.store());
    for (method, path) in calls {
        let call = Call::new(method, format!("{}{path}", scene.node.url()));
        let case = format!("{method} {path:.200}");
        let answer = call
            .send()
            .await
            .unwrap_or_else(|error| panic!("{case}: {error:#}"));
        assert_error(&case, &answer, method, status, code);
    }
    assert_eq!(files(scene.node.store()), before);
    assert_eq!(
        (scene.fake.connections(), scene.fake.requests().len()),
        (0, 0)
    );
}

fn assert_error(case: &str, answer: &Response, method: &str, status: u16, code: &str) {
    assert_eq!(
        (answer.status, &answer.error),
        (status, &None),
        "{case}: {}",
        answer.text()
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{case}"
    );
    if method == "HEAD" {
        assert!(answer.body.is_empty(), "{case}");
        return;
    }
    let errors = answer.json()["errors"].clone();
    let errors = errors.as_array().expect("a list of errors");
    assert_eq!(errors.len(), 1, "{case}");
    assert_eq!(errors[0]["code"], code, "{case}: {}", answer.text());
    let message = errors[0]["message"].as_str().expect("a message");
    assert!(
        !message.is_empty() && message.len() < 500,
        "{case}: {message}"
    );
    assert!(
        message.chars().all(|c| !c.is_control()),
        "{case}: {message:?}"
    );
    assert_eq!(
        answer.header("content-length"),
        Some(&*answer.body.len().to_string()),
        "{case}"
    );
}

/// GET and HEAD of each path, in both addressings.
fn reads(scene: &Scene, paths: &[String]) -> Vec<(&'static str, String)> {
    let host = scene.fake.host();
    let mut calls = Vec::new();
    for path in paths {
        for method in ["GET", "HEAD"] {
            calls.push((method, format!("/v2/{path}?ns={host}")));
            calls.push((method, format!("/v2/{host}/{path}")));
        }
    }
    calls
}

fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

#[tokio::test]
async fn names() {
    let scene = Scene::new().await;
    let long = "a".repeat(256);
    let deep = "a/".repeat(200) + "a";
    let names = [
        "UPPER",
        "a//b",
        "a/../b",
        "../a",
        "..",
        ".",
        "a/.",
        "%2e%2e/a",
        "a%2f..%2f..%2fetc",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f%2e%2e%2fa",
        "..%5c..%5ca",
        "a%00b",
        "a%0d%0ab",
        "-a",
        "a-",
        "a.",
        ".a",
        "a___b",
        "a.-b",
        "_a",
        "a%20b",
        "%C3%A9",
        "%ff%fe",
        "a:b/c",
        "a@b",
        "a+b",
        "%25%32%65",
        "a%2f",
        "%2fa",
        "~",
        "$%7Bx%7D",
        long.as_str(),
        deep.as_str(),
        "_log",
        "a/_log",
    ];
    let paths = names.iter().flat_map(|name| {
        [
            format!("{name}/manifests/v1"),
            format!("{name}/manifests/{}", digest()),
            format!("{name}/blobs/{}", digest()),
            format!("{name}/tags/list"),
            format!("{name}/referrers/{}", digest()),
        ]
    });
    let paths: Vec<_> = paths.collect();
    assert_refused(&scene, reads(&scene, &paths), 400, "NAME_INVALID").await;
}

#[tokio::test]
async fn digests() {
    let scene = Scene::new().await;
    let hex = "ab".repeat(32);
    let mut bad: Vec<_> = [
        "sha256:",
        "sha256:abc",
        "sha512:abc",
        "sha256:..",
        ":",
        "a:b",
        ":abc",
    ]
    .map(str::to_owned)
    .to_vec();
    bad.extend([
        format!("sha256:{}", hex.to_uppercase()),
        format!("SHA256:{hex}"),
        format!("sha256:{hex}0"),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{}g", &hex[1..]),
        format!("sha512:{hex}"),
        format!("md5:{}", &hex[..32]),
        format!("sha384:{}", "ab".repeat(48)),
        format!("sha256+b64:{hex}"),
        format!("sha256:{hex}%00"),
        format!("sha256%3A{hex}%20"),
        format!("sha256:sha256:{hex}"),
        format!("v1@sha256:{hex}"),
        format!("sha256:{}", "a".repeat(10_000)),
    ]);
    let mut paths = Vec::new();
    for digest in &bad {
        paths.push(format!("a/b/blobs/{digest}"));
        paths.push(format!("a/b/manifests/{digest}"));
        paths.push(format!("a/b/referrers/{digest}"));
    }
    // A blob has no tag.
    for reference in ["latest", &hex, ".", "..", "%2e%2e", "sha256-abc.sig"] {
        paths.push(format!("a/b/blobs/{reference}"));
        paths.push(format!("a/b/referrers/{reference}"));
    }
    assert_refused(&scene, reads(&scene, &paths), 400, "DIGEST_INVALID").await;
}

#[tokio::test]
async fn tags() {
    let scene = Scene::new().await;
    let long = "a".repeat(129);
    let tags = [
        ".x",
        "-x",
        "..",
        ".",
        "a%20b",
        "a%00",
        "a+b",
        "a@b",
        "%C3%A9",
        "~",
        "%2e%2e",
        "v1%0d%0aX",
        "",
        long.as_str(),
    ];
    let paths: Vec<_> = tags
        .iter()
        .map(|tag| format!("a/b/manifests/{tag}"))
        .collect();
    assert_refused(&scene, reads(&scene, &paths), 400, "TAG_INVALID").await;
}

#[tokio::test]
async fn registries() {
    let scene = Scene::new().await;
    let long = format!("{}.io", "a".repeat(300));
    let mut calls = Vec::new();
    for ns in [
        "https%3A%2F%2Fghcr.io",
        "ghcr.io/a",
        "ghcr.io%2fa",
        "user@ghcr.io",
        "user:pw@ghcr.io",
        "..",
        ".",
        "a..b",
        ".a",
        "ghcr.io:99999",
        "ghcr.io:0",
        "ghcr.io:-1",
        "ghcr.io:x",
        "ghcr.io:",
        "ghcr.io:80:80",
        "[::1",
        "[::1]x",
        "[x]:80",
        "::1",
        "%20",
        "a%20b",
        "%00",
        "a%0d%0aX:%20y",
        "a%23b",
        "a%3fb",
        "a%5cb",
        "%C3%A9.io",
        "-a.io",
        "a-.io",
        "a%25b",
        long.as_str(),
        "ghcr.io&ns=quay.io",
        "ghcr.io&ns=ghcr.io",
    ] {
        calls.push(("GET", format!("/v2/a/b/manifests/v1?ns={ns}")));
        calls.push(("HEAD", format!("/v2/a/b/blobs/{}?ns={ns}", digest())));
        calls.push(("GET", format!("/v2/a/b/tags/list?n=1&ns={ns}")));
    }
    assert_refused(&scene, calls, 400, "NAME_INVALID").await;
}

#[tokio::test]
async fn paths_that_are_not_the_apis() {
    let scene = Scene::new().await;
    let host = scene.fake.host();
    let paths = [
        "/",
        "/v1/_ping",
        "/v2x",
        "/V2/",
        "//v2/",
        "/v2/_catalog",
        "/v2/a",
        "/v2/a/b/c",
        "/v2/a/b/c/d/e",
        "/etc/passwd",
        "/../../etc/passwd",
        "/v2/a/tags/list/x",
        "/v2/a/tags",
        "/v2/a/manifest/v1",
        "/v2/a/blobs/uploads/",
        "/metrics",
        "/status",
        "/livez",
        "/favicon.ico",
        "/v2/a/b/_layer/x",
        "/v2/a/b/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd",
        "/v2/a/b/manifests/v1%2f..%2f..",
    ];
    let calls = paths.iter().flat_map(|path| {
        [
            ("GET", format!("{path}?ns={host}")),
            ("HEAD", (*path).to_owned()),
        ]
    });
    assert_refused(&scene, calls.collect(), 404, "NAME_UNKNOWN").await;
}

#[tokio::test]
async fn writes() {
    let scene = Scene::new().await;
    let before = files(scene.node.store());
    let host = scene.fake.host();
    for method in [
        "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get",
    ] {
        for path in [
            "/v2/".to_owned(),
            format!("/v2/a/b/manifests/v1?ns={host}"),
            format!("/v2/{host}/a/b/blobs/{}", digest()),
            format!("/v2/a/b/blobs/uploads/?ns={host}&mount={}", digest()),
            format!("/v2/a/b/blobs/uploads/123?ns={host}"),
            format!("/v2/UPPER/manifests/v1?ns={host}"),
            "/elsewhere".to_owned(),
            "/token/ghcr.io".to_owned(),
        ] {
            // A form may ask for a token.
            if method == "POST" && path.starts_with("/token") {
                continue;
            }
            for body in [0, 10, 1_000_000] {
                let call = Call::new(method, format!("{}{path}", scene.node.url()));
                let case = format!("{method} {path} with {body} bytes");
                let answer = call.body(vec![b'x'; body]).send().await;
                let answer = answer.unwrap_or_else(|error| panic!("{case}: {error:#}"));
                assert_error(&case, &answer, method, 405, "UNSUPPORTED");
                assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{case}");
            }
        }
    }
    assert_eq!(files(scene.node.store()), before);
    assert_eq!(scene.fake.connections(), 0);
}

/// A valid request for a repository that does not exist leaves nothing behind either.
#[tokio::test]
async fn what_does_not_exist_leaves_nothing_behind() {
    let scene = Scene::new().await;
    let before = files(scene.node.store());
    for i in 0..20 {
        for path in [
            format!("no/such{i}/manifests/v1"),
            format!("no/such{i}/manifests/{}", digest()),
            format!("no/such{i}/blobs/{}", digest()),
            format!("no/such{i}/tags/list"),
        ] {
            let answer = Call::get(scene.path(&path))
                .send()
                .await
                .expect("an answer");
            assert_eq!(answer.status, 404, "{path}");
        }
    }
    assert_eq!(files(scene.node.store()), before);
}

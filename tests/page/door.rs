//! Which visitors may see the page.

use larder_tests::http::{self, Call};
use larder_tests::scene::Scene;

/// The address that a pod shows to others has metrics and health, and nothing that reveals a name.
#[tokio::test]
async fn the_exposed_address_has_no_page() {
    let scene = Scene::with(|node| node.config("[telemetry]\nexpose = \"127.0.0.1:0\"\n")).await;
    let status = scene.node.admin("/status").await;
    let exposed = status["listen"]["exposed"].as_str().expect("an address");
    let paths = ["/", "/live", "/page.css", "/page.js", "/icon.svg"];
    for path in paths {
        for (address, wanted) in [(exposed, 404), (scene.node.telemetry(), 200)] {
            let answer = http::get(&format!("http://{address}{path}"), &[]).await;
            assert_eq!(answer.expect("an answer").status, wanted, "{address}{path}");
        }
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        let answer = http::get(&format!("http://{exposed}{path}"), &[]).await;
        assert_eq!(answer.expect("an answer").status, 200, "{path}");
    }
}

/// The browser's other pages cannot read it: neither by a name that leads to 127.0.0.1, nor as a part of their own
/// page.
#[tokio::test]
async fn other_sites_cannot_read_it() {
    let scene = Scene::new().await;
    let telemetry = scene.node.telemetry().to_owned();
    let asked = async |headers: &str| {
        let request = format!("GET / HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        let answer = http::raw(&telemetry, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer.expect("an answer")).into_owned();
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (status.unwrap_or(0), answer)
    };
    for (headers, wanted) in [
        ("Host: localhost:9999\r\n", 200),
        ("Host: 127.0.0.1\r\n", 200),
        ("Host: evil.example:7421\r\n", 421),
        ("", 421),
        (
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n",
            403,
        ),
    ] {
        let (status, answer) = asked(headers).await;
        assert_eq!(status, wanted, "{headers}{answer}");
        assert_eq!(answer.contains("<html"), wanted == 200, "{headers}{answer}");
    }
    let origin = ("origin", "http://evil.example");
    let page = http::get(&format!("http://{telemetry}/"), &[origin]).await;
    let page = page.expect("an answer");
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        let value = page.header(name).unwrap_or_default();
        assert!(value.contains(part), "{name}: {value}");
    }
    assert_eq!(page.header("access-control-allow-origin"), None);
    let post = Call::new("POST", format!("http://{telemetry}/"))
        .send()
        .await;
    assert_eq!(post.expect("an answer").status, 405);
}

//! larder follows redirects itself, never the client, and sends no credential along (promises P8 and P20).

use std::time::{Duration, Instant};

use larder_tests::fake::{FakeRegistry, Fault, Kind, Match, Target, expected};
use larder_tests::http;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use larder_tests::scene::Scene;

const LEN: u64 = 3_000_000;

#[tokio::test]
async fn blobs_come_from_where_the_registry_keeps_them() {
    let scene = Scene::new().await;
    let fake = &scene.fake;
    // The registry needs an anonymous token; the redirect's target refuses any.
    fake.allow_anonymous("a/b");
    let allowed = Match::blob().with_credentials();
    fake.fault(allowed, Fault::redirect_to_cdn());
    let digest = fake.put_blob_of("a/b", 1, LEN);
    let url = scene.blob("a/b", &digest);
    let head = http::head(&url, &[]).await.expect("an answer");
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("3000000"))
    );
    for (range, bytes) in [
        ("bytes=5-14", 5..15),
        ("bytes=2000000-2000009", 2_000_000..2_000_010),
    ] {
        let answer = http::get(&url, &[("range", range)])
            .await
            .expect("an answer");
        assert_eq!((answer.status, answer.header("location")), (206, None));
        assert!(answer.body == expected(1, bytes));
    }
    let answer = http::get_digest(&url, &[]).await.expect("an answer");
    assert_eq!((answer.status, answer.error), (200, None));
    assert_eq!((answer.len, &answer.digest), (LEN, &digest));
    assert_eq!(answer.headers["docker-content-digest"], *digest);
    assert_eq!(answer.headers["content-type"], "application/octet-stream");

    let requests = fake.requests();
    let (there, here): (Vec<_>, Vec<_>) = requests.iter().partition(|s| s.kind == Kind::Cdn);
    assert!(!there.is_empty());
    assert!(
        there.iter().all(|seen| seen.authorization.is_none()),
        "{there:?}"
    );
    assert!(
        there.iter().all(|seen| matches!(seen.status, 200 | 206)),
        "{there:?}"
    );
    assert!(
        here.iter()
            .any(|seen| seen.kind == Kind::Blob && seen.authorization.is_some())
    );
    assert_eq!(fake.blob_bytes_sent(&digest), LEN);
}

#[tokio::test]
async fn every_redirect_of_every_answer_is_followed() {
    let scene = Scene::new().await;
    let fake = &scene.fake;
    for (i, status) in [301, 302, 303, 307, 308].into_iter().enumerate() {
        let text = format!("{{\"n\":{i}}}");
        let digest = fake.put_manifest("new/place", Some("v1"), OCI_MANIFEST, text.clone());
        let elsewhere = format!("/v2/new/place/manifests/{digest}");
        let to = if i % 2 == 0 {
            elsewhere
        } else {
            format!("{}{elsewhere}", fake.url())
        };
        for reference in [&format!("v{i}"), &digest] {
            let which = Match::manifest()
                .repository("old/place")
                .reference(reference);
            let to = Target::Url(to.clone());
            fake.fault(which, Fault::Redirect { to, status });
        }
        let url = scene.manifest("old/place", &format!("v{i}"));
        for answer in [http::head(&url, &[]).await, http::get(&url, &[]).await] {
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200, "{status}: {}", answer.text());
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
        }
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(answer.text(), text);

        let blob = fake.put_blob("old/place", format!("blob {i}"));
        let which = Match::blob().reference(&blob);
        fake.fault(
            which,
            Fault::Redirect {
                to: Target::Cdn,
                status,
            },
        );
        let answer = http::get(&scene.blob("old/place", &blob), &[]).await;
        assert_eq!(answer.expect("an answer").text(), format!("blob {i}"));
    }
}

#[tokio::test]
async fn a_circle_of_redirects_ends_in_an_error() {
    let scene = Scene::new().await;
    scene.fake.fault(Match::any(), Fault::RedirectLoop);
    let digest = scene.fake.put_blob("a/b", "x");
    for url in [scene.blob("a/b", &digest), scene.manifest("a/b", "v1")] {
        for answer in [http::get(&url, &[]).await, http::head(&url, &[]).await] {
            assert_eq!(answer.expect("an answer").status, 503, "{url}");
        }
    }
    assert!(scene.fake.requests().len() < 100);
}

/// The same over TLS, under a private authority.
#[tokio::test]
async fn a_registry_behind_a_private_authority() {
    let fake = FakeRegistry::start_tls().await;
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, fake.ca_pem()).expect("a file");
    let upstream = |name: &str, more: &str| {
        format!("[upstreams.\"{name}\"]\nendpoints = [\"https://{name}\"]\n{more}\n")
    };
    let trust = format!("ca = {:?}", ca.to_str().expect("a path"));
    let [host, cdn] = [fake.host(), fake.cdn_host()];
    let trusting = upstream(&host, &trust) + &upstream(&cdn, &trust);
    let careless = upstream(&host, "insecure_skip_verify = true")
        + &upstream(&cdn, "insecure_skip_verify = true");
    let wary = upstream(&host, "") + &upstream(&cdn, "");
    fake.fault(Match::blob(), Fault::redirect_to_cdn());
    let digest = fake.put_blob_of("a/b", 1, LEN);
    for (config, status) in [(trusting, 200), (careless, 200), (wary, 503)] {
        let node = Node::builder().config(config.clone()).start().await;
        let url = format!("{}/v2/a/b/blobs/{digest}?ns={host}", node.url());
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(answer.status, status, "{config}: {}", answer.text().len());
        if status == 200 {
            assert!(answer.complete && answer.body == expected(1, 0..LEN));
        }
    }
}

/// The file with the authority is replaced while larder runs, as a rotation does.
#[tokio::test]
async fn another_private_authority_takes_effect_without_a_restart() {
    let fake = FakeRegistry::start_tls().await;
    let stranger = FakeRegistry::start_tls().await;
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, stranger.ca_pem()).expect("a file");
    let host = fake.host();
    let config = format!(
        "[upstreams.\"{host}\"]\nendpoints = [\"https://{host}\"]\nca = {:?}\n",
        ca.to_str().expect("a path")
    );
    let node = Node::builder().config(config).start().await;
    fake.put_manifest("a/b", Some("v1"), OCI_MANIFEST, "{}");
    // larder asks the registry for a list each time.
    let url = format!("{}/v2/a/b/tags/list?ns={host}", node.url());
    let answer = http::get(&url, &[]).await.expect("an answer");
    assert_eq!(answer.status, 503, "the other's authority");
    for (pem, status) in [(fake.ca_pem(), 200), (stranger.ca_pem(), 503)] {
        let new = dir.path().join("new.pem");
        std::fs::write(&new, pem).expect("a file");
        std::fs::rename(&new, &ca).expect("it is replaced");
        let deadline = Instant::now() + Duration::from_secs(20);
        while http::get(&url, &[]).await.expect("an answer").status != status {
            assert!(Instant::now() < deadline, "never {status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

//! Redirects, and the fake's second port, to which they lead.

use larder_tests::fake::{FakeRegistry, Fault, Match, Target, digest_of};
use larder_tests::http;

async fn location(url: &str) -> (u16, String) {
    let response = http::get(url, &[]).await.expect("an answer");
    let location = response.header("location").expect("a Location");
    (response.status, location.to_owned())
}

#[tokio::test]
async fn a_blob_may_be_elsewhere() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob_of("a/b", 3, 100_000);
    let url = format!("{}/v2/a/b/blobs/{digest}", fake.url());
    fake.fault(Match::blob(), Fault::redirect_to_cdn());
    let (status, signed) = location(&url).await;
    assert_eq!(status, 307);
    let place = format!("http://{}/cdn/a/b/{digest}?signature=", fake.cdn_host());
    assert!(signed.starts_with(&place), "{signed}");
    assert_ne!(fake.cdn_host(), fake.host());

    let blob = http::get(&signed, &[]).await.expect("an answer");
    assert_eq!(digest_of(&blob.body), digest);
    assert_eq!(blob.header("docker-content-digest"), None);
    let part = http::get(&signed, &[("range", "bytes=5-9")])
        .await
        .expect("an answer");
    assert_eq!((part.status, part.body.len()), (206, 5));
    assert_eq!(fake.blob_bytes_sent(&digest), 100_005);

    let forged = format!("{signed}0");
    assert_eq!(
        http::get(&forged, &[]).await.expect("an answer").status,
        403
    );
    let both = [("authorization", "Bearer x")];
    assert_eq!(
        http::get(&signed, &both).await.expect("an answer").status,
        400
    );
    fake.fault(Match::cdn(), Fault::status(503));
    assert_eq!(
        http::get(&signed, &[]).await.expect("an answer").status,
        503
    );
}

#[tokio::test]
async fn a_redirect_may_lead_anywhere() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob("a/b", "text");
    let url = format!("{}/v2/a/b/blobs/{digest}", fake.url());
    let to = Target::Url("http://169.254.169.254/".to_owned());
    fake.fault(Match::blob().times(1), Fault::Redirect { to, status: 302 });
    assert_eq!(
        location(&url).await,
        (302, "http://169.254.169.254/".to_owned())
    );
    fake.fault(Match::blob(), Fault::RedirectLoop);
    let (status, again) = location(&url).await;
    assert_eq!((status, format!("{}{again}", fake.url())), (307, url));
}

//! What the fake serves when nothing goes wrong.

use larder_tests::fake::{Algorithm, Content, FakeRegistry, digest_of, expected};
use larder_tests::http::{self, Response};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

async fn ranged(url: &str, range: &str) -> Response {
    let response = http::get(url, &[("range", range)])
        .await
        .expect("an answer");
    assert!(response.complete, "{range}: {:?}", response.error);
    response
}

#[tokio::test]
async fn ranges_are_exact() {
    const LEN: u64 = 3_000_017;
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob_of("a/b", 7, LEN);
    let url = format!("{}/v2/a/b/blobs/{digest}", fake.url());
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=65520-65522", 65_520, 65_523),
        ("bytes=1048576-2097151", 1_048_576, 2_097_152),
        ("bytes=2999999-", 2_999_999, LEN),
        ("bytes=2999999-9999999999", 2_999_999, LEN),
        ("bytes=-17", LEN - 17, LEN),
        ("bytes=-9999999999", 0, LEN),
    ] {
        let response = ranged(&url, range).await;
        assert_eq!(response.status, 206, "{range}");
        let content_range = format!("bytes {start}-{}/{LEN}", end - 1);
        assert_eq!(response.header("content-range"), Some(&*content_range));
        let length = (end - start).to_string();
        assert_eq!(response.header("content-length"), Some(&*length));
        assert!(response.body == expected(7, start..end), "{range}");
    }
    for range in ["bytes=3000017-", "bytes=3000017-3000018", "bytes=500-0"] {
        let response = ranged(&url, range).await;
        assert_eq!(response.status, 416, "{range}");
        assert_eq!(response.header("content-range"), Some("bytes */3000017"));
    }
    for range in ["bytes=0-1,5-6", "bytes=x-", "bytes=-", "lines=0-1"] {
        let response = ranged(&url, range).await;
        assert_eq!(
            (response.status, response.body.len() as u64),
            (200, LEN),
            "{range}"
        );
    }
}

#[tokio::test]
async fn blobs_have_the_digest_they_are_asked_by() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob_of("a/b", 1, 5_000_000);
    let url = format!("{}/v2/a/b/blobs/{digest}", fake.url());
    let whole = http::get_digest(&url, &[]).await.expect("an answer");
    assert_eq!(
        (whole.status, whole.len, whole.error),
        (200, 5_000_000, None)
    );
    assert_eq!(whole.digest, digest);
    assert_eq!(digest_of(&expected(1, 0..5_000_000)), digest);

    let head = http::head(&url, &[]).await.expect("an answer");
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), Some("5000000"));
    assert_eq!(head.header("docker-content-digest"), Some(&*digest));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
    assert!(head.complete && head.body.is_empty());

    let other = fake.put_content_as("a/b", Algorithm::Sha512, &Content::bytes("text"));
    let url = format!("{}/v2/a/b/blobs/{other}", fake.url());
    let small = http::get(&url, &[]).await.expect("an answer");
    assert_eq!((small.status, &*small.body), (200, &b"text"[..]));
}

#[tokio::test]
async fn content_reads_the_same_in_any_pieces() {
    let content = Content::concat(&[
        Content::bytes("head"),
        Content::synthetic(3, 200_000),
        Content::zeros(100),
        Content::synthetic(4, 10),
    ]);
    let mut whole = b"head".to_vec();
    whole.extend(expected(3, 0..200_000));
    whole.extend([0; 100]);
    whole.extend(expected(4, 0..10));
    assert_eq!(content.len(), whole.len() as u64);
    assert!(content.read(0..u64::MAX) == whole);
    for start in [0, 2, 4, 65_524, 65_525, 200_003, 200_004, 200_110] {
        for len in [1, 3, 65_521, 131_043] {
            let end = (start + len).min(whole.len());
            let read = content.read(start as u64..(start + len) as u64);
            assert!(read == whole[start..end], "{start} + {len}");
        }
    }
    assert!(expected(3, 0..1000) != expected(4, 0..1000));
    assert!(expected(3, 0..4096) != expected(3, 1 << 20..(1 << 20) + 4096));
}

#[tokio::test]
async fn manifests_by_tag_and_by_digest() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_manifest("library/alpine", Some("3"), OCI, "{\"a\": 1}");
    for reference in ["3", &digest, &digest.replace(':', "%3A")] {
        let url = format!("{}/v2/library/alpine/manifests/{reference}", fake.url());
        let get = http::get(&url, &[("range", "bytes=0-1")])
            .await
            .expect("an answer");
        let head = http::head(&url, &[]).await.expect("an answer");
        assert_eq!((get.status, &*get.body), (200, &b"{\"a\": 1}"[..]));
        for response in [get, head] {
            assert_eq!(response.header("content-type"), Some(OCI));
            assert_eq!(response.header("content-length"), Some("8"));
            assert_eq!(response.header("docker-content-digest"), Some(&*digest));
        }
    }
    let url = format!("{}/v2/library/alpine/manifests/3", fake.url());
    let status = async || http::get(&url, &[]).await.expect("an answer").status;
    let next = fake.put_manifest("library/alpine", None, OCI, "{\"a\": 2}");
    fake.retag("library/alpine", "3", &next);
    let head = http::head(&url, &[]).await.expect("an answer");
    assert_eq!(head.header("docker-content-digest"), Some(&*next));
    fake.delete_tag("library/alpine", "3");
    assert_eq!(status().await, 404);
    fake.retag("library/alpine", "3", &next);
    assert_eq!(status().await, 200);
    fake.delete_manifest("library/alpine", &next);
    assert_eq!(status().await, 404);

    let long = fake.put_manifest_as("library/alpine", Algorithm::Sha512, None, OCI, "{}");
    assert!(long.starts_with("sha512:"));
    let url = format!("{}/v2/library/alpine/manifests/{long}", fake.url());
    assert_eq!(http::get(&url, &[]).await.expect("an answer").body, "{}");
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_the_words_of_the_specification() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob("a/b", "text");
    fake.delete_blob("a/b", &digest);
    let nothing = format!("sha256:{}", "0".repeat(64));
    for (path, status, code) in [
        (format!("a/b/blobs/{digest}"), 404, "BLOB_UNKNOWN"),
        (format!("a/b/manifests/{nothing}"), 404, "MANIFEST_UNKNOWN"),
        ("a/b/manifests/latest".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("a/b/manifests/sha256:0".to_owned(), 400, "DIGEST_INVALID"),
        (format!("c/blobs/{nothing}"), 404, "NAME_UNKNOWN"),
    ] {
        let url = format!("{}/v2/{path}", fake.url());
        let response = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.json()["errors"][0]["code"], code, "{path}");
    }
    let post = http::Call::new("POST", format!("{}/v2/a/b/blobs/uploads/", fake.url()));
    assert_eq!(post.send().await.expect("an answer").status, 405);
    let ping = http::get(&format!("{}/v2/", fake.url()), &[])
        .await
        .expect("an answer");
    assert_eq!((ping.status, &*ping.body), (200, &b"{}"[..]));
}

#[tokio::test]
async fn tags_come_in_pages() {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_manifest("a/b", None, OCI, "{}");
    for tag in ["c", "a", "b"] {
        fake.retag("a/b", tag, &digest);
    }
    let list = async |query: &str| {
        let url = format!("{}/v2/a/b/tags/list{query}", fake.url());
        let response = http::get(&url, &[]).await.expect("an answer");
        let link = response.header("link").map(str::to_owned);
        (response.json()["tags"].to_string(), link)
    };
    assert_eq!(list("").await, (r#"["a","b","c"]"#.to_owned(), None));
    let next = "</v2/a/b/tags/list?n=2&last=b>; rel=\"next\"".to_owned();
    assert_eq!(list("?n=2").await, (r#"["a","b"]"#.to_owned(), Some(next)));
    assert_eq!(list("?n=2&last=b").await, (r#"["c"]"#.to_owned(), None));
    assert_eq!(list("?n=0").await, ("[]".to_owned(), None));
}

#[tokio::test]
async fn tls_needs_its_own_authority() {
    let fake = FakeRegistry::start_tls().await;
    let digest = fake.put_blob_of("a/b", 9, 1_000_000);
    let call = http::Call::get(format!("{}/v2/a/b/blobs/{digest}", fake.url()));
    let response = call.clone().ca_pem(fake.ca_pem()).send().await;
    let response = response.expect("an answer");
    assert!(response.complete && digest_of(&response.body) == digest);
    let stranger = FakeRegistry::start_tls().await;
    assert!(call.ca_pem(stranger.ca_pem()).send().await.is_err());
}

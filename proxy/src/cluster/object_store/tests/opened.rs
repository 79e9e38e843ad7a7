//! Which store a configuration opens, and what the error says if it opens none.

use super::*;

fn refused(url: &str, options: &[(&str, &str)]) -> String {
    let client = Arc::new(Client::new());
    let metrics = ObjectStoreMetrics::default();
    ObjectStore::open(&config(url, options), &client, &metrics)
        .unwrap_err()
        .to_string()
}

#[test]
fn errors_name_the_key_and_the_fix() {
    for (url, options, words) in [
        (
            "s3://b",
            &[("regoin", "x")][..],
            &["S3 has no option `regoin`", "docs/"][..],
        ),
        (
            "s3://b",
            &[("timeout", "1s")],
            &["`timeout`", "own HTTP client"],
        ),
        ("s3://b", &[("bucket", "c")], &["`bucket`", "`url`"]),
        (
            "s3://b",
            &[("virtual_hosted_style_request", "perhaps")],
            &["perhaps", "`options`"],
        ),
        (
            "gs://b",
            &[("service_account_key", "{}")],
            &["`service_account_key`", "environment"],
        ),
        (
            "gs://b",
            &[("endpoint", "x")],
            &["GCS has no option `endpoint`"],
        ),
        (
            "az://c",
            &[("access_key", "hunter2")],
            &["`access_key`", "environment"],
        ),
        (
            "az://c",
            &[("account", "x")],
            &["Azure has no option `account`"],
        ),
        ("s3://", &[], &["`url`", "bucket"]),
        ("s3://b?x=y", &[], &["`url`", "environment"]),
        (
            "file:///no/such/directory",
            &[],
            &["/no/such/directory", "mount it"],
        ),
        (
            "file:///tmp",
            &[("endpoint", "x")],
            &["a directory has no option `endpoint`"],
        ),
    ] {
        let error = refused(url, options);
        for word in words {
            assert!(error.contains(word), "{url} {options:?}: {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn each_kind_of_store_opens_without_being_asked() {
    let client = Arc::new(Client::new());
    let metrics = ObjectStoreMetrics::default();
    for (url, options) in [
        (
            "s3://bucket/prefix",
            &[("region", "here"), ("virtual_hosted_style_request", "true")][..],
        ),
        ("gs://bucket", &[("skip_signature", "true")]),
        (
            "az://container/p",
            &[("account_name", "a"), ("skip_signature", "true")],
        ),
        (
            "s3://bucket",
            &[("ca", "/etc/ca.pem"), ("allow_http", "true")],
        ),
    ] {
        let opened = ObjectStore::open(&config(url, options), &client, &metrics);
        assert!(opened.is_ok(), "{url}: {opened:?}");
    }
}

#[tokio::test]
async fn a_ca_bundle_that_cannot_be_read_is_named() {
    let options = [
        ("ca", "/no/ca.pem"),
        ("endpoint", "https://127.0.0.1:1"),
        ("skip_signature", "true"),
    ];
    let store = opened(&config("s3://b", &options), limits());
    let failure = store.head(&Digest::sha256(b"")).await.unwrap_err();
    assert!(failure.to_string().contains("/no/ca.pem"), "{failure}");
}

//! Content passes through unchanged, with exact headers (promise P3).

use bytes::Bytes;
use larder_tests::fake::{Algorithm, Content, Kind};
use larder_tests::http::{self, Call, Response};
use larder_tests::image::{
    self, DOCKER_MANIFEST, LayerSpec, OCI_INDEX, OCI_MANIFEST, build_artifact,
};
use larder_tests::scene::Scene;
use serde_json::json;

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCTETS: &str = "application/octet-stream";

/// The headers that describe an answer, in this order.
fn described(answer: &Response) -> [Option<&str>; 4] {
    [
        "content-type",
        "content-length",
        "docker-content-digest",
        "content-encoding",
    ]
    .map(|name| answer.header(name))
}

/// GET and HEAD at this URL give these bytes, with these headers.
async fn assert_serves(url: &str, media_type: &str, digest: &str, bytes: &[u8]) {
    let length = bytes.len().to_string();
    let expected = [Some(media_type), Some(&*length), Some(digest), None];
    let head = http::head(url, &[]).await.expect("an answer");
    assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {url}");
    assert_eq!(described(&head), expected, "HEAD {url}");
    let get = http::get(url, &[]).await.expect("an answer");
    assert_eq!((get.status, &get.error), (200, &None), "{url}");
    assert_eq!(described(&get), expected, "GET {url}");
    assert!(get.body == bytes, "GET {url}");
}

#[tokio::test]
async fn manifests_of_every_kind_are_served_verbatim() {
    let scene = Scene::new().await;
    let fake = &scene.fake;
    let layers = [LayerSpec::new(1, 1000), LayerSpec::new(2, 2000)];
    let repository = "deep/er/and/deeper/app";
    let oci = image::build(fake, repository, "oci", &layers);
    let docker = image::build_docker(fake, repository, "docker", &layers);
    let long = image::build_sha512(fake, repository, "sha512", &layers);
    let index = image::build_index(fake, repository, "index", &layers);
    let artifact = build_artifact(fake, repository, &oci, "application/x.sbom", "sbom");
    let mut cases = vec![
        (
            "oci".to_owned(),
            OCI_MANIFEST,
            oci.manifest_digest.clone(),
            oci.manifest.clone(),
        ),
        (
            "docker".to_owned(),
            DOCKER_MANIFEST,
            docker.manifest_digest,
            docker.manifest,
        ),
        (
            "sha512".to_owned(),
            OCI_MANIFEST,
            long.manifest_digest,
            long.manifest,
        ),
        ("index".to_owned(), OCI_INDEX, index.digest, index.bytes),
    ];
    let zstd = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": oci.config_digest, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": oci.layers[0].digest, "size": 1}],
    });
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": []});
    let signature = format!("{}.sig", oci.manifest_digest.replace(':', "-"));
    for (tag, media_type, text) in [
        ("list", DOCKER_LIST, list.to_string()),
        ("zstd", OCI_MANIFEST, zstd.to_string()),
        // larder passes bytes on unchanged: it parses nothing and writes nothing anew.
        (
            "odd",
            OCI_MANIFEST,
            "{ \"schemaVersion\" : 2.0,\n\t\"é\":[ ] }\r\n".to_owned(),
        ),
        (
            "typed",
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            "{}".to_owned(),
        ),
        (signature.as_str(), OCI_MANIFEST, "{\"a\":1}".to_owned()),
        ("UPPER_case.1-2", OCI_MANIFEST, "{\"b\":1}".to_owned()),
    ] {
        let bytes = Bytes::from(text);
        let digest = fake.put_manifest(repository, Some(tag), media_type, bytes.clone());
        cases.push((tag.to_owned(), media_type, digest, bytes));
    }
    // Cold by tag, then warm. Half of them are asked for by digest first.
    for (i, (tag, media_type, digest, bytes)) in cases.iter().enumerate() {
        let (by_tag, by_digest) = (
            scene.manifest(repository, tag),
            scene.manifest(repository, digest),
        );
        let order = if i % 2 == 0 {
            [&by_tag, &by_digest]
        } else {
            [&by_digest, &by_tag]
        };
        for url in order.into_iter().chain(order) {
            assert_serves(url, media_type, digest, bytes).await;
        }
        // A request by digest needs no tag, and looks at none.
        fake.delete_tag(repository, tag);
        let encoded = scene.manifest(repository, &digest.replace(':', "%3A"));
        assert_serves(&encoded, media_type, digest, bytes).await;
    }
    let answer = http::get(&scene.manifest(repository, &artifact), &[]).await;
    assert_eq!(answer.expect("an answer").status, 200);
}

#[tokio::test]
async fn blobs_of_every_kind_have_exact_headers() {
    let scene = Scene::new().await;
    let big = Content::synthetic(3, 300_000);
    for (algorithm, content) in [
        (Algorithm::Sha256, Content::bytes("")),
        (Algorithm::Sha256, Content::bytes("x")),
        (Algorithm::Sha256, big.clone()),
        (Algorithm::Sha512, Content::bytes("y")),
        (Algorithm::Sha512, big),
    ] {
        let digest = scene.fake.put_content_as("a/b", algorithm, &content);
        let (url, bytes) = (scene.blob("a/b", &digest), content.read(0..content.len()));
        assert_serves(&url, OCTETS, &digest, &bytes).await;
        scene.until_committed(&digest).await;
        assert_serves(&url, OCTETS, &digest, &bytes).await;
        for answer in [http::get(&url, &[]).await, http::head(&url, &[]).await] {
            let answer = answer.expect("an answer");
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert_eq!(answer.header("oci-namespace"), Some(&*scene.fake.host()));
            assert_eq!(answer.header("transfer-encoding"), None);
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_is_said_in_the_registrys_words() {
    let scene = Scene::new().await;
    scene.fake.put_blob("a/b", "x");
    let absent = format!("sha256:{}", "12".repeat(32));
    for (url, code) in [
        (scene.blob("a/b", &absent), "BLOB_UNKNOWN"),
        (scene.manifest("a/b", &absent), "MANIFEST_UNKNOWN"),
        (scene.manifest("a/b", "absent"), "MANIFEST_UNKNOWN"),
        (scene.manifest("no/such", "v1"), "MANIFEST_UNKNOWN"),
        (scene.path("no/such/tags/list"), "NAME_UNKNOWN"),
    ] {
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(answer.status, 404, "{url}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["errors"][0]["code"], code, "{url}");
        let head = http::head(&url, &[]).await.expect("an answer");
        assert_eq!((head.status, head.body.len()), (404, 0), "HEAD {url}");
    }
}

#[tokio::test]
async fn the_registry_is_asked_in_larders_own_words() {
    let scene = Scene::new().await;
    let (fake, repository) = (&scene.fake, "a/b");
    let clients: [&[(&str, &str)]; 4] = [
        &[],
        &[("accept", DOCKER_MANIFEST)],
        &[("accept", "text/html"), ("accept-encoding", "gzip, zstd")],
        &[
            ("accept-encoding", "br"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("if-none-match", "*"),
            ("if-range", "\"x\""),
        ],
    ];
    for (i, headers) in clients.into_iter().enumerate() {
        let media_type = [OCI_MANIFEST, OCI_INDEX][i % 2];
        let text = format!("{{\"n\":{i}}}");
        let tag = format!("v{i}");
        let manifest = fake.put_manifest(repository, Some(&tag), media_type, text.clone());
        let blob = fake.put_blob(repository, format!("blob {i}"));
        let send = async |method: &str, url: String| {
            let call = Call::new(method, url);
            let with = |call: Call, (name, value): &(&str, &str)| call.header(name, value);
            let answer = headers.iter().fold(call, with).send().await;
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.error), (200, None));
            assert_eq!(answer.headers.get("content-encoding"), None);
            assert_eq!(answer.headers.get("vary"), None);
            answer.body
        };
        send("HEAD", scene.manifest(repository, &tag)).await;
        assert_eq!(send("GET", scene.manifest(repository, &tag)).await, text);
        assert_eq!(
            send("GET", scene.manifest(repository, &manifest)).await,
            text
        );
        send("HEAD", scene.blob(repository, &blob)).await;
        send("GET", scene.blob(repository, &blob)).await;
    }
    let requests = fake.requests();
    assert!(requests.len() >= 4 * 4, "{requests:?}");
    for seen in &requests {
        let all = |name: &str| -> Vec<_> {
            let headers = seen.headers.iter();
            headers
                .filter(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
                .collect()
        };
        assert_eq!(all("accept-encoding"), ["identity"], "{seen:?}");
        for foreign in ["cookie", "x-forwarded-for", "if-none-match", "if-range"] {
            assert_eq!(all(foreign), [""; 0], "{seen:?}");
        }
        if seen.kind == Kind::Manifest {
            let accept = seen.accept.as_deref().unwrap_or_default();
            for media_type in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST] {
                assert!(accept.contains(media_type), "{accept}");
            }
            assert!(!accept.contains("text/html"), "{accept}");
        }
    }
}

//! Generated images match their own manifests and digests.

use std::fs;
use std::path::Path;

use larder_tests::fake::{Algorithm, Content, FakeRegistry, digest_of, expected};
use larder_tests::http;
use larder_tests::image::{self, Executable, Image, LayerSpec};
use serde_json::Value;

const LAYERS: [LayerSpec; 2] = [
    LayerSpec {
        seed: 10,
        size: 100_000,
    },
    LayerSpec { seed: 20, size: 7 },
];

/// Pulls an image by a tag or digest as a client does, checking every descriptor on the way.
async fn pull(fake: &FakeRegistry, repository: &str, reference: &str, image: &Image) {
    let get = async |kind: &str, reference: &str| {
        let url = format!("{}/v2/{repository}/{kind}/{reference}", fake.url());
        let response = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(response.status, 200, "{url}");
        response
    };
    let manifest = get("manifests", reference).await;
    assert_eq!(manifest.header("content-type"), Some(image.media_type));
    let digest = manifest.header("docker-content-digest");
    assert_eq!(digest, Some(&*image.manifest_digest));
    assert_eq!(manifest.body, image.manifest);
    let json = manifest.json();
    assert_eq!(json["mediaType"], image.media_type);
    assert_eq!(json["config"]["digest"], *image.config_digest);

    let mut total = manifest.body.len() as u64;
    let mut digests = Vec::new();
    let layers = json["layers"].as_array().expect("layers");
    for descriptor in [&json["config"]].into_iter().chain(layers) {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let blob = get("blobs", digest).await;
        assert_eq!(digest_of(&blob.body), digest);
        assert_eq!(descriptor["size"], blob.body.len());
        total += blob.body.len() as u64;
        digests.push(digest.to_owned());
    }
    assert_eq!(total, image.size());
    let config: Value = serde_json::from_slice(&image.config).expect("JSON");
    let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("diff IDs");
    assert!(diff_ids.iter().eq(&digests[1..]));
}

/// The entries of a tar archive: path, mode, content.
fn entries(archive: &[u8]) -> Vec<(String, u64, Vec<u8>)> {
    let octal = |field: &[u8]| {
        let text = std::str::from_utf8(field).expect("text");
        u64::from_str_radix(text.trim_end_matches(['\0', ' ']), 8).expect("octal digits")
    };
    let mut entries = Vec::new();
    let mut rest = archive;
    while rest[0] != 0 {
        let (header, after) = rest.split_at(512);
        assert_eq!(&header[257..265], b"ustar\x0000");
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = header[148..156].iter().map(|byte| u64::from(*byte)).sum();
        assert_eq!(octal(&header[148..156]), sum - own + 8 * 32);
        let end = header
            .iter()
            .position(|byte| *byte == 0)
            .expect("a short path");
        let path = String::from_utf8(header[..end].to_vec()).expect("text");
        let size = octal(&header[124..136]) as usize;
        entries.push((path, octal(&header[100..108]), after[..size].to_vec()));
        rest = &after[size.next_multiple_of(512)..];
    }
    assert!(rest.len() == 1024 && rest.iter().all(|byte| *byte == 0));
    entries
}

#[tokio::test]
async fn images_of_both_formats_can_be_pulled() {
    let fake = FakeRegistry::start().await;
    let oci = image::build(&fake, "a/oci", "1", &LAYERS);
    assert_eq!(oci.media_type, image::OCI_MANIFEST);
    pull(&fake, "a/oci", "1", &oci).await;
    pull(&fake, "a/oci", &oci.manifest_digest, &oci).await;
    let docker = image::build_docker(&fake, "a/docker", "1", &LAYERS);
    assert_eq!(docker.media_type, image::DOCKER_MANIFEST);
    pull(&fake, "a/docker", "1", &docker).await;
    let long = image::build_sha512(&fake, "a/long", "1", &LAYERS);
    assert!(long.manifest_digest.starts_with("sha512:"));
    pull(&fake, "a/long", "1", &long).await;
    pull(&fake, "a/long", &long.manifest_digest, &long).await;

    let file = ("layer-10".to_owned(), 0o644, expected(10, 0..100_000));
    let archive = oci.layers[0].content.read(0..u64::MAX);
    assert!(entries(&archive) == [file]);
}

#[tokio::test]
async fn an_index_leads_to_two_images() {
    let fake = FakeRegistry::start().await;
    let index = image::build_index(&fake, "a/b", "1", &LAYERS);
    let url = format!("{}/v2/a/b/manifests/1", fake.url());
    let response = http::get(&url, &[]).await.expect("an answer");
    assert_eq!(response.header("content-type"), Some(image::OCI_INDEX));
    assert_eq!(
        (digest_of(&response.body), &response.body),
        (index.digest, &index.bytes)
    );
    let json = response.json();
    for (position, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        let descriptor = &json["manifests"][position];
        assert_eq!(descriptor["platform"]["architecture"], architecture);
        let digest = descriptor["digest"].as_str().expect("a digest");
        pull(&fake, "a/b", digest, &index.images[position]).await;
    }
    assert_ne!(
        index.images[0].layers[0].digest,
        index.images[1].layers[0].digest
    );
}

#[tokio::test]
async fn artifacts_are_found_by_their_subject() {
    let fake = FakeRegistry::start().await;
    let subject = image::build(&fake, "a/b", "1", &LAYERS);
    let sbom = image::build_artifact(&fake, "a/b", &subject, "application/sbom", "parts");
    let signature = image::build_artifact(&fake, "a/b", &subject, "application/sig", "signed");
    let referrers = async |query: &str| {
        let digest = &subject.manifest_digest;
        let url = format!("{}/v2/a/b/referrers/{digest}{query}", fake.url());
        let response = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some(image::OCI_INDEX));
        let filtered = response.header("oci-filters-applied").map(str::to_owned);
        let manifests = response.json()["manifests"].clone();
        (manifests.as_array().expect("manifests").clone(), filtered)
    };
    let (all, filtered) = referrers("").await;
    let mut digests: Vec<_> = all
        .iter()
        .filter_map(|one| one["digest"].as_str())
        .collect();
    digests.sort_unstable();
    let mut both = [sbom.as_str(), &signature];
    both.sort_unstable();
    assert_eq!((digests.as_slice(), filtered), (&both[..], None));
    let (one, filtered) = referrers("?artifactType=application%2Fsbom").await;
    assert_eq!(filtered.as_deref(), Some("artifactType"));
    assert_eq!(one.len(), 1);
    assert_eq!(one[0]["digest"], *sbom);
    assert_eq!(one[0]["artifactType"], "application/sbom");
    assert_eq!(one[0]["annotations"]["org.example.payload"], "parts");

    let nobody = digest_of(b"nobody");
    let url = format!("{}/v2/a/b/referrers/{nobody}", fake.url());
    let none = http::get(&url, &[]).await.expect("an answer");
    assert_eq!(
        (none.status, none.json()["manifests"].to_string()),
        (200, "[]".to_owned())
    );
    let url = format!("{}/v2/a/b/referrers/latest", fake.url());
    assert_eq!(http::get(&url, &[]).await.expect("an answer").status, 400);

    let tag = image::build_signature(&fake, "a/b", &subject);
    let hex = &subject.manifest_digest["sha256:".len()..];
    assert_eq!(tag, format!("sha256-{hex}.sig"));
    let url = format!("{}/v2/a/b/manifests/{tag}", fake.url());
    assert_eq!(http::get(&url, &[]).await.expect("an answer").status, 200);
}

#[test]
fn a_layout_on_disk_holds_the_same_image() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("program");
    fs::write(&program, "#!/bin/sh\n").expect("a file");
    let executable = Executable {
        host_path: program,
        image_path: "usr/bin/pause".to_owned(),
    };
    let layout = dir.path().join("layout");
    let image = image::oci_layout(&layout, "test:1", &LAYERS, Some(&executable));
    let image = image.expect("a layout");
    let read = |path: &Path| fs::read(path).expect("a file");
    let index: Value = serde_json::from_slice(&read(&layout.join("index.json"))).expect("JSON");
    let descriptor = &index["manifests"][0];
    assert_eq!(descriptor["digest"], *image.manifest_digest);
    assert_eq!(
        descriptor["annotations"]["org.opencontainers.image.ref.name"],
        "test:1"
    );

    let mut blobs = 0;
    let mut bytes = 0;
    for entry in fs::read_dir(layout.join("blobs/sha256")).expect("blobs") {
        let entry = entry.expect("an entry");
        let content = Content::bytes(read(&entry.path()));
        let digest = content.digest(Algorithm::Sha256);
        assert_eq!(digest, format!("sha256:{}", entry.file_name().display()));
        blobs += 1;
        bytes += content.len();
    }
    assert_eq!((blobs, bytes), (5, image.size()));
    let last = image.layers[2].content.read(0..u64::MAX);
    let paths: Vec<_> = entries(&last)
        .into_iter()
        .map(|(path, mode, content)| (path, mode, content.len()))
        .collect();
    let expected = [
        ("usr/", 0o755, 0),
        ("usr/bin/", 0o755, 0),
        ("usr/bin/pause", 0o755, 10),
    ];
    assert_eq!(
        paths,
        expected.map(|(path, mode, len)| (path.to_owned(), mode, len))
    );
    let config: Value = serde_json::from_slice(&image.config).expect("JSON");
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/pause");
}

//! How far an image's layers are ready, and why not all of them are, is shown wherever a person looks at images.

use larder_tests::fake::{FakeRegistry, digest_of};
use larder_tests::http;
use larder_tests::image::{Image, OCI_INDEX};
use larder_tests::schemas::assert_schema;
use serde_json::{Value, json};

use crate::{Offering, one_layer, push, tar};

/// What the list of images says of a manifest's layers.
pub(crate) async fn listed(offering: &Offering, digest: &str) -> Value {
    let images = offering.scene.node.admin("/images").await;
    assert_schema(&images, "images");
    let images = images["images"].as_array().expect("images").clone();
    let mut found = images.iter().filter(|image| image["digest"] == digest);
    let found = found.next();
    found.unwrap_or_else(|| panic!("{digest}: {images:#?}"))["ready"].clone()
}

/// What `larder explain` says of the layers of an image.
async fn explained(offering: &Offering, name: &str) -> (String, String) {
    let name = format!("{}/{name}", offering.scene.fake.host());
    let said = offering.scene.node.cli(&["explain", "--json", &name]).await;
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_schema(&said, "explain");
    let steps = said["steps"].as_array().expect("steps");
    let step = steps.iter().find(|step| step["step"] == "layers");
    let step = step.unwrap_or_else(|| panic!("{said:#}"));
    let word = |key: &str| step[key].as_str().expect("a word").to_owned();
    (word("outcome"), word("detail"))
}

async fn page(offering: &Offering) -> String {
    let url = format!("http://{}/", offering.scene.node.telemetry());
    let page = http::get(&url, &[]).await;
    page.expect("the page").text()
}

/// One layer that can be ready, and one that cannot.
fn half(fake: &FakeRegistry) -> (Image, String) {
    let fine = tar(&[("etc/motd", b"hello\n")]);
    let zstd = bytes::Bytes::from_static(b"\x28\xb5\x2f\xfd and so on");
    let diff_ids = [digest_of(&fine), digest_of(b"what zstd holds")];
    let image = push(fake, "team/half", &[fine, zstd], &diff_ids);
    (image, diff_ids[0].clone())
}

#[tokio::test]
async fn what_is_ready_of_an_image_and_why_not_the_rest() {
    let offering = Offering::with("", "").await;
    let (half, half_id) = half(&offering.scene.fake);
    offering.pull("team/half", &half).await;
    let (whole, whole_id) = one_layer(&offering.scene.fake, "team/whole", 41, 4000);
    offering.pull("team/whole", &whole).await;
    offering.until_offered(&[&half_id, &whole_id]).await;
    offering.until_not_offered(&half, "compression").await;

    let missing = &half.layers[1].digest;
    let of_half = listed(&offering, &half.manifest_digest).await;
    assert_eq!(of_half["layers"], 2, "{of_half}");
    assert_eq!(of_half["ready"], 1, "{of_half}");
    assert_eq!(of_half["missing"], json!([missing]), "{of_half}");
    let why = of_half["why"].as_str().expect("a reason");
    assert!(why.contains("compression"), "{why}");
    let of_whole = listed(&offering, &whole.manifest_digest).await;
    assert_eq!(of_whole, json!({"layers": 1, "ready": 1}));

    let (outcome, detail) = explained(&offering, "team/half:v1").await;
    assert_eq!(outcome, "partial");
    assert!(detail.starts_with("1 of 2 are ready"), "{detail}");
    assert!(
        detail.contains(missing) && detail.contains("compression"),
        "{detail}"
    );
    let (outcome, detail) = explained(&offering, "team/whole:v1").await;
    assert_eq!((&*outcome, &*detail), ("hit", "1 of 1 are ready"));

    let table = offering.scene.node.cli(&["images"]).await;
    let table = String::from_utf8(table.stdout).expect("text");
    let line = |name: &str| {
        let mut lines = table.lines().filter(|line| line.contains(name));
        lines.next().unwrap_or_else(|| panic!("{table}")).to_owned()
    };
    assert!(line("IMAGE").trim_end().ends_with("READY"), "{table}");
    assert!(line("team/half").contains("1/2"), "{table}");
    assert!(line("team/whole").contains("1/1"), "{table}");

    let page = page(&offering).await;
    assert_eq!(page.matches(">ready<").count(), 1, "{page}");
    assert!(page.contains("1 of 2 layers ready"), "{page}");
}

/// Most images are behind an index: what counts are its manifests that are here.
#[tokio::test]
async fn an_index_is_as_ready_as_what_is_here_of_it() {
    let offering = Offering::with("", "").await;
    let fake = &offering.scene.fake;
    let (image, diff_id) = one_layer(fake, "team/app", 42, 4000);
    let of = |digest: &str, architecture: &str| {
        json!({
            "mediaType": image.media_type, "digest": digest, "size": image.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let own = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let manifests = [
        of(&image.manifest_digest, own),
        of(&digest_of(b"another"), "riscv64"),
    ];
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    let index = fake.put_manifest("team/app", Some("multi"), OCI_INDEX, index.to_string());
    let door = offering.scene.door("team/app");
    let got = door.get("manifests/multi", &[]).await.expect("an answer");
    assert_eq!(got.status, 200);
    offering.pull("team/app", &image).await;
    offering.until_offered(&[&diff_id]).await;
    let ready = json!({"layers": 1, "ready": 1});
    assert_eq!(listed(&offering, &index).await, ready);
    let (outcome, detail) = explained(&offering, "team/app:multi").await;
    assert_eq!((&*outcome, &*detail), ("hit", "1 of 1 are ready"));
}

/// Before the watcher reports nothing is offered, and a person who looks learns that it does not.
#[tokio::test]
async fn an_image_that_waits_says_for_what() {
    let offering = Offering::with("", "").await;
    let (image, _) = one_layer(&offering.scene.fake, "team/app", 43, 4000);
    offering.pull("team/app", &image).await;
    let why = "no watcher reports";
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    loop {
        let ready = listed(&offering, &image.manifest_digest).await;
        assert_eq!(ready["ready"], 0, "{ready}");
        if ready["why"].as_str().is_some_and(|said| said.contains(why)) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{ready}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let (outcome, detail) = explained(&offering, "team/app:v1").await;
    assert_eq!(outcome, "miss");
    assert!(detail.contains(why), "{detail}");
    let page = page(&offering).await;
    assert!(page.contains(">not ready<") && page.contains(why), "{page}");
}

//! The same with the real docker-registry behind htpasswd: who × cold or cached × what × up or down (promises P16, P17).

use larder_tests::fake::digest_of;
use larder_tests::http::Call;
use larder_tests::image::{Image, LayerSpec, oci_layout};
use larder_tests::node::Node;
use larder_tests::real::DockerRegistry;
use larder_tests::scene::{committed, eventually};
use tempfile::TempDir;

use crate::private::{Challenge, Private, Who, refused};

const REPOSITORY: &str = "team/app";
/// A name that does not resolve.
const NAME: &str = "registry.example";

struct Place {
    registry: DockerRegistry,
    owner: Who,
    image: Image,
    _dir: TempDir,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let owner = Who::new("owner");
        let layout = dir.path().join("layout");
        let image =
            oci_layout(&layout, "v1", &[LayerSpec::new(1, 100_000)], None).expect("a layout");
        let registry = DockerRegistry::start_for(&dir.path().join("registry"), &[owner.pair()])
            .await
            .expect("a registry");
        registry
            .push_layout(&layout, &format!("{REPOSITORY}:v1"))
            .await
            .expect("a push");
        Self {
            registry,
            owner,
            image,
            _dir: dir,
        }
    }

    async fn node(&self) -> Private {
        Private::start(Node::builder().upstream_at(NAME, &self.registry.url())).await
    }

    /// Everything that can be asked, and what of it is kept.
    fn calls(&self, scene: &Private) -> Vec<(Call, bool)> {
        let url = |path: String| format!("{}/v2/{REPOSITORY}/{path}?ns={NAME}", scene.node.url());
        let tag = url("manifests/v1".to_owned());
        let digest = url(format!("manifests/{}", self.image.manifest_digest));
        let blob = url(format!("blobs/{}", self.image.layers[0].digest));
        vec![
            (Call::get(&tag), true),
            (Call::get(&digest), true),
            (Call::get(&blob), true),
            (Call::get(&blob).header("range", "bytes=1024-2047"), true),
            (Call::new("HEAD", &tag), true),
            (Call::new("HEAD", &digest), true),
            (Call::new("HEAD", &blob), true),
            (Call::get(url("tags/list".to_owned())), false),
        ]
    }

    async fn pull(&self, scene: &Private, who: &Who, lists: bool) {
        for (call, kept) in self.calls(scene) {
            let what = format!("{call:?}");
            let answer = scene.ask(who, call).await;
            if kept || lists {
                assert!(
                    matches!(answer.status, 200 | 206),
                    "{what}: {} {}",
                    answer.status,
                    answer.text()
                );
            }
            if answer
                .header("content-type")
                .is_some_and(|kind| kind.contains("manifest"))
                && !answer.body.is_empty()
            {
                assert_eq!(digest_of(&answer.body), self.image.manifest_digest);
            }
        }
    }

    async fn nothing_for(&self, scene: &Private, who: &Who) {
        let content = self.image.layers[0].content.read(1024..1056);
        for (call, _) in self.calls(scene) {
            let what = format!("{call:?} {who:?}");
            let answer = scene.ask(who, call).await;
            refused(&what, &answer, &content);
            refused(&what, &answer, b"schemaVersion");
        }
    }
}

#[tokio::test]
async fn only_the_right_password_opens_it_cold_cached_and_in_an_outage() {
    let mut place = Place::new().await;
    let strangers = [
        Who::Nobody,
        Who::new("owner"),
        Who::new("somebody"),
        Who::Sends(format!("Bearer larder_{:064x}", 1)),
    ];
    let cold = place.node().await;
    for who in &strangers {
        place.nothing_for(&cold, who).await;
    }
    let scene = place.node().await;
    let owner = place.owner.clone();
    place.pull(&scene, &owner, true).await;
    for digest in [&place.image.manifest_digest, &place.image.layers[0].digest] {
        eventually("it is committed", || committed(scene.node.store(), digest)).await;
    }
    for who in &strangers {
        place.nothing_for(&scene, who).await;
    }
    // Warm: by digest nobody is asked, by tag once.
    let before = place.registry.requests().await.expect("a log");
    let calls = place.calls(&scene);
    for (call, _) in &calls[1..4] {
        assert!(matches!(
            scene.ask(&owner, call.clone()).await.status,
            200 | 206
        ));
    }
    let asked = place
        .registry
        .requests()
        .await
        .expect("a log")
        .since(&before);
    assert!(asked.is_empty(), "{asked:?}");
    assert_eq!(scene.ask(&owner, calls[0].0.clone()).await.status, 200);
    let asked = place
        .registry
        .requests()
        .await
        .expect("a log")
        .since(&before);
    assert_eq!(
        (asked.len(), asked.manifest_heads().len()),
        (1, 1),
        "{asked:?}"
    );
    place.registry.stop();
    place.pull(&scene, &owner, false).await;
    for who in &strangers {
        place.nothing_for(&scene, who).await;
    }
    // What it learnt of it in time: that nobody comes in without a secret.
    let answer = scene.send(calls[1].0.clone()).await;
    assert!(
        Challenge::of(&answer)
            .realm
            .ends_with(&format!("/token/{NAME}"))
    );
    for who in &strangers {
        place.nothing_for(&cold, who).await;
    }
    let nothing = cold
        .ask(&Who::Sends(owner.basic()), place.calls(&cold)[2].0.clone())
        .await;
    assert_eq!(nothing.status, 503, "{}", nothing.text());
    cold.end(&[]).await;
    scene.end(&[]).await;
}

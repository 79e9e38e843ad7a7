//! The same matrix with the real docker-registry, behind htpasswd and behind a token server: caller, cold or cached,
//! kind of content, registry up or down (promises P16, P17).

use std::path::Path;

use larder_tests::fake::digest_of;
use larder_tests::http::Call;
use larder_tests::image::{Image, LayerSpec, oci_layout};
use larder_tests::node::Node;
use larder_tests::real::{Account, DockerRegistry, Requests, TokenServer};
use larder_tests::scene::{committed, eventually};
use tempfile::TempDir;

use crate::private::{Challenge, Private, Who, refused};

const REPOSITORY: &str = "team/app";
/// The repository from which the neighbour may pull.
const ELSEWHERE: &str = "other/app";
/// A name that does not resolve.
const NAME: &str = "registry.example";

struct Place {
    registry: DockerRegistry,
    tokens: Option<TokenServer>,
    owner: Who,
    image: Image,
    /// A user that may pull another repository only, and the image there.
    neighbour: Option<(Who, Image)>,
    dir: TempDir,
}

impl Place {
    async fn behind_htpasswd() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let owner = Who::new("owner");
        let registry = DockerRegistry::start_for(&dir.path().join("registry"), &[owner.pair()])
            .await
            .expect("a registry");
        Self {
            image: push(&registry, dir.path(), REPOSITORY, 1).await,
            registry,
            tokens: None,
            owner,
            neighbour: None,
            dir,
        }
    }

    async fn behind_tokens() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let [pusher, owner, other] = ["pusher", "owner", "other"].map(Who::new);
        let account = |who: &Who| Account::new(who.pair().0, who.pair().1);
        let both = ["push", "pull"];
        let tokens = TokenServer::start(vec![
            account(&pusher)
                .may(REPOSITORY, &both)
                .may(ELSEWHERE, &both),
            account(&owner).may(REPOSITORY, &["pull"]),
            account(&other).may(ELSEWHERE, &["pull"]),
        ])
        .await
        .expect("a token server");
        let registry = DockerRegistry::start_with_tokens(&dir.path().join("registry"), &tokens)
            .await
            .expect("a registry");
        Self {
            image: push(&registry, dir.path(), REPOSITORY, 1).await,
            neighbour: Some((other, push(&registry, dir.path(), ELSEWHERE, 2).await)),
            registry,
            tokens: Some(tokens),
            owner,
            dir,
        }
    }

    /// larder speaks to a token server on the loopback only if the configuration names it.
    async fn node(&self) -> Private {
        let builder = Node::builder().upstream_at(NAME, &self.registry.url());
        Private::start(match &self.tokens {
            Some(tokens) => builder.upstream_at("tokens.example", &tokens.url()),
            None => builder,
        })
        .await
    }

    /// The registry stops, and so does its token server.
    async fn stop(&mut self) {
        self.registry.stop();
        if let Some(tokens) = &mut self.tokens {
            tokens.stop().await;
        }
    }

    async fn asked(&self, before: &Requests) -> Requests {
        let now = self.registry.requests().await.expect("a log");
        now.since(before)
    }

    /// Every request that a client can make, and whether larder keeps its answer.
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

    /// The neighbour can pull from its own repository.
    async fn neighbour_pulls(&self, scene: &Private) {
        let Some((who, image)) = &self.neighbour else {
            return;
        };
        let layer = &image.layers[0];
        let path = format!("{ELSEWHERE}/blobs/{}", layer.digest);
        let url = format!("{}/v2/{path}?ns={NAME}", scene.node.url());
        let answer = scene.get(who, &url).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(digest_of(&answer.body), layer.digest);
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

async fn push(registry: &DockerRegistry, dir: &Path, repository: &str, seed: u64) -> Image {
    let layout = dir.join(format!("layout-{seed}"));
    let layers = [LayerSpec::new(seed, 100_000)];
    let image = oci_layout(&layout, "v1", &layers, None).expect("a layout");
    registry
        .push_layout(&layout, &format!("{repository}:v1"))
        .await
        .expect("a push");
    image
}

/// The rules that hold however the registry authenticates its clients.
async fn only_the_owner_gets_it(mut place: Place) {
    let mut strangers = vec![
        Who::Nobody,
        Who::new("owner"),
        Who::new("somebody"),
        Who::Sends(format!("Bearer larder_{:064x}", 1)),
    ];
    strangers.extend(place.neighbour.iter().map(|(who, _)| who.clone()));
    let owner = place.owner.clone();
    let before = place.registry.requests().await.expect("a log");
    let cold = place.node().await;
    for who in &strangers {
        place.nothing_for(&cold, who).await;
    }
    // larder asked the registry, which opened nothing for any of them.
    let asked = place.asked(&before).await;
    assert!(asked.only(|one| one.status == 401).len() >= strangers.len());
    let opened = asked.only(|one| one.path.contains(REPOSITORY) && one.status < 400);
    assert!(opened.is_empty(), "{opened:?}");
    let scene = place.node().await;
    place.pull(&scene, &owner, true).await;
    place.neighbour_pulls(&scene).await;
    for digest in [&place.image.manifest_digest, &place.image.layers[0].digest] {
        eventually("it is committed", || committed(scene.node.store(), digest)).await;
    }
    for who in &strangers {
        place.nothing_for(&scene, who).await;
    }
    // Warm: larder asks the registry nothing by digest, and once by tag.
    let before = place.registry.requests().await.expect("a log");
    let calls = place.calls(&scene);
    for (call, _) in &calls[1..4] {
        assert!(matches!(
            scene.ask(&owner, call.clone()).await.status,
            200 | 206
        ));
    }
    let asked = place.asked(&before).await;
    assert!(asked.is_empty(), "{asked:?}");
    assert_eq!(scene.ask(&owner, calls[0].0.clone()).await.status, 200);
    let asked = place.asked(&before).await;
    assert_eq!(
        (asked.len(), asked.manifest_heads().len()),
        (1, 1),
        "{asked:?}"
    );
    place.stop().await;
    place.pull(&scene, &owner, false).await;
    place.neighbour_pulls(&scene).await;
    for who in &strangers {
        place.nothing_for(&scene, who).await;
    }
    // In time larder has learnt that no client comes in without a secret.
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
    // The registry's own tokens are secrets too.
    let issued = place.tokens.iter().flat_map(TokenServer::issued);
    for (token, node) in issued.flat_map(|token| [(token.clone(), &cold), (token, &scene)]) {
        let signature = token.rsplit('.').next().unwrap_or(&token);
        assert!(!node.node.log().contains(signature), "a token is in a log");
    }
    cold.end(&[]).await;
    scene.end(&[]).await;
    drop(place.dir);
}

#[tokio::test]
async fn only_the_right_password_opens_it_cold_cached_and_in_an_outage() {
    only_the_owner_gets_it(Place::behind_htpasswd().await).await;
}

#[tokio::test]
async fn only_a_token_for_this_repository_opens_it_cold_cached_and_in_an_outage() {
    only_the_owner_gets_it(Place::behind_tokens().await).await;
}

//! How far a refusal reaches: a registry's refusal of one subject says nothing about its repository (promises P14, P16,
//! P17).

use std::time::{Duration, Instant};

use larder_tests::fake::{Armed, FakeRegistry, Fault, Gate, Kind, Match};
use larder_tests::http::Call;
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::scene::eventually;

use crate::private::{Private, Who};
use crate::two_images::{HEALS, REPOSITORY, TwoImages};

/// The requests for parts of the first image that the registry blocks.
fn blocks(first: &Image) -> Vec<(Vec<Match>, Vec<String>)> {
    let tag = || Match::manifest().reference("first");
    let digest = || Match::manifest().reference(&first.manifest_digest);
    let layer = &first.layers[0].digest;
    let by_tag = "manifests/first".to_owned();
    let by_digest = format!("manifests/{}", first.manifest_digest);
    vec![
        (
            vec![tag(), digest()],
            vec![by_tag.clone(), by_digest.clone()],
        ),
        (vec![tag()], vec![by_tag]),
        (vec![digest()], vec![]),
        (
            vec![Match::blob().reference(layer)],
            vec![format!("blobs/{layer}")],
        ),
    ]
}

/// Scanners and firewalls do this: the registry itself refuses one artifact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_blocked_artifact_closes_nothing_else() {
    for block in 0..4 {
        for (code, mut images) in [403, 401]
            .into_iter()
            .zip(TwoImages::each("[access]\nttl = \"10m\"\n").await)
        {
            let (matches, paths) = blocks(&images.first).swap_remove(block);
            let armed: Vec<Armed> = matches
                .into_iter()
                .map(|which| images.fake.fault(which, Fault::denied(code)))
                .collect();
            let what = format!("block {block} of {:?}", images.who);
            // Only a request to the registry shows the refusal. For a layer that is here, larder asks the registry only
            // to prove the right to it.
            if let Some(path) = paths.first() {
                if path.starts_with("blobs/") {
                    images.scene.node.restart().await;
                }
                let answer = images.get(path).await;
                if path.starts_with("manifests/") {
                    assert_eq!(answer.status, 401, "{what}: {}", answer.text());
                    images.until_looked_into(200).await;
                }
            }
            images.pulls("second", &images.second).await;
            if block < 2 {
                images.gets_nothing(&what, &paths).await;
                // The tag's digest is refused together with the tag.
                let by_digest = format!("manifests/{}", images.first.manifest_digest);
                if block == 0 {
                    images.gets_nothing(&what, &[by_digest]).await;
                }
                // The part of the image that is not refused gives a right like any other.
                images.pulls("second", &images.second).await;
                let answer = images.get("manifests/second").await;
                assert_eq!((answer.status, answer.header("warning")), (200, None));
            }
            // Neither an outage, nor a restart in it, opens the blocked image or closes the other one.
            images.fake.stop().await;
            for _ in 0..2 {
                images.pulls("second", &images.second).await;
                if block < 2 {
                    images.gets_nothing(&what, &paths).await;
                }
                images.scene.node.restart().await;
            }
            for armed in armed {
                armed.lift();
            }
            images.fake.start_again().await;
            images.until("manifests/first", 200).await;
            images.pulls("first", &images.first).await;
            images.end().await;
        }
    }
}

/// A caller that was refused gets nothing from the cache until the registry has served it something else, and larder
/// bridges no outage for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_right_is_being_checked_nothing_is_served() {
    for mut images in TwoImages::each("[access]\nttl = \"10m\"\ngrace = \"1h\"\n").await {
        let tag = Match::manifest().reference("first");
        images.fake.fault(tag, Fault::denied(403));
        let rest = images.fake.fault(
            Match::any().when(|request| matches!(request.kind, Kind::Manifest | Kind::Blob)),
            Fault::status(500),
        );
        assert_eq!(images.get("manifests/first").await.status, 401);
        eventually("it was asked for something else", || rest.hits() > 0).await;
        let paths = TwoImages::paths("second", &images.second);
        images.gets_nothing("the registry fails", &paths).await;
        images.fake.stop().await;
        images.gets_nothing("an outage", &paths).await;
        images.scene.node.restart().await;
        images.gets_nothing("a restart", &paths).await;
        images.fake.start_again().await;
        images
            .gets_nothing("the registry fails again", &paths)
            .await;
        rest.lift();
        if images.who != Who::Nobody {
            // A caller without a credential is left out: its own request has already asked for its right again, and got
            // the answer.
            images.pulls("second", &images.second).await;
        }
        images.end().await;
    }
}

/// The registry gives various answers instead of the content that it is known to hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_was_taken_away_is_void_at_once() {
    for (code, looked) in [(403, 403), (403, 401), (401, 404), (403, 404)] {
        for mut images in TwoImages::each("[access]\nttl = \"10m\"\ngrace = \"1h\"\n").await {
            let tag = Match::manifest().reference("first");
            images.fake.fault(tag, Fault::denied(code));
            let rest = Match::any().when(|request| {
                matches!(request.kind, Kind::Manifest | Kind::Blob) && request.reference != "first"
            });
            let rest = images.fake.fault(rest, Fault::denied(looked));
            assert_eq!(images.get("manifests/first").await.status, 401);
            eventually("it was asked for something else", || rest.hits() > 1).await;
            let paths = TwoImages::paths("second", &images.second);
            images.gets_nothing("refused", &paths).await;
            images.fake.stop().await;
            images.gets_nothing("in an outage", &paths).await;
            images.scene.node.restart().await;
            images.gets_nothing("after a restart", &paths).await;
            images.end().await;
        }
    }
}

/// A registry that is being upgraded refuses everything for a moment. All settings have their defaults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_everything_is_asked_again_soon() {
    for images in TwoImages::each("").await {
        let armed = images.fake.fault(Match::any(), Fault::denied(403));
        images.until("manifests/first", 401).await;
        let blob = format!("blobs/{}", images.first.layers[0].digest);
        images.until(&blob, 401).await;
        armed.lift();
        images.until("manifests/first", 200).await;
        images.pulls("first", &images.first).await;
        images.end().await;
    }
}

/// Docker Hub answers 401 for a repository that does not exist yet, and a pod may come before its image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deployed_before_it_is_pushed_heals_within_seconds() {
    let fake = FakeRegistry::start().await;
    let owner = Who::new("owner");
    // The registry gives tokens, and they open nothing.
    fake.require_bearer("other/app", &[owner.pair()]);
    fake.allow_anonymous("other/app");
    let scene = Private::configured(&[&fake], "").await;
    for (who, repository) in [(&Who::Nobody, "new/public"), (&owner, "new/private")] {
        fake.require_bearer(repository, &[]);
        let url = scene.manifest(&fake, repository, "v1");
        for _ in 0..4 {
            assert_eq!(scene.head(who, &url).await.status, 401, "{who:?}");
        }
        let image = build(&fake, repository, "v1", &[LayerSpec::new(7, 1000)]);
        match who {
            Who::Nobody => fake.allow_anonymous(repository),
            _ => fake.require_bearer(repository, &[owner.pair()]),
        }
        let deadline = Instant::now() + HEALS;
        while scene.head(who, &url).await.status != 200 {
            assert!(Instant::now() < deadline, "{who:?}: it is still refused");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for path in TwoImages::paths("v1", &image) {
            let url = scene.path(&fake, &format!("{repository}/{path}"));
            assert_eq!(scene.get(who, &url).await.status, 200, "{path}");
        }
        // Callers that repeat a request make no load: larder pauses between its requests to the registry.
        let asked = fake.count(|seen| seen.kind == Kind::Manifest && seen.status == 401);
        assert!(asked <= 40, "{asked} questions");
    }
    scene.end(&[&fake]).await;
}

/// The time of a refusal tells a caller nothing: the answer does not wait until larder has looked at the repository.
#[tokio::test]
async fn nobody_waits_for_the_look_at_the_repository() {
    let images = TwoImages::of(Who::new("owner"), "").await;
    let stranger = Who::new("stranger");
    images.fake.require_bearer(REPOSITORY, &[images.who.pair()]);
    // The registry gives tokens to the stranger, and they open nothing here.
    images.fake.require_bearer("other/app", &[stranger.pair()]);
    let gate = Gate::new(0);
    let others = Match::any().when(|request| {
        let wanted = request.reference == "first";
        request.kind != Kind::Token && !wanted
    });
    images.fake.fault(others, Fault::Hold(gate.clone()));
    let url = images.url("manifests/first");
    let asked = tokio::time::timeout(HEALS, images.scene.get(&stranger, &url)).await;
    assert_eq!(asked.expect("an answer").status, 401);
    gate.open();
    let call = Call::get(&url);
    assert_eq!(images.scene.ask(&images.who, call).await.status, 200);
    images.end().await;
}

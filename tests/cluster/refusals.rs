//! Members tell each other that a credential was refused a repository, and never that it was refused one image of it
//! (promises P14, P17).

use std::time::Duration;

use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::image::{Image, build};
use larder_tests::members::{Cluster, Door};
use larder_tests::scene::{committed, eventually};

use super::{beside, layers, within};

const PRIVATE: &str = "team/private";
const USER: &str = "pod";
const PASSWORD: &str = "a-long-password";

/// How long members may take to tell each other.
const SPREAD: Duration = Duration::from_secs(10);

struct Scene {
    fake: FakeRegistry,
    cluster: Cluster,
    blocked: Image,
    other: Image,
}

/// Two images of a private repository on the first of four nodes, whose keepers know that the credential opens it.
async fn scene() -> Scene {
    let fake = FakeRegistry::start().await;
    let blocked = build(&fake, PRIVATE, "blocked", &layers(1, &[1]));
    let other = build(&fake, PRIVATE, "other", &layers(2, &[1]));
    fake.require_bearer(PRIVATE, &[(USER, PASSWORD)]);
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let door = cluster.door(0, &fake, PRIVATE);
    let door = door.login(USER, PASSWORD, "other").await.expect("a token");
    for (tag, image) in [("blocked", &blocked), ("other", &other)] {
        door.pull(tag, image).await.expect("an image");
        for layer in &image.layers {
            let store = cluster.node(0).store();
            eventually("it is committed", || committed(store, &layer.digest)).await;
        }
    }
    Scene {
        fake,
        cluster,
        blocked,
        other,
    }
}

impl Scene {
    async fn door(&self, number: usize) -> Result<Door, String> {
        let door = self.cluster.door(number, &self.fake, PRIVATE);
        door.login(USER, PASSWORD, "other").await
    }

    /// Waits until the registry was asked for another subject than the refused one, and has answered so.
    async fn until_looked_into(&self, status: u16) {
        eventually("it was asked for something else", || {
            self.fake.count(|seen| {
                let refused = seen.reference == "blocked";
                !refused && seen.repository == PRIVATE && seen.status == status && seen.finished
            }) > 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_blocked_image_takes_no_right_away_at_other_nodes() {
    let _machine = beside().await;
    let scene = scene().await;
    for reference in ["blocked", &scene.blocked.manifest_digest] {
        let which = Match::manifest().reference(reference);
        scene.fake.fault(which, Fault::denied(403));
    }
    scene.fake.reset_counts();
    let door = scene.door(0).await.expect("a token");
    let answer = door.get("manifests/blocked", &[]).await.expect("an answer");
    assert_eq!(answer.status, 401, "{}", answer.text());
    scene.until_looked_into(200).await;
    scene.fake.stop().await;
    // Three nodes that have never seen it ask its keepers.
    for number in 1..4 {
        within("another node", SPREAD, async || {
            let door = scene.door(number).await?;
            door.pull("other", &scene.other).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_was_taken_away_is_taken_away_at_all_nodes() {
    let _machine = beside().await;
    let scene = scene().await;
    // Records are ordered by whole seconds, and the refusal must be the later one.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    scene
        .fake
        .fault(Match::any().repository(PRIVATE), Fault::denied(403));
    scene.fake.reset_counts();
    let door = scene.door(0).await.expect("a token");
    let answer = door.get("manifests/blocked", &[]).await.expect("an answer");
    assert_eq!(answer.status, 401, "{}", answer.text());
    scene.until_looked_into(403).await;
    // The refusal soon reaches the keepers; then the repository opens to no caller in an outage.
    let told = |node: usize| {
        let kept = scene.cluster.node(node).store().join("cluster");
        larder_tests::scene::files(&kept)
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .any(|text| text.contains("revoked"))
    };
    eventually("the keepers know", || {
        (0..4).filter(|node| told(*node)).count() >= 3
    })
    .await;
    scene.fake.stop().await;
    for number in 1..4 {
        let door = scene.cluster.door(number, &scene.fake, PRIVATE);
        let Ok(door) = door.login(USER, PASSWORD, "other").await else {
            continue;
        };
        for path in [
            "manifests/other".to_owned(),
            format!("manifests/{}", scene.other.manifest_digest),
            format!("blobs/{}", scene.other.config_digest),
        ] {
            let answer = door.get(&path, &[]).await.expect("an answer");
            assert!(answer.status >= 400, "{number} {path}: {}", answer.status);
        }
    }
}

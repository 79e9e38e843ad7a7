//! What a tag of a set resolves to while its registry is down: the digest that an answer or a list named last.

use std::time::SystemTime;

use larder_tests::clouds::{Images, Pushed};
use larder_tests::fake::{Armed, Fault, Match};
use larder_tests::http::Response;
use larder_tests::scene::eventually;

use super::*;

const STABLE: &str = "tags = [\"stable\"]\nnewest = [{ match = \"w_#\", count = 1 }]";

/// A registry whose list has digests, so that larder asks for no tag of the set.
struct Moving {
    labs: Labs,
    armed: Option<Armed>,
}

impl Moving {
    async fn new(more: &str) -> Self {
        let labs = Labs::with(&[], |_| String::new()).await;
        let mut moving = Self { labs, armed: None };
        moving.move_to(1);
        let fake = &moving.labs.scene.fake;
        let config = newest(fake, "", "keep = \"1h\"", STABLE);
        moving.labs.configure(&format!("{config}{more}"));
        moving
    }

    /// Moves `stable` to the image of this seed, in the registry and in its list.
    fn move_to(&mut self, seed: u64) -> Image {
        let image = self.labs.put("stable", seed);
        let images = Images::default();
        images.set(vec![Pushed {
            image: "lab".to_owned(),
            digest: image.manifest_digest.clone(),
            tags: vec!["stable".to_owned()],
            size: 1,
            at: 1_700_000_000,
        }]);
        if let Some(before) = self.armed.take() {
            before.lift();
        }
        let body = images.google_tags("labs/lab", "lab");
        let says = Fault::Status {
            code: 200,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.into(),
        };
        self.armed = Some(self.labs.scene.fake.fault(Match::tags(), says));
        image
    }

    async fn ask(&self, method: &str) -> Response {
        let url = self.labs.scene.manifest("labs/lab", "stable");
        let call = http::Call::new(method, url);
        call.send().await.expect("an answer")
    }

    /// Waits until this image is here, and a list made after this second names it.
    async fn until_listed(&self, image: &Image) {
        let second = now();
        let status = self.labs.until("it is here, as a new list says", |status| {
            let first = &status["images"][0];
            let here = first["state"] == "here" && first["digest"] == image.manifest_digest;
            here && status["listed_at"].as_u64().is_some_and(|at| at > second)
        });
        status.await;
    }

    /// Waits until the tag resolves to this image, as stale.
    async fn until_stale(&self, image: &Image) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask("GET").await;
            let stale = answer.header("warning").is_some();
            if stale && answer.header("docker-content-digest") == Some(&image.manifest_digest) {
                return;
            }
            assert!(Instant::now() < deadline, "{answer:?}");
            tokio::time::sleep(GLANCE).await;
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("a time").as_secs()
}

/// A client resolves the tag, and then the tag moves in the list. The outage that follows has the list's digest, also
/// after a restart.
#[tokio::test]
async fn a_list_wins_over_an_older_answer() {
    let mut moving = Moving::new("").await;
    moving.labs.until_here(&["stable"]).await;
    assert_eq!(moving.ask("GET").await.status, 200);
    let new = moving.move_to(2);
    moving.until_listed(&new).await;
    moving.labs.scene.fake.stop().await;
    moving.until_stale(&new).await;
    let log = moving.labs.node().store().join("repositories");
    let log = log
        .join(moving.labs.scene.fake.host())
        .join("labs/lab/_log");
    let written = || fs::read_to_string(&log).is_ok_and(|text| text.contains("\"listed\""));
    eventually("it is on disk", written).await;
    moving.labs.scene.node.kill9().await;
    moving.labs.scene.node.restart().await;
    moving.until_stale(&new).await;
    // Where the manifest that the list named is gone, the earlier digest is better than nothing.
    let name = format!(
        "{}/labs/lab@{}",
        moving.labs.scene.fake.host(),
        new.manifest_digest
    );
    let old = put(&moving.labs.scene.fake, "old", 1, 200_000);
    let evicted = moving.labs.node().cli(&["evict", &name]).await;
    assert!(evicted.status.success(), "{evicted:?}");
    moving.until_stale(&old).await;
}

/// The registry's own answer is newer than the list before it.
#[tokio::test]
async fn an_answer_wins_over_an_older_list() {
    let mut moving = Moving::new("").await;
    moving.labs.until_here(&["stable"]).await;
    let listed = moving.move_to(2);
    moving.until_listed(&listed).await;
    // The list does not change.
    let newer = moving.labs.put("stable", 3);
    let second = now();
    let faults = Match::tags();
    moving.labs.scene.fake.fault(faults, Fault::status(503));
    eventually("a later second", || now() > second).await;
    assert_eq!(moving.ask("GET").await.status, 200);
    moving.labs.scene.fake.stop().await;
    moving.until_stale(&newer).await;
}

/// A registry may answer 404 for what this caller may no longer read. Where no proof tells the two cases apart, the 404
/// is larder's answer, to HEAD as to GET, although the tag has pointed to two images here.
#[tokio::test]
async fn a_404_bridges_nothing_where_no_proof_follows() {
    let mut moving = Moving::new("[access]\nttl = \"2s\"\n").await;
    moving.labs.until_here(&["stable"]).await;
    assert_eq!(moving.ask("GET").await.status, 200);
    let new = moving.move_to(2);
    moving.until_listed(&new).await;
    let fake = &moving.labs.scene.fake;
    fake.delete_tag("labs/lab", "stable");
    let hangs = Match::manifest().when(|request| request.reference.starts_with("sha256:"));
    fake.fault(hangs, Fault::Delay(Duration::from_mins(1)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for method in ["HEAD", "GET", "HEAD"] {
        let answer = moving.ask(method).await;
        assert_eq!(answer.status, 404, "{method}: {answer:?}");
    }
}

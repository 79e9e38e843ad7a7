//! A node that holds two images of one repository, and a caller that has pulled both.

use std::time::{Duration, Instant};

use larder_tests::fake::{FakeRegistry, Seen};
use larder_tests::http::Response;
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::scene::{committed, eventually};

use crate::private::{Private, Who, refused};

pub const REPOSITORY: &str = "team/app";

/// Time for a recovery that takes seconds on a quiet machine.
pub const HEALS: Duration = Duration::from_secs(20);

/// Two images in one repository, both pulled by the client `who`. The registry refuses one; the other shows that the
/// repository is still open.
#[derive(Debug)]
pub struct TwoImages {
    pub fake: FakeRegistry,
    pub scene: Private,
    pub who: Who,
    pub first: Image,
    pub second: Image,
}

impl TwoImages {
    pub async fn of(who: Who, toml: &str) -> Self {
        Self::beside(&[], who, toml).await
    }

    /// The same, where redirects to these places are allowed.
    pub async fn beside(others: &[&FakeRegistry], who: Who, toml: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let first = build(&fake, REPOSITORY, "first", &[LayerSpec::new(1, 1000)]);
        let second = build(&fake, REPOSITORY, "second", &[LayerSpec::new(2, 1000)]);
        if let Who::User(..) = who {
            fake.require_bearer(REPOSITORY, &[who.pair()]);
        }
        let all: Vec<&FakeRegistry> = [&fake].into_iter().chain(others.iter().copied()).collect();
        let scene = Private::configured(&all, toml).await;
        let images = Self {
            fake,
            scene,
            who,
            first,
            second,
        };
        for (tag, image) in [("first", &images.first), ("second", &images.second)] {
            images.pulls(tag, image).await;
            let layers = image.layers.iter().map(|layer| &layer.digest);
            for digest in [&image.manifest_digest, &image.config_digest]
                .into_iter()
                .chain(layers)
            {
                let store = images.scene.node.store();
                eventually("it is committed", || committed(store, digest)).await;
            }
        }
        images.fake.reset_counts();
        images
    }

    /// The two kinds of callers that a test is about.
    pub async fn each(toml: &str) -> [Self; 2] {
        [
            Self::of(Who::Nobody, toml).await,
            Self::of(Who::new("owner"), toml).await,
        ]
    }

    pub fn url(&self, rest: &str) -> String {
        self.scene.path(&self.fake, &format!("{REPOSITORY}/{rest}"))
    }

    pub async fn get(&self, rest: &str) -> Response {
        self.scene.get(&self.who, &self.url(rest)).await
    }

    pub async fn head(&self, rest: &str) -> Response {
        self.scene.head(&self.who, &self.url(rest)).await
    }

    /// The paths of a pull by tag in a runtime's order: HEAD of the tag, then everything by digest.
    pub fn paths(tag: &str, image: &Image) -> Vec<String> {
        let mut paths = vec![
            format!("manifests/{tag}"),
            format!("manifests/{}", image.manifest_digest),
            format!("blobs/{}", image.config_digest),
        ];
        let layers = image.layers.iter();
        paths.extend(layers.map(|layer| format!("blobs/{}", layer.digest)));
        paths
    }

    /// Pulls the whole image; every part of it comes.
    pub async fn pulls(&self, tag: &str, image: &Image) {
        let paths = Self::paths(tag, image);
        let head = self.head(&paths[0]).await;
        assert_eq!(head.status, 200, "{tag} {:?}", self.who);
        assert_eq!(
            head.header("docker-content-digest"),
            Some(&*image.manifest_digest)
        );
        for path in &paths[1..] {
            let answer = self.get(path).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert!(answer.complete && !answer.body.is_empty(), "{path}");
        }
    }

    /// Every request of these paths is refused.
    pub async fn gets_nothing(&self, what: &str, paths: &[String]) {
        for path in paths {
            refused(what, &self.get(path).await, b"schemaVersion");
            let head = self.head(path).await;
            assert!(head.status >= 400, "{what}: {path} {}", head.status);
        }
    }

    /// Waits until a request is answered with this status.
    pub async fn until(&self, path: &str, status: u16) {
        let deadline = Instant::now() + HEALS;
        loop {
            let answer = self.get(path).await;
            if answer.status == status {
                return;
            }
            let told = answer.text();
            assert!(
                Instant::now() < deadline,
                "{path}: {} {told}",
                answer.status
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until larder has asked the registry, after a refusal, for content that the repository is known to hold.
    pub async fn until_looked_into(&self, status: u16) {
        let held: Vec<String> = [("first", &self.first), ("second", &self.second)]
            .iter()
            .flat_map(|(tag, image)| Self::paths(tag, image))
            .collect();
        eventually("it was asked for something else", || {
            let looked = |seen: &Seen| {
                let is = held.iter().any(|path| seen.path.ends_with(&**path));
                is && seen.status == status && seen.finished
            };
            self.fake.count(looked) > 0
        })
        .await;
    }

    pub async fn end(self) {
        self.scene.end(&[&self.fake]).await;
    }
}

//! Every combination of caller, cold or cached, kind of content, and upstream up or down (promises P16, P17). In no
//! cell does an unauthorised client get anything. An authorised client gets whatever is available.

use std::time::Duration;

use bytes::Bytes;
use larder_tests::fake::FakeRegistry;
use larder_tests::http::{Call, Response};
use larder_tests::image::{Image, LayerSpec, OCI_MANIFEST, build, build_artifact};
use larder_tests::scene::{committed, eventually};

use crate::private::{Challenge, Private, Who, refused};

/// The client that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Nobody,
    Right,
    Wrong,
    /// A user with rights to another repository of the same registry.
    Other,
    /// A larder token that is not known any more.
    Expired,
    /// The registry no longer accepts the credential, and larder has learnt that.
    Revoked,
}

const CALLERS: [Caller; 6] = [
    Caller::Nobody,
    Caller::Right,
    Caller::Wrong,
    Caller::Other,
    Caller::Expired,
    Caller::Revoked,
];

/// The content that the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    ByTag,
    ByDigest,
    Blob,
    Range,
    HeadOfTag,
    HeadOfManifest,
    HeadOfBlob,
    Referrers,
    Tags,
}

const WHAT: [What; 9] = [
    What::ByTag,
    What::ByDigest,
    What::Blob,
    What::Range,
    What::HeadOfTag,
    What::HeadOfManifest,
    What::HeadOfBlob,
    What::Referrers,
    What::Tags,
];

/// One cell's own repository, so that no cell spoils another.
struct Cell {
    caller: Caller,
    what: What,
    cached: bool,
    repository: String,
    owner: Who,
    who: Who,
    image: Image,
    artifact: String,
}

impl Cell {
    fn call(&self, scene: &Private, fake: &FakeRegistry) -> Call {
        let manifest = &self.image.manifest_digest;
        let (method, path) = match self.what {
            What::ByTag => ("GET", "manifests/v1".to_owned()),
            What::ByDigest => ("GET", format!("manifests/{manifest}")),
            What::Blob | What::Range => ("GET", format!("blobs/{}", self.image.config_digest)),
            What::HeadOfTag => ("HEAD", "manifests/v1".to_owned()),
            What::HeadOfManifest => ("HEAD", format!("manifests/{manifest}")),
            What::HeadOfBlob => ("HEAD", format!("blobs/{}", self.image.config_digest)),
            What::Referrers => ("GET", format!("referrers/{manifest}")),
            What::Tags => ("GET", "tags/list".to_owned()),
        };
        let call = Call::new(
            method,
            scene.path(fake, &format!("{}/{path}", self.repository)),
        );
        match self.what {
            What::Range => call.header("range", "bytes=3-40"),
            _ => call,
        }
    }

    /// Lists are not kept; all other content that was pulled once is.
    fn is_kept(&self) -> bool {
        !matches!(self.what, What::Referrers | What::Tags)
    }

    /// Whether the caller may have the content, and the node can get it.
    fn opens(&self, up: bool) -> bool {
        self.caller == Caller::Right && (up || (self.cached && self.is_kept()))
    }

    /// A piece that must not appear in a refusal: the shortest piece that gives something away.
    fn secret(&self) -> Bytes {
        match self.what {
            What::Blob | What::Range | What::HeadOfBlob => self.image.config.slice(3..41),
            What::Tags => Bytes::from_static(b"\"tags\""),
            What::Referrers => Bytes::copy_from_slice(self.artifact.as_bytes()),
            _ => Bytes::from_static(b"schemaVersion"),
        }
    }

    /// Checks that the answer is all that was asked for.
    fn check(&self, answer: &Response) {
        let body: Bytes = match self.what {
            What::ByTag | What::ByDigest => self.image.manifest.clone(),
            What::Blob => self.image.config.clone(),
            What::Range => self.image.config.slice(3..41),
            What::Referrers => {
                assert!(answer.text().contains(&self.artifact), "{}", answer.text());
                return;
            }
            What::Tags => {
                assert_eq!(answer.json()["tags"], serde_json::json!(["v1"]));
                return;
            }
            What::HeadOfTag | What::HeadOfManifest => {
                assert_eq!(
                    answer.header("docker-content-digest"),
                    Some(&*self.image.manifest_digest)
                );
                Bytes::new()
            }
            What::HeadOfBlob => {
                let length = self.image.config.len().to_string();
                assert_eq!(answer.header("content-length"), Some(&*length));
                Bytes::new()
            }
        };
        assert_eq!(answer.body, body);
    }
}

/// How a fake registry authenticates its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer,
}

fn require(fake: &FakeRegistry, scheme: Scheme, repository: &str, who: &Who) {
    let (user, password) = who.pair();
    match scheme {
        Scheme::Basic => fake.require_basic(repository, user, password),
        Scheme::Bearer => fake.require_bearer(repository, &[(user, password)]),
    }
}

async fn matrix(scheme: Scheme, up: bool) {
    let fake = FakeRegistry::start().await;
    let scene = Private::before(&[&fake]).await;
    let elsewhere = Who::new("elsewhere");
    fake.put_manifest("elsewhere", Some("v1"), OCI_MANIFEST, "{}");
    require(&fake, scheme, "elsewhere", &elsewhere);
    let url = scene.manifest(&fake, "elsewhere", "v1");
    assert_eq!(scene.get(&elsewhere, &url).await.status, 200);
    let mut cells = Vec::new();
    for caller in CALLERS {
        for cached in [false, true] {
            for what in WHAT {
                let name = format!("{caller:?}/{what:?}/{cached}").to_lowercase();
                let image = build(
                    &fake,
                    &name,
                    "v1",
                    &[LayerSpec::new(cells.len() as u64, 10)],
                );
                let artifact = build_artifact(&fake, &name, &image, "text/sbom", &name);
                let owner = Who::new("owner");
                let who = match caller {
                    Caller::Nobody => Who::Nobody,
                    Caller::Right | Caller::Revoked => owner.clone(),
                    Caller::Wrong => Who::new("owner"),
                    Caller::Other => elsewhere.clone(),
                    Caller::Expired => {
                        Who::Sends(format!("Bearer larder_{:064x}", fastrand::u128(..)))
                    }
                };
                require(&fake, scheme, &name, &owner);
                cells.push(Cell {
                    caller,
                    what,
                    cached,
                    repository: name,
                    owner,
                    who,
                    image,
                    artifact,
                });
            }
        }
    }
    for cell in &cells {
        let path = |path: &str| scene.path(&fake, &format!("{}/{path}", cell.repository));
        if cell.cached {
            for what in [
                "manifests/v1".to_owned(),
                format!("blobs/{}", cell.image.config_digest),
            ] {
                assert_eq!(scene.get(&cell.owner, &path(&what)).await.status, 200);
            }
            for digest in [&cell.image.config_digest, &cell.image.manifest_digest] {
                eventually("it is committed", || committed(scene.node.store(), digest)).await;
            }
        }
        if cell.caller == Caller::Revoked {
            // The registry accepts it once, and then only its successor. larder learns that from its next request.
            assert_eq!(
                scene.get(&cell.who, &path("manifests/v1")).await.status,
                200
            );
            require(&fake, scheme, &cell.repository, &Who::new("successor"));
            fake.revoke_tokens();
            assert_eq!(
                scene.get(&cell.who, &path("manifests/v1")).await.status,
                401
            );
        }
    }
    if !up {
        fake.stop().await;
    }
    for cell in &cells {
        let name = format!(
            "{scheme:?} up={up} {:?} {:?} cached={}",
            cell.caller, cell.what, cell.cached
        );
        for round in 0..2 {
            let answer = scene.ask(&cell.who, cell.call(&scene, &fake)).await;
            if cell.opens(up) {
                assert!(
                    matches!(answer.status, 200 | 206),
                    "{name}: {} {}",
                    answer.status,
                    answer.text()
                );
                cell.check(&answer);
                continue;
            }
            refused(&name, &answer, &cell.secret());
            match answer.status {
                401 => {
                    let error = Challenge::of(&answer).error;
                    let expected = match cell.caller {
                        Caller::Nobody => None,
                        Caller::Expired => Some("invalid_token"),
                        _ => Some("insufficient_scope"),
                    };
                    assert_eq!(error.as_deref(), expected, "{name}");
                }
                status => assert!(
                    !up && status == 503,
                    "{name} ({round}): {status} {}",
                    answer.text()
                ),
            }
        }
    }
    scene.end(&[&fake]).await;
}

#[tokio::test]
async fn behind_tokens_while_the_registry_answers() {
    matrix(Scheme::Bearer, true).await;
}

#[tokio::test]
async fn behind_tokens_while_it_is_down() {
    matrix(Scheme::Bearer, false).await;
}

#[tokio::test]
async fn behind_basic_while_the_registry_answers() {
    matrix(Scheme::Basic, true).await;
}

#[tokio::test]
async fn behind_basic_while_it_is_down() {
    matrix(Scheme::Basic, false).await;
}

/// Within the grace larder bridges an outage, afterwards it does not. It serves public content all along.
#[tokio::test]
async fn grace_bounds_credentials_and_nothing_else() {
    let fake = FakeRegistry::start().await;
    let owner = Who::new("owner");
    let image = build(&fake, "team/app", "v1", &[LayerSpec::new(1, 10)]);
    let public = build(&fake, "public/app", "v1", &[LayerSpec::new(2, 10)]);
    fake.require_bearer("team/app", &[owner.pair()]);
    let scene = Private::configured(&[&fake], "[access]\nttl = \"1s\"\ngrace = \"1s\"\n").await;
    let urls = |repository: &str, image: &Image| {
        [
            (
                scene.manifest(&fake, repository, "v1"),
                image.manifest.clone(),
            ),
            (
                scene.manifest(&fake, repository, &image.manifest_digest),
                image.manifest.clone(),
            ),
            (
                scene.blob(&fake, repository, &image.config_digest),
                image.config.clone(),
            ),
        ]
    };
    let (private, open) = (urls("team/app", &image), urls("public/app", &public));
    for (url, content) in private.iter().chain(&open) {
        assert_eq!(scene.get(&owner, url).await.body, content);
    }
    for digest in [&image.config_digest, &public.config_digest] {
        eventually("it is committed", || committed(scene.node.store(), digest)).await;
    }
    fake.stop().await;
    let since = std::time::Instant::now();
    let sent = Who::Sends(owner.basic());
    for (url, content) in &private {
        assert_eq!(
            scene.get(&sent, url).await.body,
            content,
            "within the grace"
        );
    }
    // An answer within the grace is no proof: it does not start the grace anew.
    let mut over = 0;
    while over < private.len() {
        assert!(
            since.elapsed() < Duration::from_secs(15),
            "the grace does not end"
        );
        over = 0;
        for (url, content) in &private {
            let answer = scene.get(&sent, url).await;
            if answer.status == 200 {
                assert_eq!(answer.body, content);
            } else {
                refused(url, &answer, content);
                over += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        since.elapsed() < Duration::from_secs(6),
        "{:?}",
        since.elapsed()
    );
    for who in [&Who::Nobody, &sent] {
        for (url, content) in &open {
            assert_eq!(scene.get(who, url).await.body, content, "public");
        }
    }
    // When the registry is back, the right is proven anew.
    fake.start_again().await;
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    while scene.get(&sent, &private[0].0).await.status != 200 {
        assert!(std::time::Instant::now() < deadline, "it never opens again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scene.end(&[&fake]).await;
}

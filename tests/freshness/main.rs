//! How old a tag may be, and the answers while its registry cannot be asked (promises P13 to P15).

mod head;
mod limits;
mod mirror;
mod outage;
mod probes;
mod registry;
mod revalidate;
mod silence;
mod told;

use std::time::{Duration, Instant};

use larder_tests::fake::FakeRegistry;
use larder_tests::http::{self, Call, Response};
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use larder_tests::scene::{committed, eventually};

const REPOSITORY: &str = "team/app";
const OLD: &str = "{\"schemaVersion\":2}";
const NEW: &str = "{\"schemaVersion\":2,\"annotations\":{}}";

/// A registry whose `team/app:v1` a node has pulled already.
struct Tagged {
    fake: FakeRegistry,
    node: Node,
    old: String,
}

impl Tagged {
    /// `config` is the configuration file's text; `HOST` in it stands for the registry.
    async fn new(config: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let old = fake.put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, OLD);
        let config = config.replace("HOST", &fake.host());
        let node = Node::builder().upstream(&fake).config(config).start().await;
        let tagged = Self { fake, node, old };
        // containerd's pull: a HEAD of the tag, then a GET of the digest.
        let told = tagged.head("v1").await;
        let digest = told.header("docker-content-digest");
        assert_eq!((told.status, digest), (200, Some(tagged.old.as_str())));
        let answer = tagged.get(&tagged.old).await;
        assert_eq!((answer.status, answer.text()), (200, OLD.to_owned()));
        tagged.fake.reset_counts();
        tagged
    }

    fn url(&self, reference: &str) -> String {
        let (node, host) = (self.node.url(), self.fake.host());
        format!("{node}/v2/{REPOSITORY}/manifests/{reference}?ns={host}")
    }

    async fn get(&self, reference: &str) -> Response {
        answer(Call::get(self.url(reference))).await
    }

    async fn head(&self, reference: &str) -> Response {
        answer(Call::new("HEAD", self.url(reference))).await
    }

    /// How many requests of this method the registry has seen.
    fn asked(&self, method: &str) -> usize {
        self.fake.count(|seen| seen.method == method)
    }

    /// Waits until the pulled content would survive a kill: the client did not wait for the disk.
    async fn until_kept(&self) {
        let log = self
            .node
            .store()
            .join("repositories")
            .join(self.fake.host())
            .join(REPOSITORY)
            .join("_log");
        eventually("manifest and tag are on disk", || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            committed(self.node.store(), &self.old) && log.contains("\"v1\"")
        })
        .await;
    }

    /// Asks for `v1` until the answer is as wanted; panics after 20 s.
    async fn until(&self, what: &str, wanted: impl Fn(&Response) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get("v1").await;
            if wanted(&answer) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: still {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Asks as clients do: when challenged, the client gets a token (without a secret here), and asks again.
async fn answer(call: Call) -> Response {
    let answer = call.clone().send().await.expect("an answer");
    if answer.status != 401 {
        return answer;
    }
    let challenge = answer.header("www-authenticate").expect("a challenge");
    let parameter = |name: &str| {
        let (_, rest) = challenge
            .split_once(&format!("{name}=\""))
            .expect("a parameter");
        rest.split('"').next().unwrap_or_default()
    };
    let (realm, scope) = (parameter("realm"), parameter("scope"));
    let url = format!("{realm}?service={}&scope={scope}", parameter("service"));
    let token = http::get(&url, &[]).await.expect("an answer");
    if token.status != 200 {
        return answer;
    }
    let token = token.json()["token"].as_str().expect("a token").to_owned();
    let call = call.header("authorization", &format!("Bearer {token}"));
    call.send().await.expect("an answer")
}

/// Whether an answer has the warning that it may be old.
fn is_stale(answer: &Response) -> bool {
    let warning = answer.header("warning");
    assert!(
        warning.is_none_or(|text| text.starts_with("299 - \"")),
        "{warning:?}"
    );
    warning.is_some()
}

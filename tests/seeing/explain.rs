//! `larder explain` predicts what the pull that follows really does, in every situation.

mod access;
mod contents;
mod sources;

use std::fs;

use data_encoding::BASE64;
use larder_tests::fake::{FakeRegistry, Kind};
use larder_tests::http::{Call, Response};
use larder_tests::image::{Image, LayerSpec};
use larder_tests::node::Node;
use larder_tests::scene::{committed, eventually};
use larder_tests::schemas::assert_schema;
use serde_json::Value;

const REPOSITORY: &str = "team/app";
const USER: &str = "someone";
const PASSWORD: &str = "right-pw-1234";

fn layers() -> Vec<LayerSpec> {
    vec![LayerSpec::new(1, 100_000), LayerSpec::new(2, 3_000_000)]
}

/// The client that pulls, by the credentials that its runtime shows when challenged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Nobody,
    Holder,
    Wrong,
}

impl Who {
    fn password(self) -> Option<&'static str> {
        match self {
            Self::Nobody => None,
            Self::Holder => Some(PASSWORD),
            Self::Wrong => Some("wrong-pw-1234"),
        }
    }
}

/// A client of one node that pulls like containerd: a HEAD, a token if it needs one, a GET by digest, the blobs.
struct Client<'a> {
    node: &'a Node,
    registry: String,
    repository: &'a str,
    who: Who,
    token: Option<String>,
}

/// The result of a pull.
#[derive(Debug)]
struct Pulled {
    /// As `explain` names it.
    outcome: &'static str,
    digest: Option<String>,
}

impl<'a> Client<'a> {
    fn of(node: &'a Node, registry: &str, repository: &'a str, who: Who) -> Self {
        Self {
            node,
            registry: registry.to_owned(),
            repository,
            who,
            token: None,
        }
    }

    async fn ask(&mut self, method: &str, rest: &str) -> Response {
        let url = format!(
            "{}/v2/{}/{rest}?ns={}",
            self.node.url(),
            self.repository,
            self.registry
        );
        let call = Call::new(method, url).header("user-agent", "containerd/v2.1.0");
        let shown = match &self.token {
            Some(token) => call
                .clone()
                .header("authorization", &format!("Bearer {token}")),
            None => call.clone(),
        };
        let answer = shown.send().await.unwrap();
        if answer.status != 401 || self.token.is_some() {
            return answer;
        }
        let challenge = answer.header("www-authenticate").unwrap().to_owned();
        let field = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap();
            rest.split_once('"').unwrap().0.to_owned()
        };
        let url = format!("{}?service=larder&scope={}", field("realm"), field("scope"));
        let mut call = Call::get(url);
        if let Some(password) = self.who.password() {
            let pair = BASE64.encode(format!("{USER}:{password}").as_bytes());
            call = call.header("authorization", &format!("Basic {pair}"));
        }
        let token = call.send().await.unwrap();
        assert_eq!(token.status, 200, "{}", token.text());
        self.token = Some(token.json()["token"].as_str().unwrap().to_owned());
        Box::pin(self.ask(method, rest)).await
    }

    async fn pull(&mut self, reference: &str) -> Pulled {
        let head = self.ask("HEAD", &format!("manifests/{reference}")).await;
        let outcome = match head.status {
            200 if head.header("warning").is_some() => "stale",
            200 => "served",
            401 if self.who == Who::Nobody => "challenged",
            401 | 403 => "refused",
            404 => "missing",
            _ => "failed",
        };
        let mut pulled = Pulled {
            outcome,
            digest: None,
        };
        if head.status != 200 {
            return pulled;
        }
        let digest = head.header("docker-content-digest").unwrap().to_owned();
        let manifest = self.ask("GET", &format!("manifests/{digest}")).await;
        assert_eq!(manifest.status, 200, "{}", manifest.text());
        let manifest = manifest.json();
        let layers = manifest["layers"].as_array().unwrap().iter();
        for blob in layers.chain([&manifest["config"]]) {
            let blob = blob["digest"].as_str().unwrap();
            let answer = self.ask("GET", &format!("blobs/{blob}")).await;
            assert_eq!((answer.status, answer.complete), (200, true), "{blob}");
        }
        pulled.digest = Some(digest);
        pulled
    }
}

/// Runs `explain`, and checks its cost to the registries: at most one HEAD for each caller, and no content.
async fn explain(node: &Node, fakes: &[&FakeRegistry], image: &str, who: Who) -> Value {
    for fake in fakes {
        fake.reset_counts();
    }
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("config.json");
    let mut arguments = vec!["explain", "--json", image];
    let file = secret.display().to_string();
    if let Some(password) = who.password() {
        let (registry, _) = image.split_once('/').unwrap();
        let auth = BASE64.encode(format!("{USER}:{password}").as_bytes());
        let config = serde_json::json!({ "auths": { registry: { "auth": auth } } });
        fs::write(&secret, config.to_string()).unwrap();
        arguments.extend(["--docker-config", &file]);
    }
    let output = node.cli(&arguments).await;
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}\n{}", node.log()));
    assert_schema(&said, "explain");
    let got = matches!(said["pull"]["outcome"].as_str(), Some("served" | "stale"));
    assert_eq!(
        output.status.code(),
        Some(if got { 0 } else { 3 }),
        "{said}"
    );
    let text = format!("{output:?}{}", node.log());
    for password in [PASSWORD, "wrong-pw-1234"] {
        assert!(!text.contains(password), "a secret was told");
    }
    for fake in fakes {
        let content = |seen: &larder_tests::fake::Seen| {
            // A 404 to HEAD is asked once more by GET, since some registries answer HEAD wrongly.
            seen.method == "GET"
                && seen.status != 404
                && matches!(seen.kind, Kind::Manifest | Kind::Blob | Kind::Cdn)
        };
        assert_eq!(fake.count(content), 0, "{:#?}", fake.requests());
        // Each caller asks once, and once more with the token after the challenge.
        let heads = fake.count(|seen| seen.method == "HEAD");
        let callers = if who == Who::Nobody { 1 } else { 2 };
        assert!(heads <= 2 * callers, "{:#?}", fake.requests());
        fake.reset_counts();
    }
    said
}

fn steps(said: &Value, step: &str) -> Vec<String> {
    let steps = said["steps"].as_array().unwrap().iter();
    let of = steps.filter(|s| s["step"] == step);
    of.map(|s| s["outcome"].as_str().unwrap().to_owned())
        .collect()
}

/// Explains, pulls, and compares the explanation with the client's result, the access lines, and the bytes of every
/// registry.
async fn agrees(node: &Node, fakes: &[&FakeRegistry], image: &str, who: Who) -> Value {
    let said = explain(node, fakes, image, who).await;
    let (registry, rest) = image.split_once('/').unwrap();
    let (repository, reference) = match rest.split_once('@') {
        Some(parts) => parts,
        None => rest.rsplit_once(':').unwrap(),
    };
    let begin = node.log().len();
    let mut client = Client::of(node, registry, repository, who);
    let pulled = client.pull(reference).await;
    let expected = &said["pull"];
    assert_eq!(expected["outcome"], pulled.outcome, "{said:#}");
    let Some(digest) = pulled.digest else {
        return said;
    };
    assert_eq!(expected["digest"], digest, "{said:#}");
    let fetched: usize = fakes
        .iter()
        .map(|fake| {
            fake.count(|s| s.kind == Kind::Manifest && s.method == "GET" && s.status != 404)
        })
        .sum();
    if expected["manifest_here"] == true {
        assert_eq!(fetched, 0, "{said:#}");
    }
    let log = node.log()[begin..].to_owned();
    for blob in expected["blobs"].as_array().into_iter().flatten() {
        let (blob, bytes) = (blob["digest"].as_str().unwrap(), blob["bytes"].as_u64());
        let from = said["pull"]["blobs"].as_array().unwrap().iter();
        let it = from.clone().find(|b| b["digest"] == blob).unwrap();
        let from = it["from"].clone();
        let sent: u64 = fakes.iter().map(|fake| fake.blob_bytes_sent(blob)).sum();
        match from.as_str().unwrap() {
            "upstream" => assert_eq!(Some(sent), bytes, "{blob}: {said:#}"),
            "node" if it["claimed"] == true => assert_eq!(sent, 1, "{blob}: {said:#}"),
            _ => assert_eq!(sent, 0, "{blob}: {said:#}"),
        }
        let mut lines = log.lines();
        let line = lines
            .find(|line| line.contains(blob) && line.contains("method=GET"))
            .unwrap_or_else(|| panic!("no access line of {blob} in\n{log}"));
        let tier = format!("tier={from}");
        assert!(line.contains(&tier), "{tier} is not in {line}\n{said:#}");
    }
    said
}

async fn until_kept(node: &Node, image: &Image) {
    let layers = image.layers.iter().map(|layer| &layer.digest);
    for digest in layers.chain([&image.config_digest, &image.manifest_digest]) {
        eventually(digest, || committed(node.store(), digest)).await;
    }
}

fn name(fake: &FakeRegistry, rest: &str) -> String {
    format!("{}/{rest}", fake.host())
}

//! `larder explain`: what it says is what the pull that follows really does, in every situation.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use larder_tests::fake::{FakeRegistry, Fault, Kind, Match};
use larder_tests::http::{Call, Response};
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::members::Cluster;
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

/// Who pulls: what a runtime shows when it is asked to.
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

/// A client like containerd at one node: a HEAD, a token when it is asked for one, a GET by digest, the blobs.
struct Client<'a> {
    node: &'a Node,
    registry: String,
    repository: &'a str,
    who: Who,
    token: Option<String>,
}

/// What a pull came to.
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

/// What `explain` says, and what it costs the registries: one HEAD for each caller at the most, and no content.
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
            seen.method == "GET" && matches!(seen.kind, Kind::Manifest | Kind::Blob | Kind::Cdn)
        };
        assert_eq!(fake.count(content), 0, "{:#?}", fake.requests());
        // Each caller asks once, and once more with the token that it was told to get.
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

/// Explains, pulls, and compares: what the client got, the access lines, and what every registry has sent.
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
        .map(|fake| fake.count(|s| s.kind == Kind::Manifest && s.method == "GET"))
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

#[tokio::test]
async fn cold_then_warm_then_moved_and_by_digest() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    let node = Node::builder().upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");

    let cold = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&cold, "tag"), ["new"], "{cold:#}");
    assert_eq!(steps(&cold, "access"), ["public"]);
    assert_eq!(steps(&cold, "manifest"), ["miss"]);
    assert_eq!(steps(&cold, "upstream"), ["answered"]);
    assert_eq!(cold["pull"]["manifest_here"], false);
    until_kept(&node, &image).await;

    let warm = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&warm, "tag"), ["unchanged"], "{warm:#}");
    assert_eq!(steps(&warm, "blobs"), ["hit"]);
    assert_eq!(warm["pull"]["blobs"].as_array().unwrap().len(), 3);
    let digest = name(&fake, &format!("team/app@{}", image.manifest_digest));
    let warm = agrees(&node, &[&fake], &digest, Who::Nobody).await;
    assert_eq!(steps(&warm, "manifest"), ["hit"], "{warm:#}");

    // Half of the next one is here, and it is here by digest only when it was asked for.
    let next = build(
        &fake,
        REPOSITORY,
        "v2",
        &[LayerSpec::new(1, 100_000), LayerSpec::new(3, 900_000)],
    );
    fake.retag(REPOSITORY, "v1", &next.manifest_digest);
    let moved = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&moved, "tag"), ["changed"], "{moved:#}");
    until_kept(&node, &next).await;

    let third = build(
        &fake,
        REPOSITORY,
        "v3",
        &[LayerSpec::new(1, 100_000), LayerSpec::new(4, 900_000)],
    );
    let digest = name(&fake, &format!("team/app@{}", third.manifest_digest));
    let cold = agrees(&node, &[&fake], &digest, Who::Nobody).await;
    assert_eq!(steps(&cold, "manifest"), ["miss"], "{cold:#}");
    let missing = agrees(&node, &[&fake], &name(&fake, "team/app:no"), Who::Nobody).await;
    assert_eq!(steps(&missing, "tag"), ["missing"], "{missing:#}");
}

#[tokio::test]
async fn what_of_an_image_is_here() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    let node = Node::builder().upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");
    // A manifest alone.
    let mut client = Client::of(&node, &fake.host(), REPOSITORY, Who::Nobody);
    client.ask("GET", "manifests/v1").await;
    let none = explain(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&none, "blobs"), ["miss"], "{none:#}");
    // One layer, and a part of the other.
    let [small, large] = [0, 1].map(|at| image.layers[at].digest.clone());
    client.ask("GET", &format!("blobs/{small}")).await;
    eventually("it is kept", || committed(node.store(), &small)).await;
    let part = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&part, "blobs"), ["partial"], "{part:#}");
    let blobs = part["pull"]["blobs"].as_array().unwrap();
    let from = |digest: &str| blobs.iter().find(|b| b["digest"] == digest).unwrap()["from"].clone();
    assert_eq!(
        (from(&small), from(&large)),
        ("node".into(), "upstream".into())
    );

    // The same layers in another repository of the registry are here once it says so; in another registry they are not.
    until_kept(&node, &image).await;
    build(&fake, "team/other", "v1", &layers());
    let other = name(&fake, "team/other:v1");
    Client::of(&node, &fake.host(), "team/other", Who::Nobody)
        .ask("GET", "manifests/v1")
        .await;
    let same = agrees(&node, &[&fake], &other, Who::Nobody).await;
    assert_eq!(steps(&same, "blobs"), ["hit"], "{same:#}");
}

#[tokio::test]
async fn another_registrys_word_proves_nothing() {
    let (one, two) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = build(&one, REPOSITORY, "v1", &layers());
    build(&two, REPOSITORY, "v1", &layers());
    let node = Node::builder().upstream(&one).upstream(&two).start().await;
    Client::of(&node, &one.host(), REPOSITORY, Who::Nobody)
        .pull("v1")
        .await;
    until_kept(&node, &image).await;
    Client::of(&node, &two.host(), REPOSITORY, Who::Nobody)
        .ask("GET", "manifests/v1")
        .await;
    let said = agrees(
        &node,
        &[&one, &two],
        &name(&two, "team/app:v1"),
        Who::Nobody,
    )
    .await;
    assert_eq!(steps(&said, "blobs"), ["miss"], "{said:#}");
}

#[tokio::test]
async fn fresh_tags_and_outages() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    let config = format!(
        "[tags]\ntimeout = \"300ms\"\n[upstreams.{:?}]\nendpoints = [{:?}]\ntags = [{{ match = \"f*\", fresh_for = \"1h\" }}]\n",
        fake.host(),
        fake.url()
    );
    fake.retag(REPOSITORY, "f1", &image.manifest_digest);
    let node = Node::builder().config(config).start().await;
    let (asked, fresh) = (name(&fake, "team/app:v1"), name(&fake, "team/app:f1"));
    for reference in ["v1", "f1"] {
        Client::of(&node, &fake.host(), REPOSITORY, Who::Nobody)
            .pull(reference)
            .await;
    }
    until_kept(&node, &image).await;
    let said = agrees(&node, &[&fake], &fresh, Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["fresh"], "{said:#}");
    assert_eq!(steps(&said, "upstream"), ["unasked"]);

    fake.stop().await;
    let said = agrees(&node, &[&fake], &asked, Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["stale"], "{said:#}");
    assert_eq!(steps(&said, "upstream"), ["unanswered"]);
    let said = agrees(&node, &[&fake], &fresh, Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["fresh"], "{said:#}");
    let said = agrees(&node, &[&fake], &name(&fake, "team/cold:v1"), Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["failed"], "{said:#}");

    fake.start_again().await;
    fake.delete_tag(REPOSITORY, "v1");
    // The breaker may have opened meanwhile: until a probe has gone through, what is known is served.
    eventually_asked(&node, &fake, &asked).await;
    let said = agrees(&node, &[&fake], &asked, Who::Nobody).await;
    assert_eq!(steps(&said, "tag"), ["stale"], "{said:#}");
    assert!(said.to_string().contains("does not have it"), "{said:#}");
}

/// Waits until the registry is asked again.
async fn eventually_asked(node: &Node, fake: &FakeRegistry, image: &str) {
    for _ in 0..500 {
        let said = explain(node, &[fake], image, Who::Nobody).await;
        if said.to_string().contains("does not have it") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the registry is not asked again");
}

#[tokio::test]
async fn private_with_and_without_rights() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    fake.require_bearer(REPOSITORY, &[(USER, PASSWORD)]);
    let node = Node::builder().upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");
    for warm in [false, true] {
        let nobody = agrees(&node, &[&fake], &tag, Who::Nobody).await;
        assert_eq!(steps(&nobody, "access"), ["challenged"], "{nobody:#}");
        assert!(nobody["pull"]["digest"].is_null(), "{nobody:#}");
        let wrong = agrees(&node, &[&fake], &tag, Who::Wrong).await;
        assert_eq!(
            steps(&wrong, "access"),
            ["challenged", "refused"],
            "{wrong:#}"
        );
        let holder = agrees(&node, &[&fake], &tag, Who::Holder).await;
        assert_eq!(
            steps(&holder, "access"),
            ["challenged", "own-credentials"],
            "{holder:#}"
        );
        assert_eq!(holder["pull"]["manifest_here"], warm, "{holder:#}");
        until_kept(&node, &image).await;
    }
    // In an outage who was let in stays in, and nobody else learns what is here.
    fake.stop().await;
    let holder = agrees(&node, &[&fake], &tag, Who::Holder).await;
    assert_eq!(steps(&holder, "tag"), ["stale"], "{holder:#}");
    let nobody = agrees(&node, &[&fake], &tag, Who::Nobody).await;
    assert!(
        !nobody.to_string().contains(&image.config_digest),
        "{nobody:#}"
    );
}

#[tokio::test]
async fn the_nodes_own_credentials() {
    let fake = FakeRegistry::start().await;
    build(&fake, REPOSITORY, "v1", &layers());
    fake.require_bearer(REPOSITORY, &[(USER, PASSWORD)]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("user"), USER).unwrap();
    fs::write(path("password"), PASSWORD).unwrap();
    for (access, outcome) in [
        ("shared", "node-credentials"),
        ("per-credential", "challenged"),
    ] {
        let config = format!(
            "[upstreams.{:?}]\nendpoints = [{:?}]\naccess = {access:?}\ncredentials = {{ username_file = {:?}, password_file = {:?} }}\n",
            fake.host(),
            fake.url(),
            path("user"),
            path("password"),
        );
        let node = Node::builder().config(config).start().await;
        let said = agrees(&node, &[&fake], &name(&fake, "team/app:v1"), Who::Nobody).await;
        assert_eq!(steps(&said, "access"), [outcome], "{said:#}");
    }
}

#[tokio::test]
async fn limits_and_mirrors() {
    let (origin, mirror) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = build(&origin, REPOSITORY, "v1", &layers());
    build(&mirror, REPOSITORY, "v1", &layers());
    let config = format!(
        "[upstreams.\"r.example\"]\nendpoints = [{:?}, {:?}]\n",
        mirror.url(),
        origin.url()
    );
    let node = Node::builder().config(config.clone()).start().await;
    let fakes = [&mirror, &origin];
    let both = agrees(&node, &fakes, "r.example/team/app:v1", Who::Nobody).await;
    assert_eq!(
        steps(&both, "upstream"),
        ["answered", "unasked"],
        "{both:#}"
    );

    mirror.stop().await;
    let node = Node::builder().config(config).start().await;
    let over = agrees(&node, &fakes, "r.example/team/app:v1", Who::Nobody).await;
    assert_eq!(
        steps(&over, "upstream"),
        ["unanswered", "answered"],
        "{over:#}"
    );
    until_kept(&node, &image).await;
    let limited = Fault::Status {
        code: 429,
        headers: vec![("Retry-After".to_owned(), "600".to_owned())],
        body: Bytes::new(),
    };
    origin.fault(Match::any(), limited);
    for _ in 0..2 {
        let said = agrees(&node, &fakes, "r.example/team/app:v1", Who::Nobody).await;
        assert_eq!(steps(&said, "tag"), ["stale"], "{said:#}");
        assert_eq!(steps(&said, "upstream")[1], "silent", "{said:#}");
    }
    // What is not here: a pod's secret may have a quota of its own, so it is asked for.
    let cold = agrees(&node, &fakes, "r.example/team/cold:v1", Who::Nobody).await;
    assert_eq!(steps(&cold, "access"), ["challenged"], "{cold:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_member_holds() {
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers());
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    let tag = name(&fake, "team/app:v1");
    Client::of(cluster.node(0), &fake.host(), REPOSITORY, Who::Nobody)
        .pull("v1")
        .await;
    until_kept(cluster.node(0), &image).await;
    Client::of(cluster.node(1), &fake.host(), REPOSITORY, Who::Nobody)
        .ask("GET", "manifests/v1")
        .await;
    let said = agrees(cluster.node(1), &[&fake], &tag, Who::Nobody).await;
    assert_eq!(steps(&said, "cluster"), ["hit"], "{said:#}");
    let other = cluster.peer_address(0).to_string();
    assert_eq!(said["pull"]["blobs"][0]["members"][0], other, "{said:#}");
}

#[tokio::test]
async fn what_containerd_does_with_the_name() {
    let fake = FakeRegistry::start().await;
    build(&fake, REPOSITORY, "v1", &layers());
    let node = Node::builder()
        .upstream(&fake)
        .config("[registry]\ndeny = [\"denied.example\"]\n")
        .start()
        .await;
    let dir = tempfile::tempdir().unwrap();
    let certs = format!("--containerd-certs-dir={}", dir.path().display());
    let image = name(&fake, "team/app:v1");
    let runtime = async || {
        let said = node.cli(&["explain", "--json", &image, &certs]).await;
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        steps(&said, "runtime")
    };
    assert_eq!(runtime().await, ["bypassed"]);
    let put = |name: &str, url: &str| {
        fs::create_dir_all(dir.path().join(name)).unwrap();
        let text = format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
    };
    put("_default", &node.url());
    assert_eq!(runtime().await, ["ok"]);
    let own = fake.host().replace(':', "_") + "_";
    put(&own, "https://mirror.example");
    assert_eq!(runtime().await, ["bypassed"]);

    let denied = node.cli(&["explain", "--json", "denied.example/a:b"]).await;
    let denied: Value = serde_json::from_slice(&denied.stdout).unwrap();
    assert_eq!(steps(&denied, "name"), ["denied"], "{denied:#}");
    assert_eq!(denied["pull"]["outcome"], "refused");
}

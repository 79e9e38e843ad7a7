//! Private content in a cluster (promises P16, P17): no node gives it to a caller that may not read it, and no secret
//! leaves the node that got it from a client.

use std::time::Duration;

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use larder_tests::fake::{FakeRegistry, IDENTITY_TOKEN};
use larder_tests::http::{Call, Response};
use larder_tests::image::{Image, build};
use larder_tests::members::{Cluster, Door, FakePeer, Manner, upstream_bytes};
use larder_tests::scene::{committed, eventually};

use super::{REPOSITORY, beside, layers, put, within};

const PRIVATE: &str = "team/private";
const USER: &str = "pod";
const PASSWORD: &str = "Hush-a-long-password-that-nobody-says-by-chance";
/// How long members may take to tell each other.
const SPREAD: Duration = Duration::from_secs(5);

async fn until_has(cluster: &Cluster, number: usize, image: &Image) {
    for layer in &image.layers {
        let store = cluster.node(number).store();
        let has = || committed(store, &layer.digest);
        eventually(&layer.digest, has).await;
    }
}

fn nothing(what: &str, answer: &Response, image: &Image) {
    let status = answer.status;
    assert!(
        matches!(status, 401 | 403 | 404 | 503),
        "{what}: {status} {}",
        answer.text()
    );
    let secret = image.config.slice(..40);
    let text = answer.text();
    assert!(!text.contains("schemaVersion"), "{what}: {text}");
    let found = answer.body.windows(40).any(|window| *window == secret);
    assert!(!found && answer.body.len() < 4096, "{what}: {text}");
}

/// Every request for the image gives none of its bytes.
async fn gets_nothing(who: &str, door: &Door, image: &Image) {
    let layer = &image.layers[0].digest;
    let paths = [
        "manifests/v1".to_owned(),
        format!("manifests/{}", image.manifest_digest),
        format!("blobs/{}", image.config_digest),
        format!("blobs/{layer}"),
    ];
    for path in paths {
        for range in [None, Some(("range", "bytes=0-99"))] {
            let headers: Vec<_> = range.into_iter().collect();
            let answer = door.get(&path, &headers).await.expect("an answer");
            nothing(&format!("{who}: {path}"), &answer, image);
        }
    }
}

/// A caller with a wrong secret is refused: by the token endpoint, or with the token that it gives.
async fn wrong_secret_gets_nothing(who: &str, door: Door, image: &Image) {
    if let Ok(door) = door.login(USER, "a guess", "v1").await {
        gets_nothing(who, &door, image).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_secret_opens_at_another_node() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, PRIVATE, "v1", &layers(1, &[5, 18]));
    fake.require_bearer(PRIVATE, &[(USER, PASSWORD)]);
    // The same bytes are public elsewhere in the registry, under another name. That opens nothing here.
    fake.put_blob("public/thing", "something else");
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let door = |number| cluster.door(number, &fake, PRIVATE);
    let first = door(0).login(USER, PASSWORD, "v1").await.expect("a token");
    first.pull("v1", &image).await.expect("an image");
    until_has(&cluster, 0, &image).await;

    gets_nothing("nobody", &door(1), &image).await;
    wrong_secret_gets_nothing("a wrong secret", door(1), &image).await;
    let public = cluster.door(1, &fake, "public/thing");
    let layer = &image.layers[0].digest;
    let answer = public.get(&format!("blobs/{layer}"), &[]).await;
    nothing("by a public name", &answer.expect("an answer"), &image);

    // The caller with the right secret gets it, from the other node.
    let before = upstream_bytes(&fake, &image);
    let right = door(2).login(USER, PASSWORD, "v1").await.expect("a token");
    right.pull("v1", &image).await.expect("an image");
    let more = upstream_bytes(&fake, &image) - before;
    assert!(more <= image.size() / 20, "{more} bytes from the upstream");
    until_has(&cluster, 2, &image).await;

    fake.stop().await;
    for number in [1, 2, 3] {
        gets_nothing("nobody, in an outage", &door(number), &image).await;
        wrong_secret_gets_nothing("a wrong secret, in an outage", door(number), &image).await;
    }
}

/// In an outage the right caller comes to a node that has never seen it. Other members know the verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_secret_opens_at_another_node_in_an_outage() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, PRIVATE, "v1", &layers(1, &[5, 18]));
    fake.require_bearer(PRIVATE, &[(USER, PASSWORD)]);
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    for number in 0..2 {
        let door = cluster.door(number, &fake, PRIVATE);
        let door = door.login(USER, PASSWORD, "v1").await.expect("a token");
        door.pull("v1", &image).await.expect("an image");
        until_has(&cluster, number, &image).await;
    }
    fake.stop().await;
    let door = cluster.door(3, &fake, PRIVATE);
    let pull = async || {
        let door = door.clone().login(USER, PASSWORD, "v1").await?;
        door.pull("v1", &image).await
    };
    within("the right secret", SPREAD, pull).await;
    gets_nothing("nobody", &door, &image).await;
    wrong_secret_gets_nothing("a wrong secret", door, &image).await;
}

/// Repositories of each kind, with a blob each, and the user that may read them.
struct Kind {
    repository: &'static str,
    user: &'static str,
    image: Image,
}

fn kinds(fake: &FakeRegistry) -> Vec<Kind> {
    let kind = |repository, user, seed| Kind {
        repository,
        user,
        image: build(fake, repository, "v1", &layers(seed, &[22])),
    };
    let kinds = vec![
        kind("a/simple", USER, 1),
        kind("a/bearer", USER, 2),
        kind("a/identity", IDENTITY_TOKEN, 3),
    ];
    fake.require_basic("a/simple", USER, PASSWORD);
    fake.require_bearer("a/bearer", &[(USER, PASSWORD)]);
    fake.require_bearer("a/identity", &[(IDENTITY_TOKEN, PASSWORD)]);
    kinds
}

/// The forms that a secret may take.
fn clothes() -> Vec<String> {
    let mut all = vec![
        PASSWORD.to_owned(),
        HEXLOWER.encode(PASSWORD.as_bytes()),
        BASE64.encode(PASSWORD.as_bytes()),
    ];
    for user in [USER, IDENTITY_TOKEN] {
        all.push(BASE64.encode(format!("{user}:{PASSWORD}").as_bytes()));
    }
    all
}

/// Pulls everything through one node whose other members only listen. Gives all that they received, as text, with the
/// tokens that the upstream got.
async fn overheard(fake: &FakeRegistry, tls: bool) -> (Vec<(String, Option<String>)>, Vec<String>) {
    let kinds = kinds(fake);
    let (public, content) = put(fake, 9, 26 << 20);
    let mut plan = Cluster::of(1).upstream(fake);
    for number in 1..4 {
        plan = plan.stranger(number);
    }
    if !tls {
        plan = plan.tls_off();
    }
    let authority = plan.authority();
    let mut peers = Vec::new();
    for number in 1..4 {
        let server = tls.then(|| authority.server(&authority.member()));
        let peer = FakePeer::start(plan.address(number), server, Manner::Honest).await;
        peer.hold(&public, &content);
        for layer in kinds.iter().flat_map(|kind| &kind.image.layers) {
            peer.hold(&layer.digest, &layer.content);
        }
        peers.push(peer);
    }
    let cluster = plan.start().await;
    let door = cluster.door(0, fake, REPOSITORY);
    door.blob(&public).await.expect("a public blob");
    for kind in &kinds {
        let door = cluster.door(0, fake, kind.repository);
        let door = door.login(kind.user, PASSWORD, "v1").await;
        let door = door.expect("a token");
        door.pull("v1", &kind.image).await.expect("an image");
    }
    let heard: Vec<_> = peers.iter().flat_map(FakePeer::heard).collect();
    assert!(
        heard.iter().any(|heard| heard.text().contains(&public)),
        "no member was asked for the public blob"
    );
    let seen = fake.requests().into_iter();
    let shown = seen.filter_map(|seen| seen.authorization);
    let tokens = shown.filter_map(|shown| shown.strip_prefix("Bearer ").map(str::to_owned));
    let authorization =
        |heard: &larder_tests::members::Heard| heard.header("authorization").map(str::to_owned);
    let heard = heard
        .iter()
        .map(|heard| (heard.text(), authorization(heard)));
    (heard.collect(), tokens.collect())
}

fn no_secret(heard: &[(String, Option<String>)]) {
    for (text, _) in heard {
        for secret in clothes() {
            assert!(!text.contains(&secret), "{secret} in {text}");
        }
        let basic = text.to_lowercase().contains("basic ");
        assert!(!basic, "{text}");
    }
}

/// Whether a token opens a repository.
async fn opens(fake: &FakeRegistry, repository: &str, authorization: &str) -> bool {
    let url = format!("{}/v2/{repository}/manifests/v1", fake.url());
    let call = Call::get(url).header("authorization", authorization);
    call.send().await.expect("an answer").status == 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_see_no_secret_and_no_token_but_a_scoped_one() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (heard, tokens) = overheard(&fake, true).await;
    no_secret(&heard);
    assert!(!tokens.is_empty(), "the upstream was shown no token");
    // In any header.
    let said = |token: &String| heard.iter().any(|(text, _)| text.contains(token));
    let lent = tokens.iter().filter(|token| said(token));
    let lent = lent.map(|token| format!("Bearer {token}"));
    let mut lent: Vec<_> = lent
        .chain(heard.iter().filter_map(|(_, lent)| lent.clone()))
        .collect();
    lent.sort();
    lent.dedup();
    for lent in lent {
        assert!(lent.starts_with("Bearer "), "{lent}");
        let mut opened = 0;
        for repository in ["a/simple", "a/bearer", "a/identity"] {
            opened += usize::from(opens(&fake, repository, &lent).await);
        }
        assert_eq!(opened, 1, "{lent} opens {opened} repositories");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_members_see_no_token_at_all() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let (heard, tokens) = overheard(&fake, false).await;
    no_secret(&heard);
    assert!(!tokens.is_empty(), "the upstream was shown no token");
    for (text, lent) in &heard {
        assert_eq!(*lent, None, "{text}");
        for token in &tokens {
            assert!(!text.contains(token), "{text}");
        }
    }
}

/// A layer that is also in a public repository stays private under the private name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_public_elsewhere_opens_only_there() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, PRIVATE, "v1", &layers(1, &[9]));
    let layer = image.layers[0].clone();
    fake.require_bearer(PRIVATE, &[(USER, PASSWORD)]);
    fake.put_blob_under(REPOSITORY, &layer.digest, &layer.content);
    let cluster = Cluster::of(3).upstream(&fake).start().await;
    let public = cluster.door(0, &fake, REPOSITORY);
    public.blob(&layer.digest).await.expect("a public blob");
    let store = cluster.node(0).store();
    eventually("it is committed", || committed(store, &layer.digest)).await;
    for number in 0..3 {
        let door = cluster.door(number, &fake, PRIVATE);
        let path = format!("blobs/{}", layer.digest);
        let answer = door.get(&path, &[]).await.expect("an answer");
        nothing("under the private name", &answer, &image);
    }
    let again = cluster.door(2, &fake, REPOSITORY);
    again.blob(&layer.digest).await.expect("a public blob");
    let sent = fake.blob_bytes_sent(&layer.digest);
    let size = layer.content.len();
    assert!(sent <= size * 105 / 100, "{sent} of {size}");
    let config: Bytes = image.config.clone();
    let path = format!("blobs/{}", image.config_digest);
    let answer = again.get(&path, &[]).await.expect("an answer");
    assert!(answer.body != config, "a blob of another repository");
}

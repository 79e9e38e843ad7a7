//! Google credentials (promise P18): each way to a token, its renewal, the cost of a token server's outage, and what
//! each known error tells the operator.

use std::time::{Duration, Instant};

use larder_tests::clouds::{
    CloudServer, GoogleKey, GoogleTokens, Metadata, Mood, Reply, Sts, token_of_pod,
};
use larder_tests::scene::eventually;

use crate::clouds::{CloudPlace, REPOSITORY};
use crate::private::{Private, Who, secret};

const NAME: &str = "us-central1-docker.pkg.dev";
const ACCOUNT: &str = "larder@p.iam.gserviceaccount.com";
const SCOPES: &str = "https://www.googleapis.com/auth/devstorage.read_only\nhttps://www.googleapis.com/auth/logging.write\n";
const AUDIENCE: &str = "identitynamespace:p.svc.id.goog:https://container.googleapis.com/v1/projects/p/locations/l/clusters/c";
const TOKENS: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// A new token. From now on it alone opens the repository.
fn turn(place: &CloudPlace, tokens: &GoogleTokens, seconds: u64) -> String {
    let token = format!("ya29.{}", secret());
    tokens.set(&token, seconds);
    place
        .fake
        .require_bearer(REPOSITORY, &[("oauth2accesstoken", &token)]);
    token
}

struct Node {
    place: CloudPlace,
    tokens: GoogleTokens,
    metadata: CloudServer,
}

/// A node on Google's cloud, whose token lasts so many seconds.
async fn on_a_node(seconds: u64) -> (Node, Private) {
    let place = CloudPlace::new(NAME).await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, seconds);
    let metadata = Metadata::start(&tokens, ACCOUNT, SCOPES).await;
    let said = by_metadata(&metadata);
    let scene = place.node(&said, &[]).await;
    let node = Node {
        place,
        tokens,
        metadata,
    };
    (node, scene)
}

fn by_metadata(metadata: &CloudServer) -> String {
    format!(
        "identity = \"google\", metadata_endpoint = \"{}\"",
        metadata.url()
    )
}

/// No Secret is needed, one token serves many requests, and no proxy stands in between.
#[tokio::test]
async fn the_metadata_server_gives_an_identity() {
    let (node, scene) = on_a_node(3599).await;
    let Node {
        place, metadata, ..
    } = &node;
    place.opens(&scene).await;
    let (code, said) = place.checked(&scene).await;
    assert_eq!(code, Some(0), "{said}");
    for words in [
        ACCOUNT,
        "by the metadata server",
        "good for 59 min",
        "accepted",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert_eq!(metadata.count(TOKENS), 1);
    place.end(scene, &[metadata]).await;
}

#[tokio::test]
async fn a_service_accounts_key_signs_for_a_token() {
    let place = CloudPlace::new("gcr.io").await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, 3600);
    let key = GoogleKey::start(&tokens, ACCOUNT).await;
    let file = place.write("key.json", &key.file);
    let url = key.server.url();
    let said = format!("identity = \"google\", key_file = \"{file}\", token_endpoint = \"{url}\"");
    let scene = place.node(&said, &[]).await;
    place.opens(&scene).await;
    let (code, said) = place.checked(&scene).await;
    let by = format!("{ACCOUNT} by the key {file}, good for");
    assert!(code == Some(0) && said.contains(&by), "{said}");
    assert_eq!(key.server.asked().len(), 1);
    let line = key.file.split("\\n").nth(2).expect("a line of the key");
    assert!(!scene.node.log().contains(line), "the key is in the log");
    place.end(scene, &[&key.server]).await;
}

/// The STS exchanges a projected token, which larder reads again for each exchange.
#[tokio::test]
async fn a_projected_token_is_exchanged_by_the_sts() {
    let place = CloudPlace::new(NAME).await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, 4);
    let pods: Vec<_> = (0..2)
        .map(|_| token_of_pod("p.svc.id.goog", 3600, &secret()))
        .collect();
    let sts = Sts::start(&tokens, AUDIENCE, &[&pods[0], &pods[1]]).await;
    let file = place.write("token", &pods[0]);
    let said = format!(
        "identity = \"google\", token_file = \"{file}\", audience = \"{AUDIENCE}\", token_endpoint = \"{}\"",
        sts.url()
    );
    let scene = place.node(&said, &[]).await;
    place.opens(&scene).await;
    let (_, said) = place.checked(&scene).await;
    let by = format!(
        "system:serviceaccount:larder:larder by the token {file}, exchanged at {}",
        sts.url()
    );
    assert!(said.contains(&by), "{said}");
    place.write("token", &pods[1]);
    let rotated = || {
        sts.asked()
            .iter()
            .any(|asked| asked.text().contains(&pods[1]))
    };
    eventually("the new projected token is exchanged", rotated).await;
    place.end(scene, &[&sts]).await;
}

/// The registry takes only the new token: a right that was proven with the old token needs the new one, and gets it.
#[tokio::test]
async fn a_token_is_renewed_before_its_end() {
    let (node, scene) = on_a_node(4).await;
    let Node {
        place,
        tokens,
        metadata,
    } = &node;
    place.opens(&scene).await;
    let first = metadata.count(TOKENS);
    let token = turn(place, tokens, 3600);
    place.fake.revoke_tokens();
    eventually("the token is renewed", || metadata.count(TOKENS) > first).await;
    place.until_said(&scene, "good for 59 min").await;
    place.fake.reset_counts();
    let another = place.another();
    assert_eq!(place.blob(&scene, &another).await.status, 200);
    let shown = place.fake.requests();
    let shown = shown
        .iter()
        .filter_map(|seen| seen.authorization.as_deref());
    let expected = Who::User("oauth2accesstoken".to_owned(), token).basic();
    assert!(shown.clone().any(|shown| shown == expected), "{shown:?}");
    place.end(scene, &[metadata]).await;
}

/// The token expires while its server is down. Whatever the identity opened stays open, also over a restart and under
/// another token: the right belongs to the identity, not to the token. Nothing else is opened.
#[tokio::test]
async fn a_right_outlives_the_token_by_which_it_was_proven() {
    let place = CloudPlace::new(NAME).await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, 3);
    let metadata = Metadata::start(&tokens, ACCOUNT, SCOPES).await;
    let store = tempfile::tempdir().expect("a directory");
    let mut scene = place
        .node_at(&by_metadata(&metadata), &[], Some(store.path()))
        .await;
    place.opens(&scene).await;
    metadata.stop().await;
    place.until_said(&scene, "without a token now").await;
    place
        .until_said(&scene, "is this a node of Google Cloud")
        .await;
    for round in ["while it runs", "after a restart"] {
        place.opens(&scene).await;
        let warning = place.manifest(&scene).await;
        let warning = warning.header("warning").expect("a warning");
        assert!(warning.contains("credentials"), "{round}: {warning}");
        let another = place.another();
        let refused = place.blob(&scene, &another).await;
        assert!(refused.status >= 400, "{round}: {}", refused.status);
        scene.node.restart().await;
    }
    // Another token, for the same account: the registry is down, and the right still counts.
    metadata.start_again().await;
    turn(&place, &tokens, 3600);
    place.until_said(&scene, "good for 59 min").await;
    place.fake.stop().await;
    place.opens(&scene).await;
    place.fake.start_again().await;
    let another = place.another();
    assert_eq!(place.blob(&scene, &another).await.status, 200);
    place.end(scene, &[&metadata]).await;
}

/// What the metadata server's known errors tell the operator.
#[tokio::test]
async fn what_a_metadata_server_refuses_is_said_with_its_fix() {
    let (node, scene) = on_a_node(3).await;
    let Node {
        place, metadata, ..
    } = &node;
    let flavor = ("metadata-flavor", "Google");
    let plain =
        |status, body: &str| Reply::new(status, "text/plain", body).with(flavor.0, flavor.1);
    let token = "{\"access_token\":\"x\",\"expires_in\":3}";
    for (mood, words) in [
        (
            Mood::Says(plain(404, "")),
            "knows no service account (404): give one to the node pool",
        ),
        (Mood::Says(plain(403, "")), "roles/iam.workloadIdentityUser"),
        (
            Mood::Says(Reply::new(200, "application/json", token)),
            "is no metadata server of Google",
        ),
        (Mood::Says(plain(200, "<html>")), "its answer is no token"),
        (Mood::Says(plain(500, "")), "answered 500"),
        (
            Mood::Silent,
            "no answer within 3s: is this a node of Google Cloud",
        ),
    ] {
        metadata.mood(mood);
        place.until_said(&scene, "without a token now").await;
        place
            .refuses(
                &scene,
                &["the google identity", "by the metadata server", words],
            )
            .await;
    }
    metadata.mood(Mood::Well);
    place.refuses_no_more(&scene).await;
    place.opens(&scene).await;
    place.end(scene, &[metadata]).await;
}

/// A node that was created with scopes too narrow for pulls.
#[tokio::test]
async fn a_node_without_a_scope_for_pulls_is_named() {
    let place = CloudPlace::new(NAME).await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, 3600);
    let scopes = "https://www.googleapis.com/auth/logging.write\n";
    let metadata = Metadata::start(&tokens, ACCOUNT, scopes).await;
    let scene = place.node(&by_metadata(&metadata), &[]).await;
    place
        .refuses(&scene, &["cannot pull", "--scopes=gke-default"])
        .await;
    place.end(scene, &[&metadata]).await;
}

/// Wrong audience, wrong or expired projected token, a key that was deleted, a registry that does not know the account.
#[tokio::test]
async fn what_token_servers_and_registries_refuse_is_said_with_its_fix() {
    let place = CloudPlace::new(NAME).await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, 3600);
    let right = token_of_pod("p.svc.id.goog", 3600, &secret());
    let sts = Sts::start(&tokens, AUDIENCE, &[&right]).await;
    let wrong = token_of_pod("elsewhere", 3600, &secret());
    let late = token_of_pod("p.svc.id.goog", -10, &secret());
    let path = place.path("token").display().to_string();
    for (token, audience, words) in [
        (
            &right,
            "identitynamespace:other",
            "(400 invalid_target): there is no such pool or provider: correct `audience`",
        ),
        (
            &wrong,
            AUDIENCE,
            "(400 invalid_grant): the pool does not take the projected token",
        ),
        (
            &late,
            AUDIENCE,
            "has expired: the kubelet writes a new one in time",
        ),
        (&String::new(), AUDIENCE, "is empty"),
    ] {
        place.write("token", token);
        let said = format!(
            "identity = \"google\", token_file = \"{path}\", audience = \"{audience}\", token_endpoint = \"{}\"",
            sts.url()
        );
        let scene = place.node(&said, &[]).await;
        place.refuses(&scene, &[words]).await;
        place.end(scene, &[&sts]).await;
    }
    let key = GoogleKey::start(&tokens, ACCOUNT).await;
    let file = place.write("key.json", &key.file);
    let said = format!(
        "identity = \"google\", key_file = \"{file}\", token_endpoint = \"{}\"",
        key.server.url()
    );
    let deleted = "{\"error\":\"invalid_grant\",\"error_description\":\"Invalid JWT Signature.\"}";
    key.server
        .mood(Mood::Says(Reply::new(400, "application/json", deleted)));
    let scene = place.node(&said, &[]).await;
    place
        .refuses(&scene, &["(400 invalid_grant): the key was deleted"])
        .await;
    key.server.mood(Mood::Well);
    place
        .fake
        .require_bearer(REPOSITORY, &[("oauth2accesstoken", "another account's")]);
    place
        .refuses(&scene, &["refuses them", "roles/artifactregistry.reader"])
        .await;
    place.end(scene, &[&key.server]).await;
}

/// larder leaves a server that limits requests alone for as long as it says, also when a person runs a check.
#[tokio::test]
async fn a_throttled_token_server_is_left_alone() {
    let place = CloudPlace::new(NAME).await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, 3600);
    let metadata = Metadata::start(&tokens, ACCOUNT, SCOPES).await;
    let busy = Reply::new(429, "text/plain", "").with("retry-after", "1000");
    metadata.mood(Mood::Says(busy));
    let scene = place.node(&by_metadata(&metadata), &[]).await;
    place.until_said(&scene, "limits requests (429)").await;
    let asked = metadata.asked().len();
    for _ in 0..3 {
        place
            .refuses(&scene, &["asked again in 16 min", "limits requests (429)"])
            .await;
        assert_eq!(place.manifest(&scene).await.status, 401);
    }
    assert_eq!(metadata.asked().len(), asked);
    let throttled = scene
        .node
        .metric("larder_credentials_failed_total{fault=\"throttled\"}")
        .await;
    assert!(throttled.is_some_and(|count| count >= 3.0), "{throttled:?}");
    place.end(scene, &[&metadata]).await;
}

/// A client that names the metadata server as a registry does not reach it, although larder itself may ask there. A
/// Google token goes to no registry outside Google.
#[tokio::test]
async fn a_metadata_server_is_for_the_identity_alone() {
    let (node, scene) = on_a_node(3599).await;
    let Node {
        place, metadata, ..
    } = &node;
    place.opens(&scene).await;
    let asked = metadata.asked().len();
    let url = format!(
        "{}/v2/a/manifests/v1?ns={}",
        scene.node.url(),
        metadata.host()
    );
    assert_eq!(scene.get(&Who::Nobody, &url).await.status, 403);
    assert_eq!(metadata.asked().len(), asked);
    place.end(scene, &[metadata]).await;

    let place = CloudPlace::new("registry.example").await;
    let scene = place.node(&by_metadata(metadata), &[]).await;
    place
        .refuses(&scene, &["registry.example", "is no registry of Google"])
        .await;
    assert_eq!(metadata.asked().len(), asked);
    place.end(scene, &[metadata]).await;
}

/// The node's server is some seconds late, as on a new node of GKE.
#[tokio::test]
async fn an_identity_that_comes_late_is_picked_up() {
    let place = CloudPlace::new(NAME).await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, 3600);
    let metadata = Metadata::start(&tokens, ACCOUNT, SCOPES).await;
    metadata.stop().await;
    let begun = Instant::now();
    let scene = place.node(&by_metadata(&metadata), &[]).await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "the start waits for no token"
    );
    assert_eq!(place.manifest(&scene).await.status, 401);
    metadata.start_again().await;
    place.until_said(&scene, "good for").await;
    place.opens(&scene).await;
    place.end(scene, &[&metadata]).await;
}

/// larder asks a metadata server without the environment's proxy, and a token server through it. The address is written
/// in a way that no rule about loopback addresses matches.
#[tokio::test]
async fn a_metadata_server_is_asked_past_any_proxy() {
    let place = CloudPlace::new(NAME).await;
    let tokens = GoogleTokens::default();
    turn(&place, &tokens, 3600);
    let metadata = Metadata::start(&tokens, ACCOUNT, SCOPES).await;
    let proxy = CloudServer::start("a proxy", |_| Ok(Reply::new(502, "text/plain", ""))).await;
    let proxies = [("HTTP_PROXY", &*proxy.url()), ("HTTPS_PROXY", &proxy.url())];
    let odd = |server: &CloudServer| server.url().replace("127.0.0.1", "2130706433");
    let said = format!(
        "identity = \"google\", metadata_endpoint = \"{}\"",
        odd(&metadata)
    );
    let scene = place.node(&said, &proxies).await;
    place.opens(&scene).await;
    assert!(proxy.asked().is_empty());
    place.end(scene, &[&metadata]).await;

    let file = place.write("token", &token_of_pod("p.svc.id.goog", 3600, &secret()));
    let sts = Sts::start(&tokens, AUDIENCE, &[]).await;
    let said = format!(
        "identity = \"google\", token_file = \"{file}\", audience = \"{AUDIENCE}\", token_endpoint = \"{}\"",
        odd(&sts)
    );
    let scene = place.node(&said, &proxies).await;
    place
        .refuses(&scene, &["the token server", "answered 502"])
        .await;
    assert!(sts.asked().is_empty() && !proxy.asked().is_empty());
    place.end(scene, &[&sts]).await;
}

//! Azure credentials (promise P18): workload identity with Entra ID, a managed identity, the registry's token exchange,
//! and what each known error tells the operator.

use bytes::Bytes;
use larder_tests::clouds::{
    AzureMetadata, CloudServer, Entra, EntraToken, Mood, Reply, acr_exchange, refresh_token,
    token_of_pod,
};
use larder_tests::fake::{Armed, Fault, Match};

use crate::clouds::{CloudPlace, REPOSITORY};
use crate::private::{Private, secret};

const NAME: &str = "team.azurecr.io";
const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const CLIENT: &str = "66666666-7777-8888-9999-000000000000";
const USER: &str = "00000000-0000-0000-0000-000000000000";

/// A registry that exchanges the token that Entra gives out now.
struct Azure {
    place: CloudPlace,
    entra: EntraToken,
    token: String,
}

impl Azure {
    async fn new() -> Self {
        let place = CloudPlace::new(NAME).await;
        let entra = EntraToken::default();
        let token = entra.set(TENANT, &secret());
        Self {
            place,
            entra,
            token,
        }
    }

    /// From now on the registry exchanges the token for one of its own, which lasts so long and alone opens the
    /// repository.
    fn exchanges(&self, seconds: u64) -> Armed {
        let refresh = refresh_token(seconds, &secret());
        self.place
            .fake
            .require_bearer(REPOSITORY, &[(USER, &refresh)]);
        let token = self.token.clone();
        let exact = Match::any().when(move |request| acr_exchange(request, NAME, TENANT, &token));
        let body = Bytes::from(serde_json::json!({"refresh_token": refresh}).to_string());
        self.place.fake.fault(exact, status(200, body))
    }

    async fn pulls(&self, scene: &Private, words: &[&str]) {
        self.place.opens(scene).await;
        let (code, said) = self.place.checked(scene).await;
        assert_eq!(code, Some(0), "{said}");
        for words in words {
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
        let exchanges = self
            .place
            .fake
            .count(|seen| seen.path == "/oauth2/exchange");
        assert_eq!(exchanges, 1);
    }
}

fn status(code: u16, body: impl Into<Bytes>) -> Fault {
    Fault::Status {
        code,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.into(),
    }
}

fn by_metadata(metadata: &CloudServer, more: &str) -> String {
    format!(
        "identity = \"azure\", metadata_endpoint = \"{}\"{more}",
        metadata.url()
    )
}

/// By the webhook's variables, as an annotated service account has them, and by the configuration.
#[tokio::test]
async fn a_workload_identity() {
    let azure = Azure::new().await;
    azure.exchanges(10_800);
    let pod = token_of_pod("api://AzureADTokenExchange", 3600, &secret());
    let file = azure.place.write("token", &pod);
    let entra = Entra::start(&azure.entra, TENANT, CLIENT, &pod).await;
    let authority = format!("{}/", entra.url());
    let webhook = [
        ("AZURE_FEDERATED_TOKEN_FILE", &*file),
        ("AZURE_CLIENT_ID", CLIENT),
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_AUTHORITY_HOST", &authority),
        ("AZURE_CLIENT_SECRET", "of the object store"),
    ];
    let scene = azure.place.node("identity = \"azure\"", &webhook).await;
    let by = format!(
        "the azure identity {CLIENT} by the token {file}, exchanged at Entra ID, good for 2 h"
    );
    azure.pulls(&scene, &[&by, "accepted"]).await;
    azure.place.end(scene, &[&entra]).await;

    let azure = Azure::new().await;
    azure.exchanges(10_800);
    let file = azure.place.write("token", &pod);
    let entra = Entra::start(&azure.entra, TENANT, CLIENT, &pod).await;
    let said = format!(
        "identity = \"azure\", token_file = \"{file}\", client_id = \"{CLIENT}\", tenant_id = \"{TENANT}\", token_endpoint = \"{}\"",
        entra.url()
    );
    let scene = azure.place.node(&said, &[]).await;
    azure.pulls(&scene, &[CLIENT]).await;
    azure.place.end(scene, &[&entra]).await;
}

/// A node's only identity needs no name; of several, the configuration names one. The tenant is the token's.
#[tokio::test]
async fn a_managed_identity_of_the_node() {
    for (identities, more) in [
        (&[CLIENT][..], String::new()),
        (&["another", CLIENT], format!(", client_id = \"{CLIENT}\"")),
    ] {
        let azure = Azure::new().await;
        azure.exchanges(10_800);
        let metadata = AzureMetadata::start(&azure.entra, identities).await;
        let scene = azure.place.node(&by_metadata(&metadata, &more), &[]).await;
        let by = format!("{CLIENT} by the metadata server");
        azure.pulls(&scene, &[&by]).await;
        azure.place.end(scene, &[&metadata]).await;
    }
}

#[tokio::test]
async fn a_right_outlives_the_token_by_which_it_was_proven() {
    let azure = Azure::new().await;
    let short = azure.exchanges(3);
    let metadata = AzureMetadata::start(&azure.entra, &[CLIENT]).await;
    let scene = azure.place.node(&by_metadata(&metadata, ""), &[]).await;
    azure.place.opens(&scene).await;
    metadata.stop().await;
    azure.place.until_said(&scene, "without a token now").await;
    azure.place.opens(&scene).await;
    let warning = azure.place.manifest(&scene).await;
    let warning = warning.header("warning").expect("a warning");
    assert!(warning.contains("credentials"), "{warning}");
    short.lift();
    azure.exchanges(10_800);
    metadata.start_again().await;
    azure.place.until_said(&scene, "good for 2 h").await;
    let another = azure.place.another();
    assert_eq!(azure.place.blob(&scene, &another).await.status, 200);
    azure.place.end(scene, &[&metadata]).await;
}

/// Each AADSTS code that a wrong set-up gets, and the refusals of the metadata server and of the registry.
#[tokio::test]
async fn what_azure_refuses_is_said_with_its_fix() {
    let azure = Azure::new().await;
    let pod = token_of_pod("api://AzureADTokenExchange", 3600, &secret());
    let file = azure.place.write("token", &pod);
    let entra = Entra::start(&azure.entra, TENANT, CLIENT, &pod).await;
    let wrong = azure
        .place
        .write("wrong", &token_of_pod("x", 3600, &secret()));
    let said = |file: &str, client: &str, tenant: &str, more: &str| {
        format!(
            "identity = \"azure\", token_file = \"{file}\", client_id = \"{client}\", tenant_id = \"{tenant}\", token_endpoint = \"{}\"{more}",
            entra.url()
        )
    };
    let half = format!("identity = \"azure\", token_file = \"{file}\"");
    for (said, words) in [
        (
            said(&wrong, CLIENT, TENANT, ""),
            "(401 invalid_client AADSTS70021): no federated credential of the application names this service account",
        ),
        (
            said(&file, "nobody", TENANT, ""),
            "AADSTS700016): the tenant has no such application",
        ),
        (
            said(&file, CLIENT, "nowhere", ""),
            "AADSTS90002): there is no such tenant",
        ),
        (
            said(&file, CLIENT, TENANT, ", audience = \"https://x\""),
            "AADSTS500011): the tenant has no such audience",
        ),
        (half, "is a token without an application"),
    ] {
        let scene = azure.place.node(&said, &[]).await;
        azure
            .place
            .refuses(&scene, &["the azure identity by the token", words])
            .await;
        azure.place.end(scene, &[&entra]).await;
    }
    let scene = azure
        .place
        .node(&said(&file, CLIENT, TENANT, ""), &[])
        .await;
    for (mood, words) in [
        (
            Mood::Says(Entra::error(400, "invalid_request", 700_211)),
            "names this cluster's issuer",
        ),
        (
            Mood::Says(Entra::error(401, "invalid_client", 700_024)),
            "the projected token has expired",
        ),
        (
            Mood::Says(Entra::error(503, "temporarily_unavailable", 90_033)),
            "answered 503",
        ),
        (
            Mood::Says(Reply::new(200, "text/html", "<html>")),
            "its answer is no token",
        ),
    ] {
        entra.mood(mood);
        azure.place.refuses(&scene, &["Entra ID", words]).await;
    }
    entra.mood(Mood::Well);
    let unauthorized =
        "{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"a text that may hold anything\"}]}";
    let exchange = || Match::any().when(|request| request.path == "/oauth2/exchange");
    let refused = azure
        .place
        .fake
        .fault(exchange(), status(401, unauthorized));
    azure
        .place
        .refuses(
            &scene,
            &[
                "the registry's token exchange",
                "(401): give it the role AcrPull",
            ],
        )
        .await;
    refused.lift();
    azure.exchanges(10_800);
    azure.place.refuses_no_more(&scene).await;
    azure.place.opens(&scene).await;
    azure.place.end(scene, &[&entra]).await;

    let busy = Reply::json(429, &serde_json::json!({"error": "too_many_requests"}))
        .with("retry-after", "500");
    for (identities, more, mood, words) in [
        (
            &["a", "b"][..],
            "",
            Mood::Well,
            "the node has several identities: set `client_id`",
        ),
        (
            &["a"],
            ", client_id = \"b\"",
            Mood::Well,
            "the node has no such identity",
        ),
        (&[], "", Mood::Well, "the node has no identity"),
        (&["a"], "", Mood::Says(busy), "limits requests (429)"),
        (&["a"], "", Mood::Silent, "podLinkLocalAccess"),
    ] {
        let metadata = AzureMetadata::start(&azure.entra, identities).await;
        metadata.mood(mood);
        let scene = azure.place.node(&by_metadata(&metadata, more), &[]).await;
        azure
            .place
            .refuses(&scene, &["the metadata server", words])
            .await;
        azure.place.end(scene, &[&metadata]).await;
    }
}

/// Entra's token goes to Azure's registries alone.
#[tokio::test]
async fn a_registry_that_is_none_of_azures_gets_no_token() {
    let azure = Azure::new().await;
    let metadata = AzureMetadata::start(&azure.entra, &[CLIENT]).await;
    let place = CloudPlace::new("azurecr.io.example").await;
    let scene = place.node(&by_metadata(&metadata, ""), &[]).await;
    place
        .refuses(&scene, &["azurecr.io.example", "is no registry of Azure"])
        .await;
    assert!(metadata.asked().is_empty());
    place.end(scene, &[&metadata]).await;
}

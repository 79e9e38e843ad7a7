//! Azure: the registry exchanges a token of Entra ID for its own. Workload identity or a managed identity gives Entra's
//! token.

use std::{path::Path, time::Duration};

use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde::Deserialize;

use super::{
    Asked, Inner, Target, Token,
    ask::{Answer, FORM, Question, Trouble, Way, code, form, place},
    base, is_below,
    jwt::Claims,
    renewal::Early,
    sendable,
};
use crate::{
    client::Tls,
    config::CloudIdentity,
    credentials::{
        error::{CredentialError, Fault, not_json},
        secret::{Credential, Secret},
    },
};

const METADATA: &str = "http://169.254.169.254";
/// The audience of Entra's token. It is the registries' own, in every cloud.
const AUDIENCE: &str = "https://containerregistry.azure.net";
/// The username that goes with a registry's token.
const USER: &str = "00000000-0000-0000-0000-000000000000";
/// How long larder uses a registry's token that does not say when it ends.
const LASTS: Duration = Duration::from_hours(1);

/// The registries' domains, with each cloud's authority.
const CLOUDS: [(&str, &str); 4] = [
    ("azurecr.io", "https://login.microsoftonline.com"),
    ("azurecr.us", "https://login.microsoftonline.us"),
    ("azurecr.cn", "https://login.chinacloudapi.cn"),
    ("azurecr.de", "https://login.microsoftonline.de"),
];

const METADATA_SERVER: &str = "the metadata server";
const ENTRA: &str = "Entra ID";
const EXCHANGE: &str = "the registry's token exchange";
const LOOK_AT_METADATA: &str = "is this a node of Azure, and does its pool let pods reach link-local addresses (podLinkLocalAccess)? Workload identity needs no metadata server";
const LOOK_AT_NETWORK: &str = "let larder reach it (a firewall, HTTPS_PROXY)";

/// A registry's answer to the exchange.
#[derive(Deserialize)]
struct Exchanged {
    refresh_token: Secret,
}

/// The answer of Entra ID and of the metadata server.
#[derive(Deserialize)]
struct Given {
    access_token: Secret,
    client_id: Option<String>,
}

/// The way in which larder gets the identity, for people.
pub(super) fn way(identity: &CloudIdentity) -> String {
    if let Some(path) = &identity.token_file {
        return format!("the token {}, exchanged at {ENTRA}", path.display());
    }
    let server = base(identity.metadata_endpoint.as_ref(), METADATA);
    format!("{METADATA_SERVER} {server}")
}

/// One registry, which exchanges Entra's token for its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Registry {
    /// The registry's name for itself.
    service: String,
    origin: Uri,
    tls: Tls,
    authority: &'static str,
}

/// The registry, by its name in the configuration, or else by its origin's host.
pub(super) fn target(asked: &Asked<'_>) -> Result<Target, CredentialError> {
    let hosts = [Some(asked.registry), asked.origin.url.host()];
    let known = hosts.into_iter().flatten().find_map(|host| {
        let mut clouds = CLOUDS.iter();
        let (_, authority) =
            clouds.find(|(domain, _)| host != *domain && is_below(host, domain))?;
        Some((host.to_owned(), *authority))
    });
    let Some((service, authority)) = known else {
        return Err(CredentialError::new(
            Fault::Content,
            asked.registry,
            "is no registry of Azure (NAME.azurecr.io and its like): name it so in [upstreams], or let an endpoint",
        ));
    };
    Ok(Target::Acr(Registry {
        service,
        origin: asked.origin.url.clone(),
        tls: Tls::of(asked.origin),
        authority,
    }))
}

/// A new token of the registry.
pub(super) async fn exchange(
    inner: &Inner,
    identity: &CloudIdentity,
    registry: &Registry,
) -> Result<Token, Trouble> {
    let entra = match &identity.token_file {
        Some(path) => by_token(inner, identity, registry, path).await?,
        None => by_metadata(inner, identity).await?,
    };
    let tenant = identity.tenant_id.clone().or(entra.tenant);
    let mut fields = vec![
        ("grant_type", "access_token"),
        ("service", &*registry.service),
        ("access_token", entra.token.expose()),
    ];
    fields.extend(tenant.as_deref().map(|tenant| ("tenant", tenant)));
    let url = format!("{}/oauth2/exchange", base(Some(&registry.origin), ""));
    let request = Request::post(url)
        .header(header::CONTENT_TYPE, FORM)
        .body(form(fields));
    let request = sendable(request, EXCHANGE)?;
    let at = place(EXCHANGE, request.uri());
    let question = Question {
        server: EXCHANGE,
        way: Way::Registry(registry.tls.clone()),
        request,
    };
    let answer = inner.asker.ask(question, LOOK_AT_NETWORK).await?;
    match answer.status {
        StatusCode::OK => {}
        status @ (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            return Err(Trouble::refused(
                &at,
                format!(
                    "refuses the identity ({}): give it the role AcrPull on the registry (Container Registry Repository Reader where repositories have permissions of their own); a new role takes some minutes",
                    status.as_u16()
                ),
            ));
        }
        _ => return Err(answer.failure(&at, LOOK_AT_NETWORK)),
    }
    let said: Exchanged = serde_json::from_slice(&answer.body).map_err(|error| {
        Trouble::answer(
            &at,
            format!("its answer is no token, but {}", not_json(&error)),
        )
    })?;
    let claims = Claims::of(said.refresh_token.expose());
    let lifetime = claims.and_then(|claims| claims.left()).unwrap_or(LASTS);
    if said.refresh_token.is_empty() || lifetime.is_zero() {
        return Err(Trouble::answer(
            &at,
            "its answer is a token that has ended: is this node's clock right?",
        ));
    }
    Ok(Token {
        credential: Credential::Basic {
            username: USER.to_owned(),
            password: said.refresh_token,
        },
        principal: entra.client,
        lifetime,
        early: Early::Half,
    })
}

/// A token of Entra ID, and what is known of its holder.
struct Entra {
    token: Secret,
    client: Option<String>,
    tenant: Option<String>,
}

impl Entra {
    /// If the answer does not name the holder, the token's claims may.
    fn new(token: Secret, client: Option<String>) -> Self {
        let claims = Claims::of(token.expose());
        let claim = |name| claims.as_ref().and_then(|claims| claims.word(name));
        Self {
            client: client
                .filter(|client| is_id(client))
                .or_else(|| claim("appid")),
            tenant: claim("tid").filter(|tenant| is_id(tenant)),
            token,
        }
    }
}

/// Whether a text looks like an id, which messages may contain.
fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

/// Workload identity: Entra takes the pod's projected token in place of the application's secret.
async fn by_token(
    inner: &Inner,
    identity: &CloudIdentity,
    registry: &Registry,
    path: &Path,
) -> Result<Entra, Trouble> {
    let (Some(client), Some(tenant)) = (&identity.client_id, &identity.tenant_id) else {
        let what = "is a token without an application: label the pod azure.workload.identity/use=true and annotate its service account with azure.workload.identity/client-id, or set `client_id` and `tenant_id`";
        return Err(CredentialError::new(Fault::Content, path.display(), what).into());
    };
    let assertion = inner.text(path).await?;
    let audience = identity.audience.as_deref().unwrap_or(AUDIENCE);
    let scope = format!("{audience}/.default");
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", client),
        ("scope", &*scope),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        ),
        ("client_assertion", assertion.expose()),
    ];
    let authority = base(identity.token_endpoint.as_ref(), registry.authority);
    let request = Request::post(format!("{authority}/{tenant}/oauth2/v2.0/token"))
        .header(header::CONTENT_TYPE, FORM)
        .body(form(fields));
    let request = sendable(request, ENTRA)?;
    let at = place(ENTRA, request.uri());
    let question = Question {
        server: ENTRA,
        way: Way::of(identity.token_endpoint.as_ref()),
        request,
    };
    let answer = inner.asker.ask(question, LOOK_AT_NETWORK).await?;
    if answer.status != StatusCode::OK {
        return Err(entra_refusal(&answer, &at));
    }
    let said: Given = serde_json::from_slice(&answer.body).map_err(|error| {
        Trouble::answer(
            &at,
            format!("its answer is no token, but {}", not_json(&error)),
        )
    })?;
    Ok(Entra::new(said.access_token, Some(client.clone())))
}

fn entra_refusal(answer: &Answer, at: &str) -> Trouble {
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        error: String,
        #[serde(default)]
        error_codes: Vec<u64>,
    }
    let said = serde_json::from_slice::<Said>(&answer.body);
    let (Ok(said), false) = (said, answer.status.is_server_error()) else {
        return answer.failure(at, LOOK_AT_NETWORK);
    };
    let number = said.error_codes.first().copied().unwrap_or_default();
    let fix = match number {
        70_021 | 700_213 => {
            "no federated credential of the application names this service account: its subject must be system:serviceaccount:NAMESPACE:NAME; a new one takes some minutes"
        }
        700_211 => {
            "no federated credential of the application names this cluster's issuer: compare them letter by letter, with the slash at the end"
        }
        700_212 => {
            "the projected token's audience must be api://AzureADTokenExchange, in the pod's volume and in the federated credential"
        }
        700_024 | 50_013 => {
            "the projected token has expired: is it mounted as a projected token, and is this node's clock right?"
        }
        700_016 => {
            "the tenant has no such application: correct `client_id` (AZURE_CLIENT_ID) and `tenant_id`"
        }
        90_002 | 900_023 => "there is no such tenant: correct `tenant_id` (AZURE_TENANT_ID)",
        500_011 => "the tenant has no such audience: correct `audience`",
        _ => "look at the application's federated credentials",
    };
    let word = code(&said.error).unwrap_or_default();
    let status = answer.status.as_u16();
    Trouble::refused(
        at,
        format!("refuses a token ({status} {word} AADSTS{number}): {fix}"),
    )
}

/// A managed identity of the node.
async fn by_metadata(inner: &Inner, identity: &CloudIdentity) -> Result<Entra, Trouble> {
    let server = base(identity.metadata_endpoint.as_ref(), METADATA);
    let resource = identity.audience.as_deref().unwrap_or(AUDIENCE);
    let query = {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("api-version", "2018-02-01");
        query.append_pair("resource", resource);
        if let Some(client) = &identity.client_id {
            query.append_pair("client_id", client);
        }
        query.finish()
    };
    let request = Request::get(format!("{server}/metadata/identity/oauth2/token?{query}"))
        .header("metadata", "true")
        .body(Full::default());
    let question = Question {
        server: METADATA_SERVER,
        way: Way::Metadata,
        request: sendable(request, METADATA_SERVER)?,
    };
    let answer = inner.asker.ask(question, LOOK_AT_METADATA).await?;
    let at = format!("{METADATA_SERVER} {server}");
    match answer.status {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST => {
            let text = String::from_utf8_lossy(&answer.body);
            let fix = if text.contains("Multiple user assigned") {
                "the node has several identities: set `client_id` to that of the one to use (on AKS, the kubelet's: az aks show --query identityProfile.kubeletidentity.clientId)"
            } else if identity.client_id.is_some() {
                "the node has no such identity: correct `client_id`, or assign it to the node pool's scale set"
            } else {
                "the node has no identity: assign one to the node pool's scale set, and set `client_id`"
            };
            return Err(Trouble::refused(
                &at,
                format!("refuses a token (400): {fix}"),
            ));
        }
        _ => return Err(answer.failure(&at, LOOK_AT_METADATA)),
    }
    let said: Given = serde_json::from_slice(&answer.body).map_err(|error| {
        Trouble::answer(
            &at,
            format!("its answer is no token, but {}", not_json(&error)),
        )
    })?;
    Ok(Entra::new(said.access_token, said.client_id))
}

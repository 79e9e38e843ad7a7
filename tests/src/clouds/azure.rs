//! Azure: Entra ID, and the metadata server of a node. [`acr_exchange`] is a registry's own exchange, for the fake
//! registry.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

use super::google::{form_of, wanted};
use super::server::{CloudServer, Reply};
use crate::fake::{self, Request};

/// The audience that Entra's tokens must have.
const AUDIENCE: &str = "https://containerregistry.azure.net";

/// The token that Entra gives out now. A test sets it, and the registry exchanges it.
#[derive(Clone, Debug, Default)]
pub struct EntraToken(Arc<Mutex<String>>);

impl EntraToken {
    /// Sets a new token of this tenant, which contains `secret`.
    pub fn set(&self, tenant: &str, secret: &str) -> String {
        let claims = json!({"tid": tenant, "appid": "of-the-token", "jti": secret});
        let token = unsigned(&claims);
        token.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        token
    }

    fn get(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A JWT with these claims; nothing here verifies its signature.
fn unsigned(claims: &serde_json::Value) -> String {
    let payload = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
    format!("eyJhbGciOiJSUzI1NiJ9.{payload}.c2lnbmF0dXJl")
}

/// A registry's refresh token that is good for so many seconds, and contains `secret`.
pub fn refresh_token(seconds: u64, secret: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs();
    unsigned(&json!({"jti": secret, "exp": now + seconds, "grant_type": "refresh_token"}))
}

/// Entra ID, with one application that trusts one projected token.
#[derive(Debug)]
pub struct Entra;

impl Entra {
    pub async fn start(
        token: &EntraToken,
        tenant: &str,
        client: &str,
        assertion: &str,
    ) -> CloudServer {
        let token = token.clone();
        let [tenant, client, assertion] = [tenant, client, assertion].map(ToOwned::to_owned);
        CloudServer::start("Entra ID", move |asked| {
            wanted(asked.method == "POST" && asked.query.is_empty(), "a POST")?;
            wanted(asked.header("authorization").is_none(), "no Authorization")?;
            let form = form_of(asked)?;
            wanted(form("grant_type")? == "client_credentials", "grant_type")?;
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            wanted(form("client_assertion_type")? == kind, "client_assertion_type")?;
            let (id, shown, scope) = (form("client_id")?, form("client_assertion")?, form("scope")?);
            if asked.path != format!("/{tenant}/oauth2/v2.0/token") {
                return Ok(Self::error(400, "invalid_request", 90_002));
            }
            if id != client {
                return Ok(Self::error(400, "unauthorized_client", 700_016));
            }
            if shown != assertion {
                return Ok(Self::error(401, "invalid_client", 70_021));
            }
            if scope != format!("{AUDIENCE}/.default") {
                return Ok(Self::error(400, "invalid_resource", 500_011));
            }
            let body = json!({"token_type": "Bearer", "expires_in": 86_399, "ext_expires_in": 86_399, "access_token": token.get()});
            Ok(Reply::json(200, &body))
        })
        .await
    }

    /// A refusal in Entra's form.
    pub fn error(status: u16, error: &str, code: u64) -> Reply {
        let body = json!({
            "error": error,
            "error_description": format!("AADSTS{code}: a text that may hold anything"),
            "error_codes": [code],
            "trace_id": "1",
        });
        Reply::json(status, &body)
    }
}

/// The metadata server of a node with these identities.
#[derive(Debug)]
pub struct AzureMetadata;

impl AzureMetadata {
    pub async fn start(token: &EntraToken, identities: &[&str]) -> CloudServer {
        let token = token.clone();
        let identities: Vec<String> = identities.iter().map(|id| (*id).to_owned()).collect();
        CloudServer::start("Azure's metadata server", move |asked| {
            wanted(asked.method == "GET" && asked.path == "/metadata/identity/oauth2/token", "the path")?;
            wanted(asked.header("metadata") == Some("true"), "Metadata: true")?;
            wanted(asked.header("x-forwarded-for").is_none(), "it came through a proxy")?;
            let field = |name: &str| fake::form(&asked.query, name).pop();
            wanted(field("api-version").as_deref() == Some("2018-02-01"), "api-version")?;
            wanted(field("resource").as_deref() == Some(AUDIENCE), "resource")?;
            let refused = |description: &str| {
                let body = json!({"error": "invalid_request", "error_description": description});
                Ok(Reply::json(400, &body))
            };
            let identity = match (field("client_id"), &identities[..]) {
                (Some(id), all) if all.contains(&id) => id,
                (Some(_), _) | (None, []) => return refused("Identity not found"),
                (None, [only]) => only.clone(),
                (None, _) => return refused("Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"),
            };
            // The expiry time is a string.
            let body = json!({"access_token": token.get(), "client_id": identity, "expires_in": "86399", "expires_on": "4102444800", "resource": AUDIENCE, "token_type": "Bearer"});
            Ok(Reply::json(200, &body))
        })
        .await
    }
}

/// Whether a request to a registry is the exchange of this token, exactly.
pub fn acr_exchange(request: &Request, service: &str, tenant: &str, token: &str) -> bool {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let field = |name: &str, value: &str| fake::form(&body, name) == [value];
    request.method == "POST"
        && request.path == "/oauth2/exchange"
        && request.header("content-type") == Some("application/x-www-form-urlencoded")
        && request.header("authorization").is_none()
        && field("grant_type", "access_token")
        && field("service", service)
        && field("tenant", tenant)
        && field("access_token", token)
        && body.split('&').count() == 4
}

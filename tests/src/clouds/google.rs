//! Google: the metadata server of a node or of GKE, the OAuth server that takes a key's signed request, and the STS.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use super::server::{Asked, CloudServer, Reply};
use crate::fake::form;

const ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default";
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The token that a server gives out now. A test sets it, and the registry takes it.
#[derive(Clone, Debug, Default)]
pub struct GoogleTokens(Arc<Mutex<(String, u64)>>);

impl GoogleTokens {
    /// Sets a new token, good for so many seconds.
    pub fn set(&self, token: &str, seconds: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (token.to_owned(), seconds);
    }

    /// The present token.
    pub(super) fn now(&self) -> String {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.0.clone()
    }

    fn reply(&self) -> Reply {
        let (token, seconds) = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let body = json!({"access_token": token, "expires_in": seconds, "token_type": "Bearer"});
        Reply::json(200, &body)
    }
}

/// The metadata server of a node, or of GKE.
#[derive(Debug)]
pub struct Metadata;

impl Metadata {
    /// A server whose account has this name and these scopes, one a line.
    pub async fn start(tokens: &GoogleTokens, account: &str, scopes: &str) -> CloudServer {
        let (tokens, account, scopes) = (tokens.clone(), account.to_owned(), scopes.to_owned());
        CloudServer::start("Google's metadata server", move |asked| {
            wanted(asked.method == "GET", "it is asked by GET")?;
            wanted(
                asked.header("metadata-flavor") == Some("Google"),
                "Metadata-Flavor is missing",
            )?;
            // The real server refuses requests that came through a proxy.
            wanted(
                asked.header("x-forwarded-for").is_none(),
                "it came through a proxy",
            )?;
            wanted(
                asked.query.is_empty() && asked.body.is_empty(),
                "a plain GET",
            )?;
            let reply = match asked.path.strip_prefix(ACCOUNT) {
                Some("/token") => tokens.reply(),
                Some("/email") => Reply::new(200, "application/text", account.clone()),
                Some("/scopes") => Reply::new(200, "application/text", scopes.clone()),
                _ => return Err("there is no such path".to_owned()),
            };
            Ok(reply
                .with("metadata-flavor", "Google")
                .with("server", "Metadata Server for VM"))
        })
        .await
    }
}

/// A service account's key, as in its JSON file, and the server that takes its signatures.
#[derive(Debug)]
pub struct GoogleKey {
    pub server: CloudServer,
    pub file: String,
}

impl GoogleKey {
    pub async fn start(tokens: &GoogleTokens, account: &str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("a key in DER");
        let public = pair.public_key().as_ref().to_vec();
        let lines = BASE64.encode(der.as_ref());
        let lines: Vec<_> = lines
            .as_bytes()
            .chunks(64)
            .map(String::from_utf8_lossy)
            .collect();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        );
        let (tokens, email) = (tokens.clone(), account.to_owned());
        let server = CloudServer::start("Google's OAuth server", move |asked| {
            wanted(
                asked.method == "POST" && asked.path == "/token",
                "POST /token",
            )?;
            wanted(asked.header("authorization").is_none(), "no Authorization")?;
            let form = form_of(asked)?;
            let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
            wanted(form("grant_type")? == grant, "the grant type")?;
            let assertion = form("assertion")?;
            verified(&assertion, &public, &email)?;
            Ok(tokens.reply())
        })
        .await;
        let file = json!({
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "0123456789abcdef",
            "private_key": pem,
            "client_email": account,
            "client_id": "1",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            "universe_domain": "googleapis.com",
        });
        Self {
            server,
            file: file.to_string(),
        }
    }
}

fn verified(assertion: &str, public: &[u8], email: &str) -> Result<(), String> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        return Err("a token has three parts".to_owned());
    };
    let decoded = |part: &str| {
        let bytes = BASE64URL_NOPAD.decode(part.as_bytes());
        bytes.map_err(|_| "a part is not base64url".to_owned())
    };
    let json = |part: &str| -> Result<Value, String> {
        serde_json::from_slice(&decoded(part)?).map_err(|_| "a part is not JSON".to_owned())
    };
    let signed = format!("{header}.{claims}");
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
        .verify(signed.as_bytes(), &decoded(signature)?)
        .map_err(|_| "the signature is wrong".to_owned())?;
    let expected = json!({"alg": "RS256", "typ": "JWT", "kid": "0123456789abcdef"});
    wanted(json(header)? == expected, "the header")?;
    let claims = json(claims)?;
    wanted(claims["iss"] == email, "iss")?;
    wanted(
        claims["aud"] == "https://oauth2.googleapis.com/token",
        "aud",
    )?;
    wanted(
        claims["scope"] == format!("{CLOUD_PLATFORM}.read-only"),
        "scope",
    )?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs();
    let [from, to] = ["iat", "exp"].map(|name| claims[name].as_u64().unwrap_or_default());
    wanted(
        from.abs_diff(now) < 60 && to > now && to - from <= 3600,
        "iat and exp",
    )
}

/// The Security Token Service, with one pool that takes these projected tokens.
#[derive(Debug)]
pub struct Sts;

impl Sts {
    pub async fn start(tokens: &GoogleTokens, audience: &str, subjects: &[&str]) -> CloudServer {
        let (tokens, audience) = (tokens.clone(), audience.to_owned());
        let subjects: Vec<String> = subjects
            .iter()
            .map(|subject| (*subject).to_owned())
            .collect();
        CloudServer::start("Google's STS", move |asked| {
            wanted(
                asked.method == "POST" && asked.path == "/v1/token",
                "POST /v1/token",
            )?;
            wanted(
                asked.header("content-type") == Some("application/json"),
                "JSON",
            )?;
            wanted(asked.header("authorization").is_none(), "no Authorization")?;
            let mut body: Value = serde_json::from_slice(&asked.body).map_err(|_| "no JSON")?;
            let fields = body.as_object_mut().ok_or("no object")?;
            let mut field = |name: &str| fields.remove(name).unwrap_or_default();
            let (asked_for, subject) = (field("audience"), field("subject_token"));
            let type_of = |name: &str| format!("urn:ietf:params:oauth:{name}");
            wanted(
                field("grant_type") == type_of("grant-type:token-exchange"),
                "grant_type",
            )?;
            wanted(
                field("requested_token_type") == type_of("token-type:access_token"),
                "requested_token_type",
            )?;
            wanted(
                field("subject_token_type") == type_of("token-type:jwt"),
                "subject_token_type",
            )?;
            wanted(field("scope") == CLOUD_PLATFORM, "scope")?;
            wanted(fields.is_empty(), "no other field")?;
            if asked_for != audience.as_str() {
                return Ok(refused(
                    "invalid_target",
                    "The target service indicated by the \"audience\" parameters is invalid.",
                ));
            }
            if !subjects.iter().any(|known| subject == known.as_str()) {
                return Ok(refused(
                    "invalid_grant",
                    "The audience in ID Token does not match the expected audience.",
                ));
            }
            Ok(tokens.reply())
        })
        .await
    }
}

/// How Google's token servers refuse.
fn refused(error: &str, description: &str) -> Reply {
    Reply::json(
        400,
        &json!({"error": error, "error_description": description}),
    )
}

/// A projected token as the kubelet writes it, good for so many seconds from now. It contains `secret`.
pub fn token_of_pod(audience: &str, seconds: i64, secret: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs();
    let claims = json!({
        "aud": [audience],
        "exp": now.saturating_add_signed(seconds),
        "iss": "https://cluster.example",
        "sub": "system:serviceaccount:larder:larder",
        "jti": secret,
    });
    let part = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
    let header = json!({"alg": "RS256", "kid": "k"});
    let signature = BASE64URL_NOPAD.encode(&fastrand::u128(..).to_le_bytes());
    format!("{}.{}.{signature}", part(&header), part(&claims))
}

/// An error unless this holds.
pub(super) fn wanted(holds: bool, what: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("wanted: {what}"))
    }
}

/// The fields of a form; each must be there once.
pub(super) fn form_of(asked: &Asked) -> Result<impl Fn(&str) -> Result<String, String>, String> {
    let kind = asked.header("content-type");
    wanted(kind == Some("application/x-www-form-urlencoded"), "a form")?;
    let body = asked.text();
    Ok(move |name: &str| {
        let mut values = form(&body, name);
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => Err(format!("wanted: `{name}` once")),
        }
    })
}

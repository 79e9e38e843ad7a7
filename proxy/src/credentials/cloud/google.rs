//! Google Cloud: a metadata server, a service account's key, or a projected token that Google's STS exchanges.
//!
//! Every way ends in an access token, which all hosts of Artifact Registry take as the password of `oauth2accesstoken`.

use std::{path::Path, time::Duration};

use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::json;

use super::{
    Asked, Inner, Target, Token,
    ask::{Answer, FORM, Question, Trouble, Way, code, form, place},
    base, is_below,
    jwt::{self, Claims},
    renewal::Early,
    sendable,
};
use crate::{
    clock::unix_now,
    config::CloudIdentity,
    credentials::{
        error::{CredentialError, Fault, not_json},
        secret::{Credential, Secret},
    },
};

/// The address of `metadata.google.internal`, so that larder need not ask DNS.
const METADATA: &str = "http://169.254.169.254";
const ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default";
const STS: &str = "https://sts.googleapis.com";
/// Enough to pull and to list, so larder asks for no more with a key.
const READ_ONLY: &str = "https://www.googleapis.com/auth/cloud-platform.read-only";
const FULL: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long a signed request is good, in seconds. Clocks may differ by a minute.
const REQUEST_LASTS: u64 = 600;

const METADATA_SERVER: &str = "the metadata server";
const TOKEN_SERVER: &str = "the token server";
const LOOK_AT_METADATA: &str = "is this a node of Google Cloud, and does no NetworkPolicy keep the pod from it? It may take a new node some seconds until it answers";
const LOOK_AT_NETWORK: &str = "let larder reach it (a firewall, HTTPS_PROXY)";

/// The way in which larder gets the identity, for people.
pub(super) fn way(identity: &CloudIdentity) -> String {
    if let Some(path) = &identity.key_file {
        return format!("the key {}", path.display());
    }
    if let Some(path) = &identity.token_file {
        let server = base(identity.token_endpoint.as_ref(), STS);
        return format!("the token {}, exchanged at {server}", path.display());
    }
    let server = base(identity.metadata_endpoint.as_ref(), METADATA);
    format!("{METADATA_SERVER} {server}")
}

/// A token opens much of a project. It goes to Google's registries alone, unless the configuration names another
/// cloud's token server.
pub(super) fn target(asked: &Asked<'_>) -> Result<Target, CredentialError> {
    let hosts = [Some(asked.registry), asked.origin.url.host()];
    let is_google =
        |host: &&str| *host == "gcr.io" || is_below(host, "gcr.io") || is_below(host, "pkg.dev");
    if hosts.iter().flatten().any(is_google) || asked.identity.token_endpoint.is_some() {
        return Ok(Target::Google);
    }
    Err(CredentialError::new(
        Fault::Content,
        asked.registry,
        "is no registry of Google (*.pkg.dev, gcr.io), and a google token is for those alone: take `identity` out of its `credentials`",
    ))
}

/// A new token by the configured way.
pub(super) async fn exchange(inner: &Inner, identity: &CloudIdentity) -> Result<Token, Trouble> {
    if let Some(path) = &identity.key_file {
        return by_key(inner, identity, path).await;
    }
    if let (Some(path), Some(audience)) = (&identity.token_file, &identity.audience) {
        return by_token(inner, identity, path, audience).await;
    }
    by_metadata(inner, identity).await
}

async fn by_metadata(inner: &Inner, identity: &CloudIdentity) -> Result<Token, Trouble> {
    let server = base(identity.metadata_endpoint.as_ref(), METADATA);
    let ask = async |what: &str| {
        let request = Request::get(format!("{server}{ACCOUNT}{what}"))
            .header("Metadata-Flavor", "Google")
            .body(Full::default());
        let question = Question {
            server: METADATA_SERVER,
            way: Way::Metadata,
            request: sendable(request, METADATA_SERVER)?,
        };
        inner.asker.ask(question, LOOK_AT_METADATA).await
    };
    // The scopes of a node are fixed when it is made. Account and scopes are only shown to people, so either may be
    // missing.
    let (answer, account, scopes) = tokio::join!(ask("/token"), ask("/email"), ask("/scopes"));
    let at = format!("{METADATA_SERVER} {server}");
    let answer = answer?;
    let genuine = answer.headers.get("metadata-flavor");
    match answer.status {
        StatusCode::OK if genuine.is_some_and(|flavor| flavor == "Google") => {}
        StatusCode::OK => {
            return Err(Trouble::answer(
                &at,
                "is no metadata server of Google: it does not say `Metadata-Flavor: Google`; look at `metadata_endpoint` and at what answers there",
            ));
        }
        StatusCode::NOT_FOUND => {
            return Err(Trouble::refused(
                &at,
                "knows no service account (404): give one to the node pool, or set up Workload Identity for the pod's Kubernetes service account",
            ));
        }
        StatusCode::FORBIDDEN => {
            return Err(Trouble::refused(
                &at,
                "refuses a token (403): bind the Kubernetes service account to the Google one with roles/iam.workloadIdentityUser, and look at the annotation iam.gke.io/gcp-service-account",
            ));
        }
        _ => return Err(answer.failure(&at, LOOK_AT_METADATA)),
    }
    let text = |answer: Result<Answer, Trouble>| {
        let answer = answer
            .ok()
            .filter(|answer| answer.status == StatusCode::OK)?;
        let text = std::str::from_utf8(&answer.body).ok()?.trim().to_owned();
        (text.len() < 4096).then_some(text)
    };
    if text(scopes).is_some_and(|scopes| cannot_pull(&scopes)) {
        return Err(Trouble::refused(
            &at,
            "gives tokens that cannot pull, because the node was made without such a scope: make the node pool with --scopes=gke-default or cloud-platform, or use Workload Identity",
        ));
    }
    let account = text(account).filter(|account| is_account(account));
    token(&answer, &at, account, Early::End)
}

/// Whether scopes, a line each, are known and none of them lets a node pull.
fn cannot_pull(scopes: &str) -> bool {
    let scopes = scopes.lines();
    let mut names = scopes
        .filter_map(|scope| {
            scope
                .trim()
                .strip_prefix("https://www.googleapis.com/auth/")
        })
        .peekable();
    let pulls = |name: &str| name.starts_with("devstorage.") || name.starts_with("cloud-platform");
    names.peek().is_some() && !names.any(pulls)
}

/// Whether a text looks like an account's name, which messages may contain.
fn is_account(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte);
    !text.is_empty() && text.len() <= 256 && text.bytes().all(plain)
}

/// The content of a service account's key file.
#[derive(Deserialize)]
struct ServiceAccount {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key: Secret,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    token_uri: String,
}

async fn by_key(inner: &Inner, identity: &CloudIdentity, path: &Path) -> Result<Token, Trouble> {
    let text = inner.text(path).await?;
    let wrong = |what: String| CredentialError::new(Fault::Content, path.display(), what);
    let account: ServiceAccount = serde_json::from_str(text.expose())
        .map_err(|error| wrong(format!("{}: name the key's JSON file", not_json(&error))))?;
    if account.kind != "service_account" || !is_account(&account.client_email) {
        return Err(wrong(
            "is no key of a service account: for a federated identity set `token_file` and `audience`"
                .to_owned(),
        )
        .into());
    }
    let (url, way) = match &identity.token_endpoint {
        Some(named) => (format!("{}/token", base(Some(named), "")), Way::Named),
        None if account.token_uri.starts_with("https://") => {
            (account.token_uri.clone(), Way::Cloud)
        }
        None => {
            return Err(
                wrong("its `token_uri` is not https: is this the right file?".to_owned()).into(),
            );
        }
    };
    let now = unix_now();
    let claims = json!({
        "iss": account.client_email,
        "scope": READ_ONLY,
        "aud": if account.token_uri.is_empty() { &url } else { &account.token_uri },
        "iat": now,
        "exp": now + REQUEST_LASTS,
    });
    let assertion = jwt::signed(&account.private_key, &account.private_key_id, &claims)
        .map_err(|what| wrong(format!("{what}: make a new key")))?;
    let request = Request::post(url)
        .header(header::CONTENT_TYPE, FORM)
        .body(form([
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", assertion.expose()),
        ]));
    let request = sendable(request, TOKEN_SERVER)?;
    let at = place(TOKEN_SERVER, request.uri());
    let question = Question {
        server: TOKEN_SERVER,
        way,
        request,
    };
    let answer = inner.asker.ask(question, LOOK_AT_NETWORK).await?;
    if answer.status != StatusCode::OK {
        return Err(refusal(&answer, &at, |word| match word {
            "invalid_grant" => {
                "the key was deleted or its account is disabled, or this node's clock is wrong: look at the account's keys, or make a new one"
            }
            _ => "look at the account and its key",
        }));
    }
    token(&answer, &at, Some(account.client_email), Early::Half)
}

async fn by_token(
    inner: &Inner,
    identity: &CloudIdentity,
    path: &Path,
    audience: &str,
) -> Result<Token, Trouble> {
    let subject = inner.text(path).await?;
    let claims = Claims::of(subject.expose());
    if claims.as_ref().and_then(Claims::left) == Some(Duration::ZERO) {
        let what = "the token there has expired: the kubelet writes a new one in time; is it mounted as a projected token, and is this node's clock right?";
        return Err(CredentialError::new(Fault::Content, path.display(), what).into());
    }
    let body = json!({
        "audience": audience,
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "scope": FULL,
        "subject_token": subject.expose(),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    });
    let url = format!("{}/v1/token", base(identity.token_endpoint.as_ref(), STS));
    let request = Request::post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()));
    let request = sendable(request, TOKEN_SERVER)?;
    let at = place(TOKEN_SERVER, request.uri());
    let question = Question {
        server: TOKEN_SERVER,
        way: Way::of(identity.token_endpoint.as_ref()),
        request,
    };
    let answer = inner.asker.ask(question, LOOK_AT_NETWORK).await?;
    if answer.status != StatusCode::OK {
        return Err(refusal(&answer, &at, |word| match word {
            "invalid_target" => "there is no such pool or provider: correct `audience`",
            "invalid_grant" => {
                "the pool does not take the projected token: its `audience` in the pod's volume and its issuer must be those that the provider expects"
            }
            _ => "look at `audience`, and at the workload identity pool and its provider",
        }));
    }
    let subject = claims.and_then(|claims| claims.word("sub"));
    token(&answer, &at, subject, Early::Half)
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Secret,
    expires_in: u64,
}

pub(super) fn token(
    answer: &Answer,
    at: &str,
    principal: Option<String>,
    early: Early,
) -> Result<Token, Trouble> {
    let said: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|error| {
        Trouble::answer(
            at,
            format!("its answer is no token, but {}", not_json(&error)),
        )
    })?;
    if said.access_token.is_empty() || said.expires_in == 0 {
        return Err(Trouble::answer(at, "its answer has no token that is good"));
    }
    Ok(Token {
        credential: Credential::Basic {
            username: "oauth2accesstoken".to_owned(),
            password: said.access_token,
        },
        principal,
        lifetime: Duration::from_secs(said.expires_in),
        early,
    })
}

/// The error for a token server's refusal. Of the server's answer, it repeats only the error code.
fn refusal(answer: &Answer, at: &str, fix: impl Fn(&str) -> &'static str) -> Trouble {
    #[derive(Deserialize)]
    struct Said {
        error: String,
    }
    let said = serde_json::from_slice::<Said>(&answer.body);
    let (Ok(said), false) = (said, answer.status.is_server_error()) else {
        return answer.failure(at, LOOK_AT_NETWORK);
    };
    let word = code(&said.error).unwrap_or_default();
    let status = answer.status.as_u16();
    Trouble::refused(
        at,
        format!("refuses a token ({status} {word}): {}", fix(word)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cloud, Endpoint};

    #[test]
    fn scopes_that_cannot_pull() {
        let auth = "https://www.googleapis.com/auth/";
        for (scopes, cannot) in [
            ("", false),
            ("<html>", false),
            ("logging.write", false),
            (&*format!("{auth}logging.write\n{auth}monitoring\n"), true),
            (
                &format!("{auth}logging.write\n{auth}devstorage.read_only\n"),
                false,
            ),
            (&format!("{auth}cloud-platform"), false),
            (&format!("{auth}cloud-platform.read-only"), false),
        ] {
            assert_eq!(cannot_pull(scopes), cannot, "{scopes}");
        }
    }

    #[test]
    fn tokens_go_to_googles_registries_alone() {
        let mut identity = CloudIdentity::of(Cloud::Google);
        let goes = |identity: &CloudIdentity, registry: &str, origin: &str| {
            let origin = Endpoint::parse(origin).unwrap();
            let asked = Asked {
                identity: identity.clone(),
                registry,
                origin: &origin,
            };
            target(&asked).is_ok()
        };
        for (registry, origin, is) in [
            ("us-central1-docker.pkg.dev", "http://127.0.0.1:1", true),
            ("gcr.io", "https://gcr.io", true),
            ("eu.gcr.io", "https://eu.gcr.io", true),
            ("images.corp", "https://us-docker.pkg.dev", true),
            ("ghcr.io", "https://ghcr.io", false),
            ("mygcr.io", "https://mygcr.io", false),
            ("pkg.dev.example", "https://pkg.dev.example", false),
        ] {
            assert_eq!(goes(&identity, registry, origin), is, "{registry} {origin}");
        }
        identity.token_endpoint = Some("https://sts.example".parse().unwrap());
        assert!(goes(&identity, "docker.example", "https://docker.example"));
    }
}

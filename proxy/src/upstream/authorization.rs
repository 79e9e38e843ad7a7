//! Showing an endpoint who asks: HTTP Basic, or the Bearer dance with its token server; and what of it may be lent.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use hyper::body::Incoming;
use larder_shared::{RegistryName, Repository};
use moka::future::Cache;

use super::{
    FIRST_BYTE, Upstreams, bounded,
    challenge::Challenge,
    endpoint::{Led, route_of},
    question::{AGENT, retry_after},
    redirect::{is_redirect, target},
    refusal::{self, Denial, LOOKED_AT},
    token::{Token, TokenAnswer, TokenError, TokenKey},
};
use crate::{
    client::{self, Reach, Route, SendError},
    credentials::Credential,
    identity::{Identity, Proof},
    metrics::{TokenOutcome, Tokens as TokensLabel},
};

/// Bytes of the longest token, and of the longest parameter of a challenge: both are kept, and any registry may be named.
const MAX_TOKEN: usize = 64 << 10;
const MAX_PARAMETER: usize = 4 << 10;

/// Redirects that are followed from a realm.
const MAX_HOPS: usize = 5;

/// Bytes of all schemes that are kept.
const SCHEMES: u64 = 8 << 20;

/// `scheme://host:port` of an endpoint, and the repository.
pub(super) type SchemeKey = (String, Repository);

/// What is known of schemes: nothing yet.
pub(super) fn schemes() -> Cache<SchemeKey, Scheme> {
    bounded::cache(SCHEMES, |key: &SchemeKey, scheme: &Scheme| {
        let told = match scheme {
            Scheme::Bearer(challenge) => challenge.size(),
            Scheme::Basic => 0,
        };
        key.0.len() + key.1.as_str().len() + told
    })
    .build()
}

/// How an endpoint wants to be shown who asks.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    Bearer(Challenge),
    Basic,
}

impl Scheme {
    /// The same with a scope: a registry that names none is asked for what is needed to pull from `uri`, as clients do.
    #[must_use]
    pub(super) fn for_pulling(mut self, uri: &Uri) -> Self {
        if let Self::Bearer(challenge) = &mut self
            && challenge.scope.as_deref().is_none_or(str::is_empty)
            && let Some(name) = repository_of(uri.path())
        {
            challenge.scope = Some(format!("repository:{name}:pull"));
        }
        self
    }
}

/// What another member may be lent, so that it can ask a registry on somebody's behalf.
#[derive(Clone, Debug)]
pub enum Lend {
    /// Nothing is needed: the caller is anonymous.
    Nothing,
    /// An `Authorization` with a Bearer token that is good for pulling from the repository and for nothing else.
    Token(HeaderValue),
    /// Only secrets that never leave this node would do.
    Cannot,
}

impl Upstreams {
    /// Takes note of how an endpoint wants to be shown who asks for a repository. A challenge that is too long to be met is
    /// not kept either.
    pub(super) async fn keep_scheme(&self, key: SchemeKey, scheme: Scheme) {
        if matches!(&scheme, Scheme::Bearer(challenge) if challenge.longest() > MAX_PARAMETER) {
            return;
        }
        self.schemes.insert(key, scheme).await;
    }

    /// What may be lent for asking `repository` on behalf of `identity`.
    pub async fn lend(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        identity: &Identity,
    ) -> Lend {
        if identity.is_anonymous() {
            return Lend::Nothing;
        }
        // A token that the client brought may be good for more than this.
        if !matches!(identity.proof(), Proof::Credential(_)) {
            return Lend::Cannot;
        }
        let upstream = self.config.load().upstream(registry.as_str());
        let Some(origin) = upstream.endpoints.last() else {
            return Lend::Cannot;
        };
        let place = client::origin(&origin.url);
        let scheme = self.schemes.get(&(place.clone(), repository.clone())).await;
        let Some(scheme @ Scheme::Bearer(challenge)) = &scheme else {
            return Lend::Cannot;
        };
        let scope = challenge.scope.as_deref();
        if !scope.is_some_and(|scope| is_pull_of(scope, repository.as_str())) {
            return Lend::Cannot;
        }
        let route = route_of(&upstream, origin);
        match self.authorization(scheme, identity, &place, &route).await {
            Ok(Some(token)) if !holds_secret(&token, identity) => Lend::Token(token),
            _ => Lend::Cannot,
        }
    }
    /// What to send so that an endpoint of this scheme knows who asks; `None` where there is nothing to show.
    pub(super) async fn authorization(
        &self,
        scheme: &Scheme,
        identity: &Identity,
        place: &str,
        route: &Route,
    ) -> Result<Option<HeaderValue>, TokenError> {
        if let Some(own) = bearer_of(identity) {
            return Ok(Some(own));
        }
        let Scheme::Bearer(challenge) = scheme else {
            return Ok(basic_of(identity));
        };
        if challenge.longest() > MAX_PARAMETER {
            return Err(TokenError::Invalid("its challenge is too long".to_owned()));
        }
        let key = TokenKey::new(challenge, identity.fingerprint());
        let fetch = async {
            let fetched = self.fetch_token(&key, identity, place, route).await;
            let outcome = fetched
                .as_ref()
                .map_or_else(TokenError::outcome, |_| TokenOutcome::Fetched);
            let labels = TokensLabel { outcome };
            self.metrics.upstreams.tokens.get_or_create(&labels).inc();
            // The registry may take a token without asking whether the credential behind it is still good, or the
            // repository still public. What is proven with it must not outlive that by more than a verdict may.
            let ttl = self.config.load().access.ttl;
            fetched.map(|token| token.within(ttl))
        };
        // Boxed: it is rare, and every request carries room for it.
        let token = Box::pin(self.tokens.get_or_fetch(key.clone(), fetch)).await?;
        Ok(Some(token.authorization()))
    }

    /// A token for `key` from its realm, on behalf of `identity`: Docker's token protocol (GET, with HTTP Basic for a
    /// username and password) and its OAuth2 companion (POST with a refresh token).
    async fn fetch_token(
        &self,
        key: &TokenKey,
        identity: &Identity,
        place: &str,
        route: &Route,
    ) -> Result<Token, TokenError> {
        let invalid = |why: &str| TokenError::Invalid(why.to_owned());
        let no_url = || invalid("its realm is not a URL");
        let mut realm = url::Url::parse(&key.realm).map_err(|_| no_url())?;
        let plain: Uri = realm.as_str().parse().map_err(|_| no_url())?;
        // A registry's own host is reached as the registry is.
        let Led { route, named } = if client::origin(&plain) == place {
            Led {
                named: route.reach == Reach::Named,
                route: route.clone(),
            }
        } else {
            self.led_to(&plain, place, route)
        };
        may_be_asked(&plain, named)?;
        let mut fields: Vec<(&str, &str)> = Vec::new();
        fields.extend(key.service.iter().map(|s| ("service", s.as_str())));
        let scopes = key.scope.iter().flat_map(|scopes| scopes.split(' '));
        fields.extend(scopes.map(|scope| ("scope", scope)));
        let refresh = match identity.proof() {
            Proof::Credential(credential) => match &**credential {
                Credential::IdentityToken(token) => Some(token),
                Credential::Basic { .. } => None,
            },
            _ => None,
        };
        let mut request = if let Some(token) = refresh {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(&fields)
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", "larder")
                .append_pair("refresh_token", token.expose())
                .finish();
            Request::post(&plain)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::from(form))
        } else {
            realm.query_pairs_mut().extend_pairs(&fields);
            Request::get(realm.as_str()).body(Full::default())
        }
        .map_err(|_| no_url())?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(basic) = basic_of(identity) {
            headers.insert(AUTHORIZATION, basic);
        }
        let response = self.at_realm(place, route, request).await?;
        let text = |name: http::HeaderName| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        match response.status() {
            StatusCode::OK => {}
            // 400 is what a refresh token that is good no more gets (RFC 6749 section 5.2).
            status @ (StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN) => {
                let content_type = text(CONTENT_TYPE).unwrap_or_default();
                let challenges = response.headers().contains_key(WWW_AUTHENTICATE);
                let within = Duration::from_secs(1);
                let body = client::prefix(response.into_body(), LOOKED_AT, within).await;
                let denial = Denial {
                    status,
                    head: false,
                    challenges,
                    body: &body,
                };
                return Err(if refusal::is_token_refusal(denial, &content_type) {
                    TokenError::Refused(status)
                } else {
                    invalid("a web page in place of a refusal")
                });
            }
            StatusCode::TOO_MANY_REQUESTS => {
                return Err(TokenError::Limited(retry_after(response.headers())));
            }
            // Anything else says nothing about who asks, and must not void what the origin said of it before.
            status => return Err(TokenError::Unreachable(format!("it answered {status}"))),
        }
        let body = client::collect(response.into_body(), 1 << 20, Duration::from_secs(4))
            .await
            .map_err(TokenError::Unreachable)?;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| invalid("it is not the JSON of a token"))?;
        let token = answer.into_token()?;
        if token.authorization().len() > MAX_TOKEN {
            return Err(invalid("the token is too long"));
        }
        Ok(token)
    }

    /// Asks a realm, and where it redirects to: on its own origin with the credential, elsewhere without. A form holds a
    /// secret, so a POST is repeated on its own origin alone.
    async fn at_realm(
        &self,
        place: &str,
        mut route: Route,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TokenError> {
        for _ in 0..=MAX_HOPS {
            let uri = request.uri().clone();
            let sent = self.client.send(&route, request.clone(), FIRST_BYTE).await;
            let response = sent.map_err(|error| match error {
                SendError::Forbidden(why) => TokenError::Forbidden(why.to_string()),
                other => TokenError::Unreachable(other.to_string()),
            })?;
            if !is_redirect(response.status().as_u16()) {
                return Ok(response);
            }
            let Some(next) = target(&uri, response.headers()) else {
                return Ok(response);
            };
            if client::origin(&next) != client::origin(&uri) {
                if request.method() == Method::POST {
                    let why = "it redirects a form to another place";
                    return Err(TokenError::Invalid(why.to_owned()));
                }
                // It does not come back either.
                request.headers_mut().remove(AUTHORIZATION);
                let led = self.led_to(&next, place, &route);
                may_be_asked(&next, led.named)?;
                route = led.route;
            }
            *request.uri_mut() = next;
        }
        Err(TokenError::Invalid(format!(
            "more than {MAX_HOPS} redirects"
        )))
    }

    /// A token was refused before its time, and is not used again.
    pub(super) async fn forget_token(&self, challenge: &Challenge, identity: &Identity) {
        let key = TokenKey::new(challenge, identity.fingerprint());
        self.tokens.forget(&key).await;
    }
}

/// Secrets go to a token server by TLS, or to a place that the operator has named.
fn may_be_asked(uri: &Uri, named: bool) -> Result<(), TokenError> {
    let scheme = uri.scheme_str();
    if scheme == Some("https") || (scheme == Some("http") && named) {
        Ok(())
    } else {
        Err(TokenError::Forbidden("its realm is not https".to_owned()))
    }
}

/// The repository that a path of the registry API is about, as the registry calls it.
fn repository_of(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once("/v2/")?;
    ["/manifests/", "/blobs/", "/referrers/", "/tags/list"]
        .iter()
        .filter_map(|part| rest.rfind(part))
        .max()
        .map(|end| &rest[..end])
        .filter(|name| !name.is_empty())
}

/// Whether a scope is for pulling from this repository and nothing more. Below a mirror's path the name is longer.
fn is_pull_of(scope: &str, repository: &str) -> bool {
    let name = scope
        .strip_prefix("repository:")
        .and_then(|rest| rest.strip_suffix(":pull"));
    name.is_some_and(|name| {
        let plain = !name.contains([' ', ',', ':']);
        let own = name.strip_suffix(repository);
        plain && own.is_some_and(|path| path.is_empty() || path.ends_with('/'))
    })
}

/// Whether a token is the secret itself in another dress, as some registries make it.
fn holds_secret(token: &HeaderValue, identity: &Identity) -> bool {
    let Proof::Credential(credential) = identity.proof() else {
        return true;
    };
    let secret = match &**credential {
        Credential::Basic { password, .. } => password.expose(),
        Credential::IdentityToken(token) => token.expose(),
    };
    let text = token.to_str().unwrap_or_default();
    let text = text.strip_prefix("Bearer ").unwrap_or(text);
    let decoded = [
        data_encoding::BASE64.decode(text.as_bytes()),
        data_encoding::BASE64_NOPAD.decode(text.as_bytes()),
        data_encoding::BASE64URL.decode(text.as_bytes()),
        data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()),
    ];
    let inside = decoded.into_iter().flatten().any(|bytes| {
        bytes
            .windows(secret.len().max(1))
            .any(|part| part == secret.as_bytes())
    });
    inside || text.contains(secret)
}

/// The scheme that a challenge asks for: Bearer before Basic.
pub(super) fn scheme(headers: &HeaderMap) -> Option<Scheme> {
    let values = || {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok())
    };
    if let Some(challenge) = Challenge::bearer(values()) {
        return Some(Scheme::Bearer(challenge));
    }
    let basic = |v: &str| {
        v.trim_start()
            .get(..5)
            .is_some_and(|s| s.eq_ignore_ascii_case("basic"))
    };
    values().any(basic).then_some(Scheme::Basic)
}

/// The registry's own token that the caller brought.
pub(super) fn bearer_of(identity: &Identity) -> Option<HeaderValue> {
    match identity.proof() {
        Proof::Token(token) | Proof::Lent(token) => {
            sensitive(&format!("Bearer {}", token.expose()))
        }
        _ => None,
    }
}

/// The caller's username and password, for HTTP Basic (RFC 7617).
fn basic_of(identity: &Identity) -> Option<HeaderValue> {
    let Proof::Credential(credential) = identity.proof() else {
        return None;
    };
    match &**credential {
        Credential::Basic { username, password } => {
            let pair = format!("{username}:{}", password.expose());
            sensitive(&format!(
                "Basic {}",
                data_encoding::BASE64.encode(pair.as_bytes())
            ))
        }
        Credential::IdentityToken(_) => None,
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
#[cfg(test)]
mod tests;

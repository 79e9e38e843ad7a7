//! Shows a credential to an endpoint: by HTTP Basic, or by a token that its token server gives for the credential.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{
    HEAD_WITHIN, Upstreams,
    challenge::Challenge,
    question::AGENT,
    redirect::{is_redirect, target},
    refusal::{self, Denial, LOOKED_AT},
    route::Led,
    scheme::{MAX_PARAMETER, Scheme},
    token::{Token, TokenAnswer, TokenError, TokenKey},
};
use crate::{
    client::{self, Reach, Route, SendError},
    credentials::Credential,
    identity::{Identity, Proof},
    metrics::{TokenOutcome, Tokens as TokensLabel},
};

/// The longest token, in bytes.
const MAX_TOKEN: usize = 64 << 10;

/// How many redirects are followed from a realm.
const MAX_HOPS: usize = 5;

impl Upstreams {
    /// The `Authorization` for an endpoint with this scheme; `None` if the caller has nothing to show.
    pub(super) async fn authorization(
        &self,
        scheme: &Scheme,
        identity: &Identity,
        at: &str,
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
            let fetched = self.fetch_token(&key, identity, at, route).await;
            let outcome = fetched
                .as_ref()
                .map_or_else(TokenError::outcome, |_| TokenOutcome::Fetched);
            let labels = TokensLabel { outcome };
            self.metrics.upstreams.tokens.get_or_create(&labels).inc();
            // The registry may accept a token without checking that the credential behind it is still valid, or the
            // repository still public. So a proof by token must not outlive that by more than a verdict may.
            let ttl = self.config.load().access.ttl;
            fetched.map(|token| token.within(ttl))
        };
        // Boxed, since this is rare and every request's future would reserve room for it.
        let token = Box::pin(self.tokens.get_or_fetch(key.clone(), fetch)).await?;
        Ok(Some(token.authorization()))
    }

    /// Fetches a token for `key` from its realm, on behalf of `identity`. Follows Docker's token protocol (GET, with
    /// HTTP Basic for a username and password) and its OAuth2 companion (POST with a refresh token).
    async fn fetch_token(
        &self,
        key: &TokenKey,
        identity: &Identity,
        at: &str,
        route: &Route,
    ) -> Result<Token, TokenError> {
        let invalid = |why: &str| TokenError::Invalid(why.to_owned());
        let no_url = || invalid("its realm is not a URL");
        let mut realm = url::Url::parse(&key.realm).map_err(|_| no_url())?;
        let plain: Uri = realm.as_str().parse().map_err(|_| no_url())?;
        // A realm on the registry's own host is reached in the same way as the registry.
        let Led { route, named } = if client::origin(&plain) == at {
            Led {
                named: route.reach == Reach::Named,
                route: route.clone(),
            }
        } else {
            self.led_to(&plain, at, route)
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
        let response = self.at_realm(at, route, request).await?;
        let text = |name: http::HeaderName| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        match response.status() {
            StatusCode::OK => {}
            // 400 is the answer to a refresh token that is no longer valid (RFC 6749 section 5.2).
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
                return Err(TokenError::Limited(client::retry_after(response.headers())));
            }
            // Any other status says nothing about the caller, and must not void an earlier verdict of the origin.
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

    /// Asks a realm, and follows its redirects: with the credential on the same origin, without it elsewhere. A form
    /// holds a secret, so a POST is never repeated on another origin.
    async fn at_realm(
        &self,
        at: &str,
        mut route: Route,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TokenError> {
        for _ in 0..=MAX_HOPS {
            let uri = request.uri().clone();
            let sent = self.client.send(&route, request.clone(), HEAD_WITHIN).await;
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
                // Once removed, the credential stays away, even if a later redirect leads back.
                request.headers_mut().remove(AUTHORIZATION);
                let led = self.led_to(&next, at, &route);
                may_be_asked(&next, led.named)?;
                route = led.route;
            }
            *request.uri_mut() = next;
        }
        Err(TokenError::Invalid(format!(
            "more than {MAX_HOPS} redirects"
        )))
    }

    /// Drops a token that was refused before its time.
    pub(super) async fn forget_token(&self, challenge: &Challenge, identity: &Identity) {
        let key = TokenKey::new(challenge, identity.fingerprint());
        self.tokens.forget(&key).await;
    }
}

/// A secret goes to a token server only by TLS, or to a place that the operator has named.
fn may_be_asked(uri: &Uri, named: bool) -> Result<(), TokenError> {
    let scheme = uri.scheme_str();
    if scheme == Some("https") || (scheme == Some("http") && named) {
        Ok(())
    } else {
        Err(TokenError::Forbidden("its realm is not https".to_owned()))
    }
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

//! One endpoint of a registry: showing who asks, the Bearer dance with its token server, and where it leads to.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Uri,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use larder_shared::{RegistryName, Repository};

use super::{
    FIRST_BYTE, Location, Upstreams,
    challenge::Challenge,
    location_key,
    question::{AGENT, Answer, Ask, Failure, Limit, Subject, endpoint_uri, retry_after, sort},
    redirect,
    token::{Token, TokenAnswer, TokenError, TokenKey},
};
use crate::{
    client::{self, ClientFiles, Reach, Route, SendError, Tls, Whose},
    config::{Endpoint, Upstream},
    credentials::Credential,
    identity::{Identity, Proof},
    metrics::{TokenOutcome, Tokens as TokensLabel},
};

/// Bytes of the longest token, and of the longest parameter of a challenge: both are kept, and any registry may be named.
const MAX_TOKEN: usize = 64 << 10;
const MAX_PARAMETER: usize = 4 << 10;

/// How an endpoint wants to be shown who asks.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    Bearer(Challenge),
    Basic,
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

    pub(super) async fn ask_endpoint(
        &self,
        ask: &Ask,
        index: usize,
        endpoint: &Endpoint,
        upstream: &Upstream,
    ) -> Result<Answer, Failure> {
        let uri = endpoint_uri(endpoint, ask)?;
        let place = client::origin(&endpoint.url);
        let proves = upstream.proves_access || index + 1 == upstream.endpoints.len();
        // A mirror in between has no business with a credential for the origin.
        let identity = if proves {
            ask.identity.clone()
        } else {
            Identity::anonymous()
        };
        let route = route_of(upstream, endpoint);
        let scheme_key = (place.clone(), ask.repository.clone());
        let known = self.schemes.get(&scheme_key).await;
        let mut authorization = match &known {
            Some(scheme) => self
                .authorization(scheme, &identity, &place, &route)
                .await
                .ok()
                .flatten(),
            None => bearer_of(&identity),
        };
        let mut challenged = false;
        loop {
            let hops = self
                .follow(ask, uri.clone(), &route, authorization.as_ref())
                .await?;
            let (parts, body) = hops.response.into_parts();
            if parts.status == StatusCode::UNAUTHORIZED && !challenged && !hops.redirected {
                let _ = client::collect(body, 64 << 10, Duration::from_secs(1)).await;
                let Some(scheme) = scheme(&hops.registry_headers) else {
                    return Err(Failure::Refused(place));
                };
                // A token that was refused before its time is not used again.
                if let Scheme::Bearer(challenge) = &scheme {
                    let key = TokenKey::new(challenge, identity.fingerprint());
                    self.tokens.forget(&key).await;
                }
                let next = self
                    .authorization(&scheme, &identity, &place, &route)
                    .await
                    .map_err(|error| token_failure(&place, &error))?;
                let futile = next.is_none() || (next == authorization && known.is_none());
                self.schemes.insert(scheme_key.clone(), scheme).await;
                if futile {
                    return Err(Failure::Refused(place));
                }
                authorization = next;
                challenged = true;
                continue;
            }
            let partial = match sort(&place, parts.status, &parts.headers) {
                // The store behind a registry says nothing about who may read: a signature may have expired.
                Err(Failure::Refused(_)) if hops.redirected => {
                    return Err(led_to_status(place, parts.status));
                }
                // Another place's limit is not the registry's.
                Err(Failure::Limited { .. }) if client::origin(&hops.uri) != place => {
                    return Err(led_to_status(place, parts.status));
                }
                sorted => sorted?,
            };
            if let (true, Some(key)) = (hops.redirected, location_key(ask)) {
                let location = Location {
                    uri: hops.uri,
                    route: hops.route,
                    endpoint: index,
                    origin: place.clone(),
                    proves,
                };
                self.locations.insert(key, location).await;
            }
            let headers = redirect::merge(&hops.registry_headers, parts.headers);
            if is_page(ask, &headers) {
                return Err(Failure::Invalid {
                    place,
                    why: "a web page".to_owned(),
                });
            }
            return Ok(Answer {
                partial,
                headers,
                body,
                endpoint: index,
                proves,
                remembered: false,
            });
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
            // The registry may take a token without asking whether the credential behind it is still good. What is
            // proven with it must not outlive the credential by more than a verdict may.
            let ttl = self.config.load().access.ttl;
            fetched.map(|token| {
                if identity.is_anonymous() {
                    token
                } else {
                    token.within(ttl)
                }
            })
        };
        let token = self.tokens.get_or_fetch(key.clone(), fetch).await?;
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
        if realm.scheme() != "https" && !(realm.scheme() == "http" && named) {
            return Err(TokenError::Forbidden("its realm is not https".to_owned()));
        }
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
        let response = self
            .client
            .send(&route, request, FIRST_BYTE)
            .await
            .map_err(|error| match error {
                SendError::Forbidden(why) => TokenError::Forbidden(why.to_string()),
                other => TokenError::Unreachable(other.to_string()),
            })?;
        match response.status() {
            StatusCode::OK => {}
            // 400 is what a refresh token that is good no more gets (RFC 6749 section 5.2).
            status @ (StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN) => return Err(TokenError::Refused(status)),
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

    /// How a place is reached that the endpoint at `place` led to, and whether the configuration names it for a
    /// configured registry to lead to (see [`Reach::led`]).
    pub(super) fn led_to(&self, uri: &Uri, place: &str, from: &Route) -> Led {
        let config = self.config.load();
        let from_uri: Option<Uri> = place.parse().ok();
        let from_loopback = from_uri.as_ref().is_some_and(client::is_loopback);
        let mut named: Option<(&Endpoint, Whose)> = None;
        for upstream in config.upstreams.values() {
            let at = |wanted: &Uri| {
                let mut endpoints = upstream.endpoints.iter();
                endpoints.find(|endpoint| client::same_place(&endpoint.url, wanted))
            };
            let Some(endpoint) = at(uri) else { continue };
            if from_uri.as_ref().is_some_and(|from| at(from).is_some()) {
                named = Some((endpoint, Whose::Its));
                break;
            }
            named.get_or_insert((endpoint, Whose::Another));
        }
        let (tls, whose) = match (named, from.reach) {
            (Some((endpoint, Whose::Its)), _) => (tls_of(endpoint), Whose::Its),
            // A client's certificate is for the registry that it was configured for.
            (Some((endpoint, whose)), _) => (tls_of(endpoint).of_nobody(), whose),
            (None, Reach::Named) => (from.tls.clone().of_nobody(), Whose::Nobody),
            (None, _) => (Tls::default(), Whose::Nobody),
        };
        Led {
            named: whose != Whose::Nobody && from.reach == Reach::Named,
            route: Route {
                reach: from.reach.led(whose, from_loopback),
                tls,
            },
        }
    }
}

/// The way to where an upstream led.
pub(super) struct Led {
    pub(super) route: Route,
    /// The operator named both ends: plain HTTP is as good there as the operator says.
    pub(super) named: bool,
}

/// Where the registry led to did not give it: that is no verdict, and no wish of the registry.
fn led_to_status(place: String, status: StatusCode) -> Failure {
    Failure::Unreachable {
        place,
        why: format!("it led to a place that answered {status}"),
    }
}

/// What a captive portal or an ingress says with 200 in a registry's place. It is no manifest and proves nothing.
fn is_page(ask: &Ask, headers: &HeaderMap) -> bool {
    let html = |value: &HeaderValue| value.as_bytes().starts_with(b"text/html");
    matches!(ask.subject, Subject::Manifest(_))
        && !headers.contains_key("docker-content-digest")
        && headers.get(CONTENT_TYPE).is_some_and(html)
}

/// How an endpoint is reached.
pub(super) fn route_of(upstream: &Upstream, endpoint: &Endpoint) -> Route {
    Route {
        reach: if upstream.configured {
            Reach::Named
        } else {
            Reach::Direct
        },
        tls: tls_of(endpoint),
    }
}

fn tls_of(endpoint: &Endpoint) -> Tls {
    Tls {
        ca: endpoint.ca.clone(),
        skip_verify: endpoint.insecure_skip_verify,
        client: endpoint.client.as_ref().map(|client| ClientFiles {
            cert: client.cert.clone(),
            key: client.key.clone(),
        }),
    }
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
fn bearer_of(identity: &Identity) -> Option<HeaderValue> {
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

pub(super) fn token_failure(place: &str, error: &TokenError) -> Failure {
    let place = place.to_owned();
    match error {
        TokenError::Refused(_) => Failure::Refused(place),
        TokenError::Limited(retry_after) => Failure::Limited {
            place,
            retry_after: *retry_after,
            why: Limit::Quota,
        },
        TokenError::Unreachable(why) => Failure::Unreachable {
            place,
            why: format!("its token server: {why}"),
        },
        TokenError::Invalid(why) => Failure::Invalid {
            place,
            why: format!("a token challenge that leads nowhere: {why}"),
        },
        TokenError::Forbidden(why) => Failure::Forbidden(format!("{place}: {why}")),
    }
}

pub(super) fn send_failure(place: String, error: SendError) -> Failure {
    match error {
        SendError::Forbidden(why) => Failure::Forbidden(format!("{place}: {why}")),
        other => Failure::Unreachable {
            place,
            why: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{credentials::Secret, identity::Key};

    #[test]
    fn only_a_token_for_pulling_from_this_repository_is_lent() {
        for (scope, is) in [
            ("repository:a/b:pull", true),
            ("repository:hub/a/b:pull", true),
            ("repository:xa/b:pull", false),
            ("repository:a/c:pull", false),
            ("repository:a/b:pull,push", false),
            ("repository:a/b:pull repository:c:pull", false),
            ("registry:catalog:*", false),
            ("", false),
        ] {
            assert_eq!(is_pull_of(scope, "a/b"), is, "{scope}");
        }
    }

    #[test]
    fn a_token_that_is_the_secret_is_not_lent() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::load(&dir.path().join("key")).unwrap();
        let identity = key.credential(Credential::Basic {
            username: "u".into(),
            password: Secret::new("hunter2-hunter2"),
        });
        let encoded = data_encoding::BASE64.encode(b"hunter2-hunter2");
        let pair = data_encoding::BASE64.encode(b"u:hunter2-hunter2");
        for (token, holds) in [
            ("hunter2-hunter2".to_owned(), true),
            (encoded, true),
            (pair, true),
            ("eyJhbGciOiJ.something.else".to_owned(), false),
        ] {
            let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            assert_eq!(holds_secret(&value, &identity), holds, "{token}");
        }
    }
}

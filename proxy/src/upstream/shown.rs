//! What larder shows an endpoint for one question, and how a refusal changes that.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use hyper::body::Incoming;

use super::{
    Upstreams,
    authorization::bearer_of,
    challenge::Challenge,
    failure::{Failure, Refusal, Refused, refused_to, token_failure},
    question::Ask,
    redirect::Hops,
    refusal::LOOKED_AT,
    scheme::{Scheme, SchemeKey, scheme},
};
use crate::{
    client::{self, Reach, Route},
    identity::Identity,
    trace::Trace,
};

/// The body of a refusal must arrive within this time; otherwise only its first part is inspected.
pub(super) const DENIAL: Duration = Duration::from_secs(1);

/// What an endpoint is shown for one question.
pub(super) struct Shown {
    /// The endpoint, the repository, and the scope.
    key: SchemeKey,
    identity: Identity,
    pub(super) authorization: Option<HeaderValue>,
    /// The challenge of a kept token that is shown. A registry may refuse such a token with any status and words.
    kept: Option<Challenge>,
    /// A challenge has been answered.
    challenged: bool,
}

/// The next thing to show to an endpoint that refused.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    /// The credential that this scheme asks for.
    Asked(Scheme),
}

impl Shown {
    /// Decides what to show next to an endpoint that answered so; `None` if its answer stands.
    pub(super) fn next(&self, status: StatusCode, headers: &HeaderMap) -> Option<Next> {
        let asked = match status {
            StatusCode::UNAUTHORIZED => scheme(headers),
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => None,
            _ => return None,
        };
        match (&self.kept, asked) {
            // A new token from the same server may be accepted.
            (Some(old), Some(Scheme::Bearer(new)))
                if new.realm == old.realm && new.service == old.service =>
            {
                Some(Next::Asked(Scheme::Bearer(new)))
            }
            // Otherwise the dance begins anew, without a token.
            (Some(_), _) => Some(Next::Nothing),
            (None, asked) if !self.challenged => asked.map(Next::Asked),
            (None, _) => None,
        }
    }
}

impl Upstreams {
    /// Prepares the first attempt at the endpoint at the end of `route`: with the credential that it last asked for.
    pub(super) async fn show_first(
        &self,
        key: SchemeKey,
        identity: Identity,
        route: &Route,
    ) -> Shown {
        let known = self.schemes.get(&key).await;
        let own = bearer_of(&identity);
        let brought = own.is_some();
        let authorization = match &known {
            Some(scheme) => self
                .authorization(scheme, &identity, &key.0, route)
                .await
                .ok()
                .flatten(),
            None => own,
        };
        let kept = match known {
            Some(Scheme::Bearer(challenge)) if authorization.is_some() && !brought => {
                Some(challenge)
            }
            _ => None,
        };
        Shown {
            key,
            identity,
            authorization,
            kept,
            challenged: false,
        }
    }

    /// Prepares `next` for an endpoint that refused `uri` with `body`. Fails if there is nothing new to show.
    pub(super) async fn show_next(
        &self,
        shown: &mut Shown,
        next: Next,
        uri: &Uri,
        route: &Route,
        body: Incoming,
    ) -> Result<(), Failure> {
        if let Some(old) = shown.kept.take() {
            self.forget_token(&old, &shown.identity).await;
        }
        if matches!(next, Next::Nothing) {
            self.schemes.invalidate(&shown.key).await;
        }
        // Reading the body to its end keeps the connection usable for the next request.
        let _ = client::collect(body, LOOKED_AT as u64, DENIAL).await;
        let Next::Asked(scheme) = next else {
            shown.authorization = None;
            return Ok(());
        };
        let at = &shown.key.0;
        let scheme = scheme.for_pulling(uri);
        let next = self
            .authorization(&scheme, &shown.identity, at, route)
            .await
            .map_err(|error| token_failure(at, &error))?;
        let futile = next.is_none() || next == shown.authorization;
        self.keep_scheme(shown.key.clone(), scheme).await;
        if futile {
            return Err(refused_to(at.clone(), Refused::Subject));
        }
        shown.authorization = next;
        shown.challenged = true;
        Ok(())
    }

    /// Asks with an anonymous token. A registry in front of another one may redirect there and leave it to the client
    /// to get a token. The token is fetched by TLS and from public addresses alone, unless the operator named the
    /// place. No credential goes to a place that another place names.
    pub(super) async fn ask_as_anybody(&self, ask: &Ask, hops: Hops) -> Result<Hops, Failure> {
        let at = client::origin(&hops.uri);
        let named = hops.route.reach == Reach::Named;
        let Some(scheme @ Scheme::Bearer(_)) = scheme(hops.response.headers()) else {
            return Ok(hops);
        };
        if !named && hops.uri.scheme_str() != Some("https") {
            return Ok(hops);
        }
        let reach = if named { Reach::Named } else { Reach::Public };
        let tls = hops.route.tls.clone().without_client();
        let route = Route { reach, tls };
        let scheme = scheme.for_pulling(&hops.uri);
        let anybody = Identity::anonymous();
        let token = self.authorization(&scheme, &anybody, &at, &route).await;
        let token = token.map_err(|error| no_refusal(token_failure(&at, &error)))?;
        // Another registry must not learn which request this is for.
        let ask = Ask {
            trace: Trace::none(),
            ..ask.clone()
        };
        let asked = self.follow(&ask, hops.uri, &route, token.as_ref());
        let answered = asked.await.map_err(|missed| missed.failure)?;
        if answered.response.status() == StatusCode::UNAUTHORIZED
            && let Scheme::Bearer(challenge) = &scheme
        {
            self.forget_token(challenge, &anybody).await;
        }
        Ok(answered)
    }
}

/// The target of a redirect has no say in a caller's rights, so its refusal becomes another failure.
fn no_refusal(failure: Failure) -> Failure {
    match failure {
        Failure::Refused(Refusal { at, .. }) => Failure::Invalid {
            at,
            why: "no token for anybody".to_owned(),
        },
        Failure::Limited { at, .. } => Failure::Unreachable {
            at,
            why: "its token server limits requests".to_owned(),
        },
        failure => failure,
    }
}

#[cfg(test)]
mod tests {
    use http::header::WWW_AUTHENTICATE;

    use super::{super::scheme::Scope, *};

    const OLD: &str = r#"Bearer realm="https://r.io/token",service="s",scope="a""#;
    const SAME: &str = r#"Bearer realm="https://r.io/token",service="s",scope="b""#;
    const OTHER: &str = r#"Bearer realm="https://r.io/other",service="s",scope="a""#;

    #[test]
    fn a_refusal_is_answered_with_what_it_asks_for_once() {
        for (status, asks, kept, challenged, expected) in [
            // A kept token is refused, in any words.
            (401, Some(SAME), true, false, "asked"),
            (401, Some(OTHER), true, false, "nothing"),
            (401, Some("Basic"), true, false, "nothing"),
            (401, None, true, false, "nothing"),
            (403, Some(SAME), true, false, "nothing"),
            (400, None, true, false, "nothing"),
            // No token was kept.
            (401, Some(OTHER), false, false, "asked"),
            (401, Some("Basic"), false, false, "asked"),
            (401, None, false, false, "stands"),
            (401, Some(SAME), false, true, "stands"),
            (403, Some(SAME), false, false, "stands"),
            (400, None, false, false, "stands"),
            (200, None, true, false, "stands"),
            (404, Some(SAME), true, false, "stands"),
            (503, None, false, false, "stands"),
        ] {
            let shown = Shown {
                key: (
                    "https://r.io".to_owned(),
                    "a/b".parse().unwrap(),
                    Scope::Content,
                ),
                identity: Identity::anonymous(),
                authorization: None,
                kept: kept.then(|| Challenge::bearer([OLD]).unwrap()),
                challenged,
            };
            let value = asks.map(|asks| (WWW_AUTHENTICATE, HeaderValue::from_static(asks)));
            let headers = HeaderMap::from_iter(value);
            let next = shown.next(StatusCode::from_u16(status).unwrap(), &headers);
            let next = match next {
                None => "stands",
                Some(Next::Nothing) => "nothing",
                Some(Next::Asked(_)) => "asked",
            };
            assert_eq!(next, expected, "{status} {asks:?} {kept} {challenged}");
        }
    }
}

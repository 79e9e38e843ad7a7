//! Knocks at an endpoint, for `larder doctor`: is a registry there, what time does it have, and does it accept a
//! credential? The endpoint's health stays unchanged, unless the knock is the probe that a silence waits for.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, DATE, USER_AGENT},
};
use http_body_util::Full;
use hyper::body::Incoming;
use larder_shared::RegistryName;

use super::{
    Upstreams,
    answer::sort,
    failure::{Failure, Refused, refused_to, send_failure, token_failure},
    health::{Admission, Silent},
    probe::silence_of_nobody,
    question::AGENT,
    route::route_of,
    scheme::scheme,
};
use crate::{
    client::{self, Route},
    config::Endpoint,
    identity::Identity,
};

/// The time limit of a knock.
const WITHIN: Duration = Duration::from_secs(3);

/// The result of a knock.
#[derive(Clone, Debug)]
pub struct Knock {
    /// `scheme://host:port` of the endpoint.
    pub at: String,
    /// The host to look up.
    pub host: String,
    /// This is the last endpoint, whose word counts.
    pub origin: bool,
    pub outcome: Knocked,
    /// How many seconds this node's clock is ahead of the endpoint's, if the endpoint stated a time.
    pub ahead_seconds: Option<i64>,
}

/// How a knock was answered.
#[derive(Clone, Debug)]
pub enum Knocked {
    /// A registry is there. After a credential was shown: the registry accepted it.
    Answered,
    /// The endpoint requested silence, so it was not asked.
    Silent(Silent),
    /// A server is there, but it is no registry.
    NoRegistry(StatusCode),
    Failed(Failure),
}

impl Upstreams {
    /// Knocks at every endpoint of a registry at once.
    pub async fn knock(&self, registry: &RegistryName) -> Vec<Knock> {
        let upstream = self.config.load().upstream(registry.as_str());
        let last = upstream.endpoints.len();
        let knocks = upstream
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| {
                let route = route_of(&upstream, endpoint);
                async move { self.knock_at(endpoint, &route, index + 1 == last).await }
            });
        futures_util::future::join_all(knocks).await
    }

    async fn knock_at(&self, endpoint: &Endpoint, route: &Route, origin: bool) -> Knock {
        let at = client::origin(&endpoint.url);
        let mut knock = Knock {
            host: endpoint.url.host().unwrap_or_default().to_owned(),
            origin,
            outcome: Knocked::Answered,
            ahead_seconds: None,
            at: at.clone(),
        };
        let probe = self.health(&at, |health| {
            let now = Instant::now();
            health.silent(now).map(|_| health.admit(now))
        });
        if let Some(Admission::Silent(silent)) = probe {
            knock.outcome = Knocked::Silent(silent);
            return knock;
        }
        let silence = Some(silence_of_nobody(endpoint));
        if probe.is_some()
            && !self.may_probe(&at, silence).await
            && let Some(silent) = self.health(&at, |health| health.silent(Instant::now()))
        {
            knock.outcome = Knocked::Silent(silent);
            return knock;
        }
        match self.ping(endpoint, route, None).await {
            Ok(response) => {
                knock.ahead_seconds = ahead(&response);
                knock.outcome = match response.status() {
                    StatusCode::OK | StatusCode::UNAUTHORIZED => Knocked::Answered,
                    status => match sort(&at, status, response.headers()) {
                        Err(failure @ (Failure::Unreachable { .. } | Failure::Limited { .. })) => {
                            Knocked::Failed(failure)
                        }
                        _ => Knocked::NoRegistry(status),
                    },
                };
            }
            Err(failure) => knock.outcome = Knocked::Failed(failure),
        }
        if probe.is_some() {
            self.health(&at, |health| match &knock.outcome {
                Knocked::Answered => {
                    health.answered(true);
                    self.probed(silence);
                }
                Knocked::Failed(Failure::Limited {
                    retry_after, why, ..
                }) => health.limited(Instant::now(), *retry_after, *why, true),
                _ => health.failed(Instant::now(), fastrand::f64()),
            });
        }
        knock
    }

    /// Shows a credential to the origin and returns whether the origin accepts it. No repository is named, so this does
    /// not tell what the credential opens.
    pub async fn introduce(
        &self,
        registry: &RegistryName,
        identity: &Identity,
    ) -> Result<(), Failure> {
        let upstream = self.config.load().upstream(registry.as_str());
        let Some(origin) = upstream.endpoints.last() else {
            return Ok(());
        };
        let (at, route) = (client::origin(&origin.url), route_of(&upstream, origin));
        let first = self.ping(origin, &route, None).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            // The registry does not challenge clients.
            return sort(&at, first.status(), first.headers()).map(|_| ());
        }
        let Some(scheme) = scheme(first.headers()) else {
            return Err(refused_to(at, Refused::Caller));
        };
        let shown = self
            .authorization(&scheme, identity, &at, &route)
            .await
            .map_err(|error| token_failure(&at, &error))?;
        let Some(shown) = shown else {
            return Err(refused_to(at, Refused::Caller));
        };
        let second = self.ping(origin, &route, Some(shown)).await?;
        sort(&at, second.status(), second.headers()).map(|_| ())
    }

    async fn ping(
        &self,
        endpoint: &Endpoint,
        route: &Route,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Failure> {
        let at = client::origin(&endpoint.url);
        let invalid = |why: &str| Failure::Invalid {
            at: at.clone(),
            why: why.to_owned(),
        };
        let uri = base(&endpoint.url).ok_or_else(|| invalid("a URL that cannot be asked"))?;
        let mut request: Request<Full<Bytes>> = Request::new(Full::default());
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        let sent = self.client.send(route, request, WITHIN).await;
        sent.map_err(|error| send_failure(at.clone(), error))
    }
}

/// The root of the registry API: `<endpoint>/v2/`, or the part of the endpoint's path before the first repository.
fn base(url: &Uri) -> Option<Uri> {
    let text = url.to_string();
    let text = text.trim_end_matches('/');
    let base = match url.path().split('/').position(|part| part == "v2") {
        Some(at) => {
            let path: Vec<_> = url.path().split('/').take(at + 1).collect();
            format!("{}{}/", client::origin(url), path.join("/"))
        }
        None => format!("{text}/v2/"),
    };
    base.parse().ok()
}

/// How far this node's clock is ahead of the `Date` in a response (RFC 9110 section 6.6.1).
fn ahead(response: &Response<Incoming>) -> Option<i64> {
    let date = response.headers().get(DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let ours = jiff::Timestamp::try_from(SystemTime::now()).ok()?;
    Some(ours.as_second() - theirs.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_begins_at_v2() {
        for (endpoint, expected) in [
            ("https://ghcr.io", "https://ghcr.io/v2/"),
            ("https://h.example/prefix", "https://h.example/prefix/v2/"),
            ("https://h.example/v2/hub", "https://h.example/v2/"),
            ("http://127.0.0.1:5000/", "http://127.0.0.1:5000/v2/"),
        ] {
            let base = base(&endpoint.parse().unwrap()).unwrap();
            assert_eq!(base, expected, "{endpoint}");
        }
    }
}

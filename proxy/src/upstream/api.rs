//! A cloud's API beside a registry. It is asked like a registry, with a breaker and with the silence that it requests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;

use super::{
    HEAD_WITHIN, Upstreams,
    failure::{Failure, Limit, send_failure},
    health::Admission,
    question::AGENT,
    turn::limited,
};
use crate::{
    client::{self, Reach, Route, Tls},
    identity::Fingerprint,
};

/// One request to an API.
#[derive(Debug)]
pub struct ApiAsk {
    pub request: Request<Full<Bytes>>,
    /// The owner of the credential that the request shows: each has a quota of its own.
    pub shown_by: Fingerprint,
    /// The configuration names the API, so it may be at any address and speak plain HTTP.
    pub named: bool,
    /// Bytes of the longest answer, and the time limit of its head and of its body; `HEAD_WITHIN` at least.
    pub longest: u64,
    pub within: Duration,
}

/// The answer of an API that neither failed nor requested silence.
#[derive(Clone, Debug)]
pub struct ApiAnswer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Upstreams {
    /// Asks an API. `throttles` recognizes answers that request silence in the API's own words.
    pub async fn ask_api(
        &self,
        ask: ApiAsk,
        throttles: impl Fn(&ApiAnswer) -> bool,
    ) -> Result<ApiAnswer, Failure> {
        let at = client::origin(ask.request.uri());
        let key = format!("{at} {}", ask.shown_by);
        let probe = match self.health(&key, |health| health.admit(Instant::now())) {
            Admission::Go => false,
            Admission::Probe => true,
            Admission::Avoid => {
                let why = "it failed again and again a short time ago".to_owned();
                return Err(Failure::Unreachable { at, why });
            }
            Admission::Silent(silent) => return Err(limited(at, silent)),
        };
        let answered = self.send_to_api(&at, ask, throttles).await;
        let now = Instant::now();
        self.health(&key, |health| match &answered {
            Err(Failure::Unreachable { .. }) => health.failed(now, fastrand::f64()),
            Err(Failure::Limited {
                retry_after, why, ..
            }) => health.limited(now, *retry_after, *why, probe),
            _ => health.answered(probe),
        });
        answered
    }

    async fn send_to_api(
        &self,
        at: &str,
        ask: ApiAsk,
        throttles: impl Fn(&ApiAnswer) -> bool,
    ) -> Result<ApiAnswer, Failure> {
        let ApiAsk {
            mut request,
            named,
            longest,
            within,
            ..
        } = ask;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        let route = Route {
            reach: if named { Reach::Named } else { Reach::Direct },
            tls: Tls::default(),
        };
        let within = within.max(HEAD_WITHIN);
        let sent = self.client.send(&route, request, within).await;
        let response = sent.map_err(|error| send_failure(at.to_owned(), error))?;
        let (parts, body) = response.into_parts();
        let told = client::retry_after(&parts.headers);
        let silence = |why| Failure::Limited {
            at: at.to_owned(),
            retry_after: told,
            why,
        };
        match parts.status {
            StatusCode::TOO_MANY_REQUESTS => return Err(silence(Limit::Quota)),
            StatusCode::SERVICE_UNAVAILABLE if told.is_some() => {
                return Err(silence(Limit::Unavailable));
            }
            status if status.is_server_error() => {
                return Err(Failure::Unreachable {
                    at: at.to_owned(),
                    why: format!("it answered {status}"),
                });
            }
            _ => {}
        }
        let body = client::collect_bounded(body, longest, within).await;
        let body = body.map_err(|why| match why {
            client::Uncollected::TooLong(_) => Failure::Invalid {
                at: at.to_owned(),
                why: why.to_string(),
            },
            _ => Failure::Unreachable {
                at: at.to_owned(),
                why: why.to_string(),
            },
        })?;
        let answer = ApiAnswer {
            status: parts.status,
            body,
        };
        if throttles(&answer) {
            return Err(silence(Limit::Quota));
        }
        Ok(answer)
    }
}

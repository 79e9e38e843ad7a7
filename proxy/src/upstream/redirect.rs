//! larder follows redirects itself and never passes them to a client (promise P8): their targets must be cached, and a
//! node may have no way out of its own.
//!
//! `Authorization` stays with the origin that it was meant for: a subdomain is another host, and stores that sign their
//! URLs refuse a second credential (distribution-spec, "Redirects").

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Response, Uri,
    header::{CONTENT_TYPE, LOCATION},
};
use hyper::body::Incoming;

use super::{
    HEAD_WITHIN, Upstreams,
    failure::{Failure, send_failure},
    question::{Ask, request},
    stepdown::{Missed, Seen},
};
use crate::client::{self, Reach, Route, SendError};

/// How many redirects are followed for one request.
const MAX_HOPS: usize = 10;

/// The last response of a chain of redirects.
pub struct Hops {
    pub response: Response<Incoming>,
    /// Headers of the registry's own answer.
    pub registry_headers: HeaderMap,
    pub uri: Uri,
    pub route: Route,
    pub redirected: bool,
}

impl Upstreams {
    pub(super) async fn follow(
        &self,
        ask: &Ask,
        uri: Uri,
        route: &Route,
        authorization: Option<&HeaderValue>,
    ) -> Result<Hops, Missed> {
        let at = client::origin(&uri);
        let mut uri = uri;
        let mut route = route.clone();
        let mut authorization = authorization;
        let mut registry_headers = None;
        for _ in 0..=MAX_HOPS {
            let mut request = request(ask, &uri, authorization);
            // Another origin must not learn which request this is for.
            if client::origin(&uri) == at {
                let stays = route.reach == Reach::Named;
                ask.trace.pass_on(request.headers_mut(), stays);
            }
            let response = self
                .client
                .send(&route, request, first_byte(ask))
                .await
                .map_err(|error| {
                    let seen = match error {
                        SendError::Broken(_) => Seen::Closed,
                        _ => Seen::Settled,
                    };
                    Missed::new(send_failure(client::origin(&uri), error), seen)
                })?;
            let redirected = registry_headers.is_some();
            let headers = registry_headers.get_or_insert_with(|| response.headers().clone());
            if !is_redirect(response.status().as_u16()) {
                return Ok(Hops {
                    registry_headers: headers.clone(),
                    response,
                    uri,
                    route,
                    redirected,
                });
            }
            let next = target(&uri, response.headers()).ok_or_else(|| Failure::Invalid {
                at: at.clone(),
                why: "a redirect without a usable Location".to_owned(),
            })?;
            if client::origin(&next) != client::origin(&uri) {
                authorization = None;
                let led = self.led_to(&next, &at, &route);
                route = led.route;
                if next.scheme_str() == Some("http")
                    && uri.scheme_str() == Some("https")
                    && !led.named
                {
                    return Err(Failure::Forbidden(format!(
                        "{at}: a redirect from https to http is not followed"
                    ))
                    .into());
                }
            }
            // Reading the short body of a redirect keeps the connection usable for the next request.
            let _ = client::collect(response.into_body(), 64 << 10, Duration::from_secs(1)).await;
            uri = next;
        }
        Err(Failure::Invalid {
            at,
            why: format!("more than {MAX_HOPS} redirects"),
        }
        .into())
    }
}

/// The list of a large repository may take longer to begin than a client's own requests may.
fn first_byte(ask: &Ask) -> Duration {
    ask.within.map_or(HEAD_WITHIN, |all| all.max(HEAD_WITHIN))
}

pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

pub(super) fn target(from: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let url = url::Url::parse(&from.to_string())
        .ok()?
        .join(location)
        .ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none();
    if !plain {
        return None;
    }
    let mut url = url;
    url.set_fragment(None);
    url.as_str().parse().ok()
}

/// Merges headers into those that describe an answer: the last hop's, with the registry's own digest and rate limits.
pub fn merge(registry: &HeaderMap, last: HeaderMap) -> HeaderMap {
    let mut merged = last;
    for name in [
        "docker-content-digest",
        "ratelimit-limit",
        "ratelimit-remaining",
    ] {
        if let Some(value) = registry.get(name) {
            merged.insert(name, value.clone());
        }
    }
    // Stores behind a registry call everything octet-stream, so the registry's own type is used then.
    let vague = merged
        .get(CONTENT_TYPE)
        .is_none_or(|t| t == "application/octet-stream");
    if let (true, Some(value)) = (vague, registry.get(CONTENT_TYPE)) {
        merged.insert(CONTENT_TYPE, value.clone());
    }
    merged
}

//! One question at one endpoint: sends it, shows the credential that the endpoint asks for, and judges the answer.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    response::Parts,
};
use larder_shared::Range;

use super::{
    Upstreams,
    answer::{Answer, sort},
    failure::{Failure, Refused, refused_to},
    location::{Location, location_key},
    question::{Ask, Subject, Want, endpoint_uri},
    redirect,
    refusal::{self, Denial, LOOKED_AT, Meaning},
    route::route_of,
    shown::DENIAL,
    stepdown::{self, Missed, Seen},
};
use crate::{
    client::{self, Arrivals},
    config::{Endpoint, Upstream},
    identity::Identity,
};

impl Upstreams {
    pub(super) async fn ask_endpoint(
        &self,
        ask: &Ask,
        index: usize,
        endpoint: &Endpoint,
        upstream: &Upstream,
    ) -> Result<Answer, Missed> {
        let uri = endpoint_uri(endpoint, ask)?;
        let at = client::origin(&endpoint.url);
        let proves = upstream.proves_access || index + 1 == upstream.endpoints.len();
        // A mirror must not see a credential for the origin.
        let identity = if proves {
            ask.identity.clone()
        } else {
            Identity::anonymous()
        };
        let route = route_of(upstream, endpoint);
        let key = (at.clone(), ask.repository.clone(), ask.subject.scope());
        let mut shown = self.show_first(key, identity, &route).await;
        let mut ask = Cow::Borrowed(ask);
        loop {
            let mut hops = self
                .follow(&ask, uri.clone(), &route, shown.authorization.as_ref())
                .await?;
            let led_away = client::origin(&hops.uri) != at;
            if led_away && hops.response.status() == StatusCode::UNAUTHORIZED {
                hops = Box::pin(self.ask_as_anybody(&ask, hops)).await?;
            }
            let (parts, body) = hops.response.into_parts();
            if !led_away && let Some(next) = shown.next(parts.status, &parts.headers) {
                self.show_next(&mut shown, next, &uri, &route, body).await?;
                continue;
            }
            if is_denial(parts.status) && !led_away {
                let prefix = client::prefix(body, LOOKED_AT, DENIAL).await;
                let denial = Denial {
                    status: parts.status,
                    head: ask.want == Want::Head,
                    challenges: parts.headers.contains_key(WWW_AUTHENTICATE),
                    body: &prefix,
                };
                let failure = match refusal::meaning(denial) {
                    Meaning::AskByGet => {
                        ask = Cow::Owned(by_get(&ask));
                        continue;
                    }
                    Meaning::Refusal => refused_to(at, Refused::Subject),
                    Meaning::NoRegistry => {
                        let why = format!("{} in no registry's words", parts.status);
                        Failure::Invalid { at, why }
                    }
                };
                return Err(Missed::new(failure, Seen::Status(parts.status)));
            }
            let named = hops.registry_headers.contains_key(DIGEST);
            let partial = judge(&ask, &at, &parts, led_away, named)?;
            if let (true, Some(key)) = (hops.redirected, location_key(&ask)) {
                let location = Location {
                    uri: hops.uri,
                    route: hops.route,
                    endpoint: index,
                    origin: at,
                    proves,
                };
                self.keep_location(key, location).await;
            }
            let arrivals = Arrivals::of(&parts.extensions);
            let headers = redirect::merge(&hops.registry_headers, parts.headers);
            return Ok(Answer {
                // A 206 that holds the whole content counts as the whole.
                partial: partial && matches!(ask.want, Want::Part(_)),
                headers,
                body,
                arrivals,
                endpoint: index,
                proves,
                remembered: false,
            });
        }
    }
}

/// The header with which a registry names the digest of its answer.
const DIGEST: &str = "docker-content-digest";

fn is_denial(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Whether an answer is a part. Fails if it does not answer the question. `led_away`: a redirect led to another origin
/// than `at`. `named`: the registry's own hop stated the digest of the content.
fn judge(ask: &Ask, at: &str, parts: &Parts, led_away: bool, named: bool) -> Result<bool, Missed> {
    let seen = Seen::Status(parts.status);
    let invalid = |why: String| Failure::Invalid {
        at: at.to_owned(),
        why,
    };
    if led_away && is_denial(parts.status) {
        // A redirect's target has no say in a caller's rights: a signature may have expired, or the target is a portal.
        let why = format!("a redirect to a place that answered {}", parts.status);
        return Err(Missed::new(invalid(why), seen));
    }
    let partial = sort(at, parts.status, &parts.headers).map_err(|failure| match failure {
        // A limit at another place is not the registry's limit.
        Failure::Limited { .. } if led_away => Missed::from(Failure::Unreachable {
            at: at.to_owned(),
            why: format!("it led to a place that answered {}", parts.status),
        }),
        Failure::Limited { .. } => Missed::from(failure),
        Failure::Unsatisfiable { total } => Missed::new(failure, stepdown::beyond(ask, total)),
        failure => Missed::new(failure, seen),
    })?;
    let misfit = |why: &str| Err(Missed::new(invalid(why.to_owned()), Seen::Misfits));
    if stepdown::seen(ask, partial, &parts.headers) != Seen::Fits {
        return misfit("something else than what was asked for");
    }
    if !stepdown::is_unchanged(ask, partial, &parts.headers) {
        return misfit("a Content-Encoding that was not asked for");
    }
    // Only the last hop is checked, as registries label redirects as web pages. The location of a page is not kept.
    if !named && is_page(ask, &parts.headers) {
        return misfit("a web page");
    }
    Ok(partial)
}

/// The same question by GET, just for the head of its answer. For a blob, the GET asks for one byte.
fn by_get(ask: &Ask) -> Ask {
    let want = match ask.subject {
        Subject::Blob(_) => Want::Part(Range::new(0, 1)),
        _ => Want::All,
    };
    Ask {
        want,
        ..ask.clone()
    }
}

/// Whether an answer is the page of a captive portal, an SSO portal or an ingress in a registry's place, sent with 200.
/// Such a page is no content and proves nothing.
fn is_page(ask: &Ask, headers: &HeaderMap) -> bool {
    let page = |value: &HeaderValue| value.to_str().is_ok_and(refusal::is_page);
    matches!(ask.subject, Subject::Manifest(_) | Subject::Blob(_))
        && !headers.contains_key(DIGEST)
        && headers.get(CONTENT_TYPE).is_some_and(page)
}

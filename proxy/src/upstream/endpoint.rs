//! One endpoint of a registry: asking it, what a refusal there means, and where it leads to.

use std::{borrow::Cow, time::Duration};

use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{CONTENT_TYPE, WWW_AUTHENTICATE},
};
use larder_shared::Range;

use super::{
    Upstreams,
    authorization::{Scheme, bearer_of, scheme},
    location::{Location, location_key},
    question::{Answer, Ask, Failure, Limit, Refusal, Refused, Subject, Want, endpoint_uri, sort},
    redirect::{self, Hops},
    refusal::{self, Denial, LOOKED_AT, Meaning},
    stepdown::{self, Missed, Seen},
    token::TokenError,
};
use crate::{
    client::{self, ClientFiles, Reach, Route, SendError, Tls, Whose},
    config::{Endpoint, Upstream},
    identity::Identity,
    trace::Trace,
};

/// The body of a refusal must come within this time; what has come by then is looked at.
const DENIAL: Duration = Duration::from_secs(1);

impl Upstreams {
    pub(super) async fn ask_endpoint(
        &self,
        ask: &Ask,
        index: usize,
        endpoint: &Endpoint,
        upstream: &Upstream,
    ) -> Result<Answer, Missed> {
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
        // A token that may be an old one: the registry may have stopped to like it in whatever words.
        let own = bearer_of(&identity).is_some();
        let mut cached = match known {
            Some(Scheme::Bearer(challenge)) if authorization.is_some() && !own => Some(challenge),
            _ => None,
        };
        let mut ask = Cow::Borrowed(ask);
        let mut challenged = false;
        loop {
            let mut hops = self
                .follow(&ask, uri.clone(), &route, authorization.as_ref())
                .await?;
            let elsewhere = client::origin(&hops.uri) != place;
            if elsewhere && hops.response.status() == StatusCode::UNAUTHORIZED {
                hops = Box::pin(self.ask_as_anybody(&ask, hops)).await?;
            }
            let (parts, body) = hops.response.into_parts();
            let denied = matches!(
                parts.status,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
            );
            let refused = !elsewhere && (denied || parts.status == StatusCode::BAD_REQUEST);
            if refused && let Some(old) = cached.take() {
                self.forget_token(&old, &identity).await;
                // A new token from the same server may do; in all other cases the dance begins anew, without one.
                let challenge = parts.status == StatusCode::UNAUTHORIZED;
                let same = matches!(scheme(&parts.headers), Some(Scheme::Bearer(new))
                    if challenge && new.realm == old.realm && new.service == old.service);
                if !same {
                    self.schemes.invalidate(&scheme_key).await;
                    authorization = None;
                    let _ = client::collect(body, LOOKED_AT as u64, DENIAL).await;
                    continue;
                }
            }
            if parts.status == StatusCode::UNAUTHORIZED
                && !challenged
                && !elsewhere
                && let Some(scheme) = scheme(&parts.headers)
            {
                let _ = client::collect(body, LOOKED_AT as u64, DENIAL).await;
                let scheme = scheme.for_pulling(&uri);
                let next = self
                    .authorization(&scheme, &identity, &place, &route)
                    .await
                    .map_err(|error| token_failure(&place, &error))?;
                let futile = next.is_none() || next == authorization;
                self.keep_scheme(scheme_key.clone(), scheme).await;
                if futile {
                    return Err(refused_to(place, Refused::Subject).into());
                }
                authorization = next;
                challenged = true;
                continue;
            }
            let seen = Seen::Status(parts.status);
            if denied && elsewhere {
                // What a registry led to says nothing about who may read: a signature may have expired, or it is a portal.
                return Err(Missed::new(led_to_status(place, parts.status), seen));
            }
            if denied {
                let head = ask.want == Want::Head;
                let prefix = client::prefix(body, LOOKED_AT, DENIAL).await;
                let denial = Denial {
                    status: parts.status,
                    head,
                    challenges: parts.headers.contains_key(WWW_AUTHENTICATE),
                    body: &prefix,
                };
                match refusal::meaning(denial) {
                    Meaning::Refusal => {
                        let failure = refused_to(place, Refused::Subject);
                        return Err(Missed::new(failure, seen));
                    }
                    Meaning::AskByGet => {
                        ask = Cow::Owned(by_get(&ask));
                        continue;
                    }
                    Meaning::NoRegistry => {
                        let why = format!("{} in no registry's words", parts.status);
                        return Err(Missed::new(Failure::Invalid { place, why }, seen));
                    }
                }
            }
            let partial = match sort(&place, parts.status, &parts.headers) {
                // Another place's limit is not the registry's.
                Err(Failure::Limited { .. }) if elsewhere => {
                    return Err(Failure::Unreachable {
                        place,
                        why: format!("it led to a place that answered {}", parts.status),
                    }
                    .into());
                }
                Err(failure @ Failure::Limited { .. }) => return Err(failure.into()),
                Err(failure) => {
                    let seen = match failure {
                        Failure::Unsatisfiable { total } => stepdown::beyond(&ask, total),
                        _ => seen,
                    };
                    return Err(Missed::new(failure, seen));
                }
                Ok(partial) => partial,
            };
            let misfit = |why: &str| {
                let why = why.to_owned();
                let place = place.clone();
                Err(Missed::new(Failure::Invalid { place, why }, Seen::Misfits))
            };
            if stepdown::seen(&ask, partial, &parts.headers) != Seen::Fits {
                return misfit("something else than what was asked for");
            }
            if !stepdown::is_unchanged(&ask, partial, &parts.headers) {
                return misfit("a Content-Encoding that was not asked for");
            }
            // The last hop counts: registries label their redirects as web pages. What is one is not remembered.
            let named = hops.registry_headers.contains_key("docker-content-digest");
            if !named && is_page(&ask, &parts.headers) {
                return misfit("a web page");
            }
            if let (true, Some(key)) = (hops.redirected, location_key(&ask)) {
                let location = Location {
                    uri: hops.uri,
                    route: hops.route,
                    endpoint: index,
                    origin: place.clone(),
                    proves,
                };
                self.keep_location(key, location).await;
            }
            let headers = redirect::merge(&hops.registry_headers, parts.headers);
            return Ok(Answer {
                // The whole, told as a range, is the whole.
                partial: partial && matches!(ask.want, Want::Part(_)),
                headers,
                body,
                endpoint: index,
                proves,
                remembered: false,
            });
        }
    }

    /// A registry in front of another may lead to it and leave it to the client to get a token there. An anonymous one is
    /// fetched, by TLS and at public addresses alone: no credential goes to a place that another one names.
    async fn ask_as_anybody(&self, ask: &Ask, hops: Hops) -> Result<Hops, Failure> {
        let place = client::origin(&hops.uri);
        let named = hops.route.reach == Reach::Named;
        let Some(scheme @ Scheme::Bearer(_)) = scheme(hops.response.headers()) else {
            return Ok(hops);
        };
        if !named && hops.uri.scheme_str() != Some("https") {
            return Ok(hops);
        }
        let reach = if named { Reach::Named } else { Reach::Public };
        let tls = hops.route.tls.clone().of_nobody();
        let route = Route { reach, tls };
        let scheme = scheme.for_pulling(&hops.uri);
        let anybody = Identity::anonymous();
        let token = self.authorization(&scheme, &anybody, &place, &route).await;
        let token = token.map_err(|error| no_refusal(token_failure(&place, &error)))?;
        // Where a registry leads to is nobody who knows of requests.
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

/// The same question by GET, for the head of its answer alone: of a blob one byte is asked for.
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

fn refused_to(place: String, what: Refused) -> Failure {
    Failure::Refused(Refusal { place, what })
}

/// Where the registry led to did not give it: that is no verdict, and no answer of the registry.
fn led_to_status(place: String, status: StatusCode) -> Failure {
    Failure::Invalid {
        place,
        why: format!("a redirect to a place that answered {status}"),
    }
}

/// A place that the registry led to has no say in who may read.
fn no_refusal(failure: Failure) -> Failure {
    match failure {
        Failure::Refused(Refusal { place, .. }) => Failure::Invalid {
            place,
            why: "no token for anybody".to_owned(),
        },
        Failure::Limited { place, .. } => Failure::Unreachable {
            place,
            why: "its token server limits requests".to_owned(),
        },
        failure => failure,
    }
}

/// What a captive portal, an SSO portal or an ingress says with 200 in a registry's place. It is no content and proves
/// nothing.
fn is_page(ask: &Ask, headers: &HeaderMap) -> bool {
    let page = |value: &HeaderValue| value.to_str().is_ok_and(refusal::is_page);
    matches!(ask.subject, Subject::Manifest(_) | Subject::Blob(_))
        && !headers.contains_key("docker-content-digest")
        && headers.get(CONTENT_TYPE).is_some_and(page)
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

pub(super) fn token_failure(place: &str, error: &TokenError) -> Failure {
    let place = place.to_owned();
    match error {
        TokenError::Refused(_) => refused_to(place, Refused::Caller),
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

//! Registries: from a name to an answer.
//!
//! Owns the order of a registry's endpoints, the Bearer dance with its token server, the redirects, and the sorting of
//! whatever comes back into a closed set of outcomes. Asks one question at a time; what to do about an outcome, and
//! what is cached, is the callers' business.

mod challenge;
mod health;
mod redirect;
mod token;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
        RANGE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
    },
};
use http_body_util::Full;
use hyper::body::Incoming;
use larder_shared::{Digest, Range, Reference, RegistryName, Repository, media};
use moka::future::Cache;

use crate::{
    client::{self, Client, Reach, Route, SendError, Tls},
    config::{Config, Endpoint},
};
use challenge::Challenge;
use health::{Admission, Health};
use token::{Token, TokenAnswer, TokenError, TokenKey, Tokens};

/// The head of an answer must come within this time. Below the 5 s in which larder answers its own client.
const FIRST_BYTE: Duration = Duration::from_secs(4);

/// A redirect's target is used again for other ranges of the same blob this long: signatures live for minutes.
const LOCATION_TTL: Duration = Duration::from_mins(1);

/// An endpoint that gave wrong bytes for a digest is asked for it last for this long.
const LIAR_TTL: Duration = Duration::from_mins(10);

const AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));

/// What is asked of a repository.
#[derive(Clone, Debug)]
pub enum Subject {
    Manifest(Reference),
    Blob(Digest),
    /// `tags/list` with a query.
    Tags(String),
    /// `referrers/<digest>` with a query.
    Referrers(Digest, String),
}

/// The bytes that are wanted of a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// HEAD
    Head,
    /// GET
    All,
    /// GET with `Range: bytes=start-(end-1)`
    Part(Range),
    /// GET with `Range: bytes=start-`
    From(u64),
}

/// One question to a registry.
#[derive(Clone, Debug)]
pub struct Ask {
    pub registry: RegistryName,
    pub repository: Repository,
    pub subject: Subject,
    pub want: Want,
    /// Which endpoint to begin with, counted through: one more after each that broke off.
    pub first: usize,
    /// The caller can do without an answer: an endpoint whose breaker is open is not bothered.
    pub optional: bool,
    /// How long the caller will wait, all endpoints together; as long as for a first byte otherwise. An endpoint that
    /// others stand behind gets half of what is left, so that one that hangs does not use up their time.
    pub within: Option<Duration>,
}

impl Ask {
    /// A question that needs an answer, to the endpoints in their order.
    pub fn new(
        registry: &RegistryName,
        repository: &Repository,
        subject: Subject,
        want: Want,
    ) -> Self {
        Self {
            registry: registry.clone(),
            repository: repository.clone(),
            subject,
            want,
            first: 0,
            optional: false,
            within: None,
        }
    }

    /// As above, for a caller that can do without.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// A 200 or 206.
#[derive(Debug)]
pub struct Answer {
    pub partial: bool,
    /// Of the registry's own hop for type and digest, of the last hop for length and range.
    pub headers: HeaderMap,
    pub body: Incoming,
    /// Which endpoint gave it.
    pub endpoint: usize,
}

/// Why there is no answer. The text names places and causes, never a secret or a query.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// 404 from the origin, the last endpoint.
    #[error("{0} does not have it")]
    NotFound(String),
    /// 401 or 403: this credential (so far: none) does not open it.
    #[error("{0} refused access without credentials")]
    Refused(String),
    /// 429, or 503 with `Retry-After`.
    #[error("{place} limits requests")]
    Limited {
        place: String,
        retry_after: Option<Duration>,
    },
    /// 416; the length, where it was told.
    #[error("the range is not satisfiable")]
    Unsatisfiable { total: Option<u64> },
    /// Refused connections, time-outs, 5xx.
    #[error("{place} cannot be reached: {why}")]
    Unreachable { place: String, why: String },
    /// larder will not connect there.
    #[error("{0}")]
    Forbidden(String),
    /// An answer that a registry may not give.
    #[error("{place} answered with {why}")]
    Invalid { place: String, why: String },
}

type LocationKey = (RegistryName, Repository, Digest);

/// All upstreams.
#[derive(Debug)]
pub struct Upstreams {
    config: Arc<ArcSwap<Config>>,
    client: Client,
    tokens: Tokens,
    /// Which challenge a repository of an endpoint answers with, so that the token comes with the first request.
    challenges: Cache<(String, Repository), Challenge>,
    locations: Cache<LocationKey, Location>,
    /// By `scheme://host:port`.
    health: Mutex<HashMap<String, Health>>,
    /// Endpoints that gave wrong bytes for a digest, and how often. They are asked for it last.
    liars: Cache<(String, Digest), u32>,
}

/// Where a redirect led.
#[derive(Clone, Debug)]
struct Location {
    uri: Uri,
    route: Route,
    endpoint: usize,
}

/// How one endpoint fares, for people.
#[derive(Clone, Debug)]
pub struct EndpointView {
    pub url: String,
    /// `ok`, `avoided after failures`, `silent for 12 s`
    pub state: String,
}

impl Upstreams {
    pub fn new(config: Arc<ArcSwap<Config>>, client: Client) -> Self {
        Self {
            config,
            client,
            tokens: Tokens::new(),
            challenges: Cache::builder().max_capacity(10_000).build(),
            locations: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(LOCATION_TTL)
                .build(),
            health: Mutex::default(),
            liars: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(LIAR_TTL)
                .build(),
        }
    }

    /// The endpoints of a registry, origin last, and how they fare, for people.
    pub fn endpoints(&self, registry: &RegistryName) -> Vec<EndpointView> {
        let upstream = self.config.load().upstream(registry.as_str());
        let now = Instant::now();
        let view = |endpoint: &Endpoint| EndpointView {
            url: endpoint.url.to_string(),
            state: self.health(&client::origin(&endpoint.url), |health| {
                match (health.silent_for(now), health.is_open()) {
                    (Some(left), _) => format!("left alone for {} s more", left.as_secs().max(1)),
                    (None, true) => "avoided after failures".to_owned(),
                    (None, false) => "ok".to_owned(),
                }
            }),
        };
        upstream.endpoints.iter().map(view).collect()
    }

    /// Asks the endpoints in order. The first that has it answers; if none has, the origin's word counts.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, Failure> {
        let upstream = self.config.load().upstream(ask.registry.as_str());
        let endpoints = &upstream.endpoints;
        if let Some(answer) = self
            .ask_location(ask, ask.first % endpoints.len().max(1))
            .await
        {
            return Ok(answer);
        }
        let mut failures: Vec<(usize, Failure)> = Vec::new();
        let mut avoided = Vec::new();
        let begun = Instant::now();
        let order = self.order(ask, endpoints).await;
        let last = order.last().copied();
        for index in order {
            let all = ask.within.unwrap_or(FIRST_BYTE);
            let left = all.saturating_sub(begun.elapsed());
            let patience = match last == Some(index) {
                true => ask.within.map(|_| left),
                false => Some(left / 2),
            };
            let endpoint = &endpoints[index];
            let place = client::origin(&endpoint.url);
            match self.health(&place, |health| health.admit(Instant::now())) {
                Admission::Go => {}
                Admission::Avoid => {
                    avoided.push(index);
                    continue;
                }
                Admission::Silent(left) => {
                    failures.push((index, limited(place, left)));
                    continue;
                }
            }
            match self
                .ask_counted(ask, index, endpoint, upstream.configured, patience)
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(failure) => failures.push((index, failure)),
            }
        }
        // Nothing else can answer: a request that needs an answer is the probe.
        for index in avoided {
            let endpoint = &endpoints[index];
            let asked = if ask.optional {
                Err(Failure::Unreachable {
                    place: client::origin(&endpoint.url),
                    why: "it failed again and again a short time ago".to_owned(),
                })
            } else {
                let left = ask.within.map(|all| all.saturating_sub(begun.elapsed()));
                self.ask_counted(ask, index, endpoint, upstream.configured, left)
                    .await
            };
            match asked {
                Ok(answer) => return Ok(answer),
                Err(failure) => failures.push((index, failure)),
            }
        }
        let origin = endpoints.len().saturating_sub(1);
        let of_origin = failures.iter().position(|(index, _)| *index == origin);
        match of_origin {
            Some(at) => Err(failures.swap_remove(at).1),
            None => Err(failures.pop().map_or_else(
                || Failure::Invalid {
                    place: ask.registry.to_string(),
                    why: "no endpoint".to_owned(),
                },
                |(_, failure)| failure,
            )),
        }
    }

    /// The order of the endpoints for this question: from `first` on and around, liars last.
    async fn order(&self, ask: &Ask, endpoints: &[Endpoint]) -> Vec<usize> {
        let count = endpoints.len();
        let mut order: Vec<usize> = (0..count).map(|i| (i + ask.first) % count).collect();
        if let Some(digest) = ask.subject.digest() {
            let mut lies = Vec::with_capacity(count);
            for endpoint in endpoints {
                let key = (client::origin(&endpoint.url), digest);
                lies.push(self.liars.get(&key).await.unwrap_or(0));
            }
            order.sort_by_key(|index| lies[*index]);
        }
        order
    }

    /// Asks one endpoint and takes note of how it fares.
    async fn ask_counted(
        &self,
        ask: &Ask,
        index: usize,
        endpoint: &Endpoint,
        configured: bool,
        patience: Option<Duration>,
    ) -> Result<Answer, Failure> {
        let place = client::origin(&endpoint.url);
        let mut unanswered = Unanswered {
            upstreams: self,
            place: &place,
            since: Some(Instant::now()),
        };
        let asking = self.ask_endpoint(ask, index, endpoint, configured);
        let asked = match patience {
            Some(patience) => tokio::time::timeout(patience, asking)
                .await
                .unwrap_or_else(|_| {
                    Err(Failure::Unreachable {
                        place: place.clone(),
                        why: format!("no answer within {} ms", patience.as_millis()),
                    })
                }),
            None => asking.await,
        };
        unanswered.since = None;
        drop(unanswered);
        let now = Instant::now();
        self.health(&place, |health| match &asked {
            Err(Failure::Unreachable { .. }) => health.failed(now, fastrand::f64()),
            Err(Failure::Limited { retry_after, .. }) => health.limited(now, *retry_after),
            _ => health.answered(),
        });
        if let Err(failure) = &asked {
            tracing::debug!(upstream.endpoint = place, %failure, "an endpoint did not answer");
        }
        asked
    }

    fn health<T>(&self, place: &str, look: impl FnOnce(&mut Health) -> T) -> T {
        let mut all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(place) {
            // Anyone may name any registry: what is remembered must not grow without bound.
            if all.len() >= 10_000 {
                all.clear();
            }
            all.insert(place.to_owned(), Health::new(Instant::now()));
        }
        match all.get_mut(place) {
            Some(health) => look(health),
            None => look(&mut Health::new(Instant::now())),
        }
    }

    /// How long a retry for this registry has to wait for its turn.
    pub fn retry_delay(&self, registry: &RegistryName) -> Duration {
        let upstream = self.config.load().upstream(registry.as_str());
        match upstream.endpoints.first() {
            Some(endpoint) => self.health(&client::origin(&endpoint.url), |health| {
                health.retry_delay(Instant::now())
            }),
            None => Duration::ZERO,
        }
    }

    /// An endpoint gave bytes that do not have their digest.
    pub async fn lied(&self, registry: &RegistryName, endpoint: usize, digest: &Digest) {
        let upstream = self.config.load().upstream(registry.as_str());
        if let Some(endpoint) = upstream.endpoints.get(endpoint) {
            let place = client::origin(&endpoint.url);
            tracing::warn!(upstream.endpoint = place, blob.digest = %digest, "an endpoint gave wrong bytes; it is asked last for this digest");
            // Where several brought the bytes of one blob, all are suspected; the one that lies again goes last.
            let key = (place, *digest);
            let lies = self.liars.get(&key).await.unwrap_or(0);
            self.liars.insert(key, lies + 1).await;
        }
    }

    /// How many endpoints a registry has.
    pub fn count(&self, registry: &RegistryName) -> usize {
        self.config
            .load()
            .upstream(registry.as_str())
            .endpoints
            .len()
    }

    /// A blob whose redirect is known is asked for there at once. Whatever goes wrong, the registry is asked again.
    async fn ask_location(&self, ask: &Ask, wanted: usize) -> Option<Answer> {
        let key = location_key(ask)?;
        let Location {
            uri,
            route,
            endpoint,
        } = self.locations.get(&key).await?;
        if endpoint != wanted {
            return None;
        }
        let request = request(ask, &uri, None);
        if let Ok(response) = self.client.send(&route, request, FIRST_BYTE).await {
            let (parts, body) = response.into_parts();
            if let Ok(partial) = sort(&client::origin(&uri), parts.status, &parts.headers) {
                return Some(Answer {
                    partial,
                    headers: parts.headers,
                    body,
                    endpoint,
                });
            }
        }
        self.locations.invalidate(&key).await;
        None
    }

    async fn ask_endpoint(
        &self,
        ask: &Ask,
        index: usize,
        endpoint: &Endpoint,
        configured: bool,
    ) -> Result<Answer, Failure> {
        let uri = endpoint_uri(endpoint, ask)?;
        let place = client::origin(&endpoint.url);
        let route = Route {
            reach: if configured {
                Reach::Named
            } else {
                Reach::Direct
            },
            tls: Tls {
                ca: endpoint.ca.clone(),
                skip_verify: endpoint.insecure_skip_verify,
            },
        };
        let known = self
            .challenges
            .get(&(place.clone(), ask.repository.clone()))
            .await;
        let mut token = match &known {
            Some(challenge) => self.token(challenge, &route).await.ok(),
            None => None,
        };
        let mut challenged = false;
        loop {
            let hops = self
                .follow(ask, uri.clone(), &route, token.as_ref())
                .await?;
            let (parts, body) = hops.response.into_parts();
            let bearer = || {
                let values = hops.registry_headers.get_all(WWW_AUTHENTICATE);
                Challenge::bearer(values.iter().filter_map(|v| v.to_str().ok()))
            };
            if parts.status == StatusCode::UNAUTHORIZED && !challenged && !hops.redirected {
                let _ = client::collect(body, 64 << 10, Duration::from_secs(1)).await;
                let Some(challenge) = bearer() else {
                    return Err(Failure::Refused(place));
                };
                if token.is_some() {
                    self.tokens.forget(&TokenKey::from(&challenge)).await;
                }
                token = Some(
                    self.token(&challenge, &route)
                        .await
                        .map_err(|error| token_failure(&place, &error))?,
                );
                self.challenges
                    .insert((place.clone(), ask.repository.clone()), challenge)
                    .await;
                challenged = true;
                continue;
            }
            let partial = sort(&place, parts.status, &parts.headers)?;
            if let (true, Some(key)) = (hops.redirected, location_key(ask)) {
                let location = Location {
                    uri: hops.uri,
                    route: hops.route,
                    endpoint: index,
                };
                self.locations.insert(key, location).await;
            }
            return Ok(Answer {
                partial,
                headers: redirect::merge(&hops.registry_headers, parts.headers),
                body,
                endpoint: index,
            });
        }
    }

    /// An anonymous token for a challenge of an endpoint that is reached by `route`.
    async fn token(&self, challenge: &Challenge, route: &Route) -> Result<Token, TokenError> {
        let key = TokenKey::from(challenge);
        if let Some(token) = self.tokens.get(&key).await {
            return Ok(token);
        }
        self.tokens
            .get_or_fetch(key.clone(), self.fetch_token(&key, route))
            .await
    }

    async fn fetch_token(&self, key: &TokenKey, route: &Route) -> Result<Token, TokenError> {
        let invalid = |why: &str| TokenError::Invalid(why.to_owned());
        let mut realm =
            url::Url::parse(&key.realm).map_err(|_| invalid("its realm is not a URL"))?;
        if realm.scheme() != "https" && !(realm.scheme() == "http" && route.reach == Reach::Named) {
            return Err(TokenError::Forbidden("its realm is not https".to_owned()));
        }
        {
            let mut query = realm.query_pairs_mut();
            if let Some(service) = &key.service {
                query.append_pair("service", service);
            }
            for scope in key.scope.iter().flat_map(|s| s.split(' ')) {
                query.append_pair("scope", scope);
            }
        }
        let uri: Uri = realm
            .as_str()
            .parse()
            .map_err(|_| invalid("its realm is not a URL"))?;
        let route = self.led_to(&uri, route);
        let request = Request::get(uri.clone())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT_ENCODING, "identity")
            .body(Full::default())
            .map_err(|_| invalid("its realm is not a URL"))?;
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
            status if status.is_server_error() => {
                return Err(TokenError::Unreachable(format!("it answered {status}")));
            }
            status => return Err(TokenError::Refused(status)),
        }
        let body = client::collect(response.into_body(), 1 << 20, Duration::from_secs(4))
            .await
            .map_err(TokenError::Unreachable)?;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| invalid("it is not the JSON of a token"))?;
        answer.into_token()
    }

    /// How a place is reached that an upstream led to: its own host as before, a configured one by its own right, any
    /// other only if it is public.
    fn led_to(&self, uri: &Uri, from: &Route) -> Route {
        let named = self
            .config
            .load()
            .upstreams
            .values()
            .flat_map(|u| u.endpoints.clone())
            .find(|e| e.url.authority() == uri.authority());
        match (named, from.reach) {
            (Some(endpoint), _) => Route {
                reach: Reach::Named,
                tls: Tls {
                    ca: endpoint.ca,
                    skip_verify: endpoint.insecure_skip_verify,
                },
            },
            // A registry that the operator configured may lead on inside the same network.
            (None, Reach::Named) => Route {
                reach: Reach::Direct,
                tls: from.tls.clone(),
            },
            (None, _) => Route {
                reach: Reach::Public,
                tls: Tls::default(),
            },
        }
    }
}

/// A caller that gives up waiting is a failure of the endpoint as well, or nobody would ever learn that it hangs.
struct Unanswered<'a> {
    upstreams: &'a Upstreams,
    place: &'a str,
    since: Option<Instant>,
}

/// A caller that leaves earlier than this has its own reasons.
const PATIENCE: Duration = Duration::from_secs(1);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            self.upstreams.health(self.place, |health| {
                health.failed(Instant::now(), fastrand::f64());
            });
        }
    }
}

impl Subject {
    /// The digest that the bytes must have, if the question says so.
    fn digest(&self) -> Option<Digest> {
        match self {
            Self::Blob(digest) | Self::Manifest(Reference::Digest(digest)) => Some(*digest),
            _ => None,
        }
    }
}

fn limited(place: String, left: Duration) -> Failure {
    Failure::Limited {
        place,
        retry_after: Some(left),
    }
}

fn location_key(ask: &Ask) -> Option<LocationKey> {
    match (&ask.subject, ask.want) {
        (Subject::Blob(_), Want::Head) => None,
        (Subject::Blob(digest), _) => Some((ask.registry.clone(), ask.repository.clone(), *digest)),
        _ => None,
    }
}

/// `<endpoint>/v2/<repository>/…`; an endpoint whose path holds `/v2` already (a project of Harbor, say) is used as it is.
fn endpoint_uri(endpoint: &Endpoint, ask: &Ask) -> Result<Uri, Failure> {
    let base = endpoint.url.to_string();
    let base = base.trim_end_matches('/');
    let v2 = if endpoint.url.path().split('/').any(|c| c == "v2") {
        ""
    } else {
        "/v2"
    };
    let repository = &ask.repository;
    let rest = match &ask.subject {
        Subject::Manifest(reference) => format!("manifests/{reference}"),
        Subject::Blob(digest) => format!("blobs/{digest}"),
        Subject::Tags(query) => with_query("tags/list".to_owned(), query),
        Subject::Referrers(digest, query) => with_query(format!("referrers/{digest}"), query),
    };
    format!("{base}{v2}/{repository}/{rest}")
        .parse()
        .map_err(|_| Failure::Invalid {
            place: client::origin(&endpoint.url),
            why: "a URL that cannot be asked".to_owned(),
        })
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

fn request(ask: &Ask, uri: &Uri, token: Option<&Token>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = uri.clone();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    // Content is addressed by its bytes: nothing on the way may re-encode them.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let accept = match ask.subject {
        Subject::Manifest(_) => media::ACCEPT,
        Subject::Referrers(..) => media::OCI_INDEX,
        _ => "*/*",
    };
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token.authorization());
    }
    let range = match ask.want {
        Want::Head => {
            *request.method_mut() = Method::HEAD;
            return request;
        }
        Want::All => return request,
        Want::Part(range) => format!("bytes={}-{}", range.start, range.end - 1),
        Want::From(start) => format!("bytes={start}-"),
    };
    if let Ok(range) = HeaderValue::try_from(range) {
        request.headers_mut().insert(RANGE, range);
    }
    request
}

/// 200 is `false`, 206 is `true`, all else is a failure.
fn sort(place: &str, status: StatusCode, headers: &HeaderMap) -> Result<bool, Failure> {
    let place = place.to_owned();
    let retry_after = headers
        .get(RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?.trim()));
    let encoded = headers
        .get(CONTENT_ENCODING)
        .is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity"));
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT if encoded => Err(Failure::Invalid {
            place,
            why: "a Content-Encoding that was not asked for".to_owned(),
        }),
        StatusCode::OK => Ok(false),
        StatusCode::PARTIAL_CONTENT => Ok(true),
        StatusCode::NOT_FOUND => Err(Failure::NotFound(place)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Refused(place)),
        StatusCode::TOO_MANY_REQUESTS => Err(Failure::Limited { place, retry_after }),
        StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => {
            Err(Failure::Limited { place, retry_after })
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::Unsatisfiable {
            total: headers
                .get(CONTENT_RANGE)
                .and_then(|v| v.to_str().ok()?.strip_prefix("bytes */")?.parse().ok()),
        }),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Err(Failure::Unreachable {
                place,
                why: format!("it answered {status}"),
            })
        }
        status => Err(Failure::Invalid {
            place,
            why: status.to_string(),
        }),
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let left = date.duration_since(jiff::Timestamp::now());
    Some(left.try_into().unwrap_or(Duration::ZERO))
}

fn token_failure(place: &str, error: &TokenError) -> Failure {
    let place = place.to_owned();
    match error {
        TokenError::Refused(_) => Failure::Refused(place),
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

fn send_failure(place: String, error: SendError) -> Failure {
    match error {
        SendError::Forbidden(why) => Failure::Forbidden(format!("{place}: {why}")),
        other => Failure::Unreachable {
            place,
            why: other.to_string(),
        },
    }
}

impl Answer {
    /// Bytes of the body, if told.
    pub fn content_length(&self) -> Option<u64> {
        self.headers
            .get(CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// The range and the total that `Content-Range` of a 206 tells.
    pub fn content_range(&self) -> Option<(Range, u64)> {
        let text = self.headers.get(CONTENT_RANGE)?.to_str().ok()?;
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total): (u64, u64, u64) =
            (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
        (first <= last && last < total).then(|| (Range::new(first, last + 1), total))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

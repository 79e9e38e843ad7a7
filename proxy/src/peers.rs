//! The peer port's HTTP surface: the requests that other members may send.
//!
//! ```text
//! GET, HEAD /v2/…                       the registry API, digests only; larder-role says in which role it is asked
//! GET       /larder/v1/alive[?role=…]   milliseconds since bytes came that an answer in this role waits for
//! GET       /larder/v1/holders?digest=… the digest's holders; older members POST with &holder=ADDR to report one
//! POST      /larder/v1/holdings         which blobs a member holds and lost; an empty list asks for a sign of life
//! POST      /larder/v1/holdings/of      the holders of these digests
//! POST      /larder/v1/copies           an offer of copies: will this node fetch them
//! POST      /larder/v1/copies/links     the links of these digests here
//! GET, POST /larder/v1/records?thing=…  the record about a tag or a repository
//! GET       /larder/v1/lists?thing=…&known=GENERATION[&refresh=SECONDS]  a registry's list of tags, if it has changed
//! POST      /larder/v1/probes?thing=…&silenced=SECONDS  may a member probe a silent registry: go, wait, or over
//! POST      /larder/v1/probes?thing=…&over  a member's probe was answered
//! GET       /larder/v1/warm?set=NAME    what this node holds of a warm set
//! GET       /larder/v1/warm?seen=own|all  images that the runtimes of this node or of all members have
//! GET       /larder/v1/indexes?registry=…&repository=…&layer=DIGEST  the index of a layer that the repository holds
//! GET       /larder/v1/orders?registry=…&repository=…&manifest=DIGEST  the learnt order of an image's start
//! ```
//!
//! Only members get this far: the connection's certificate was checked ([`crate::listen`]). Errors become responses in
//! [`crate::registry`], as everywhere.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use larder_shared::{Digest, ErrorCode, OciError, RangeHeader, Role, Route};

use crate::{
    body::Body,
    client,
    cluster::{
        HOLDERS, INDEXES, LISTS, ORDERS, PROBES, RECORDS,
        peers::{ALIVE, IN_ROLE, PASSED_ON, ROLE},
        records::PeerRecord,
    },
    copies::wire::{self, COPIES, HOLDERS_OF, HOLDINGS, LINKS, Which},
    credentials::Secret,
    identity::Identity,
    metrics::{Metrics, Tier, UpstreamLabel},
    pull::{MemberRequest, Pull, PullError},
    record::RequestRecord,
    registry::{error_response, ok_response},
    trace::Trace,
    warm::{SETS, Warm},
};

/// Answers requests on the peer port.
#[derive(Debug)]
pub struct PeerSurface {
    pull: Arc<Pull>,
    warm: Arc<Warm>,
    metrics: Arc<Metrics>,
}

impl PeerSurface {
    pub fn new(pull: Arc<Pull>, warm: Arc<Warm>, metrics: Arc<Metrics>) -> Self {
        Self {
            pull,
            warm,
            metrics,
        }
    }

    /// The pulls that answer members' requests on this port.
    pub fn pull(&self) -> &Pull {
        &self.pull
    }

    /// Counts a client that was turned away because it is not a member.
    pub fn turned_away(&self) {
        self.metrics.peers.turned_away.inc();
    }

    /// Answers one request of a member.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, ());
        let path = request.uri().path();
        let small = match path {
            ALIVE => Some((StatusCode::OK, self.flowed(&request))),
            HOLDERS => Some(self.holders(&request)),
            PROBES => Some(self.probes(&request)),
            SETS => Some(self.warm(&request).await),
            RECORDS => Some(self.records(&request, body).await),
            LISTS => Some(self.list(&request).await),
            HOLDINGS | HOLDERS_OF | COPIES | LINKS => Some(self.copies(&request, body).await),
            _ => None,
        };
        let small = small.map(|(status, text)| (status, Body::bytes(text)));
        let answer = match small {
            None if path == INDEXES => Some(self.index(&request).await),
            None if path == ORDERS => Some(self.order(&request).await),
            small => small,
        };
        if let Some((status, body)) = answer {
            let mut response = Response::new(body);
            *response.status_mut() = status;
            // During a roll-out members of several versions meet, and people want to see which.
            let server = HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")));
            response.headers_mut().insert(header::SERVER, server);
            return response;
        }
        let role = text(request.headers(), ROLE).and_then(Role::parse);
        let head = request.method() == Method::HEAD;
        let trace = Trace::of(request.headers());
        let mut record = RequestRecord::new(
            Arc::clone(&self.metrics),
            trace.clone(),
            request.method().clone(),
            path.to_owned(),
            String::new(),
        )
        .of_member(role.unwrap_or(Role::Holder));
        let answered = match role {
            Some(role) => self.pulled(&request, role, head, &mut record).await,
            None => Err(OciError::new(
                ErrorCode::Denied,
                "this port is for members of the cluster",
            )
            .into()),
        };
        let mut response = match answered {
            Ok(pulled) => {
                // This node vouches only for bytes that it has verified, not for bytes from a fill under way.
                let passed_on = pulled.tier != Tier::Node || pulled.body.is_filling();
                let mut response = ok_response(pulled, &mut record);
                if passed_on {
                    let yes = HeaderValue::from_static("true");
                    response.headers_mut().insert(PASSED_ON, yes);
                }
                response
            }
            Err(error) => error_response(&error, ErrorCode::BlobUnknown, "", &mut record),
        };
        trace.answer(response.headers_mut());
        response.map(|body| {
            let body = if head { Body::empty() } else { body };
            body.serve_checked(&self.pull.store, record)
        })
    }

    async fn pulled(
        &self,
        request: &Request<()>,
        role: Role,
        head: bool,
        record: &mut RequestRecord,
    ) -> Result<crate::pull::Pulled, PullError> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(OciError::new(ErrorCode::Unsupported, "members only read").into());
        }
        let route = Route::parse(request.uri().path(), request.uri().query())?;
        let route = route.ok_or_else(|| {
            OciError::new(ErrorCode::NameUnknown, "not a path of the registry API")
        })?;
        // For the metrics: the registry that is meant, resolved as on the registry port.
        if let Some((registry, _)) = route.address().and_then(|a| self.pull.resolve(a).ok()) {
            let label = UpstreamLabel::of(&self.pull.config.load(), registry.as_str());
            record.upstream(registry.as_str(), label);
        }
        let headers = request.headers();
        let request = MemberRequest {
            route,
            head,
            range: RangeHeader::parse(text(headers, header::RANGE)),
            role,
            identity: self.identity(headers),
            trace: record.trace().clone(),
        };
        self.pull.serve_member(request).await
    }

    /// The bearer of the lent token, or an anonymous caller without one.
    fn identity(&self, headers: &HeaderMap) -> Identity {
        let lent =
            text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        match lent {
            Some(token) => self.pull.key.lent(Secret::new(token)),
            None => Identity::anonymous(),
        }
    }

    /// Milliseconds since bytes came that a request in this role waits for. An older member names no role: it waits for
    /// bytes that come from no other member.
    fn flowed(&self, request: &Request<()>) -> String {
        let role = query(request, IN_ROLE).and_then(|role| Role::parse(&role));
        let since = self
            .pull
            .cluster
            .peers
            .flow
            .since(role.unwrap_or(Role::Root));
        since.map_or_else(String::new, |since| since.as_millis().to_string())
    }

    async fn records(&self, request: &Request<()>, body: Incoming) -> (StatusCode, String) {
        let thing = query(request, "thing").and_then(|thing| thing.parse::<Digest>().ok());
        let Some(thing) = thing else {
            return (
                StatusCode::BAD_REQUEST,
                "the parameter `thing` is missing or no digest\n".to_owned(),
            );
        };
        let cluster = &self.pull.cluster;
        if *request.method() != Method::POST {
            let kept = cluster.kept(&thing).await;
            return match kept.and_then(|kept| serde_json::to_string(&kept).ok()) {
                Some(text) => (StatusCode::OK, text),
                None => (StatusCode::NOT_FOUND, "nothing is known of it\n".to_owned()),
            };
        }
        let news = client::collect(body, RECORD, RECORD_WITHIN).await.ok();
        let Some(news) = news.and_then(|text| serde_json::from_slice::<PeerRecord>(&text).ok())
        else {
            return (StatusCode::BAD_REQUEST, "this is no record\n".to_owned());
        };
        match cluster.keep(&thing, news).await {
            Ok(()) => (StatusCode::OK, String::new()),
            Err(_) => (
                StatusCode::INSUFFICIENT_STORAGE,
                "it cannot be kept\n".to_owned(),
            ),
        }
    }

    async fn list(&self, request: &Request<()>) -> (StatusCode, String) {
        let thing = query(request, "thing").and_then(|thing| thing.parse::<Digest>().ok());
        let Some(thing) = thing.filter(|_| *request.method() == Method::GET) else {
            return (StatusCode::BAD_REQUEST, "which list?\n".to_owned());
        };
        let known = query(request, "known").filter(|known| !known.is_empty());
        let refresh = query(request, "refresh").and_then(|seconds| seconds.parse().ok());
        let refresh = refresh.map(Duration::from_secs);
        // Boxed, because it is rare and its size would count in every request's future.
        match Box::pin(self.pull.lists.tell(&thing, known.as_deref(), refresh)).await {
            Some(told) => json(Some(&told)),
            None => (
                StatusCode::NOT_FOUND,
                "this node has no use for it\n".to_owned(),
            ),
        }
    }

    /// Answers a request about copies: JSON in, JSON out.
    async fn copies(&self, request: &Request<()>, body: Incoming) -> (StatusCode, String) {
        let told = match client::collect(body, wire::LARGEST, RECORD_WITHIN).await {
            Ok(told) if *request.method() == Method::POST => told,
            _ => {
                return (
                    StatusCode::BAD_REQUEST,
                    "a POST with a body of at most 1 MiB is needed\n".to_owned(),
                );
            }
        };
        let copies = &self.pull.copies;
        let answered = match request.uri().path() {
            HOLDINGS => serde_json::from_slice(&told).map(|said| json(copies.hear(&said).as_ref())),
            HOLDERS_OF => serde_json::from_slice(&told)
                .map(|asked: Which| json(Some(&copies.holders_of(&asked.digests)))),
            COPIES => match serde_json::from_slice(&told) {
                Ok(items) => Ok(json(Some(&copies.offered(items).await))),
                Err(error) => Err(error),
            },
            _ => match serde_json::from_slice::<Which>(&told) {
                Ok(asked) => Ok(json(Some(&copies.links_of(&asked.digests).await))),
                Err(error) => Err(error),
            },
        };
        answered.unwrap_or_else(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))
    }

    /// The index of a layer, under the same right as the layer. Every failure gets the same answer.
    async fn index(&self, request: &Request<()>) -> (StatusCode, Body) {
        let given = async {
            let registry = query(request, "registry")?.parse().ok()?;
            let repository = query(request, "repository")?.parse().ok()?;
            let layer = query(request, "layer")?.parse().ok()?;
            let asked = *request.method() == Method::GET;
            let given = self.pull.index_for_member(registry, repository, layer);
            // Boxed, because it is rare and its size would count in every request's future.
            Box::pin(asked.then_some(given)?).await
        };
        if let Some(body) = given.await {
            return (StatusCode::OK, body);
        }
        let text = Body::bytes("nothing is known of it\n");
        (StatusCode::NOT_FOUND, text)
    }

    async fn order(&self, request: &Request<()>) -> (StatusCode, Body) {
        let given = async {
            let registry = query(request, "registry")?.parse().ok()?;
            let repository = query(request, "repository")?.parse().ok()?;
            let manifest = query(request, "manifest")?.parse().ok()?;
            let asked = *request.method() == Method::GET;
            let given = self.pull.order_for_member(registry, repository, manifest);
            Box::pin(asked.then_some(given)?).await
        };
        match given.await {
            Some(order) => (StatusCode::OK, Body::bytes(order)),
            None => (
                StatusCode::NOT_FOUND,
                Body::bytes("nothing is known of it\n"),
            ),
        }
    }

    fn probes(&self, request: &Request<()>) -> (StatusCode, String) {
        let thing = query(request, "thing").and_then(|thing| thing.parse::<Digest>().ok());
        let (Some(thing), true) = (thing, *request.method() == Method::POST) else {
            return (
                StatusCode::BAD_REQUEST,
                "a POST with the parameter `thing`, a digest, is needed\n".to_owned(),
            );
        };
        let probes = &self.pull.cluster.probes;
        if query(request, "over").is_some() {
            probes.over(thing, Instant::now());
            return (StatusCode::OK, String::new());
        }
        let silenced = query(request, "silenced").and_then(|seconds| seconds.parse().ok());
        match silenced.map(Duration::from_secs) {
            Some(silenced) => {
                let turn = probes.ask(thing, silenced, Instant::now());
                (StatusCode::OK, turn.as_str().to_owned())
            }
            None => (
                StatusCode::BAD_REQUEST,
                "the parameter `silenced` is missing or no number\n".to_owned(),
            ),
        }
    }

    /// What this node holds of a warm set.
    async fn warm(&self, request: &Request<()>) -> (StatusCode, String) {
        if let Some(of) = query(request, "seen") {
            return json(Some(&self.warm.tell_seen(&of == "all").await));
        }
        let set = query(request, "set").unwrap_or_default();
        match Box::pin(self.warm.of_member(&set)).await {
            Some(status) => json(Some(&status)),
            None => (StatusCode::NOT_FOUND, "there is no such set\n".to_owned()),
        }
    }

    fn holders(&self, request: &Request<()>) -> (StatusCode, String) {
        let get = |name| query(request, name);
        let Some(digest) = get("digest").and_then(|digest| digest.parse::<Digest>().ok()) else {
            return (StatusCode::BAD_REQUEST, "which digest?\n".to_owned());
        };
        let cluster = &self.pull.cluster;
        if *request.method() != Method::POST {
            let holders = cluster.holdings.holders(&digest, cluster.now());
            // A list of addresses always serializes.
            return (
                StatusCode::OK,
                serde_json::to_string(&holders).unwrap_or_default(),
            );
        }
        let holder = get("holder").and_then(|holder| holder.parse::<SocketAddr>().ok());
        match holder.filter(|holder| self.pull.copies.hear_of(digest, *holder)) {
            Some(_) => (StatusCode::OK, String::new()),
            None => (
                StatusCode::BAD_REQUEST,
                "which member holds it?\n".to_owned(),
            ),
        }
    }
}

/// An answer as JSON. Without an answer, the asking member is not listed.
fn json(answer: Option<&impl serde::Serialize>) -> (StatusCode, String) {
    match answer {
        Some(answer) => (
            StatusCode::OK,
            serde_json::to_string(answer).unwrap_or_default(),
        ),
        None => (
            StatusCode::BAD_REQUEST,
            "the asking address is no member\n".to_owned(),
        ),
    }
}

/// The most bytes of a record, and how long they may take to come.
const RECORD: u64 = 256 << 10;
const RECORD_WITHIN: Duration = Duration::from_secs(2);

fn query(request: &Request<()>, name: &str) -> Option<String> {
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

//! The registry port's HTTP surface: turns a request into a pull, and its result into a response.
//!
//! Errors become responses in one place ([`error_response`]). [`larder_shared`] decides which methods, paths, digests
//! and ranges are valid, and [`crate::pull`] what to do about them.

mod door;
mod guard;
mod response;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use larder_shared::{
    ErrorCode, OciError, RangeHeader, RegistryName, Route, range::Spec, route::Address,
};

pub(crate) use self::response::{error_response, ok_response};
use self::{
    door::Unknown,
    guard::{harmless, range},
    response::unknown,
};
use crate::{
    access::Sessions,
    body::Body,
    events::{self, Begun},
    metrics::{Metrics, Outcome, Tier, UpstreamLabel},
    pull::{self, Caller, Pull, PullError, Pulled},
    record::RequestRecord,
    sys::{self, Regions},
    telemetry,
    trace::Trace,
    upstream::Failure,
};

/// Response headers leave within this time, whatever the sources do (promise P12): containerd would wait for ever.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// Answers requests on the registry port.
#[derive(Debug)]
pub struct Surface {
    pull: Arc<Pull>,
    metrics: Arc<Metrics>,
    /// larder's own tokens.
    sessions: Sessions,
    /// This node's name.
    own_name: String,
    /// When the last request came.
    asked: Mutex<Option<Instant>>,
}

impl Surface {
    pub fn new(pull: Arc<Pull>, metrics: Arc<Metrics>) -> Self {
        Self {
            pull,
            metrics,
            sessions: Sessions::new(),
            own_name: sys::net::own_name(),
            asked: Mutex::default(),
        }
    }

    /// For how long no request has arrived.
    pub fn idle(&self) -> Duration {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.map_or(Duration::MAX, |at| at.elapsed())
    }

    /// Answers one request of a connection. `regions` are the files that this connection sends.
    pub async fn answer<B>(&self, request: Request<B>, regions: &Regions) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let text = |name: HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok());
        let agent = text(header::USER_AGENT).unwrap_or_default().to_owned();
        let head = request.method() == Method::HEAD;
        let trace = Trace::of(request.headers());
        let mut record = RequestRecord::new(
            Arc::clone(&self.metrics),
            trace.clone(),
            request.method().clone(),
            request.uri().path().to_owned(),
            agent.clone(),
        );
        if let Err(refusal) = self.browsers(&request) {
            let error = OciError::new(ErrorCode::Denied, refusal.why());
            let error = PullError::Request(error);
            let mut response = error_response(&error, ErrorCode::NameUnknown, &agent, &mut record);
            trace.answer(response.headers_mut());
            return harmless(response.map(|body| body.serve(regions, record)));
        }
        if let Some(rest) = token_path(&request) {
            let mut response = self.token(request, &rest).await;
            trace.answer(response.headers_mut());
            record.answered(response.status(), Tier::None, Outcome::Hit);
            return harmless(response.map(|body| body.serve(regions, record)));
        }
        let (outcome, ns) = match Self::read(&request) {
            Ok(mut route) => {
                route.forget_ns(|ns| self.is_own(ns, request.headers()));
                let ns = route
                    .address()
                    .and_then(Address::ns)
                    .map(ToString::to_string);
                // The registry that the request means, also with prefix addressing.
                let mut traced = None;
                if let Some((registry, repository)) =
                    route.address().and_then(|a| self.pull.resolve(a).ok())
                {
                    let label = UpstreamLabel::of(&self.pull.config.load(), registry.as_str());
                    record.upstream(registry.as_str(), label);
                    traced = self.pull.events.begin(|| Begun {
                        request_id: trace.request_id(),
                        method: request.method().as_str(),
                        path: request.uri().path(),
                        registry: registry.to_string(),
                        repository: repository.to_string(),
                        agent: &agent,
                    });
                    record.traced(traced.clone());
                }
                let unknown = unknown(&route);
                let range = range(request.headers(), &route);
                if let (Route::Blob(_, digest), RangeHeader::Bytes(specs), false) =
                    (&route, &range, head)
                    && let [Spec::Open(start)] = specs[..]
                {
                    record.piece(*digest, start);
                }
                let pulled = self.pulled(request.headers(), route, range, head, &trace);
                let answered = events::scope(traced, pulled).await;
                (
                    answered.map_err(|(error, shown)| (error, unknown, shown)),
                    ns,
                )
            }
            Err(error) => {
                let error = PullError::Request(error);
                (Err((error, ErrorCode::NameUnknown, Shown::Nothing)), None)
            }
        };
        let mut response = match outcome {
            Ok(pulled) => ok_response(pulled, &mut record),
            Err((error, unknown, shown)) => {
                let mut response = error_response(&error, unknown, &agent, &mut record);
                if let Some(challenge) = challenge_for(&error, shown, request.headers()) {
                    response
                        .headers_mut()
                        .insert(header::WWW_AUTHENTICATE, challenge);
                }
                response
            }
        };
        let headers = response.headers_mut();
        trace.answer(headers);
        // Optional in the specification, but some old clients look for it.
        headers.insert(
            HeaderName::from_static("docker-distribution-api-version"),
            HeaderValue::from_static("registry/2.0"),
        );
        if let Some(value) = ns.and_then(|ns| HeaderValue::try_from(ns).ok()) {
            headers.insert(HeaderName::from_static("oci-namespace"), value);
        }
        harmless(
            response.map(|body| if head { Body::empty() } else { body }.serve(regions, record)),
        )
    }

    /// Whether a client at this address may speak to the registry port (promise P19).
    pub fn welcomes(&self, peer: IpAddr) -> bool {
        let config = self.pull.config.load();
        let mut rules = config.registry.allow_from.iter();
        rules.any(|rule| rule.allows(peer, sys::net::is_own))
    }

    /// The answer to every request from an address that is not allowed. It names the address, and so does the log:
    /// networks rewrite source addresses, and the operator has to know which one to allow.
    pub fn turn_away<B>(
        &self,
        request: &Request<B>,
        peer: Option<IpAddr>,
        regions: &Regions,
    ) -> Response<Body> {
        let peer = self.turned_away(peer);
        let mut record = RequestRecord::new(
            Arc::clone(&self.metrics),
            Trace::of(request.headers()),
            request.method().clone(),
            request.uri().path().to_owned(),
            String::new(),
        );
        let why = format!(
            "only this node may pull here, and {peer} is not it; [registry] allow_from says who else may"
        );
        let error = PullError::Request(OciError::new(ErrorCode::Denied, why));
        let response = error_response(&error, ErrorCode::NameUnknown, "", &mut record);
        harmless(response.map(|body| body.serve(regions, record)))
    }

    /// Logs and counts that an address is turned away. Returns its name.
    pub fn turned_away(&self, peer: Option<IpAddr>) -> String {
        let peer = peer.map_or_else(|| "the client".to_owned(), |peer| peer.to_string());
        if let Some(due) = telemetry::due("an address is turned away", &peer) {
            tracing::warn!(
                peer,
                unsaid = due.unsaid,
                "an address that is not this node's was turned away; if it is, name it in [registry] allow_from"
            );
        }
        self.metrics.clients.turned_away.inc();
        peer
    }

    /// Identifies the caller, then pulls, within the time that a client may wait for headers.
    async fn pulled(
        &self,
        headers: &HeaderMap,
        route: Route,
        range: RangeHeader,
        head: bool,
        trace: &Trace,
    ) -> Result<Pulled, (PullError, Shown)> {
        let (caller, shown) = match self.caller(headers, trace).await {
            Ok(caller) if caller.presented => (caller, Shown::Something),
            Ok(caller) => (caller, Shown::Nothing),
            // Public content needs no token, so the request goes on as an anonymous one.
            Err(Unknown::Expired) => (Caller::anonymous(trace.clone()), Shown::Expired),
            Err(Unknown::Malformed) => {
                let why = "the Authorization is neither HTTP Basic nor a Bearer token";
                return Err((
                    OciError::new(ErrorCode::Unauthorized, why).into(),
                    Shown::Something,
                ));
            }
        };
        // podman and skopeo show a credential only if `/v2/` challenges them.
        if matches!(
            (&route, shown),
            (Route::Ping, Shown::Nothing | Shown::Expired)
        ) {
            let why = "get a token first; an anonymous one is enough for public images";
            return Err((OciError::new(ErrorCode::Unauthorized, why).into(), shown));
        }
        let request = pull::Request {
            route,
            head,
            range,
            caller,
            by_client: true,
        };
        match tokio::time::timeout(HEADERS_WITHIN, self.pull.serve_chunk(request)).await {
            Ok(done) => done.map_err(|error| (error, shown)),
            Err(_) => Err((late(), shown)),
        }
    }

    /// Whether `ns` names this larder as the client reached it; then the path says which registry is meant. A runtime
    /// whose `hosts.toml` covers every registry sends `ns=localhost:7420` for images with that name, whether a
    /// rewriting policy or a person wrote it.
    fn is_own(&self, ns: &RegistryName, headers: &HeaderMap) -> bool {
        let port_of = |name: &str| name.rsplit_once(':').map(|(_, port)| port.to_owned());
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let config = self.pull.config.load();
        is_loopback(ns)
            && port_of(ns.as_str()).is_some_and(|port| host.and_then(port_of) == Some(port))
            && !config.upstreams.contains_key(ns.as_str())
    }

    fn read<B>(request: &Request<B>) -> Result<Route, OciError> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(OciError::new(
                ErrorCode::Unsupported,
                "this is a read-only cache: push to the registry itself",
            ));
        }
        Route::parse(request.uri().path(), request.uri().query())?.ok_or_else(|| {
            OciError::new(
                ErrorCode::NameUnknown,
                "not a path of the registry API; it begins with /v2/",
            )
        })
    }
}

/// Whether a registry's name is a loopback address.
fn is_loopback(registry: &RegistryName) -> bool {
    let name = registry.as_str();
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The credential that a request has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shown {
    Nothing,
    Something,
    /// A larder token that is not known any more.
    Expired,
}

/// The path after `/token`, if the request is for the token endpoint.
fn token_path<B>(request: &Request<B>) -> Option<String> {
    let rest = request.uri().path().strip_prefix("/token")?;
    let ours = rest.is_empty() || rest.starts_with('/');
    (ours && matches!(*request.method(), Method::GET | Method::POST)).then(|| rest.to_owned())
}

/// The challenge that goes with a refusal.
fn challenge_for(error: &PullError, shown: Shown, headers: &HeaderMap) -> Option<HeaderValue> {
    let told = match shown {
        Shown::Nothing => None,
        Shown::Something => Some("insufficient_scope"),
        Shown::Expired => Some("invalid_token"),
    };
    match error {
        PullError::Unauthorized {
            registry,
            repository,
            ..
        } => door::challenge(
            headers,
            Some((registry.as_str(), repository.as_str())),
            told,
        ),
        PullError::Request(error) if error.code == ErrorCode::Unauthorized => {
            door::challenge(headers, None, told)
        }
        _ => None,
    }
}

fn late() -> PullError {
    PullError::Upstream(Failure::Unreachable {
        at: "the registry".to_owned(),
        why: format!("no answer within {} s", HEADERS_WITHIN.as_secs()),
    })
}

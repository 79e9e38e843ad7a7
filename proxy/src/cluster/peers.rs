//! Asking a member: one request, its answer, and a body that is watched.
//!
//! A root that waits for upstream is slow but well. A root that is stopped, cut off or dead is not. So where nothing
//! comes for a moment, the member is asked over another connection whether it is alive, and is given up at once if it
//! is not.

mod alive;
mod body;
mod connections;
mod flow;
mod request;
mod voice;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

pub use self::{
    body::PeerBody,
    flow::Flow,
    request::{PeerFailure, PeerRequest, PeerSubject},
};
use self::{
    connections::Pool,
    voice::{SLOWEST, Voice},
};
use super::{members::Members, tls::Rotating};
use crate::{
    client,
    coalesce::Coalesce,
    config::Config,
    metrics::{Metrics, PeerAsked, PeerAskedOutcome, RoleLabel},
};

/// Says in which role a member is asked. A request without this header is not a member's.
pub const ROLE: HeaderName = HeaderName::from_static("larder-role");

/// Says that the bytes of an answer do not lie on the member's disk: it passes them on from their source as they come.
pub const PASSED_ON: HeaderName = HeaderName::from_static("larder-passed-on");

/// Where a member says that it is alive, and how many milliseconds ago something came for members that ask it in a role
/// ([`IN_ROLE`]).
pub const ALIVE: &str = "/larder/v1/alive";
pub const IN_ROLE: &str = "role";

/// An answer has to begin within this time. `SOON`: a client waits for its headers, and the member holds the bytes.
/// `FETCHED`: the client waits, and the member has to fetch them, for which it has as long as the client itself.
/// `LATER`: the client has its headers.
pub const SOON: Duration = Duration::from_millis(2500);
pub const FETCHED: Duration = Duration::from_secs(5);
pub const LATER: Duration = Duration::from_mins(1);

/// Asks members.
#[derive(Debug)]
pub struct Peers {
    config: Arc<ArcSwap<Config>>,
    members: Arc<Members>,
    metrics: Arc<Metrics>,
    tls: Rotating,
    pool: Mutex<Option<Pool>>,
    /// When each member was last heard, on whatever connection.
    heard: Mutex<HashMap<SocketAddr, Arc<Voice>>>,
    /// Members that are being asked whether they are alive.
    signs: Coalesce<SocketAddr, bool>,
    /// When something last came to this node.
    pub flow: Arc<Flow>,
}

impl Peers {
    /// Asks no member yet. `members` learns from every answer whether a member is well.
    pub fn new(config: Arc<ArcSwap<Config>>, members: Arc<Members>, metrics: Arc<Metrics>) -> Self {
        Self {
            config,
            members,
            metrics,
            tls: Rotating::default(),
            pool: Mutex::default(),
            heard: Mutex::default(),
            signs: Coalesce::default(),
            flow: Arc::default(),
        }
    }

    fn voice(&self, member: SocketAddr) -> Arc<Voice> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(heard.entry(member).or_default())
    }

    /// Asks `member`. The answer is a 200 or 206 with a watched body.
    pub async fn ask(
        self: &Arc<Self>,
        member: SocketAddr,
        ask: &PeerRequest,
    ) -> Result<PeerAnswer, PeerFailure> {
        if self.voice(member).is_due() {
            let peers = Arc::clone(self);
            tokio::spawn(async move {
                // The first call may have to make the connection, so its time says nothing about the next.
                let warm = peers.call(member, Method::GET, ALIVE, Bytes::new(), SLOWEST);
                if warm.await.is_ok() {
                    peers.sign(member, SLOWEST).await;
                }
            });
        }
        // Boxed: it would otherwise make up most of a stream's size.
        let asked = Box::pin(self.ask_uncounted(member, ask)).await;
        let outcome = match &asked {
            Ok(_) => PeerAskedOutcome::Answered,
            Err(PeerFailure::Miss(_)) => PeerAskedOutcome::Miss,
            Err(PeerFailure::Refused(_)) => PeerAskedOutcome::Refused,
            Err(PeerFailure::Unable(..)) => PeerAskedOutcome::Unable,
            Err(PeerFailure::Gone(..)) => PeerAskedOutcome::Gone,
        };
        let labels = PeerAsked {
            role: RoleLabel(ask.role),
            outcome,
        };
        self.metrics.peers.asked.get_or_create(&labels).inc();
        match &asked {
            Err(PeerFailure::Gone(..)) => self.members.failed(member),
            _ => self.members.answered(member),
        }
        if let Err(failure) = &asked {
            tracing::debug!(%failure, role = ask.role.as_str(), "a request to a member failed");
        }
        asked
    }

    async fn ask_uncounted(
        self: &Arc<Self>,
        member: SocketAddr,
        ask: &PeerRequest,
    ) -> Result<PeerAnswer, PeerFailure> {
        let (kind, digest) = match &ask.subject {
            PeerSubject::Blob(digest, _) | PeerSubject::Has(digest) => ("blobs", digest),
            PeerSubject::Manifest(digest) => ("manifests", digest),
        };
        let path = format!("/v2/{}/{kind}/{digest}?ns={}", ask.repository, ask.registry);
        let method = match ask.subject {
            PeerSubject::Has(_) => Method::HEAD,
            _ => Method::GET,
        };
        let mut request = Request::builder()
            .method(method)
            .header(ROLE, ask.role.as_str());
        if let PeerSubject::Blob(_, range) = &ask.subject {
            let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            request = request.header(header::RANGE, range);
        }
        if let Some(lent) = &ask.lent {
            request = request.header(header::AUTHORIZATION, lent.clone());
        }
        if let Some(headers) = request.headers_mut() {
            ask.trace.pass_on(headers, true);
        }
        let slots = self.voice(member).slots(digest, ask.role);
        let slot = tokio::time::timeout(ask.within, slots.acquire_owned()).await;
        let Ok(Ok(slot)) = slot else {
            return Err(PeerFailure::Unable(member, StatusCode::TOO_MANY_REQUESTS));
        };
        let response = self
            .watched(
                member,
                ask.within,
                self.send(member, request, &path, Bytes::new()),
            )
            .await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(PeerAnswer {
                partial: response.status() == StatusCode::PARTIAL_CONTENT,
                body: PeerBody::new(Arc::clone(self), member, ask.role, Some(slot), response),
            }),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(PeerFailure::Miss(member))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PeerFailure::Refused(member)),
            status => Err(PeerFailure::Unable(member, status)),
        }
    }

    /// Sends a request that wants a short answer, and collects it.
    pub async fn call(
        &self,
        member: SocketAddr,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, PeerFailure> {
        self.call_up_to(member, method, path, body, within, 1 << 20)
            .await
    }

    /// The same for an answer of at most `longest` bytes.
    pub async fn call_up_to(
        &self,
        member: SocketAddr,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
        longest: u64,
    ) -> Result<Bytes, PeerFailure> {
        let request = Request::builder().method(method);
        let call = async {
            let response = self.send(member, request, path, body).await?;
            let response = given(member, response)?;
            client::collect(response.into_body(), longest, within)
                .await
                .map_err(|why| PeerFailure::Gone(member, why))
        };
        match tokio::time::timeout(within, call).await {
            Ok(done) => done,
            Err(_) => Err(PeerFailure::Gone(
                member,
                format!("nothing within {within:?}"),
            )),
        }
    }

    /// Asks for something that is too large for memory: the body comes as it is read. The head of the answer has to
    /// come within this time.
    pub async fn open(
        &self,
        member: SocketAddr,
        path: &str,
        within: Duration,
    ) -> Result<Incoming, PeerFailure> {
        let asked = self.send(member, Request::builder(), path, Bytes::new());
        match tokio::time::timeout(within, asked).await {
            Ok(response) => Ok(given(member, response?)?.into_body()),
            Err(_) => Err(PeerFailure::Gone(
                member,
                format!("nothing within {within:?}"),
            )),
        }
    }

    /// Greets a member, and returns the version that it tells, for people.
    pub async fn greet(
        &self,
        member: SocketAddr,
        within: Duration,
    ) -> Result<Option<String>, PeerFailure> {
        let greeting = self.send(member, Request::builder(), ALIVE, Bytes::new());
        let Ok(greeted) = tokio::time::timeout(within, greeting).await else {
            return Err(PeerFailure::Gone(
                member,
                format!("nothing within {within:?}"),
            ));
        };
        let response = greeted?;
        if matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            return Err(PeerFailure::Refused(member));
        }
        let server = response.headers().get(header::SERVER);
        let told = server.and_then(|value| value.to_str().ok()?.strip_prefix("larder/"));
        Ok(told.map(ToOwned::to_owned))
    }
}

/// A member's answer, if it gives something.
fn given(
    member: SocketAddr,
    response: Response<Incoming>,
) -> Result<Response<Incoming>, PeerFailure> {
    match response.status() {
        status if status.is_success() => Ok(response),
        StatusCode::NOT_FOUND => Err(PeerFailure::Miss(member)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PeerFailure::Refused(member)),
        status => Err(PeerFailure::Unable(member, status)),
    }
}

/// A member's answer.
#[derive(Debug)]
pub struct PeerAnswer {
    pub partial: bool,
    pub body: PeerBody,
}

#[cfg(test)]
mod tests;

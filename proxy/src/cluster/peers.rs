//! Asking a member: one request, its answer, and a body that is watched.
//!
//! A root that waits for upstream is slow and well; one that is stopped, cut off or dead is neither. Where nothing comes
//! for a moment the member is asked whether it is alive, over another connection, and is given up at once if it is not.

mod body;
mod flow;
mod voice;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use larder_shared::{Digest, Range, RegistryName, Repository, Role};

use self::{
    body::PATIENCE,
    voice::{QUIET, SLOWEST, Voice},
};
pub use self::{body::PeerBody, flow::Flow};
use super::{
    members::Members,
    tls::{MemberTls, Rotating},
};
use crate::{
    client::{self, Direct},
    coalesce::Coalesce,
    config::{Config, PeerTls},
    metrics::{Metrics, PeerAsked, PeerAskedOutcome, RoleLabel},
    trace::Trace,
};

/// Says in which role a member is asked. Without it a request is none of a member's.
pub const ROLE: HeaderName = HeaderName::from_static("larder-role");

/// Says that the bytes of an answer do not lie on the member's disk: it brings them from somebody else as they come.
pub const PASSED_ON: HeaderName = HeaderName::from_static("larder-passed-on");

/// Where a member says that it is alive, and with a role ([`IN_ROLE`]) when something last came that is waited for there.
pub const ALIVE: &str = "/larder/v1/alive";
pub const IN_ROLE: &str = "role";

/// A connection to a member must stand within this time.
const CONNECT: Duration = Duration::from_millis(250);

/// A node whose own clock is so late has no time for anything.
const LATE: Duration = Duration::from_millis(50);

/// An answer has to begin within this time where a client waits for its headers: of what the member holds, and of what it
/// has to fetch, as long as the client itself waits; and where the client has them.
pub const SOON: Duration = Duration::from_millis(2500);
pub const FETCHED: Duration = Duration::from_secs(5);
pub const LATER: Duration = Duration::from_mins(1);

/// What is asked of a member.
#[derive(Clone, Debug)]
pub enum PeerSubject {
    /// A range of a blob.
    Blob(Digest, Range),
    /// A whole manifest.
    Manifest(Digest),
    /// Whether it has this blob, and how long it is.
    Has(Digest),
}

/// One question to a member.
#[derive(Clone, Debug)]
pub struct PeerRequest {
    pub registry: RegistryName,
    pub repository: Repository,
    pub subject: PeerSubject,
    pub role: Role,
    /// How long it may take until an answer begins, as long as the member lives: little where a client waits for its
    /// headers, more where it reads already and upstream may be slow for everybody.
    pub within: Duration,
    /// The `Authorization` that is lent: a Bearer token for pulling from this repository, never another secret.
    pub lent: Option<HeaderValue>,
    /// Whose request it is for.
    pub trace: Trace,
}

/// Why a member gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerFailure {
    /// It does not have it, or upstream does not.
    #[error("{0} does not have it")]
    Miss(SocketAddr),
    /// Upstream refused the token that was lent, or the member refuses this node.
    #[error("{0} refused")]
    Refused(SocketAddr),
    /// It cannot get it now.
    #[error("{0} cannot get it: {1}")]
    Unable(SocketAddr, StatusCode),
    /// It is not there, or not well.
    #[error("{0} does not answer: {1}")]
    Gone(SocketAddr, String),
}

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
    /// What comes to this node.
    pub flow: Arc<Flow>,
}

/// The connections that were made with the certificates of a generation; `None` is plain.
#[derive(Clone, Debug)]
struct Pool {
    generation: Option<u64>,
    scheme: &'static str,
    bulk: Direct,
    /// Signs of life have connections of their own: none has to be made for one.
    signs: Direct,
}

impl Peers {
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

    /// This node's side of mutual TLS; `None` where it is off.
    pub async fn tls(&self) -> Result<Option<MemberTls>, PeerFailure> {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let config = self.config.load_full();
        // What was taken out of the configuration is not the same as TLS that was turned off.
        let Some(peers) = &config.cluster.peers else {
            return Err(PeerFailure::Gone(
                nobody,
                "no peers are configured".to_owned(),
            ));
        };
        let current = self.tls.current(&peers.tls).await;
        current.map_err(|error| PeerFailure::Gone(nobody, error.to_string()))
    }

    /// The same as far as it is known without waiting for a file.
    pub fn known_tls(&self) -> Option<MemberTls> {
        let config = self.config.load();
        match &config.cluster.peers.as_ref()?.tls {
            PeerTls::Mutual(files) => self.tls.known(files),
            PeerTls::Off => None,
        }
    }

    /// Whether a token may be lent: only where nobody can listen.
    pub fn may_lend(&self) -> bool {
        let config = self.config.load();
        let peers = config.cluster.peers.as_ref();
        peers.is_some_and(|peers| peers.tls != PeerTls::Off)
    }

    async fn pool(&self) -> Result<Pool, PeerFailure> {
        let tls = self.tls().await?;
        let generation = tls.as_ref().map(|tls| tls.generation);
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pool.as_ref().filter(|pool| pool.generation == generation) {
            return Ok(pool.clone());
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.map(|tls| (tls.client, tls.name));
        let made = Pool {
            generation,
            scheme,
            bulk: Direct::new(tls.clone(), CONNECT),
            signs: Direct::new(tls, CONNECT),
        };
        *pool = Some(made.clone());
        Ok(made)
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
                // The first has to make the connection, perhaps, which says nothing about the next.
                let warm = peers.call(member, Method::GET, ALIVE, Bytes::new(), SLOWEST);
                if warm.await.is_ok() {
                    peers.sign(member, SLOWEST).await;
                }
            });
        }
        // Boxed: most of what a stream would be made of otherwise.
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
            tracing::debug!(%failure, role = ask.role.as_str(), "a member was asked in vain");
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
        let request = Request::builder().method(method);
        let call = async {
            let response = self.send(member, request, path, body).await?;
            match response.status() {
                status if status.is_success() => {}
                StatusCode::NOT_FOUND => return Err(PeerFailure::Miss(member)),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(PeerFailure::Refused(member));
                }
                status => return Err(PeerFailure::Unable(member, status)),
            }
            client::collect(response.into_body(), 1 << 20, within)
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

    /// Says hello to a member, and gives the version that it tells, for people.
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

    async fn send(
        &self,
        member: SocketAddr,
        request: http::request::Builder,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, PeerFailure> {
        let pool = self.pool().await?;
        let gone = |why: String| PeerFailure::Gone(member, why);
        let mut request = request
            .uri(format!("{}://{member}{path}", pool.scheme))
            .body(Full::new(body))
            .map_err(|error| gone(error.to_string()))?;
        // The configuration may have changed since it was looked at whether a token may be lent.
        if pool.generation.is_none() {
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        let direct = if path.starts_with(ALIVE) {
            pool.signs
        } else {
            pool.bulk
        };
        let sent = direct.send(request).await;
        if sent.is_ok() {
            self.voice(member).note();
        }
        sent.map_err(|error| gone(error.to_string()))
    }

    /// Waits for the head of an answer for as long as the member lives.
    async fn watched<T>(
        self: &Arc<Self>,
        member: SocketAddr,
        within: Duration,
        answer: impl Future<Output = Result<T, PeerFailure>>,
    ) -> Result<T, PeerFailure> {
        let begun = Instant::now();
        tokio::pin!(answer);
        loop {
            if let Ok(answered) = tokio::time::timeout(QUIET, &mut answer).await {
                return answered;
            }
            if begun.elapsed() >= within {
                // It lives: what is late is its source.
                return Err(PeerFailure::Unable(member, StatusCode::GATEWAY_TIMEOUT));
            }
            tokio::select! {
                answered = &mut answer => return answered,
                lives = self.lives(member) => if !lives {
                    return Err(PeerFailure::Gone(member, "it shows no sign of life".to_owned()));
                },
            }
        }
    }

    /// Whether a member has just been heard, or says that it is alive.
    pub async fn lives(self: &Arc<Self>, member: SocketAddr) -> bool {
        let voice = self.voice(member);
        if !voice.is_quiet() {
            return true;
        }
        let (peers, patience) = (Arc::clone(self), voice.patience());
        let sign = async move { peers.sign(member, patience).await };
        self.signs.run(member, sign).await.unwrap_or(false)
    }

    /// Whether a member receives something that its answer in `role` waits for.
    async fn receives(&self, member: SocketAddr, role: Role) -> bool {
        let path = format!("{ALIVE}?{IN_ROLE}={}", role.as_str());
        let told = self
            .call(member, Method::GET, &path, Bytes::new(), SLOWEST)
            .await;
        let since = told.ok().and_then(|told| {
            let text = std::str::from_utf8(&told).ok()?.trim().parse().ok()?;
            Some(Duration::from_millis(text))
        });
        since.is_some_and(|since| since < PATIENCE)
    }

    /// Asks for a sign of life and takes note of how long it takes.
    async fn sign(&self, member: SocketAddr, patience: Duration) -> bool {
        let begun = Instant::now();
        let alive = self.call(member, Method::GET, ALIVE, Bytes::new(), patience);
        let lives = alive.await.is_ok();
        self.voice(member).note_sign(lives.then(|| begun.elapsed()));
        // Where this node comes late itself, the silence says nothing about the member.
        lives || begun.elapsed() > patience + LATE
    }
}

/// A member's answer.
#[derive(Debug)]
pub struct PeerAnswer {
    pub partial: bool,
    pub body: PeerBody,
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_token_never_leaves_in_plain_text() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = listener.local_addr().unwrap();
        let text = format!(
            "[cluster]\nlisten = \"127.7.0.1:7422\"\ntls = \"off\"\nmembers = [\"{member}\"]"
        );
        let config = Config::parse(&text, std::path::Path::new("t")).unwrap();
        let config = Arc::new(ArcSwap::from_pointee(config));
        let members = Arc::new(Members::new(Arc::clone(&config)));
        let peers = Arc::new(Peers::new(config, members, Arc::new(Metrics::new())));
        let heard = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                head.truncate(length);
                let head = String::from_utf8(head).unwrap().to_lowercase();
                if head.contains("/blobs/") {
                    return head;
                }
            }
        });
        let ask = PeerRequest {
            registry: "registry.test".parse().unwrap(),
            repository: "team/app".parse().unwrap(),
            subject: PeerSubject::Has(Digest::sha256(b"x")),
            role: Role::Root,
            within: SOON,
            lent: Some(HeaderValue::from_static("Bearer lent")),
            trace: Trace::none(),
        };
        assert!(matches!(
            peers.ask(member, &ask).await,
            Err(PeerFailure::Miss(_))
        ));
        let heard = heard.await.unwrap();
        assert!(
            heard.contains("larder-role") && !heard.contains("lent"),
            "{heard}"
        );
    }

    /// A relay whose root brings nothing for long, but receives something, tells its own readers to wait.
    #[tokio::test]
    async fn a_root_that_receives_is_waited_for_and_vouches_for_its_relay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = listener.local_addr().unwrap();
        let text = format!(
            "[cluster]\nlisten = \"127.7.0.2:7422\"\ntls = \"off\"\nmembers = [\"{member}\"]"
        );
        let config = Config::parse(&text, std::path::Path::new("t")).unwrap();
        let config = Arc::new(ArcSwap::from_pointee(config));
        let members = Arc::new(Members::new(Arc::clone(&config)));
        let peers = Arc::new(Peers::new(config, members, Arc::new(Metrics::new())));
        let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
        let (bring, brought) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asked, mut brought) = (asked.clone(), brought.clone());
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut head).await {
                        let text = String::from_utf8_lossy(&head[..length]).into_owned();
                        let answer: &[u8] = if text.contains("/blobs/") {
                            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\n\r\n"
                        } else {
                            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n10"
                        };
                        stream.write_all(answer).await.unwrap();
                        if text.contains("/blobs/") {
                            brought.wait_for(|bring| *bring).await.unwrap();
                            stream.write_all(b"here").await.unwrap();
                        } else if text.contains("?role=") {
                            asked.send(text).unwrap();
                        }
                    }
                });
            }
        });
        let ask = PeerRequest {
            registry: "registry.test".parse().unwrap(),
            repository: "team/app".parse().unwrap(),
            subject: PeerSubject::Blob(Digest::sha256(b"x"), Range::new(0, 4)),
            role: Role::Root,
            within: SOON,
            lent: None,
            trace: Trace::none(),
        };
        let mut body = peers.ask(member, &ask).await.unwrap().body;
        let begun = Instant::now();
        let waits = async {
            // The second question is the one after which a member without any receipts is given up.
            for _ in 0..3 {
                let question = questions.recv().await.unwrap();
                assert!(
                    question.contains("/larder/v1/alive?role=root "),
                    "{question}"
                );
            }
            assert!(begun.elapsed() >= PATIENCE);
            let flow = &peers.flow;
            assert!(
                flow.since(Role::Relay)
                    .is_some_and(|since| since < PATIENCE)
            );
            assert_eq!(
                flow.since(Role::Root),
                None,
                "nothing came from its own sources"
            );
            bring.send(true).unwrap();
        };
        let (data, ()) = tokio::join!(body.next(), waits);
        assert_eq!(data.unwrap().unwrap(), "here");
    }
}

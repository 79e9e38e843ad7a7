//! Asking a member: one request, its answer, and a body that is watched.
//!
//! A root that waits for upstream is slow and well; one that is stopped, cut off or dead is neither. Where nothing comes
//! for a moment the member is asked whether it is alive, over another connection, and is given up at once if it is not.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use larder_shared::{Digest, Range, RegistryName, Repository, Role};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    members::Members,
    tls::{MemberTls, Rotating},
};
use crate::{
    client::{self, Direct},
    coalesce::Coalesce,
    config::{Config, PeerTls},
    metrics::{Metrics, PeerAsked, PeerAskedOutcome, RoleLabel},
};

/// Says in which role a member is asked. Without it a request is none of a member's.
pub const ROLE: HeaderName = HeaderName::from_static("larder-role");

/// Where a member says that it is alive.
pub const ALIVE: &str = "/larder/v1/alive";

/// A connection to a member must stand within this time.
const CONNECT: Duration = Duration::from_millis(250);

/// Nothing for this long, and the member is asked whether it is alive; it has this long to say so. Together they are how
/// long a reader waits for a member that is gone.
const QUIET: Duration = Duration::from_millis(70);
const SIGN_OF_LIFE: Duration = Duration::from_millis(90);

/// How long a member has while nothing is known of how long its signs take: a connection has to be made first.
const UNMEASURED: Duration = Duration::from_millis(301);

/// How long signs take is measured this often while a member is asked for something.
const MEASURED: Duration = Duration::from_millis(500);

/// Requests to one member at once. More would each cost a handshake and bring nothing.
const AT_ONCE: usize = 4;

/// A member that is heard so soon after it was taken for dead was only slow.
const FALSE_ALARM: Duration = Duration::from_millis(400);

/// However slow a member has been, it has no longer than this.
const SLOWEST: Duration = Duration::from_secs(1);

/// A node whose own clock is so late has no time for anything.
const LATE: Duration = Duration::from_millis(50);

/// A member that lives but brings nothing for this long is asked whether anything comes to itself. If so it is waited for,
/// up to a limit: where upstream is slow everybody waits for it, and asking another member would only have the same bytes
/// sent twice.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(2);

/// The head of an answer may take this long, a little less than what a client is told at the latest.
const HEAD: Duration = Duration::from_millis(4500);

/// What is asked of a member.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A range of a blob.
    Blob(Digest, Range),
    /// A whole manifest.
    Manifest(Digest),
    /// Whether it has this blob, and how long it is.
    Has(Digest),
}

/// One question to a member.
#[derive(Clone, Debug)]
pub struct Ask {
    pub registry: RegistryName,
    pub repository: Repository,
    pub subject: Subject,
    pub role: Role,
    /// The `Authorization` that is lent: a Bearer token for pulling from this repository, never another secret.
    pub lent: Option<HeaderValue>,
}

/// Why a member gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
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

/// How a member sounds.
#[derive(Debug)]
struct Voice {
    /// When it was last heard, in milliseconds since the start.
    heard: AtomicU64,
    /// How long it has to show a sign of life, in milliseconds: more where signs take long, be it that the network is full
    /// or that the member is, and for one that was taken for dead and was not.
    patience: AtomicU64,
    /// When it was last asked for a sign.
    asked: AtomicU64,
    /// When it was last taken for dead; 0 if it was heard since.
    missed: AtomicU64,
    /// One for each request that may be under way.
    slots: Arc<Semaphore>,
}

impl Default for Voice {
    fn default() -> Self {
        Self {
            heard: AtomicU64::new(0),
            patience: AtomicU64::new(UNMEASURED.as_millis() as u64),
            asked: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Voice {
    fn note(&self) {
        let now = now();
        self.heard.store(now, Ordering::Relaxed);
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 && now.saturating_sub(missed) < FALSE_ALARM.as_millis() as u64 {
            self.set_patience(2 * self.patience.load(Ordering::Relaxed));
        }
    }

    fn is_quiet(&self) -> bool {
        now().saturating_sub(self.heard.load(Ordering::Relaxed)) >= QUIET.as_millis() as u64
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }

    fn set_patience(&self, millis: u64) {
        let (least, most) = (SIGN_OF_LIFE.as_millis() as u64, SLOWEST.as_millis() as u64);
        self.patience
            .store(millis.clamp(least, most), Ordering::Relaxed);
    }

    /// Whether it is time to measure how long a sign takes.
    fn is_due(&self) -> bool {
        let (now, asked) = (now(), self.asked.load(Ordering::Relaxed));
        let due = asked == 0 || now.saturating_sub(asked) >= MEASURED.as_millis() as u64;
        if due {
            self.asked.store(now.max(1), Ordering::Relaxed);
        }
        due
    }

    /// A sign came after `took`, or did not come in time. Patience rises at once and sinks by and by.
    fn note_sign(&self, took: Option<Duration>) {
        let before = self.patience.load(Ordering::Relaxed);
        match took {
            Some(took) => {
                let first = before == UNMEASURED.as_millis() as u64;
                let sinking = if first { 0 } else { before * 3 / 4 };
                self.set_patience((4 * took.as_millis() as u64).max(sinking));
            }
            None => self.missed.store(now().max(1), Ordering::Relaxed),
        }
    }
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
        }
    }

    /// This node's side of mutual TLS; `None` where it is off.
    pub fn tls(&self) -> Result<Option<MemberTls>, Failure> {
        let config = self.config.load();
        let off = PeerTls::Off;
        let tls = config
            .cluster
            .peers
            .as_ref()
            .map_or(&off, |peers| &peers.tls);
        self.tls.current(tls).map_err(|error| {
            let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
            Failure::Gone(nobody, error.to_string())
        })
    }

    /// Whether a token may be lent: only where nobody can listen.
    pub fn may_lend(&self) -> bool {
        let config = self.config.load();
        let peers = config.cluster.peers.as_ref();
        peers.is_some_and(|peers| peers.tls != PeerTls::Off)
    }

    fn pool(&self) -> Result<Pool, Failure> {
        let tls = self.tls()?;
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
    pub async fn ask(self: &Arc<Self>, member: SocketAddr, ask: &Ask) -> Result<Answer, Failure> {
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
        let asked = self.ask_uncounted(member, ask).await;
        let outcome = match &asked {
            Ok(_) => PeerAskedOutcome::Answered,
            Err(Failure::Miss(_)) => PeerAskedOutcome::Miss,
            Err(Failure::Refused(_)) => PeerAskedOutcome::Refused,
            Err(Failure::Unable(..)) => PeerAskedOutcome::Unable,
            Err(Failure::Gone(..)) => PeerAskedOutcome::Gone,
        };
        let labels = PeerAsked {
            role: RoleLabel(ask.role),
            outcome,
        };
        self.metrics.peers.asked.get_or_create(&labels).inc();
        match &asked {
            Err(Failure::Gone(..)) => self.members.failed(member),
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
        ask: &Ask,
    ) -> Result<Answer, Failure> {
        let (kind, digest) = match &ask.subject {
            Subject::Blob(digest, _) | Subject::Has(digest) => ("blobs", digest),
            Subject::Manifest(digest) => ("manifests", digest),
        };
        let path = format!("/v2/{}/{kind}/{digest}?ns={}", ask.repository, ask.registry);
        let method = match ask.subject {
            Subject::Has(_) => Method::HEAD,
            _ => Method::GET,
        };
        let mut request = Request::builder()
            .method(method)
            .header(ROLE, ask.role.as_str());
        if let Subject::Blob(_, range) = &ask.subject {
            let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            request = request.header(header::RANGE, range);
        }
        if let Some(lent) = &ask.lent {
            request = request.header(header::AUTHORIZATION, lent.clone());
        }
        let slot = Arc::clone(&self.voice(member).slots)
            .acquire_owned()
            .await
            .ok();
        let response = self
            .watched(member, self.send(member, request, &path, Bytes::new()))
            .await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Answer {
                partial: response.status() == StatusCode::PARTIAL_CONTENT,
                body: Body {
                    voice: self.voice(member),
                    _slot: slot,
                    peers: Arc::clone(self),
                    member,
                    incoming: response.into_parts(),
                    heard: Instant::now(),
                    brought: Instant::now(),
                    patience: PATIENCE,
                },
            }),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::Miss(member)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Refused(member)),
            status => Err(Failure::Unable(member, status)),
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
    ) -> Result<Bytes, Failure> {
        let request = Request::builder().method(method);
        let call = async {
            let response = self.send(member, request, path, body).await?;
            match response.status() {
                status if status.is_success() => {}
                StatusCode::NOT_FOUND => return Err(Failure::Miss(member)),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(Failure::Refused(member));
                }
                status => return Err(Failure::Unable(member, status)),
            }
            client::collect(response.into_body(), 1 << 20, within)
                .await
                .map_err(|why| Failure::Gone(member, why))
        };
        match tokio::time::timeout(within, call).await {
            Ok(done) => done,
            Err(_) => Err(Failure::Gone(member, format!("nothing within {within:?}"))),
        }
    }

    async fn send(
        &self,
        member: SocketAddr,
        request: http::request::Builder,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let pool = self.pool()?;
        let gone = |why: String| Failure::Gone(member, why);
        let request = request
            .uri(format!("{}://{member}{path}", pool.scheme))
            .body(Full::new(body))
            .map_err(|error| gone(error.to_string()))?;
        let direct = if path == ALIVE { pool.signs } else { pool.bulk };
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
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        tokio::pin!(answer);
        loop {
            if let Ok(answered) = tokio::time::timeout(QUIET, &mut answer).await {
                return answered;
            }
            if begun.elapsed() >= HEAD {
                return Err(Failure::Gone(member, "no answer in time".to_owned()));
            }
            tokio::select! {
                answered = &mut answer => return answered,
                lives = self.lives(member) => if !lives {
                    return Err(Failure::Gone(member, "it shows no sign of life".to_owned()));
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

    /// Whether a member receives something from its own sources: who waits for it waits for these.
    async fn receives(&self, member: SocketAddr) -> bool {
        let told = self
            .call(member, Method::GET, ALIVE, Bytes::new(), SLOWEST)
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

/// Milliseconds since the first look at this clock.
fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// A member's answer.
#[derive(Debug)]
pub struct Answer {
    pub partial: bool,
    pub body: Body,
}

/// The body of a member's answer, watched.
#[derive(Debug)]
pub struct Body {
    peers: Arc<Peers>,
    member: SocketAddr,
    voice: Arc<Voice>,
    _slot: Option<OwnedSemaphorePermit>,
    incoming: (http::response::Parts, Incoming),
    /// When it last brought something, or said that it is alive.
    heard: Instant,
    /// When it last brought something.
    brought: Instant,
    /// How long it may bring nothing until it is asked whether it receives anything itself.
    patience: Duration,
}

impl Body {
    pub fn headers(&self) -> &http::HeaderMap {
        &self.incoming.0.headers
    }

    pub fn member(&self) -> SocketAddr {
        self.member
    }

    /// The next bytes; `None` at the end. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            let until = self.heard + QUIET;
            let frame = tokio::time::timeout_at(until.into(), self.incoming.1.frame()).await;
            match frame {
                Ok(Some(Ok(frame))) => {
                    self.note_frame();
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Ok(Some(Err(error))) => return Some(Err(self.gone(error.to_string()))),
                Ok(None) => return None,
                Err(_) => {
                    let waited = self.brought.elapsed();
                    if waited >= LONGEST
                        || (waited >= self.patience && !self.peers.receives(self.member).await)
                    {
                        let why = format!("it brought nothing for {} s", waited.as_secs());
                        return Some(Err(self.gone(why)));
                    }
                    if waited >= self.patience {
                        self.patience = waited + PATIENCE;
                    }
                    let lives = tokio::select! {
                        frame = self.incoming.1.frame() => match frame {
                            Some(Ok(frame)) => {
                                self.note_frame();
                                match frame.into_data() {
                                    Ok(data) => return Some(Ok(data)),
                                    Err(_) => true,
                                }
                            }
                            Some(Err(error)) => return Some(Err(self.gone(error.to_string()))),
                            None => return None,
                        },
                        lives = self.peers.lives(self.member) => lives,
                    };
                    if !lives {
                        return Some(Err(self.gone("it shows no sign of life".to_owned())));
                    }
                    self.heard = Instant::now();
                }
            }
        }
    }

    fn note_frame(&mut self) {
        self.heard = Instant::now();
        self.brought = self.heard;
        self.patience = PATIENCE;
        self.voice.note();
    }

    fn gone(&self, why: String) -> Failure {
        self.peers.members.failed(self.member);
        Failure::Gone(self.member, why)
    }

    /// All of it, if it has at most `limit` bytes and comes within `within`.
    pub async fn collect(self, limit: u64, within: Duration) -> Result<Bytes, Failure> {
        let member = self.member;
        client::collect(self.incoming.1, limit, within)
            .await
            .map_err(|why| Failure::Gone(member, why))
    }
}

//! One HTTP client for everything that larder asks others.
//!
//! Owns connections: TLS and its roots, proxies from the environment, pools, connect and first-byte time limits, and
//! which addresses may be connected to. It sends one request to one place and returns what came; redirects, tokens and
//! the choice of a place are the caller's.

mod connect;
mod no_proxy;
mod reach;
mod tls;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, Uri, header::PROXY_AUTHORIZATION};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};

use rustls::pki_types::ServerName;

use crate::{coalesce::Coalesce, sys::Calls};

pub use reach::{Forbidden, Reach, Whose};
pub use tls::{ClientFiles, Tls, TlsError};

/// A connection must stand within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Idle connections kept per host, and for how long.
const IDLE_PER_HOST: usize = 32;
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// An upstream's certificates are looked at this often.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);

/// So many are read at once, and waited for so long: a disk that hangs must not stop other upstreams.
const READ_AT_ONCE: usize = 8;
const READ_WITHIN: Duration = Duration::from_secs(1);

/// Headers of an answer. Fronts add many; hyper's own bound is 100, which other clients do not have.
const MAX_HEADERS: usize = 1000;

type Pool = legacy::Client<hyper_rustls::HttpsConnector<connect::Connector>, Full<Bytes>>;

/// How a place is reached: what addresses are allowed, and whom TLS believes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    pub reach: Reach,
    pub tls: Tls,
}

/// Why no response came. Holds no URL: a URL may be signed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("{0}")]
    Forbidden(Forbidden),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Failed(String),
    /// A connection stood and ended, or brought something that is no answer.
    #[error("{0}")]
    Broken(String),
}

/// The pools, one per route, made when first needed.
#[derive(Debug)]
pub struct Client {
    roots: tls::Roots,
    proxy: Arc<connect::ProxyRules>,
    pools: Mutex<HashMap<Route, CachedPool>>,
    /// Certificates are read on threads of their own, once at a time for each route.
    reading: Coalesce<Route, Result<Pool, String>>,
    calls: Calls,
}

/// A pool, and what it believes.
#[derive(Debug)]
struct CachedPool {
    pool: Pool,
    /// The files as they were read, and when they were last looked at.
    files: Option<(Vec<tls::Stamp>, Instant)>,
}

impl Client {
    /// Reads the system's certificate roots and the proxy variables of the environment (blocking).
    pub fn new() -> Self {
        Self {
            roots: tls::Roots::load(),
            proxy: Arc::new(connect::ProxyRules::from_env()),
            pools: Mutex::default(),
            reading: Coalesce::default(),
            calls: Calls::new(READ_AT_ONCE, READ_WITHIN),
        }
    }

    /// Sends `request` and waits up to `first_byte` for the head of the response.
    pub async fn send(
        self: &Arc<Self>,
        route: &Route,
        mut request: Request<Full<Bytes>>,
        first_byte: Duration,
    ) -> Result<Response<Incoming>, SendError> {
        let pool = self.pool(route).await?;
        if let Some(shown) = self.proxy.authorization(request.uri()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, shown);
        }
        match tokio::time::timeout(first_byte, exchange(&pool, request)).await {
            Ok(answered) => answered,
            Err(_) => Err(SendError::Timeout(first_byte)),
        }
    }

    /// The pool of a route. Certificates that have changed get a new one, so that what was taken out of a CA bundle is
    /// believed no more; files that cannot be used, or that do not come, leave the pool before in force.
    async fn pool(self: &Arc<Self>, route: &Route) -> Result<Pool, SendError> {
        let before = {
            let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            let before = pools.get_mut(route);
            if let Some(kept) = before {
                let due = kept
                    .files
                    .as_mut()
                    .filter(|(_, at)| at.elapsed() >= LOOK_AT_FILES);
                let Some((_, looked)) = due else {
                    return Ok(kept.pool.clone());
                };
                *looked = Instant::now();
                Some(kept.pool.clone())
            } else {
                None
            }
        };
        if route.tls.files().is_empty() {
            return self.made(route, None);
        }
        // Boxed: it is rare, and every request carries room for it.
        Box::pin(self.looked_at(route, before)).await
    }

    /// The pool of a route whose certificates are due to be looked at; `before`: the one in force.
    async fn looked_at(
        self: &Arc<Self>,
        route: &Route,
        before: Option<Pool>,
    ) -> Result<Pool, SendError> {
        let (client, key, calls) = (Arc::clone(self), route.clone(), self.calls.clone());
        let reading = async move {
            let read = calls.to_its_end(move || client.look(&key)).await;
            read.unwrap_or_else(|_| Err("it was lost".to_owned()))
        };
        let read = self
            .calls
            .wait(self.reading.run(route.clone(), reading))
            .await;
        match (read, before) {
            (Ok(Some(Ok(pool))), _) | (_, Some(pool)) => Ok(pool),
            (Ok(Some(Err(why))), None) => Err(SendError::Failed(why)),
            (_, None) => {
                let files = route.tls.files();
                let files: Vec<_> = files
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                Err(SendError::Failed(format!(
                    "{} cannot be read in time",
                    files.join(", ")
                )))
            }
        }
    }

    /// Looks at the certificates of a route, and reads them if they are not those that were read (blocking).
    fn look(&self, route: &Route) -> Result<Pool, String> {
        let files = route.tls.files();
        // Before the file is read: what is written to it meanwhile is seen at the next look.
        let found = Some(tls::Stamp::of_all(&files));
        let known = {
            let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = pools.get(route);
            kept.map(|kept| {
                (
                    kept.pool.clone(),
                    kept.files.as_ref().map(|(read, _)| read.clone()),
                )
            })
        };
        if let Some((pool, read)) = &known
            && *read == found
        {
            return Ok(pool.clone());
        }
        match (self.made(route, found), known) {
            (Ok(pool), known) => {
                if known.is_some() {
                    tracing::info!(
                        ?files,
                        "an upstream's certificates were read again and are in force"
                    );
                }
                Ok(pool)
            }
            (Err(error), Some((pool, _))) => {
                tracing::error!(%error, "an upstream's new certificates cannot be used, those before stay in force; look at the file that the error names");
                Ok(pool)
            }
            (Err(error), None) => Err(error.to_string()),
        }
    }

    /// A new pool for a route, which is in force from now on.
    fn made(&self, route: &Route, files: Option<Vec<tls::Stamp>>) -> Result<Pool, SendError> {
        let pool = self.connected(route)?;
        let kept = CachedPool {
            pool: pool.clone(),
            files: files.map(|read| (read, Instant::now())),
        };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.insert(route.clone(), kept);
        Ok(pool)
    }

    /// A new pool, which believes what the files say now.
    fn connected(&self, route: &Route) -> Result<Pool, SendError> {
        let connector =
            connect::Connector::new(route.reach, Arc::clone(&self.proxy), CONNECT_TIMEOUT);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(self.roots.client_config(&route.tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(pooled(connector))
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

/// Connections to places that the configuration lists: never by a proxy, any address.
#[derive(Clone, Debug)]
pub struct Direct(Pool);

impl Direct {
    /// Plain, or by TLS with this configuration and the name that the other side must have.
    pub fn new(
        tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
        connect_timeout: Duration,
    ) -> Self {
        let connector = connect::Connector::new(
            Reach::Named,
            Arc::new(connect::ProxyRules::none()),
            connect_timeout,
        );
        let (config, name) = match tls {
            Some((config, name)) => (rustls::ClientConfig::clone(&config), Some(name)),
            None => (nobody(), None),
        };
        let builder = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http();
        let connector = match name {
            Some(name) => builder
                .with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
                .enable_http1()
                .wrap_connector(connector),
            None => builder.enable_http1().wrap_connector(connector),
        };
        Self(pooled(connector))
    }

    /// Sends `request` and waits for the head of the response for as long as the caller does.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        exchange(&self.0, request).await
    }
}

/// Sends a request. A server may close an idle connection in the very moment in which it is used again, which says nothing
/// about the server: what can be asked twice is asked once more where the connection ended without an answer.
async fn exchange(
    pool: &Pool,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, SendError> {
    let bodiless = request.body().size_hint().exact() == Some(0);
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let again = (bodiless && safe).then(|| request.clone());
    let answered = match (pool.request(request).await, again) {
        (Err(error), Some(again)) if was_closed(&error) => pool.request(again).await,
        (answered, _) => answered,
    };
    answered.map_err(|error| explain(&error))
}

/// Whether a connection that stood has ended before an answer.
fn was_closed(error: &legacy::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    if error.is_connect() {
        return false;
    }
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let incomplete = error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_incomplete_message);
        let reset = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| matches!(error.kind(), ConnectionReset | BrokenPipe));
        if incomplete || reset {
            return true;
        }
        cause = error.source();
    }
    false
}

/// TLS that believes nobody, where there is none.
fn nobody() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

fn pooled(connector: hyper_rustls::HttpsConnector<connect::Connector>) -> Pool {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .http1_max_headers(MAX_HEADERS)
        .build(connector)
}

/// The innermost cause says what happened; the outer ones say "client error (Connect)".
fn explain(error: &legacy::Error) -> SendError {
    let mut cause: &dyn std::error::Error = error;
    loop {
        if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            return SendError::Forbidden(*forbidden);
        }
        // An io::Error shows its inner error as itself, not as its source.
        if let Some(inner) = cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            cause = inner;
        } else if let Some(source) = cause.source() {
            cause = source;
        } else {
            let why = cause.to_string();
            return if error.is_connect() {
                SendError::Failed(why)
            } else {
                SendError::Broken(why)
            };
        }
    }
}

/// Why a body was not collected.
#[derive(Debug, thiserror::Error)]
pub enum Uncollected {
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    #[error("{0}")]
    Broken(String),
    #[error("the answer was not complete within {0:?}")]
    Late(Duration),
}

/// Collects a body of at most `limit` bytes within `within`.
pub async fn collect_bounded(
    body: Incoming,
    limit: u64,
    within: Duration,
) -> Result<Bytes, Uncollected> {
    let collected =
        tokio::time::timeout(within, Limited::new(body, limit as usize).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Uncollected::TooLong(limit)),
        Ok(Err(error)) => Err(Uncollected::Broken(error.to_string())),
        Err(_) => Err(Uncollected::Late(within)),
    }
}

/// The same, with the reason as text.
pub async fn collect(body: Incoming, limit: u64, within: Duration) -> Result<Bytes, String> {
    let collected = collect_bounded(body, limit, within).await;
    collected.map_err(|why| why.to_string())
}

/// Whether two URLs lead to the same place: scheme, host and port, each in its one spelling.
pub fn same_place(a: &Uri, b: &Uri) -> bool {
    let place = |uri: &Uri| {
        let host = larder_shared::name::canonical_host(uri.host()?)?;
        let scheme = uri.scheme_str()?;
        let port = uri.port_u16().or(match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        });
        Some((scheme.to_owned(), host, port?))
    };
    let a = place(a);
    a.is_some() && a == place(b)
}

/// Whether a URL's host is this node's loopback, as it is written.
pub fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().and_then(larder_shared::name::canonical_host);
    host.is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || bare
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    })
}

/// The first `limit` bytes of a body, or what has come of them within that time.
pub async fn prefix(mut body: Incoming, limit: usize, within: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    let gather = async {
        while bytes.len() < limit
            && let Some(Ok(frame)) = body.frame().await
        {
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    };
    // What is late is looked at without its rest.
    let _ = tokio::time::timeout(within, gather).await;
    bytes.truncate(limit);
    bytes
}

/// `scheme://host:port` of a URL, for messages: never the path or the query.
pub fn origin(uri: &Uri) -> String {
    format!(
        "{}://{}",
        uri.scheme_str().unwrap_or("http"),
        uri.authority().map_or("", http::uri::Authority::as_str)
    )
}

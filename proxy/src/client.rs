//! One HTTP client for everything that larder asks others.
//!
//! Owns connections: TLS and its roots, proxies from the environment, pools, connect and first-byte time limits, and
//! which addresses may be connected to. It sends one request to one place and returns what came; redirects, tokens and
//! the choice of a place are the caller's.

mod collect;
mod connect;
mod direct;
mod exchange;
mod no_proxy;
mod origin;
mod reach;
mod retry_after;
mod tls;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, header::PROXY_AUTHORIZATION};
use http_body_util::Full;
use hyper::body::Incoming;

use self::exchange::{Pool, exchange, pooled};
use crate::{coalesce::Coalesce, sys::Calls};

pub use self::{
    collect::{Uncollected, collect, collect_bounded, prefix},
    direct::{Direct, trusting},
    exchange::SendError,
    origin::{is_loopback, origin, same_place},
    reach::{Forbidden, Reach, Whose},
    retry_after::retry_after,
    tls::{ClientFiles, Tls, TlsError},
};

/// A connection must stand within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// An upstream's certificates are looked at this often.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);

/// So many are read at once, and waited for so long: a disk that hangs must not stop other upstreams.
const READ_AT_ONCE: usize = 8;
const READ_WITHIN: Duration = Duration::from_secs(1);

/// How a place is reached: what addresses are allowed, and which servers TLS trusts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    pub reach: Reach,
    pub tls: Tls,
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

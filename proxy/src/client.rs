//! The HTTP client for everything that larder asks of others.
//!
//! Owns connections: TLS and its roots, proxies from the environment, pools, time limits of connecting and of the first
//! byte, and which addresses may be connected to. It sends one request to one place and returns the response.
//! Redirects, tokens and the choice of a place are the caller's.

mod arrivals;
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
    arrivals::Arrivals,
    collect::{Uncollected, collect, collect_bounded, prefix},
    direct::{Direct, trusting},
    exchange::SendError,
    origin::{is_loopback, origin, same_place},
    reach::{Forbidden, Reach, Whose},
    retry_after::retry_after,
    tls::{ClientFiles, Tls, TlsError},
};

/// The time limit of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection to a registry is kept while it is not used.
const IDLE: Duration = Duration::from_secs(30);

/// How often an upstream's certificate files are checked for changes.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);

/// How many routes' certificates are read at once, and for how long: a hanging disk must not stop other upstreams.
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
    /// Certificates are read on separate threads, by one task per route.
    reading: Coalesce<Route, Result<Pool, String>>,
    calls: Calls,
}

/// A pool, and the certificate files that it trusts.
#[derive(Debug)]
struct CachedPool {
    pool: Pool,
    /// The files as they were read, and when they were last checked.
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

    /// The pool of a route. If the certificates have changed, a new pool is made, so that a certificate removed from a
    /// CA bundle is no longer trusted. If the files cannot be used or read in time, the old pool stays in force.
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
        // Boxed, since this is rare and every request's future would reserve room for it.
        Box::pin(self.looked_at(route, before)).await
    }

    /// The pool of a route whose certificate files are due for a check. `before`: the pool in force.
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

    /// Checks the certificate files of a route, and reads them if they have changed (blocking).
    fn look(&self, route: &Route) -> Result<Pool, String> {
        let files = route.tls.files();
        // Taken before the files are read, so that the next check sees a write that happens meanwhile.
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

    /// Makes a new pool for a route and puts it in force.
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

    /// A new pool that trusts what the files contain now.
    fn connected(&self, route: &Route) -> Result<Pool, SendError> {
        let connector =
            connect::Connector::new(route.reach, Arc::clone(&self.proxy), CONNECT_TIMEOUT);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(self.roots.client_config(&route.tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(pooled(connector, IDLE))
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

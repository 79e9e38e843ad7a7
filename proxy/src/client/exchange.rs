//! One request over a pool of connections, and why it got no response.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};

use super::{connect::Connector, reach::Forbidden, tls::TlsError};

/// Idle connections kept per host.
const IDLE_PER_HOST: usize = 32;

/// The most bytes of one read, and of the head of a response. A connection that waits in the pool keeps a buffer of that size.
const READ_AT_ONCE: usize = 128 << 10;

/// The most headers in a response. Some fronts add many. hyper's own bound is 100, which other clients do not have.
const MAX_HEADERS: usize = 1000;

/// Why there is no response. It never holds a URL, since a URL may be signed.
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
    /// The connection stood, but ended or brought something that is no response.
    #[error("{0}")]
    Broken(String),
}

/// Kept connections, to any number of hosts.
pub(super) type Pool = legacy::Client<hyper_rustls::HttpsConnector<Connector>, Full<Bytes>>;

/// A pool whose connections `connector` makes. Those that are not used are kept for `idle`.
pub(super) fn pooled(connector: hyper_rustls::HttpsConnector<Connector>, idle: Duration) -> Pool {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .http1_max_headers(MAX_HEADERS)
        .http1_max_buf_size(READ_AT_ONCE)
        .build(connector)
}

/// Sends a request. A server may close an idle connection just when it is used again, which says nothing about the
/// server. So if the connection ended without an answer, a GET or HEAD is sent once more.
pub(super) async fn exchange(
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

/// Whether an established connection ended before an answer.
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

/// Finds the innermost cause, which says what happened. The outer ones only say "client error (Connect)".
fn explain(error: &legacy::Error) -> SendError {
    let mut cause: &dyn std::error::Error = error;
    loop {
        if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            return SendError::Forbidden(*forbidden);
        }
        // An `io::Error` does not return its inner error as its source.
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

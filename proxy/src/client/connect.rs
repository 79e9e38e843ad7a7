//! The connector: resolves names, checks addresses, and connects directly or through the environment's proxy.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::{
        legacy::connect::{Connected, Connection, HttpConnector, dns::Name, proxy::Tunnel},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
};
use tower::Service;

use super::{arrivals, no_proxy::NoProxy, reach::Reach};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, read once.
pub struct ProxyRules {
    proxies: Matcher,
    direct: NoProxy,
}

impl ProxyRules {
    pub fn from_env() -> Self {
        // The names are read in upper and lower case. An empty variable counts as not set.
        let said = |name: &str| {
            let names = [name.to_owned(), name.to_lowercase()];
            let mut values = names.iter().filter_map(|name| std::env::var(name).ok());
            values.find(|value| !value.is_empty()).unwrap_or_default()
        };
        let proxies = Matcher::builder()
            .all(said("ALL_PROXY"))
            .http(said("HTTP_PROXY"))
            .https(said("HTTPS_PROXY"));
        Self {
            proxies: proxies.build(),
            direct: NoProxy::parse(&said("NO_PROXY")),
        }
    }

    /// No proxy, whatever the environment says.
    pub fn none() -> Self {
        Self {
            proxies: Matcher::builder().build(),
            direct: NoProxy::default(),
        }
    }

    fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        let proxy = self.proxies.intercept(uri)?;
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default);
        (!self.direct.contains(uri.host()?, port)).then_some(proxy)
    }

    /// The `Proxy-Authorization` to send in the request itself. For an https URL, the tunnel to the proxy carries it.
    pub fn authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let mut shown = self.intercept(uri)?.basic_auth()?.clone();
        shown.set_sensitive(true);
        Some(shown)
    }
}

impl std::fmt::Debug for ProxyRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A proxy's URL may hold a password.
        f.write_str("ProxyRules")
    }
}

#[derive(Clone, Debug)]
pub struct Connector {
    direct: HttpConnector<Resolver>,
    /// Connects to the proxy itself, which the operator named.
    to_proxy: HttpConnector<Resolver>,
    reach: Reach,
    proxy: Arc<ProxyRules>,
}

impl Connector {
    pub fn new(reach: Reach, proxy: Arc<ProxyRules>, connect_timeout: Duration) -> Self {
        let http = |reach| {
            let mut http = HttpConnector::new_with_resolver(Resolver { reach });
            http.enforce_http(false);
            http.set_nodelay(true);
            http.set_connect_timeout(Some(connect_timeout));
            http.set_keepalive(Some(Duration::from_secs(30)));
            http
        };
        Self {
            direct: http(reach),
            to_proxy: http(Reach::Named),
            reach,
            proxy,
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Tcp;
    type Error = BoxError;
    type Future = BoxFuture<Tcp>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> BoxFuture<Tcp> {
        let mut this = self.clone();
        Box::pin(async move {
            // An address in the URL does not go through the resolver.
            if let Some(address) = literal(&uri) {
                this.reach.check(address)?;
            }
            let Some(proxy) = this.proxy.intercept(&uri) else {
                let io = this.direct.call(uri).await?;
                return Ok(Tcp::new(io, false));
            };
            if uri.scheme_str() == Some("https") {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), this.to_proxy);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                let io = tunnel.call(uri).await?;
                Ok(Tcp::new(io, false))
            } else {
                let io = this.to_proxy.call(proxy.uri().clone()).await?;
                Ok(Tcp::new(io, true))
            }
        })
    }
}

fn literal(uri: &Uri) -> Option<IpAddr> {
    let host = uri.host()?;
    host.strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host)
        .parse()
        .ok()
}

/// A resolver that returns only addresses within reach. getaddrinfo also reads odd spellings of an address (decimal,
/// octal), so those are judged by their meaning.
#[derive(Clone, Debug)]
pub struct Resolver {
    reach: Reach,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.reach;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (allowed, refused): (Vec<_>, Vec<_>) = found
                .map(|a| (a, reach.check(a.ip())))
                .partition(|(_, verdict)| verdict.is_ok());
            match (
                allowed.is_empty(),
                refused.into_iter().find_map(|(_, verdict)| verdict.err()),
            ) {
                (true, Some(forbidden)) => Err(forbidden.into()),
                _ => Ok(allowed
                    .into_iter()
                    .map(|(a, _)| a)
                    .collect::<Vec<_>>()
                    .into_iter()),
            }
        })
    }
}

/// A TCP connection to the place itself, or to a proxy that expects the whole URL in the request line.
pub struct Tcp {
    io: TokioIo<TcpStream>,
    proxied: bool,
    /// By this a fill's stream says when the reader is woken.
    waking: arrivals::Connection,
    /// Bytes that have come and were not taken yet. TLS takes 4 KiB at a time, which would be a system call each.
    ahead: Bytes,
}

/// A reader that takes less than this at a time is given the bytes of one larger read.
const SMALL_READ: usize = 8 << 10;
const READ_AHEAD: usize = 64 << 10;

impl Tcp {
    fn new(io: TokioIo<TcpStream>, proxied: bool) -> Self {
        Self {
            waking: arrivals::Connection::new(io.inner().as_raw_fd()),
            io,
            proxied,
            ahead: Bytes::new(),
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.waking.end();
    }
}

impl Connection for Tcp {
    fn connected(&self) -> Connected {
        let connected = self.io.connected().proxy(self.proxied);
        connected.extra(self.waking.clone())
    }
}

impl Read for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.ahead.is_empty() {
            if buf.remaining() >= SMALL_READ {
                return Pin::new(&mut self.io).poll_read(cx, buf);
            }
            // A buffer is made only where there is something to read.
            ready!(self.io.inner().poll_read_ready(cx))?;
            let mut bytes = BytesMut::zeroed(READ_AHEAD);
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(self.io.inner_mut()).poll_read(cx, &mut read))?;
            let came = read.filled().len();
            bytes.truncate(came);
            self.ahead = bytes.freeze();
        }
        let taken = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl Write for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

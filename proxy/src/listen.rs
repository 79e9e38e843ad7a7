//! Accept loops: the registry port, the peer port, the telemetry port, the admin socket.
//!
//! Owns connections: how many there may be, how long a request's head may take, and their end in a drain. What a
//! request means is the surfaces' business.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::{
    admin::Admin,
    body::Body,
    drain::Watch,
    peers::PeerSurface,
    registry::Surface,
    sys::{FileSocket, Regions},
    telemetry,
    visitor::Arrival,
};

/// Connections to the registry port at once. A runtime uses a few dozen.
const MAX_CONNECTIONS: usize = 2048;

/// A request's head must be complete within this time; also how long an idle connection is kept.
const HEAD_WITHIN: Duration = Duration::from_mins(1);

/// Bytes of a request's body that are read and thrown away, and for how long at the most.
const UNWANTED: usize = 4 << 20;
const UNWANTED_WITHIN: Duration = Duration::from_secs(1);

/// Serves the registry port until the drain; then lets the requests in flight finish.
pub async fn registry(listener: TcpListener, surface: Arc<Surface>, watch: Watch) {
    bounded(
        listener,
        "registry",
        MAX_CONNECTIONS,
        watch,
        |stream, watch| {
            let surface = Arc::clone(&surface);
            async move { registry_connection(stream, &surface, watch).await }
        },
    )
    .await;
}

/// Accepts at most `limit` connections to a port at once; more are turned away.
async fn bounded<F>(
    listener: TcpListener,
    port: &'static str,
    limit: usize,
    watch: Watch,
    serve: impl Fn(TcpStream, Watch) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limit));
    accept(watch.clone(), listener, |stream| {
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            if let Some(due) = telemetry::due("too many connections", port) {
                tracing::warn!(
                    port,
                    limit,
                    unsaid = due.unsaid,
                    "too many connections, one is turned away; look for who opens them"
                );
            }
            return;
        };
        let _ = stream.set_nodelay(true);
        let serving = serve(stream, watch.clone());
        tokio::spawn(async move {
            let _slot = slot;
            serving.await;
        });
    })
    .await;
}

async fn registry_connection(stream: TcpStream, surface: &Surface, mut watch: Watch) {
    let peer = stream.peer_addr().ok().map(|peer| peer.ip());
    let welcome = peer.is_some_and(|peer| surface.welcomes(peer));
    let regions = Regions::default();
    let service = service_fn(|request: Request<Incoming>| {
        let regions = &regions;
        async move {
            let (head, mut body) = request.into_parts();
            let request = Request::from_parts(head, &mut body);
            let response = if welcome {
                Box::pin(surface.answer(request, regions)).await
            } else {
                surface.turn_away(&request, peer, regions)
            };
            drain(body).await;
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .writev(true);
    let connection = builder.serve_connection(FileSocket::new(stream, regions.clone()), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = watch.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Reads what a client sends although it is not wanted: one whose connection is closed while it sends is reset, and
/// never sees why it was refused.
async fn drain(mut body: Incoming) {
    let mut left = UNWANTED;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(UNWANTED_WITHIN, reading).await;
}

/// Connections to the peer port at once.
const MAX_PEER_CONNECTIONS: usize = 4096;

/// A TLS handshake must be complete within this time.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Serves the peer port until the drain; then lets the requests in flight finish.
pub async fn peers(listener: TcpListener, surface: Arc<PeerSurface>, watch: Watch) {
    bounded(
        listener,
        "peers",
        MAX_PEER_CONNECTIONS,
        watch,
        |stream, watch| {
            let surface = Arc::clone(&surface);
            async move {
                if let Err(why) = peer_connection(stream, &surface, watch).await {
                    tracing::debug!(why, "a connection to the peer port ended early");
                }
            }
        },
    )
    .await;
}

/// One connection of a member: by mutual TLS, or as it comes where the configuration says so.
async fn peer_connection(
    stream: TcpStream,
    surface: &PeerSurface,
    watch: Watch,
) -> Result<(), String> {
    let tls = surface
        .pull()
        .cluster
        .peers
        .tls()
        .map_err(|e| e.to_string())?;
    let Some(tls) = tls else {
        let regions = Regions::default();
        let io = FileSocket::new(stream, regions.clone());
        return member_requests(io, surface, Some(&regions), watch).await;
    };
    let handshake = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.server)).accept(stream);
    let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            // Whoever just hangs up, as a health check does, has shown nothing to turn away.
            let shown = error.get_ref();
            if shown.is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) {
                surface.turned_away();
            }
            return Err(error.to_string());
        }
        Err(_) => return Err("no handshake in time".to_owned()),
    };
    let shown = stream.get_ref().1.peer_certificates();
    if !tls.is_member(shown.and_then(|chain| chain.first())) {
        surface.turned_away();
        return Err("the certificate is no member's".to_owned());
    }
    member_requests(TokioIo::new(stream), surface, None, watch).await
}

async fn member_requests<I>(
    io: I,
    surface: &PeerSurface,
    regions: Option<&Regions>,
    mut watch: Watch,
) -> Result<(), String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| async move {
        let response = Box::pin(surface.answer(request, regions)).await;
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .writev(regions.is_some())
        .serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = watch.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|error| error.to_string())
}

/// Connections to the telemetry port at once.
const MAX_TELEMETRY_CONNECTIONS: usize = 256;

/// Serves metrics and health until the drain; on `listen` the status page too, for who comes by loopback, which is
/// where a port-forward arrives. On `expose` it is never shown.
pub async fn telemetry(listener: TcpListener, exposed: bool, admin: Arc<Admin>, watch: Watch) {
    bounded(
        listener,
        "telemetry",
        MAX_TELEMETRY_CONNECTIONS,
        watch,
        |stream, watch| {
            let admin = Arc::clone(&admin);
            let arrival = match stream.local_addr() {
                Ok(local) if !exposed => Arrival::at(local.ip()),
                _ => Arrival::Exposed,
            };
            plain_connection(stream, watch, move |request| {
                let admin = Arc::clone(&admin);
                async move { admin.telemetry(&request, arrival).await }
            })
        },
    )
    .await;
}

/// Serves the CLI on the admin socket until the drain.
pub async fn admin(listener: UnixListener, admin: Arc<Admin>, watch: Watch) {
    accept(watch.clone(), listener, |stream| {
        let admin = Arc::clone(&admin);
        tokio::spawn(plain_connection(stream, watch.clone(), move |request| {
            let admin = Arc::clone(&admin);
            async move { admin.answer(&request).await }
        }));
    })
    .await;
}

async fn plain_connection<I, F, R>(io: I, mut watch: Watch, answer: F)
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = watch.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// What connections come from: TCP or a unix socket.
trait Listener {
    type Stream;
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// Accepts until the drain. Errors of accept are the machine's (too many open files): wait a little, go on.
async fn accept<L: Listener>(mut watch: Watch, listener: L, mut serve: impl FnMut(L::Stream)) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.next() => accepted,
            () = watch.stopped() => return,
        };
        match accepted {
            Ok(connection) => serve(connection),
            Err(error) => {
                if let Some(due) = telemetry::due("accept", &error.to_string()) {
                    tracing::warn!(%error, unsaid = due.unsaid, "a connection could not be accepted; look at the process's limits, above all of open files");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

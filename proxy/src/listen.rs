//! Accept loops: the registry port, the telemetry port, the admin socket.
//!
//! Owns connections: how many there may be, how long a request's head may take, and their end in a drain. What a
//! request means is the surfaces' business.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
};

use crate::{
    admin::Admin,
    body::Body,
    drain::Watch,
    registry::Surface,
    sys::{FileSocket, Regions},
};

/// Connections to the registry port at once. A runtime uses a few dozen.
const MAX_CONNECTIONS: usize = 2048;

/// A request's head must be complete within this time; also how long an idle connection is kept.
const HEAD_WITHIN: Duration = Duration::from_secs(60);

/// Serves the registry port until the drain; then lets the requests in flight finish.
pub async fn registry(listener: TcpListener, surface: Arc<Surface>, watch: Watch) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    accept(&mut watch.clone(), || listener.accept(), |(stream, _)| {
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::warn!(limit = MAX_CONNECTIONS, "too many connections on the registry port; one is turned away");
            return;
        };
        let (surface, watch) = (Arc::clone(&surface), watch.clone());
        tokio::spawn(async move {
            let _slot = slot;
            registry_connection(stream, &surface, watch).await;
        });
    })
    .await;
}

async fn registry_connection(stream: TcpStream, surface: &Surface, mut watch: Watch) {
    let _ = stream.set_nodelay(true);
    let regions = Regions::default();
    let service = service_fn(|request: Request<Incoming>| {
        let regions = &regions;
        async move { Ok::<_, Infallible>(surface.answer(request, regions).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).writev(true);
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

/// Serves metrics and health on the telemetry port until the drain.
pub async fn telemetry(listener: TcpListener, admin: Arc<Admin>, watch: Watch) {
    accept(&mut watch.clone(), || listener.accept(), |(stream, _)| {
        let (admin, watch) = (Arc::clone(&admin), watch.clone());
        tokio::spawn(plain_connection(TokioIo::new(stream), watch, async move |request: Request<Incoming>| admin.telemetry(&request)));
    })
    .await;
}

/// Serves the CLI on the admin socket until the drain.
pub async fn admin(listener: UnixListener, admin: Arc<Admin>, watch: Watch) {
    accept(&mut watch.clone(), || listener.accept(), |(stream, _)| {
        let (admin, watch) = (Arc::clone(&admin), watch.clone());
        tokio::spawn(async move {
            let admin = &admin;
            plain_connection(TokioIo::new(stream), watch, async move |request: Request<Incoming>| admin.answer(&request).await).await;
        });
    })
    .await;
}

async fn plain_connection<I, F>(io: I, mut watch: Watch, answer: F)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    F: AsyncFn(Request<Incoming>) -> Response<Body>,
{
    let answer = &answer;
    let service = service_fn(async move |request| Ok::<_, Infallible>(answer(request).await));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(io, service);
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

/// Accepts until the drain. Errors of accept are the machine's (too many open files): wait a little, go on.
async fn accept<T>(watch: &mut Watch, accept: impl AsyncFn() -> io::Result<T>, mut serve: impl FnMut(T)) {
    loop {
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            () = watch.stopped() => return,
        };
        match accepted {
            Ok(connection) => serve(connection),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

//! Accept loops: the registry port, the peer port, the telemetry port, the admin socket.
//!
//! Owns connections: how many there may be, how large a request's head may be and how long it may take, and their end
//! in a drain. The surfaces decide what a request means.

mod converse;
mod slots;

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use self::{
    converse::{converse, http},
    slots::{Slot, Slots},
};
use crate::{
    admin::Admin,
    drain::Watch,
    peers::PeerSurface,
    registry::Surface,
    sys::{FileSocket, Regions},
    telemetry,
    visitor::Arrival,
};

/// Connections to the registry port at once, and how many of them may wait for a request. A runtime uses a few dozen.
const MAX_CONNECTIONS: usize = 2048;
const MAX_WAITING: usize = 512;

/// Connections from addresses that are not welcome have these slots and no others, for this long.
const MAX_STRANGERS: usize = 16;
const STRANGER_WITHIN: Duration = Duration::from_secs(2);

/// Bytes of a request's body that are read and thrown away, and for how long at the most.
const UNWANTED: usize = 4 << 20;
const UNWANTED_WITHIN: Duration = Duration::from_secs(1);

/// The registry port.
#[derive(Debug)]
pub struct RegistryPort {
    surface: Arc<Surface>,
    slots: Arc<Slots>,
    strangers: Arc<Slots>,
}

impl RegistryPort {
    pub fn new(surface: Arc<Surface>) -> Self {
        Self {
            surface,
            slots: Slots::new(MAX_CONNECTIONS, MAX_WAITING),
            strangers: Slots::new(MAX_STRANGERS, MAX_STRANGERS),
        }
    }

    /// Serves until the drain; then lets the requests in flight finish.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, watch: Watch) {
        accept(watch.clone(), listener, |stream| {
            let (port, watch) = (Arc::clone(&self), watch.clone());
            // The check whether an address is this node's takes system calls, for which no other connection is to wait.
            tokio::spawn(async move {
                let peer = stream.peer_addr().ok().map(|peer| peer.ip());
                if peer.is_some_and(|peer| port.surface.welcomes(peer)) {
                    if let Some(slot) = slot(&port.slots, "registry") {
                        port.client(stream, &slot, watch).await;
                    }
                } else if let Some(slot) = port.strangers.take(Instant::now()) {
                    let slot = Arc::new(slot);
                    let turned_away = port.stranger(stream, peer, &slot, watch);
                    let _ = tokio::time::timeout(STRANGER_WITHIN, turned_away).await;
                } else {
                    port.surface.turned_away(peer);
                }
            });
        })
        .await;
    }

    /// How many requests are being answered, bodies included.
    pub fn at_work(&self) -> usize {
        self.slots.at_work()
    }

    async fn client(&self, stream: TcpStream, slot: &Arc<Slot>, watch: Watch) {
        let _ = stream.set_nodelay(true);
        let regions = Regions::default();
        let io = FileSocket::new(stream, regions.clone());
        converse(io, &http(true), slot, watch, |request| {
            let regions = &regions;
            async move {
                let (head, mut body) = request.into_parts();
                let request = Request::from_parts(head, &mut body);
                let response = Box::pin(self.surface.answer(request, regions)).await;
                drain(body).await;
                response
            }
        })
        .await;
    }

    async fn stranger(
        &self,
        stream: TcpStream,
        peer: Option<IpAddr>,
        slot: &Arc<Slot>,
        watch: Watch,
    ) {
        let regions = Regions::default();
        let io = FileSocket::new(stream, regions.clone());
        let mut once = http(true);
        once.keep_alive(false);
        converse(io, &once, slot, watch, |request| {
            let regions = &regions;
            async move {
                let (head, body) = request.into_parts();
                let request = Request::from_parts(head, ());
                let response = self.surface.turn_away(&request, peer, regions);
                drain(body).await;
                response
            }
        })
        .await;
    }
}

/// A slot at a port. Logs a warning if there is none.
fn slot(slots: &Arc<Slots>, port: &'static str) -> Option<Arc<Slot>> {
    let slot = slots.take(Instant::now());
    if slot.is_none()
        && let Some(due) = telemetry::due("too many connections", port)
    {
        tracing::warn!(
            port,
            limit = slots.limit(),
            unsaid = due.unsaid,
            "too many connections, one is turned away; look for who opens them"
        );
    }
    slot.map(Arc::new)
}

/// Reads a body that is not wanted. A client whose connection is closed while it still sends gets a reset, and never
/// sees why it was refused.
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

/// Connections of members to the peer port at once, and besides them connections whose handshake is not over.
const MAX_PEER_CONNECTIONS: usize = 4096;
const MAX_HANDSHAKES: usize = 512;

/// A TLS handshake must be complete within this time.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Serves the peer port until the drain; then lets the requests in flight finish.
pub async fn peers(listener: TcpListener, surface: Arc<PeerSurface>, watch: Watch) {
    let members = Slots::new(MAX_PEER_CONNECTIONS, MAX_PEER_CONNECTIONS);
    // Before the handshake no connection is known to be a member's, and none takes a member's slot.
    let handshakes = Slots::new(MAX_HANDSHAKES, MAX_HANDSHAKES);
    accept_into(
        &handshakes,
        "peers",
        listener,
        watch.clone(),
        |stream, arrived| {
            let _ = stream.set_nodelay(true);
            let (members, watch) = (Arc::clone(&members), watch.clone());
            let surface = Arc::clone(&surface);
            async move {
                if let Err(why) = peer_connection(stream, arrived, &members, &surface, watch).await
                {
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
    arrived: Arc<Slot>,
    members: &Arc<Slots>,
    surface: &PeerSurface,
    watch: Watch,
) -> Result<(), String> {
    let tls = surface
        .pull()
        .cluster
        .peers
        .tls()
        .await
        .map_err(|e| e.to_string())?;
    let Some(tls) = tls else {
        return member(TokioIo::new(stream), arrived, members, surface, watch).await;
    };
    let handshake = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.server)).accept(stream);
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE_WITHIN, handshake) => shaken,
        () = arrived.told_to_go() => return Err("others wait for its slot".to_owned()),
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            // A client that just hangs up, as a health check does, has shown nothing to turn away.
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
    member(TokioIo::new(stream), arrived, members, surface, watch).await
}

/// Serves a member's connection to its end. The connection exchanges the slot with which it `arrived` for a member's
/// slot.
async fn member(
    io: impl Read + Write + Unpin,
    arrived: Arc<Slot>,
    members: &Arc<Slots>,
    surface: &PeerSurface,
    watch: Watch,
) -> Result<(), String> {
    let slot = slot(members, "peers").ok_or_else(|| "too many connections".to_owned())?;
    drop(arrived);
    converse(io, &http(false), &slot, watch, |request| {
        Box::pin(surface.answer(request))
    })
    .await;
    Ok(())
}

/// Connections to a telemetry port at once.
const MAX_TELEMETRY_CONNECTIONS: usize = 256;

/// A client of a telemetry port that takes nothing of its answer for this long is gone.
const SCRAPE_STALLS: Duration = Duration::from_secs(30);

/// Serves metrics and health until the drain; on `listen` the status page too, for clients that come by loopback, which
/// is where a port-forward arrives. On `expose` it is never shown.
pub async fn telemetry(listener: TcpListener, exposed: bool, admin: Arc<Admin>, watch: Watch) {
    let slots = Slots::new(MAX_TELEMETRY_CONNECTIONS, MAX_TELEMETRY_CONNECTIONS);
    accept_into(
        &slots,
        "telemetry",
        listener,
        watch.clone(),
        |stream, slot| {
            let _ = stream.set_nodelay(true);
            let (admin, watch) = (Arc::clone(&admin), watch.clone());
            let arrival = match stream.local_addr() {
                Ok(local) if !exposed => Arrival::at(local.ip()),
                _ => Arrival::Exposed,
            };
            async move {
                let io = FileSocket::new(stream, Regions::default()).stalls_after(SCRAPE_STALLS);
                converse(
                    io,
                    &http(true),
                    &slot,
                    watch,
                    |request: Request<Incoming>| {
                        let admin = &admin;
                        async move { admin.telemetry(&request, arrival).await }
                    },
                )
                .await;
            }
        },
    )
    .await;
}

/// Connections to the admin socket at once.
const MAX_ADMIN_CONNECTIONS: usize = 256;

/// Serves the command line on the admin socket until the drain.
pub async fn admin(listener: UnixListener, admin: Arc<Admin>, watch: Watch) {
    let slots = Slots::new(MAX_ADMIN_CONNECTIONS, MAX_ADMIN_CONNECTIONS);
    accept_into(&slots, "admin", listener, watch.clone(), |stream, slot| {
        let (admin, watch) = (Arc::clone(&admin), watch.clone());
        async move {
            let io = TokioIo::new(stream);
            converse(
                io,
                &http(false),
                &slot,
                watch,
                |request: Request<Incoming>| {
                    let admin = &admin;
                    async move { admin.answer(&request).await }
                },
            )
            .await;
        }
    })
    .await;
}

/// A source of connections: TCP or a unix socket.
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

/// Accepts until the drain. A connection that gets a slot at `port` is served by a task of its own; others are closed.
async fn accept_into<L: Listener, F: Future<Output = ()> + Send + 'static>(
    slots: &Arc<Slots>,
    port: &'static str,
    listener: L,
    watch: Watch,
    serve: impl Fn(L::Stream, Arc<Slot>) -> F,
) {
    accept(watch, listener, |stream| {
        if let Some(slot) = slot(slots, port) {
            tokio::spawn(serve(stream, slot));
        }
    })
    .await;
}

/// Accepts until the drain. An error of accept is the machine's (too many open files): the loop waits a little and goes
/// on.
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

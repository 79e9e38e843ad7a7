//! From a request to an answer: faults, access, content, in this order; and the accept loops.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem};

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::auth::Auth;
use super::connection::{Connection, Delivery};
use super::content::{Algorithm, Content};
use super::fault::{Fault, Phase, Rules, Target};
use super::ledger::Ledger;
use super::reply::Reply;
use super::repositories::Repositories;
use super::request::{Kind, Request};
use super::socket::Socket;
use super::tls::Tls;

/// Small, so that bytes which a leaving client never took are not counted as sent.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;
/// How long to retry a port that was bound a moment ago.
const REBIND: Duration = Duration::from_secs(5);

/// One of the two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Registry,
    Cdn,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) ledger: Ledger,
    pub(super) tls: Option<Tls>,
    pub(super) registry: SocketAddr,
    pub(super) cdn: SocketAddr,
    /// The key of signed queries.
    secret: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) repositories: Repositories,
    pub(super) rules: Rules,
    pub(super) auth: Auth,
}

impl Shared {
    pub(super) fn new(registry: SocketAddr, cdn: SocketAddr, tls: Option<Tls>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = State {
            repositories: Repositories::default(),
            rules: Rules::default(),
            auth: Auth::new(format!("{scheme}://{registry}/token")),
        };
        Self {
            state: Mutex::new(state),
            ledger: Ledger::default(),
            tls,
            registry,
            cdn,
            secret: fastrand::u64(..),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn url(&self, port: Port) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match port {
            Port::Registry => format!("{scheme}://{}", self.registry),
            Port::Cdn => format!("{scheme}://{}", self.cdn),
        }
    }

    async fn answer(&self, request: &Request, port: Port) -> Delivery {
        let before = self.state().rules.strike(request, Phase::Before);
        for fault in before {
            match fault {
                Fault::Delay(time) => tokio::time::sleep(time).await,
                Fault::Hold(gate) => {
                    gate.pass(0).await;
                }
                _ => {}
            }
        }
        let mut state = self.state();
        let instead = state.rules.strike(request, Phase::Instead).pop();
        if let Some(Fault::HangUp) = instead {
            let nothing = Reply::new(500, Content::zeros(0));
            return Delivery::new(nothing, true, vec![Fault::HangUp]);
        }
        if let Some(reply) = instead.and_then(|fault| self.instead(request, fault)) {
            return Delivery::new(reply, request.is_head(), Vec::new());
        }
        let reply = self.usual(&mut state, request, port);
        let mut faults = Vec::new();
        if reply.is_success() {
            faults = state.rules.strike(request, Phase::Headers);
            if !request.is_head() {
                faults.extend(state.rules.strike(request, Phase::Body));
            }
        }
        Delivery::new(reply, request.is_head(), faults)
    }

    /// The answer without faults.
    fn usual(&self, state: &mut State, request: &Request, port: Port) -> Reply {
        let read = matches!(request.method.as_str(), "GET" | "HEAD");
        let refused = match (port, request.kind) {
            (Port::Cdn, Kind::Cdn) => self.check_signature(request),
            (Port::Registry, Kind::Token) => return state.auth.token(request),
            (Port::Registry, Kind::Ping) => state.auth.check_ping(request),
            (Port::Registry, Kind::Manifest | Kind::Blob | Kind::Tags | Kind::Referrers) => {
                state.auth.check(request)
            }
            _ => Some(Reply::error(404, "NOT_FOUND", "no such page")),
        };
        let reply = match refused {
            _ if !read => Reply::error(405, "UNSUPPORTED", "read only"),
            Some(reply) => reply,
            None if request.kind == Kind::Ping => Reply::ok("application/json", "{}"),
            None => state.repositories.answer(request),
        };
        match port {
            Port::Registry => reply.with("Docker-Distribution-Api-Version", "registry/2.0"),
            Port::Cdn => reply,
        }
    }

    fn instead(&self, request: &Request, fault: Fault) -> Option<Reply> {
        let empty = |status| Reply::new(status, Content::zeros(0));
        match fault {
            Fault::Status {
                code,
                headers,
                body,
            } => {
                let mut reply = Reply::new(code, Content::bytes(body));
                reply.headers = headers;
                Some(reply)
            }
            Fault::Redirect { to, status } => {
                let location = match to {
                    Target::Url(url) => url,
                    Target::Cdn => {
                        let path = format!("/cdn/{}/{}", request.repository, request.reference);
                        let signature = self.signature(&path);
                        format!("{}{path}?signature={signature}", self.url(Port::Cdn))
                    }
                };
                // Go's http.Redirect sends this type, and so do most registries.
                Some(
                    empty(status)
                        .with("Location", &location)
                        .with("Content-Type", "text/html; charset=utf-8"),
                )
            }
            Fault::RedirectLoop => Some(empty(307).with("Location", &request.path)),
            _ => None,
        }
    }

    fn signature(&self, path: &str) -> String {
        let signed = format!("{} {path}", self.secret);
        Content::bytes(signed).digest(Algorithm::Sha256)["sha256:".len()..].to_owned()
    }

    /// As in an object store: only a signed query opens a blob, and no other credential may come with it.
    fn check_signature(&self, request: &Request) -> Option<Reply> {
        if request.header("authorization").is_some() {
            let message = "only one way to authenticate is allowed";
            return Some(Reply::error(400, "UNSUPPORTED", message));
        }
        let given = request.parameters("signature").pop();
        let right = given.is_some_and(|given| given == self.signature(&request.path));
        (!right).then(|| Reply::error(403, "DENIED", "wrong signature"))
    }
}

/// Binds a port; 0 is any. A fixed port is retried for a while.
pub(super) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + REBIND;
    loop {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        match socket.bind(address).and_then(|()| socket.listen(1024)) {
            Err(error) if address.port() != 0 && Instant::now() < deadline => drop(error),
            bound => return bound,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The accept loops of both ports; stops when dropped.
#[derive(Debug)]
pub(super) struct Running(Vec<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Running {
    pub(super) fn new(
        home: &Handle,
        shared: &Arc<Shared>,
        registry: TcpListener,
        cdn: TcpListener,
    ) -> Self {
        let ports = [(registry, Port::Registry), (cdn, Port::Cdn)];
        let start = |(listener, port)| {
            let (stop, stopped) = oneshot::channel();
            let accepting = accept(Arc::clone(shared), listener, port, stopped);
            (stop, home.spawn(accepting))
        };
        Self(ports.map(start).into())
    }

    /// Stops, and waits until listeners and connections are closed.
    pub(super) async fn stop(mut self) {
        for (stop, accepting) in mem::take(&mut self.0) {
            drop(stop);
            // It can fail only by a panic, which has been printed.
            let _ = accepting.await;
        }
    }
}

async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    port: Port,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // A connection that breaks is the client's concern, and the client has noticed.
                Ok((tcp, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move { serve(&shared, tcp, port).await.ok() });
                }
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_) = connections.join_next() => {}
            _ = &mut stopped => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve(shared: &Shared, tcp: tokio::net::TcpStream, port: Port) -> io::Result<()> {
    let number = shared.ledger.connected();
    let tls = shared.tls.as_ref().map(|tls| &tls.config);
    let mut connection = Connection::new(Socket::accept(tcp, tls).await?);
    while let Some(request) = connection.request().await? {
        let account = shared.ledger.begin(&request, number);
        let delivery = tokio::select! {
            delivery = shared.answer(&request, port) => delivery,
            () = connection.closed() => return Ok(()),
        };
        let keep_alive = request.header("connection") != Some("close");
        match connection.deliver(delivery, keep_alive, &account).await? {
            Some(kept) => connection = kept,
            None => return Ok(()),
        }
    }
    Ok(())
}

//! The composition root: builds every part in order, binds every port, runs, and shuts down in order.

mod others;
mod reload;
mod stop;
mod succession;
mod tend;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use larder_shared::admin::Listen;
use moka::future::Cache;
use tokio::net::{TcpListener, UnixListener};

use crate::{
    access::{Access, Grants},
    admin::Admin,
    client::Client,
    cluster::{Cluster, records::PeerRecords},
    coalesce::Coalesce,
    config::Config,
    copies::Copies,
    credentials::{Credentials, Settings, Surroundings},
    drain::{Drain, Readiness},
    events::Events,
    fill::Fills,
    identity::Key,
    keep, layers,
    listen::{self, RegistryPort},
    lists::{Lists, Parts},
    memory,
    metrics::Metrics,
    peers::PeerSurface,
    pull::{Chunks, IndexHints, Pull, Served, Starts, Wishes, outage::Outages},
    registry::Surface,
    runtime::Runtime,
    store::{Store, Tenure},
    sys,
    tags::Tags,
    telemetry::Logs,
    upstream::Upstreams,
    warm::Warm,
};

/// The whole shutdown may take this long after SIGTERM. Kubernetes' default grace period is 30 s.
const DRAIN_WITHIN: Duration = Duration::from_secs(25);

/// After SIGTERM, the ports stay open while pulls are under way. A pull is many requests, and a client that does not
/// fall back would fail at the next one. After this long without a request or a body, no pull is under way.
const QUIET: Duration = Duration::from_millis(500);

/// Without a body in flight, requests such as those of a loop keep the ports open for this long at most.
const LINGER: Duration = Duration::from_secs(5);

/// A body in flight keeps the ports open for this long at most, since containerd asks only the first host for the rest
/// of a layer. The rest of the drain's time is for the answers that have begun.
const LINGER_FOR_BODIES: Duration = Duration::from_secs(24);

pub use reload::Reread;
use reload::{Reload, unix_seconds};
use stop::Stop;
use succession::take_over;

/// A larder that is bound but does not run yet.
pub struct Bound {
    registry: TcpListener,
    telemetry: Option<TcpListener>,
    exposed: Option<TcpListener>,
    peers: Option<TcpListener>,
    admin: UnixListener,
    socket: PathBuf,
    listen: Listen,
    pull: Arc<Pull>,
    metrics: Arc<Metrics>,
    logs: Arc<Logs>,
    config: Arc<ArcSwap<Config>>,
    stop: Stop,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// How many repositories' last shared identities are remembered.
const SHARED: u64 = 10_000;

/// Builds every part and binds every port, so that any error is reported before anything runs.
pub async fn build(config: Config, logs: Logs) -> anyhow::Result<Bound> {
    // This comes first. The kernel does not deliver a signal to a pod's first process until it listens for it, so
    // without this the process would be killed at the end of its grace period.
    let stop = Stop::listen()?;
    sys::keep_freed_memory();
    if let Err(error) = sys::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let registry = bind(config.registry.listen, "registry", "--listen ADDR").await?;
    let telemetry = match config.telemetry.listen {
        Some(address) => {
            Some(bind(address, "telemetry", "--telemetry ADDR, or --telemetry off").await?)
        }
        None => None,
    };
    let exposed = match config.telemetry.expose {
        Some(address) => Some(bind(address, "metrics", "--expose ADDR").await?),
        None => None,
    };
    let peers = match &config.cluster.peers {
        Some(peers) => Some(bind(peers.listen, "peers", "[cluster] listen").await?),
        None => None,
    };
    let socket = config.admin.socket.clone();
    let admin = bind_socket(&socket).with_context(|| {
        format!(
            "cannot listen on the admin socket {}; choose another with --socket PATH",
            socket.display()
        )
    })?;
    let store = Store::open(&config.store.path)?;
    let config = Arc::new(ArcSwap::from_pointee(config));
    let metrics = Arc::new(Metrics::new());
    metrics.process.started.set(unix_seconds());
    metrics.process.read_config(true, unix_seconds() as i64);
    let client = Arc::new(tokio::task::spawn_blocking(Client::new).await?);
    let upstreams = Arc::new(Upstreams::new(
        Arc::clone(&config),
        Arc::clone(&client),
        Arc::clone(&metrics),
    ));
    let listen = Listen {
        registry: registry.local_addr()?.to_string(),
        telemetry: match &telemetry {
            Some(listener) => Some(listener.local_addr()?.to_string()),
            None => None,
        },
        exposed: match &exposed {
            Some(listener) => Some(listener.local_addr()?.to_string()),
            None => None,
        },
        peers: match &peers {
            Some(listener) => Some(listener.local_addr()?.to_string()),
            None => None,
        },
    };
    let held = store.tenure() == Tenure::Held;
    let records = store.records();
    let records = if held {
        PeerRecords::new(records)
    } else {
        PeerRecords::waiting(records)
    };
    let cluster = Cluster::new(Arc::clone(&config), Arc::clone(&metrics), &client, records)?;
    upstreams.beside(Arc::new(others::ProbeTurns(Arc::clone(&cluster))));
    // An error in the certificate is reported before anything runs.
    if peers.is_some() {
        cluster.peers.tls().await?;
    }
    let (grants, key) = store.grants();
    let lifetime = {
        let access = &config.load().access;
        access.ttl + access.grace
    };
    let load = if held { Key::load } else { Key::borrow };
    let mut key = load(&key).with_context(|| format!("cannot use the key {}", key.display()))?;
    let shared = config
        .load()
        .cluster
        .peers
        .as_ref()
        .and_then(|peers| peers.key.clone());
    if let Some(path) = shared {
        key.share(&path)
            .with_context(|| format!("cannot use the cluster's key {}", path.display()))?;
    }
    let access = Arc::new(Access::new(
        Arc::clone(&config),
        Arc::clone(&upstreams),
        if held {
            Grants::load(grants, lifetime)
        } else {
            Grants::waiting(grants, lifetime)
        },
        Arc::clone(&metrics),
    ));
    let settings = Settings {
        surroundings: Surroundings::of_process(),
        ..Settings::default()
    };
    let fills = Fills::new(
        Arc::clone(&store),
        Arc::clone(&upstreams),
        Arc::clone(&metrics),
        Arc::clone(&access),
        Arc::clone(&config),
        Arc::clone(&cluster),
    );
    let filling = Arc::clone(&fills);
    let copies = Copies::new(
        Arc::clone(&config),
        Arc::clone(&metrics),
        Arc::clone(&store),
        Arc::clone(&cluster),
        move || filling.are_under_way(),
    );
    let credentials = Arc::new(Credentials::new(settings, &client));
    let key = Arc::new(key);
    let lists = Lists::new(Parts {
        config: Arc::clone(&config),
        upstreams: Arc::clone(&upstreams),
        credentials: Arc::clone(&credentials),
        key: Arc::clone(&key),
        cluster: Arc::clone(&cluster),
        store: Arc::clone(&store),
        metrics: Arc::clone(&metrics),
    });
    let pull = Arc::new(Pull {
        config: Arc::clone(&config),
        access,
        credentials,
        key,
        lists,
        tags: Tags::new(Arc::clone(&upstreams)),
        fills,
        copies,
        cluster,
        metrics: Arc::clone(&metrics),
        checks: Coalesce::default(),
        fetches: Coalesce::default(),
        chunks: Chunks::default(),
        shared: Cache::new(SHARED),
        outages: Outages::default(),
        wishes: Wishes::default(),
        served: Served::default(),
        index_hints: IndexHints::default(),
        starts: Starts::default(),
        events: Events::default(),
        runtime: Arc::new(Runtime::new(Arc::clone(&config), Arc::clone(&store))),
        store,
        upstreams,
    });
    Ok(Bound {
        registry,
        telemetry,
        exposed,
        peers,
        admin,
        socket,
        listen,
        pull,
        metrics,
        logs: Arc::new(logs),
        config,
        stop,
    })
}

async fn bind(address: SocketAddr, what: &str, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for {what}; choose another with {flag}")
    })
}

/// A socket file on which no process answers is a leftover and is replaced; otherwise another larder owns it.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another larder answers there",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Only administrators may see what a node holds.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

impl Bound {
    /// The addresses that were really bound.
    pub fn addresses(&self) -> &Listen {
        &self.listen
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    pub async fn run(mut self, reread: Option<Reread>) -> anyhow::Result<()> {
        let (drain, watch) = Drain::new();
        // Probes and the command line are answered to the end.
        let (end, until_end) = Drain::new();
        let readiness = Readiness::default();
        tokio::spawn(take_over(Arc::clone(&self.pull), watch.clone()));
        let misread = Arc::new(ArcSwapOption::empty());
        let warm = Warm::new(Arc::clone(&self.pull));
        let admin = Arc::new(Admin::new(
            Arc::clone(&self.pull),
            Arc::clone(&warm),
            Arc::clone(&self.metrics),
            Arc::clone(&self.logs),
            self.listen.clone(),
            readiness.clone(),
            Arc::clone(&misread),
        ));
        let surface = Arc::new(Surface::new(
            Arc::clone(&self.pull),
            Arc::clone(&self.metrics),
        ));
        let port = Arc::new(RegistryPort::new(Arc::clone(&surface)));
        tokio::spawn(Arc::clone(&port).serve(self.registry, watch.clone()));
        for (listener, exposed) in [(self.telemetry, false), (self.exposed, true)] {
            if let Some(listener) = listener {
                let (admin, until_end) = (Arc::clone(&admin), until_end.clone());
                tokio::spawn(listen::telemetry(listener, exposed, admin, until_end));
            }
        }
        tokio::spawn(Arc::clone(&admin).keep_history());
        if let Some(listener) = self.peers {
            let (pull, metrics) = (Arc::clone(&self.pull), Arc::clone(&self.metrics));
            let surface = PeerSurface::new(pull, Arc::clone(&warm), metrics);
            tokio::spawn(listen::peers(listener, Arc::new(surface), watch.clone()));
        }
        if let Some(store) = &self.pull.cluster.store {
            tokio::spawn(Arc::clone(store).run(watch.clone()));
        }
        tokio::spawn(Arc::clone(&self.pull.cluster).run(watch.clone()));
        tokio::spawn(memory::run(watch.clone()));
        tokio::spawn(Arc::clone(&self.pull.runtime).run(watch.clone()));
        tokio::spawn(Arc::clone(&self.pull.copies).run(watch.clone()));
        tokio::spawn(keep::run(Arc::clone(&self.pull), watch.clone()));
        tokio::spawn(warm.run(watch.clone()));
        tokio::spawn(keep::scrub(Arc::clone(&self.pull)));
        tokio::spawn(keep::sweep(Arc::clone(&self.pull)));
        tokio::spawn(tend::identities(Arc::clone(&self.pull)));
        tokio::spawn(keep::adopt(Arc::clone(&self.pull), watch.clone()));
        tokio::spawn(layers::run(
            Arc::clone(&self.pull),
            watch.clone(),
            until_end.clone(),
        ));
        drop(watch);
        tokio::spawn(listen::admin(self.admin, admin, until_end));
        if let Some(hang_up) = self.stop.hang_up.take() {
            let reload = Reload {
                config: self.config,
                metrics: self.metrics,
                logs: self.logs,
                misread,
            };
            tokio::spawn(reload.run(reread, hang_up));
        }
        tracing::info!(
            registry = self.listen.registry,
            telemetry = self.listen.telemetry,
            peers = self.listen.peers,
            store = %self.pull.store.root().display(),
            version = env!("CARGO_PKG_VERSION"),
            "larder serves"
        );
        self.stop.asked().await;
        readiness.withdraw();
        tracing::info!(
            within_s = DRAIN_WITHIN.as_secs(),
            "larder stops; requests in flight may finish"
        );
        self.pull.events.close();
        let draining = async {
            // Members fetch through the peer port, which is open until the drain begins.
            tokio::join!(linger(&surface, &port), self.pull.copies.hand_over());
            drain.drain().await;
        };
        let drained = tokio::select! {
            drained = tokio::time::timeout(DRAIN_WITHIN, draining) => drained.is_ok(),
            // A second signal ends the drain at once.
            () = self.stop.asked() => false,
        };
        if !drained {
            tracing::warn!(
                "some requests were cut off, and their clients ask again; a longer grace period lets large layers end"
            );
        }
        let fills = Arc::clone(&self.pull.fills);
        tokio::task::spawn_blocking(move || fills.checkpoint()).await?;
        let _ = std::fs::remove_file(&self.socket);
        let _ = tokio::time::timeout(LAST_WORDS, end.drain()).await;
        Ok(())
    }
}

/// The time limit of answers to probes and to the command line after everything else has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Waits while pulls are under way, see [`LINGER`] and [`LINGER_FOR_BODIES`].
async fn linger(surface: &Surface, port: &RegistryPort) {
    let begun = Instant::now();
    let mut worked: Option<Instant> = None;
    loop {
        if port.at_work() > 0 {
            worked = Some(Instant::now());
        }
        let bodies = worked.is_some_and(|at| at.elapsed() < QUIET);
        let stays = open_longer(begun.elapsed(), bodies, surface.idle() < QUIET);
        if !stays {
            return;
        }
        tokio::time::sleep(QUIET / 10).await;
    }
}

/// Whether the ports stay open, `since` the signal, given bodies in flight and recent requests.
fn open_longer(since: Duration, bodies: bool, requests: bool) -> bool {
    (bodies && since < LINGER_FOR_BODIES) || (requests && since < LINGER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_open_for_bodies_longer_than_for_requests() {
        let s = Duration::from_secs;
        for (since, bodies, requests, open) in [
            (0, false, false, false),
            (0, false, true, true),
            (4, true, false, true),
            (6, false, true, false),
            (6, true, true, true),
            (6, true, false, true),
            (24, true, true, false),
        ] {
            let stays = open_longer(s(since), bodies, requests);
            assert_eq!(stays, open, "{since} s, {bodies}, {requests}");
        }
        assert!(LINGER_FOR_BODIES < DRAIN_WITHIN);
    }
}

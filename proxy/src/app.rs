//! The composition root: builds every part in order, binds every port, runs, and shuts down in order.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use larder_shared::admin::Listen;
use moka::future::Cache;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
};

use crate::{
    access::{Access, Grants},
    admin::Admin,
    client::Client,
    cluster::Cluster,
    coalesce::Coalesce,
    config::Config,
    credentials::{Credentials, Settings},
    drain::Drain,
    fill::Fills,
    identity::Key,
    keep, listen,
    metrics::Metrics,
    peers::PeerSurface,
    pull::Pull,
    registry::Surface,
    store::Store,
    tags::Tags,
    upstream::Upstreams,
};

/// Bodies in flight may take this long to finish after SIGTERM. Kubernetes' default grace period is 30 s.
const DRAIN_WITHIN: Duration = Duration::from_secs(25);

/// The configuration file is looked at this often. Polling sees the symlink swaps of mounted ConfigMaps.
const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// Where the configuration came from, so that it can be read again.
pub type Reread = Box<dyn Fn() -> Result<Config, crate::config::ConfigError> + Send + Sync>;

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
    config: Arc<ArcSwap<Config>>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// Repositories whose last shared identity is remembered.
const SHARED: u64 = 10_000;

/// Builds everything and binds every port, so that whatever is wrong is said before anything runs.
pub async fn build(config: Config) -> anyhow::Result<Bound> {
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
    let cluster = Cluster::new(
        Arc::clone(&config),
        Arc::clone(&metrics),
        &client,
        store.root().join("cluster"),
    )?;
    // What is wrong with the certificate is said before anything runs.
    if peers.is_some() {
        cluster.peers.tls()?;
    }
    let (grants, key) = store.grants();
    let lifetime = {
        let access = &config.load().access;
        access.ttl + access.grace
    };
    let mut key =
        Key::load(&key).with_context(|| format!("cannot use the key {}", key.display()))?;
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
        Grants::load(grants, lifetime),
    ));
    let pull = Arc::new(Pull {
        config: Arc::clone(&config),
        access: Arc::clone(&access),
        credentials: Credentials::new(Settings::default()),
        key,
        tags: Tags::new(Arc::clone(&upstreams)),
        fills: Fills::new(
            Arc::clone(&store),
            Arc::clone(&upstreams),
            Arc::clone(&metrics),
            access,
            Arc::clone(&config),
            Arc::clone(&cluster),
        ),
        cluster,
        metrics: Arc::clone(&metrics),
        checks: Coalesce::default(),
        fetches: Coalesce::default(),
        shared: Cache::new(SHARED),
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
        config,
    })
}

async fn bind(address: SocketAddr, what: &str, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for {what}; choose another with {flag}")
    })
}

/// A socket file that nobody answers on is a leftover; one that somebody answers on is another larder's.
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
    // What a node holds is for its administrators.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

impl Bound {
    /// The addresses that were really bound.
    pub fn addresses(&self) -> &Listen {
        &self.listen
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    pub async fn run(self, reread: Option<Reread>) -> anyhow::Result<()> {
        let (drain, watch) = Drain::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let store = Arc::clone(&self.pull.store);
        tokio::task::spawn_blocking(move || store.scan());
        let misread = Arc::new(ArcSwapOption::empty());
        let admin = Arc::new(Admin::new(
            Arc::clone(&self.pull),
            Arc::clone(&self.metrics),
            self.listen.clone(),
            Arc::clone(&misread),
        ));
        let surface = Arc::new(Surface::new(
            Arc::clone(&self.pull),
            Arc::clone(&self.metrics),
        ));
        tokio::spawn(listen::registry(self.registry, surface, watch.clone()));
        for (listener, exposed) in [(self.telemetry, false), (self.exposed, true)] {
            if let Some(listener) = listener {
                let admin = Arc::clone(&admin);
                tokio::spawn(listen::telemetry(listener, exposed, admin, watch.clone()));
            }
        }
        tokio::spawn(Arc::clone(&admin).keep_history());
        if let Some(listener) = self.peers {
            let surface = PeerSurface::new(Arc::clone(&self.pull), Arc::clone(&self.metrics));
            tokio::spawn(listen::peers(listener, Arc::new(surface), watch.clone()));
        }
        let cluster = Arc::clone(&self.pull.cluster);
        tokio::task::spawn_blocking(move || cluster.records.sweep());
        if let Some(store) = &self.pull.cluster.store {
            tokio::spawn(Arc::clone(store).run(watch.clone()));
        }
        let members = Arc::clone(&self.pull.cluster.members);
        tokio::spawn(members.run(watch.clone()));
        tokio::spawn(keep::run(Arc::clone(&self.pull), watch.clone()));
        tokio::spawn(keep::scrub(Arc::clone(&self.pull)));
        tokio::spawn(listen::admin(self.admin, admin, watch));
        if let Some(reread) = reread {
            tokio::spawn(reload(reread, Arc::clone(&self.config), misread));
        }
        tracing::info!(
            registry = self.listen.registry,
            telemetry = self.listen.telemetry,
            peers = self.listen.peers,
            store = %self.pull.store.root().display(),
            version = env!("CARGO_PKG_VERSION"),
            "larder serves"
        );
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(
            within_s = DRAIN_WITHIN.as_secs(),
            "larder stops; requests in flight may finish"
        );
        let drained = tokio::select! {
            drained = tokio::time::timeout(DRAIN_WITHIN, drain.drain()) => drained.is_ok(),
            // A second signal means now.
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        if !drained {
            tracing::warn!("some requests were cut off");
        }
        let fills = Arc::clone(&self.pull.fills);
        tokio::task::spawn_blocking(move || fills.checkpoint()).await?;
        let _ = std::fs::remove_file(&self.socket);
        Ok(())
    }
}

/// What of the cluster is read at the start alone.
fn at_start(config: &Config) -> impl PartialEq {
    let peers = config.cluster.peers.as_ref();
    let peers = peers.map(|peers| (peers.listen, peers.key.clone()));
    (peers, config.cluster.object_store.clone())
}

/// Reads the configuration again and again. A bad file keeps the old one in force and is complained about once.
/// Meanwhile `misread` says why.
async fn reload(reread: Reread, config: Arc<ArcSwap<Config>>, misread: Arc<ArcSwapOption<String>>) {
    let reread = Arc::new(reread);
    loop {
        tokio::time::sleep(RELOAD_EVERY).await;
        let again = Arc::clone(&reread);
        let Ok(read) = tokio::task::spawn_blocking(move || again()).await else {
            return;
        };
        match read {
            Ok(new) if new != **config.load() => {
                let old = config.swap(Arc::new(new.clone()));
                tracing::info!("the configuration was read again and is in force");
                if old.registry.listen != new.registry.listen
                    || old.telemetry != new.telemetry
                    || old.store.path != new.store.path
                    || old.admin != new.admin
                    || at_start(&old) != at_start(&new)
                {
                    tracing::warn!(
                        "addresses, the store's path, the socket, the log, the cluster's key and the object store take effect after a restart"
                    );
                }
                misread.store(None);
            }
            Ok(_) => misread.store(None),
            Err(error) => {
                let text = error.to_string();
                if misread.load().as_deref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        "the configuration cannot be used; the one before stays in force"
                    );
                    misread.store(Some(Arc::new(text)));
                }
            }
        }
    }
}

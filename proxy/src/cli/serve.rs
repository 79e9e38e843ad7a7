//! `larder serve`

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context as _;
use clap::Args;

use super::{bypassed, node_files::NodeFiles};
use crate::{
    app,
    config::{Config, ConfigError, SourceRule, host_name},
    telemetry,
};

/// Run the daemon. Without a file every setting has its default; flags override the file.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  larder serve --config /etc/larder/larder.toml
  larder serve --store /tmp/larder --listen 127.0.0.1:7420 --telemetry off --socket /tmp/larder.sock
  larder serve --upstream demo.local=http://127.0.0.1:5000    a registry for a trial

larder runs in the foreground. After SIGTERM it finishes requests in flight; a second SIGTERM ends it at once. After
SIGHUP it reloads the configuration at once; without a signal it notices changes within two seconds.")]
pub struct ServeArgs {
    /// The configuration file.
    #[arg(long, env = "LARDER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory that holds the node tier.
    #[arg(long, env = "LARDER_STORE", value_name = "DIR")]
    store: Option<PathBuf>,
    /// The address that the container runtime connects to.
    #[arg(long, env = "LARDER_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The address of metrics, health and the status page, or `off`.
    #[arg(long, env = "LARDER_TELEMETRY", value_name = "ADDR")]
    telemetry: Option<AddressOrOff>,
    /// An additional address for metrics and health, without the page: the pod's IP and a port, or `off`.
    #[arg(long, env = "LARDER_EXPOSE", value_name = "ADDR")]
    expose: Option<AddressOrOff>,
    /// The admin socket.
    #[arg(long, env = "LARDER_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The URL of a registry, for a trial: `demo.local=http://127.0.0.1:5000`. May be repeated.
    #[arg(long, value_name = "NAME=URL")]
    upstream: Vec<String>,
    /// The address by which the other members of the cluster know this node: the pod's IP and the peer port.
    #[arg(long, env = "LARDER_ADVERTISE", value_name = "ADDR")]
    advertise: Option<SocketAddr>,
    /// Clients that may connect, in addition to `allow_from` of the file, such as the node's address in a pod. Separate
    /// several by commas.
    #[arg(
        long,
        env = "LARDER_ALLOW_FROM",
        value_name = "SOURCE",
        value_delimiter = ','
    )]
    allow_from: Vec<SourceRule>,
    /// Names that clients may use for this node, in addition to `allow_hosts` of the file, such as the node's name in a
    /// pod. Separate several by commas.
    #[arg(
        long,
        env = "LARDER_ALLOW_HOSTS",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = host_name
    )]
    allow_hosts: Vec<String>,
    #[command(flatten)]
    files: NodeFiles,
    /// The log filter: `info`, `debug`, `larder=debug,access=off` …
    #[arg(long, env = "LARDER_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// An address, or `None` for `off`.
#[derive(Clone, Copy, Debug)]
struct AddressOrOff(Option<SocketAddr>);

impl FromStr for AddressOrOff {
    type Err = &'static str;

    fn from_str(said: &str) -> Result<Self, Self::Err> {
        if said == "off" {
            return Ok(Self(None));
        }
        let address = said.parse();
        address
            .map(|address| Self(Some(address)))
            .map_err(|_| "give an address and a port, such as 127.0.0.1:7421, or `off`")
    }
}

impl ServeArgs {
    /// Reads the file, then applies the flags.
    fn read(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        for upstream in &self.upstream {
            config.with_upstream_flag(upstream)?;
        }
        if let Some(path) = &self.store {
            config.store.path.clone_from(path);
        }
        if let Some(listen) = self.listen {
            config.registry.listen = listen;
        }
        if let Some(AddressOrOff(listen)) = self.telemetry {
            config.telemetry.listen = listen;
        }
        if let Some(AddressOrOff(expose)) = self.expose {
            config.telemetry.expose = expose;
        }
        if let Some(socket) = &self.socket {
            config.admin.socket.clone_from(socket);
        }
        if let (Some(advertise), Some(peers)) = (self.advertise, &mut config.cluster.peers) {
            peers.advertise = Some(advertise);
        }
        config.registry.allow_from.extend(&self.allow_from);
        let hosts = self.allow_hosts.iter().cloned();
        config.registry.allow_hosts.extend(hosts);
        if let Some(log) = &self.log {
            config.telemetry.log.clone_from(log);
        }
        Ok(config)
    }
}

/// At the end, work on blocking threads may take this long.
const LAST: Duration = Duration::from_secs(1);

pub fn serve(args: ServeArgs) -> anyhow::Result<u8> {
    let config = args.read()?;
    let logs = telemetry::init(&config.telemetry);
    let (files, port) = (args.files.clone(), config.registry.listen.port());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot start")?;
    let ended = runtime.block_on(async {
        let bound = app::build(config, logs).await?;
        bypassed::watch(files, port);
        let reread: Option<app::Reread> = match args.config {
            Some(_) => Some(Box::new(move || args.read())),
            None => None,
        };
        bound.run(reread).await
    });
    // larder does not wait for the scrub of a large blob. The next larder waits for the store's lock.
    runtime.shutdown_timeout(LAST);
    ended?;
    Ok(0)
}

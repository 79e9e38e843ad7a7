//! `larder serve`

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context as _;
use clap::Args;

use crate::{
    app,
    config::{Config, ConfigError, SourceRule, host_name},
    telemetry,
};

/// Run the daemon. Without a file every setting has its default; flags go before the file.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  larder serve --config /etc/larder/larder.toml
  larder serve --store /tmp/larder --listen 127.0.0.1:7420 --telemetry off --socket /tmp/larder.sock
  larder serve --upstream demo.local=http://127.0.0.1:5000    a registry for a trial

It runs in the foreground. SIGTERM lets requests in flight finish; a second one ends it at once. SIGHUP has the
configuration read again at once; it is looked at every two seconds anyway.")]
pub struct ServeArgs {
    /// The configuration file.
    #[arg(long, env = "LARDER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory that holds the node tier.
    #[arg(long, env = "LARDER_STORE", value_name = "DIR")]
    store: Option<PathBuf>,
    /// Where the container runtime connects.
    #[arg(long, env = "LARDER_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where metrics, health and the status page are served, or `off`.
    #[arg(long, env = "LARDER_TELEMETRY", value_name = "ADDR")]
    telemetry: Option<AddressOrOff>,
    /// Where metrics and health are served besides, without the page: the pod's IP and a port, or `off`.
    #[arg(long, env = "LARDER_EXPOSE", value_name = "ADDR")]
    expose: Option<AddressOrOff>,
    /// The admin socket.
    #[arg(long, env = "LARDER_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Where a registry is found, for a trial: `demo.local=http://127.0.0.1:5000`. May be repeated.
    #[arg(long, value_name = "NAME=URL")]
    upstream: Vec<String>,
    /// The address by which the other members of the cluster know this node: the pod's IP and the peer port.
    #[arg(long, env = "LARDER_ADVERTISE", value_name = "ADDR")]
    advertise: Option<SocketAddr>,
    /// Who else may connect, besides `allow_from` of the file: the node's address, as a pod is told it. Several are
    /// separated by commas.
    #[arg(
        long,
        env = "LARDER_ALLOW_FROM",
        value_name = "SOURCE",
        value_delimiter = ','
    )]
    allow_from: Vec<SourceRule>,
    /// Names by which clients may call this node, besides `allow_hosts` of the file: the node's name, as a pod is told
    /// it. Several are separated by commas.
    #[arg(
        long,
        env = "LARDER_ALLOW_HOSTS",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = host_name
    )]
    allow_hosts: Vec<String>,
    /// What to log: `info`, `debug`, `larder=debug,access=off` …
    #[arg(long, env = "LARDER_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// Where something is served, `None` for `off`.
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
    /// File first, then flags.
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

/// What still runs on blocking threads when everything is over may take this long.
const LAST: Duration = Duration::from_secs(1);

pub fn serve(args: ServeArgs) -> anyhow::Result<u8> {
    let config = args.read()?;
    let logs = telemetry::init(&config.telemetry);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let ended = runtime.block_on(async {
        let bound = app::build(config, logs).await?;
        let reread: Option<app::Reread> = match args.config {
            Some(_) => Some(Box::new(move || args.read())),
            None => None,
        };
        bound.run(reread).await
    });
    // A scrub that is at a large blob is not waited for: whoever comes next waits for the store's lock.
    runtime.shutdown_timeout(LAST);
    ended?;
    Ok(0)
}

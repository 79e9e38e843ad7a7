//! Reads the configuration file again while larder runs.

use std::{sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};

use tokio::signal::unix::Signal;

use crate::{
    config::{Config, ConfigError},
    metrics::Metrics,
    telemetry::Logs,
};

/// How often the configuration file is read. Polling sees the symlink swaps of mounted ConfigMaps.
const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// Reads the configuration again from its source.
pub type Reread = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// The settings of the cluster and of streaming that take effect only at a start.
fn at_start(config: &Config) -> impl PartialEq {
    let peers = config.cluster.peers.as_ref();
    let peers = peers.map(|peers| (peers.listen, peers.key.clone()));
    let streaming = &config.streaming;
    let streaming = (
        streaming.mode,
        streaming.directory.clone(),
        streaming.holder.clone(),
    );
    (peers, config.cluster.object_store.clone(), streaming)
}

/// The parts that a new configuration changes.
pub(super) struct Reload {
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) logs: Arc<Logs>,
    /// Why the file cannot be used; `None` while it can.
    pub(super) misread: Arc<ArcSwapOption<String>>,
}

impl Reload {
    /// Reads the configuration every [`RELOAD_EVERY`], and at once after a SIGHUP.
    pub(super) async fn run(self, reread: Option<Reread>, mut hang_up: Signal) {
        let reread = reread.map(Arc::new);
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(RELOAD_EVERY) => false,
                _ = hang_up.recv() => true,
            };
            let Some(again) = reread.clone() else {
                if asked {
                    tracing::warn!(
                        "SIGHUP: there is no configuration file to read again; larder was started without --config"
                    );
                }
                continue;
            };
            let Ok(read) = tokio::task::spawn_blocking(move || again()).await else {
                return;
            };
            self.take(read, asked);
        }
    }

    /// Puts a configuration in force. After a bad file, the previous one stays in force. The error is logged once, and
    /// each time that the operator has asked for a reload.
    fn take(&self, read: Result<Config, ConfigError>, asked: bool) {
        let Self {
            config,
            metrics,
            logs,
            misread,
        } = self;
        // This also applies to an unchanged configuration: the operator fixed the file by undoing the change.
        if read.is_ok() && misread.load().is_some() {
            metrics.process.read_config(true, unix_seconds() as i64);
        }
        match read {
            Ok(new) if new != **config.load() => {
                let old = config.swap(Arc::new(new.clone()));
                metrics.process.read_config(true, unix_seconds() as i64);
                if old.telemetry.log != new.telemetry.log
                    && let Err(error) = logs.set(&new.telemetry.log)
                {
                    tracing::error!(
                        error,
                        "[telemetry] log cannot be used; the filter before stays in force"
                    );
                }
                tracing::info!("the configuration was read again and is in force");
                if old.registry.listen != new.registry.listen
                    || old.telemetry.listen != new.telemetry.listen
                    || old.telemetry.expose != new.telemetry.expose
                    || old.telemetry.log_format != new.telemetry.log_format
                    || old.store.path != new.store.path
                    || old.admin != new.admin
                    || at_start(&old) != at_start(&new)
                {
                    tracing::warn!(
                        "addresses, the store's path, the socket, the log's format, the cluster's key, the object store, and [streaming] mode, directory and holder take effect after a restart"
                    );
                }
                misread.store(None);
            }
            Ok(_) => {
                if asked {
                    tracing::info!("SIGHUP: the configuration was read again and has not changed");
                }
                misread.store(None);
            }
            Err(error) => {
                let text = error.to_string();
                metrics.process.read_config(false, 0);
                if asked || misread.load().as_deref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        "the configuration cannot be used, the one before stays in force; correct it, and try it with `larder config check`"
                    );
                    misread.store(Some(Arc::new(text)));
                }
            }
        }
    }
}

/// The time in the unit of metrics.
pub(super) fn unix_seconds() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

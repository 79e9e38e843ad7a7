//! The configuration file, read again while larder runs.

use std::{sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::{config::Config, metrics::Metrics, telemetry::Logs};

/// The configuration file is looked at this often. Polling sees the symlink swaps of mounted ConfigMaps.
const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// Where the configuration came from, so that it can be read again.
pub type Reread = Box<dyn Fn() -> Result<Config, crate::config::ConfigError> + Send + Sync>;

/// What of the cluster is read at the start alone.
fn at_start(config: &Config) -> impl PartialEq {
    let peers = config.cluster.peers.as_ref();
    let peers = peers.map(|peers| (peers.listen, peers.key.clone()));
    (peers, config.cluster.object_store.clone())
}

/// Reads the configuration again and again. A bad file keeps the old one in force and is complained about once.
/// Meanwhile `misread` says why.
pub(super) async fn reload(
    reread: Reread,
    config: Arc<ArcSwap<Config>>,
    metrics: Arc<Metrics>,
    logs: Arc<Logs>,
    misread: Arc<ArcSwapOption<String>>,
) {
    let reread = Arc::new(reread);
    loop {
        tokio::time::sleep(RELOAD_EVERY).await;
        let again = Arc::clone(&reread);
        let Ok(read) = tokio::task::spawn_blocking(move || again()).await else {
            return;
        };
        // Also what is no news: the file was mended by taking the change back.
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
                        "addresses, the store's path, the socket, the log's format, the cluster's key and the object store take effect after a restart"
                    );
                }
                misread.store(None);
            }
            Ok(_) => misread.store(None),
            Err(error) => {
                let text = error.to_string();
                metrics.process.read_config(false, 0);
                if misread.load().as_deref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        "the configuration cannot be used, the one before stays in force; mend it, and try it with `larder config check`"
                    );
                    misread.store(Some(Arc::new(text)));
                }
            }
        }
    }
}

/// The time, as metrics tell it.
pub(super) fn unix_seconds() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

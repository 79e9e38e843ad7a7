//! Keeps the node tier sound and within its bounds while larder runs.
//!
//! A round follows every commit, and every few seconds without one: evict what is over the bounds, write down the times
//! of last use. A slow scrub looks through the blobs for rot. What goes and what stays is [`crate::store`]'s choice.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    drain::Watch,
    metrics::Reason,
    pull::Pull,
    store::{Counts, Limits},
};

/// Time between two rounds when nothing is added.
const ROUND: Duration = Duration::from_secs(5);

/// Times of last use are written this often, one small write for each blob that was used.
const WRITE_USES: Duration = Duration::from_mins(1);

/// The scrub reads this much a second, so that it costs neither processor nor disk.
const SCRUB_RATE: u64 = 4 << 20;

/// Between two scrubs, and before the first.
const SCRUB_EVERY: Duration = Duration::from_hours(24);
const SCRUB_AFTER: Duration = Duration::from_mins(10);

impl Pull {
    /// The bounds of the node tier as configured now.
    pub fn limits(&self) -> Limits {
        let config = self.config.load();
        Limits {
            max_size: config.store.max_size,
            min_free: config.store.min_free,
            ttl: config.store.ttl,
            ttl_of: config
                .upstreams
                .iter()
                .filter_map(|(name, upstream)| Some((name.parse().ok()?, upstream.ttl?)))
                .collect(),
        }
    }

    /// One round of keeping.
    pub async fn keep_within_bounds(self: &Arc<Self>) -> std::io::Result<crate::store::Evicted> {
        self.keep_counted(Arc::default()).await
    }

    /// The same, watched.
    pub async fn keep_counted(
        self: &Arc<Self>,
        counts: Arc<Counts>,
    ) -> std::io::Result<crate::store::Evicted> {
        let pull = Arc::clone(self);
        let round = move || {
            let evicted = pull.store.enforce(&pull.limits(), &counts, |digest| {
                pull.fills.is_active(digest)
            })?;
            let metrics = &pull.metrics.store;
            let (blobs, bytes) = (evicted.expired_blobs, evicted.expired_bytes);
            metrics.evicted(Reason::Expired, blobs, bytes);
            metrics.evicted(Reason::Room, evicted.blobs - blobs, evicted.bytes - bytes);
            if evicted.blobs > 0 {
                tracing::info!(
                    blobs = evicted.blobs,
                    size_bytes = evicted.bytes,
                    "blobs were evicted"
                );
            }
            Ok(evicted)
        };
        tokio::task::spawn_blocking(round)
            .await
            .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
    }
}

/// Runs rounds until the drain, then writes the times of last use once more.
pub async fn run(pull: Arc<Pull>, mut watch: Watch) {
    let mut written = Instant::now();
    loop {
        let stopped = tokio::select! {
            () = pull.fills.grown.notified() => false,
            () = tokio::time::sleep(ROUND) => false,
            () = watch.stopped() => true,
        };
        if !stopped && let Err(error) = pull.keep_within_bounds().await {
            tracing::debug!(%error, "the bounds could not be looked at");
        }
        if stopped || written.elapsed() >= WRITE_USES {
            written = Instant::now();
            let pull = Arc::clone(&pull);
            let _ = tokio::task::spawn_blocking(move || {
                pull.store.write_uses();
                pull.store.repositories().flush();
                pull.access.flush();
            })
            .await;
        }
        if stopped {
            return;
        }
    }
}

/// Looks through all blobs for rot, slowly, once a day.
pub async fn scrub(pull: Arc<Pull>) {
    let mut wait = SCRUB_AFTER;
    loop {
        tokio::time::sleep(wait).await;
        wait = SCRUB_EVERY;
        for digest in pull.store.digests() {
            let Some(blob) = pull.store.peek(&digest) else {
                continue;
            };
            let size = blob.size();
            let store = Arc::clone(&pull.store);
            let _ = tokio::task::spawn_blocking(move || store.check(&blob)).await;
            tokio::time::sleep(Duration::from_secs_f64(size as f64 / SCRUB_RATE as f64)).await;
        }
    }
}

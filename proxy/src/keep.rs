//! Keeps the node tier sound and within its bounds while larder runs.
//!
//! A round follows every commit, and every few seconds without one. It lets go of wrong files, evicts what is over the
//! bounds, and now and then writes down the times of last use. A slow scrub looks through the blobs for rot.
//! [`crate::store`] chooses what goes and what stays.

mod adoption;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_shared::{Digest, Hasher, Range};
use tokio::task::JoinHandle;

pub use self::adoption::adopt;
use crate::{
    drain::Watch,
    metrics::Reason,
    pull::Pull,
    store::{Around, Blob, Counts, Limits, Store, Sums, Tenure},
};

/// Time between two rounds when nothing is added.
const ROUND: Duration = Duration::from_secs(5);

/// The first round waits this long for a report of what the runtime uses, so that it does not evict that.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// Before room is made, other members are asked about this many of the oldest blobs, and of those in use.
const LOOKED_AROUND: usize = 2000;

/// Times of last use are written this often, one small write for each blob that was used.
const WRITE_USES: Duration = Duration::from_mins(1);

/// The scrub reads this much a second, so that it costs neither processor nor disk.
const SCRUB_RATE: u64 = 4 << 20;
const SCRUB_PIECE: u64 = 256 << 10;

/// Between two sweeps, and a pause within one.
const SWEEP_EVERY: Duration = Duration::from_hours(24);
const SWEEP_PAUSE: Duration = Duration::from_millis(200);

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

    /// What other parts of larder know of a blob, for the order of eviction. All members that hold it agree on which of
    /// them may let it go. Otherwise two members could each rely on the other's copy, and both evict their own.
    fn around(&self, digest: &Digest) -> Around {
        let surplus = self.copies.is_surplus(digest);
        Around {
            in_runtime: self.store.adopts(digest),
            surplus,
            warm: self.store.is_warm(digest),
            whole_elsewhere: surplus,
        }
    }

    /// Asks the other members which of the blobs that may have to go they hold.
    async fn look_around(self: &Arc<Self>) {
        if self.copies.wanted() < 2 {
            return;
        }
        let limits = self.limits();
        let may_go = move |store: &Store| {
            if !store.wants_room(&limits) {
                return Vec::new();
            }
            let in_use = store.in_use();
            let used = in_use.digests().filter(|digest| store.has(digest)).copied();
            let oldest = store.entries().into_iter().map(|(digest, _)| digest);
            used.take(LOOKED_AROUND)
                .chain(oldest.take(LOOKED_AROUND))
                .collect()
        };
        let may_go = self.store.survey(may_go).await.unwrap_or_default();
        self.copies.look_around(&may_go).await;
    }

    /// One round of keeping.
    pub async fn keep_within_bounds(self: &Arc<Self>) -> std::io::Result<crate::store::Evicted> {
        self.keep_counted(Arc::default()).await
    }

    /// As [`Self::keep_within_bounds`], with its progress in `counts`.
    pub async fn keep_counted(
        self: &Arc<Self>,
        counts: Arc<Counts>,
    ) -> std::io::Result<crate::store::Evicted> {
        self.look_around().await;
        let pull = Arc::clone(self);
        let round = move || {
            pull.fills.let_go_of_suspects();
            let active = |digest: &Digest| pull.fills.is_active(digest);
            let around = |digest: &Digest| pull.around(digest);
            let evicted = pull
                .store
                .enforce(&pull.limits(), &counts, active, around)?;
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

impl Pull {
    /// Removes what is of no more use: records that no member renews, links to content that is gone, stores that were
    /// set aside.
    pub async fn sweep(self: &Arc<Self>, pause: Duration) {
        let pull = Arc::clone(self);
        let swept = move || {
            // Another larder's store is not swept.
            if pull.store.tenure() != Tenure::Held {
                return;
            }
            pull.cluster.records().sweep(pull.store.clock());
            let active = |digest: &Digest| pull.fills.is_active(digest);
            pull.store.sweep_names(active, || std::thread::sleep(pause));
        };
        if let Err(panic) = tokio::task::spawn_blocking(swept).await {
            tracing::error!(%panic, "a sweep panicked; please report this");
        }
    }
}

/// Sweeps once a day.
pub async fn sweep(pull: Arc<Pull>) {
    let mut wait = SCRUB_AFTER;
    loop {
        tokio::time::sleep(wait).await;
        wait = SWEEP_EVERY;
        pull.sweep(SWEEP_PAUSE).await;
    }
}

/// Runs rounds until the drain, then writes the times of last use once more.
pub async fn run(pull: Arc<Pull>, mut watch: Watch) {
    let mut written = Instant::now();
    let mut writing: Option<JoinHandle<()>> = None;
    tokio::select! {
        () = pull.runtime.settled(SETTLED_WITHIN) => {}
        () = watch.stopped() => {}
    }
    loop {
        let stopped = tokio::select! {
            () = pull.fills.grown.notified() => false,
            () = tokio::time::sleep(ROUND) => false,
            () = watch.stopped() => true,
        };
        if !stopped && let Err(error) = pull.keep_within_bounds().await {
            tracing::debug!(%error, "the tier could not be measured against its bounds");
        }
        if stopped || written.elapsed() >= WRITE_USES {
            // A write that hangs is waited for only at the end.
            if stopped && let Some(last) = writing.take() {
                let _ = last.await;
            }
            // After a slow write the next one is due in the next round.
            if writing.as_ref().is_none_or(JoinHandle::is_finished) {
                written = Instant::now();
                let pull = Arc::clone(&pull);
                writing = Some(tokio::task::spawn_blocking(move || {
                    // Rights first: the calls after it wait for the disk, and may hang.
                    pull.access.flush();
                    pull.store.write_uses();
                    pull.store.write_hashed();
                    pull.store.repositories().flush();
                }));
            }
        }
        if stopped {
            if let Some(last) = writing {
                let _ = last.await;
            }
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
            let opened = pull.store.survey(move |store| store.peek(&digest)).await;
            let Some(blob) = opened.flatten() else {
                continue;
            };
            let hashed = hash(&blob, SCRUB_RATE).await;
            let store = Arc::clone(&pull.store);
            let judge = move || {
                let (hashed, sums) = match hashed {
                    Ok((digest, sums)) => (Ok(digest), Some(sums)),
                    Err(error) => (Err(error), None),
                };
                if let (true, Some(sums)) = (store.judge(&blob, &hashed), sums) {
                    store.keep_lacking_sums(&blob, &sums);
                }
            };
            let _ = tokio::task::spawn_blocking(judge).await;
        }
    }
}

/// Hashes a blob piece by piece, evenly, at `rate` bytes a second, and computes its checksums.
async fn hash(blob: &Arc<Blob>, rate: u64) -> io::Result<(Digest, Sums)> {
    let begun = tokio::time::Instant::now();
    let mut hashing = (Hasher::new(blob.digest().algorithm()), Sums::default());
    let mut at = 0;
    while at < blob.size() {
        let piece = Range::new(at, blob.size().min(at + SCRUB_PIECE));
        let blob = Arc::clone(blob);
        let read = move || {
            blob.read(piece).map(|bytes| {
                hashing.0.update(&bytes);
                hashing.1.update(&bytes);
                hashing
            })
        };
        hashing = tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)??;
        at = piece.end;
        let spent = Duration::from_secs_f64(at as f64 / rate as f64);
        tokio::time::sleep_until(begun + spent).await;
    }
    Ok((hashing.0.finish(), hashing.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers on the same disk notice a burst. A piece whose turn did not come was not read.
    #[tokio::test]
    async fn a_scrub_reads_evenly() {
        const RATE: u64 = 4 << 20;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let bytes = vec![7; 2 << 20];
        let digest = Digest::sha256(&bytes);
        store.put(&digest, &bytes.into()).unwrap();
        let blob = store.blob(&digest, None).unwrap();
        let begun = Instant::now();
        assert_eq!(hash(&blob, RATE).await.unwrap().0, digest);
        assert!(begun.elapsed() >= Duration::from_millis(500));
        // Hashing goes on only while it is polled.
        let hashing = hash(&blob, RATE);
        tokio::pin!(hashing);
        let piece = Duration::from_secs_f64(SCRUB_PIECE as f64 / RATE as f64);
        assert!(tokio::time::timeout(piece, &mut hashing).await.is_err());
        let hex = digest.hex();
        let path = dir.path().join("blobs/sha256").join(&hex[..2]).join(&*hex);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(hashing.await.is_err(), "all of it was read at once");
    }
}

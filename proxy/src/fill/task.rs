//! The task of one fill: starts streams where the plan says, watches them, verifies, commits.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use larder_shared::Range;
use tokio::time::sleep_until;

use super::{
    Fill, FillError, Fills, Phase,
    disk::ask_disk,
    lock,
    patience::IDLE,
    ramp::INTERVAL,
    running::Running,
    start::{resume, take_back},
};
use crate::{
    metrics,
    store::{FLUSHED_WITHIN, HANGS, Link, Partial, SLOWEST, Store},
    telemetry,
};

/// A fill that no reader wants stays on the list this long, for the client that comes back for the next chunk.
const LINGER: Duration = Duration::from_secs(2);

/// How long a request waits for the disk to give what an earlier fill left; then it goes on without the disk.
const LEFT_WITHIN: Duration = Duration::from_millis(1500);

/// Runs a fill from its first request to its end.
pub async fn run(fills: Arc<Fills>, fill: Arc<Fill>) {
    let outcome = caught(Box::pin(fill_up(&fills, &fill))).await;
    match outcome {
        Ok(Some(partial)) => {
            fill.set_phase(Phase::Verified);
            // The repositories that this process has seen, and those that the one before wrote down.
            let holders = lock(&fill.state).holders();
            let mut repositories = partial.proven_in();
            repositories.extend(holders.into_iter().map(|source| source.repository));
            let mut records = Vec::new();
            for repository in &repositories {
                records.push(fills.store.record(partial.registry(), repository).await);
            }
            for record in &records {
                record.add_link(Link {
                    digest: fill.digest,
                    size: partial.size(),
                    media_type: None,
                });
            }
            let kept = Arc::clone(partial.blob());
            let suspects = Arc::clone(&fills);
            let flushed = FLUSHED_WITHIN + Duration::from_secs(partial.size() / SLOWEST);
            let commit = move |store: &Store| {
                suspects.name_corrupt_sources(partial.blob());
                // A blob that no repository is known to hold would be fetched again.
                for record in &records {
                    record.flush();
                }
                store.commit(&partial)
            };
            let what = format!("the commit of {}", fill.digest);
            let committed = fills.store.ask_to_the_end(&what, flushed, commit).await;
            match committed {
                Ok(Ok(())) => {
                    fills.metrics.fills.committed.inc();
                    fills.announce(fill.digest);
                    fills.write_behind(&fill.registry, &repositories, &kept);
                }
                Ok(Err(error)) => {
                    // The store has logged what is wrong with the disk.
                    if let Some(due) = telemetry::due("a blob is not kept", fill.registry.as_str())
                    {
                        tracing::warn!(blob.digest = %fill.digest, %error, unsaid = due.unsaid, "a blob was served but could not be kept; look at the store's disk: space, inodes, permissions");
                    }
                }
                Err(panic) => tracing::error!(%panic, "a commit panicked; please report this"),
            }
            fills.unlist(&fill);
            fills.grown.notify_one();
        }
        // No reader wants the rest; what is here stays as a partial.
        Ok(None) => {
            fills.metrics.fills.withdrawn.inc();
        }
        Err(error) => {
            fills.metrics.fills.failed.inc();
            let (partial, opened) = {
                let state = lock(&fill.state);
                (state.partial.clone(), state.opened)
            };
            // A reader without headers gets the error, and the failure is logged there.
            if !opened {
                tracing::debug!(blob.digest = %fill.digest, %error, "a fill failed");
            } else if let Some(due) = telemetry::due("a fill failed", fill.registry.as_str()) {
                tracing::warn!(blob.digest = %fill.digest, upstream.registry = %fill.registry, %error, unsaid = due.unsaid, "a download broke off and its readers end short, clients ask again; look at the registry and the way to it");
            }
            if matches!(error, FillError::Disk(_)) {
                // Readers learn of it before the file is taken away: a disk that hangs may take for ever.
                fill.set_phase(Phase::Failed(error.clone()));
            }
            if let Some(partial) = partial {
                let worthless = matches!(error, FillError::Digest | FillError::Disk(_));
                let end = move |_: &Store| {
                    if worthless {
                        partial.discard()
                    } else {
                        partial.close()
                    }
                };
                let _ = ask_disk(&fills, &fill, "the end of the partial", IDLE, end).await;
            }
            // Only now may another fill begin: earlier, it would have found the file that is being taken away.
            fills.unlist(&fill);
            if matches!(error, FillError::Disk(_)) {
                // Room may be made.
                fills.grown.notify_one();
            }
            fill.set_phase(Phase::Failed(error));
        }
    }
}

/// A panic is a failure like any other: a fill that stayed on the list would be in the way of its digest until the
/// next restart.
async fn caught<T>(filling: impl Future<Output = Result<T, FillError>>) -> Result<T, FillError> {
    let caught = AssertUnwindSafe(filling).catch_unwind().await;
    caught.unwrap_or_else(|_| {
        tracing::error!("a fill panicked; please report this");
        Err(FillError::Disk("a fill panicked".to_owned()))
    })
}

async fn fill_up(fills: &Arc<Fills>, fill: &Arc<Fill>) -> Result<Option<Arc<Partial>>, FillError> {
    let mut running = Running::new(fills, fill);
    let (digest, registry) = (fill.digest, fill.registry.clone());
    let resumed = lock(&fill.state).resumed;
    let left = if resumed {
        let resume = move |store: &Store| store.resume(digest, &registry);
        ask_disk(fills, fill, "the partial", LEFT_WITHIN, resume).await?
    } else {
        Ok(None)
    };
    let partial = match left {
        Ok(Some(partial)) => {
            fills.metrics.fills.resumed.inc();
            let partial = Arc::new(partial);
            let kept = fills
                .upstreams
                .receiving(&fill.registry, metrics::Source::Node);
            kept.add(partial.present().total());
            resume(fill, &partial);
            partial
        }
        Ok(None) => running.start().await?,
        Err(error) => return Err(FillError::Disk(error.to_string())),
    };
    let mut partial = partial;
    loop {
        match running.complete(&partial).await {
            Err(FillError::Digest) => {
                if lock(&fill.state).by_object {
                    // The object store is trusted no more than a member.
                    fill.object_failed.store(true, Ordering::Relaxed);
                    if let Some(store) = &fills.cluster.store {
                        store.distrust(fill.digest);
                    }
                }
                let others = running.distrust().await;
                if !others || !take_back(fill) {
                    lock(&fill.state).wrong = true;
                    // The next fill names the corrupt source.
                    running.suspect(&partial);
                    return Err(FillError::Digest);
                }
                // No reader was given anything yet: another endpoint may have the right bytes.
                partial = running.restart(partial).await?;
            }
            Err(error @ (FillError::Broken(_) | FillError::Upstream(_))) => {
                // The next fill goes on from here, unless the length itself is in doubt.
                let (last, sure) = (Arc::clone(&partial), running.sure);
                let left = move |_: &Store| {
                    if sure {
                        last.checkpoint()
                    } else {
                        last.discard()
                    }
                };
                let _ = ask_disk(fills, fill, "the rest of the partial", IDLE, left).await;
                return Err(error);
            }
            done => return done,
        }
    }
}

impl Running {
    /// Completes a blob that is read by ranges, once enough of it is here (`store.complete_after`).
    fn complete_if_due(&self, partial: &Partial) {
        let Some(after) = self.fills.config.load().store.complete_after else {
            return;
        };
        if partial.present().total() >= after.of(partial.size()) {
            lock(&self.fill.state).whole = true;
        }
    }

    /// Fetches until everything is here and right, or no reader wants the rest (`None`).
    async fn complete(
        &mut self,
        partial: &Arc<Partial>,
    ) -> Result<Option<Arc<Partial>>, FillError> {
        let mut idle_since: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if partial.present().contains(Range::new(0, partial.size())) && self.flights.is_empty()
            {
                return self.verify(partial).await.map(Some);
            }
            self.complete_if_due(partial);
            let received = self.received.load(Ordering::Relaxed);
            self.ramp.look(now, received);
            self.patience.note(now, partial.present().total());
            let held = self.patience.held(now);
            if held.is_none() {
                self.start_streams(partial)?;
            }
            if self.flights.is_empty() && held.is_none() {
                // No reader wants anything: that is no lack of progress, and earlier failures say nothing about the
                // next attempt.
                self.patience.progressed(now);
                let since = *idle_since.get_or_insert(now);
                if now.duration_since(since) >= LINGER && unwanted(&self.fill) {
                    // The checkpoint is written before the fill leaves the list: the next fill goes on from it.
                    let last = Arc::clone(partial);
                    let left = move |_: &Store| last.checkpoint();
                    let what = "the last checkpoint of the partial";
                    // No reader waits for this write yet, and a busy journal must not cost what is here.
                    let written = ask_disk(&self.fills, &self.fill, what, HANGS, left).await;
                    if written.is_err() {
                        // Readers that came meanwhile go on without the disk. What is here stays for the next fill.
                        self.fills.unlist(&self.fill);
                        return Ok(None);
                    }
                    if self.fills.retire(&self.fill) {
                        return Ok(None);
                    }
                }
            } else {
                idle_since = None;
            }
            let wake = held.unwrap_or(now + INTERVAL);
            tokio::select! {
                Some(ended) = self.streams.join_next() => match ended {
                    Ok((id, end)) => self.ended(partial, id, end)?,
                    Err(panic) => return Err(FillError::Disk(panic.to_string())),
                },
                () = self.fill.demand.notified() => {}
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    async fn verify(&self, partial: &Arc<Partial>) -> Result<Arc<Partial>, FillError> {
        let checked = Arc::clone(partial);
        let verify = move |_: &Store| checked.verify();
        let within = HANGS + Duration::from_secs(partial.size() / SLOWEST);
        let what = "the last look at the partial";
        match ask_disk(&self.fills, &self.fill, what, within, verify).await? {
            Ok(Some(true)) => Ok(Arc::clone(partial)),
            Ok(_) => {
                {
                    // Before anything is awaited: a reader that comes now must not be given any of it.
                    lock(&self.fill.state).wrong = true;
                }
                self.fills.metrics.fills.mismatched.inc();
                Err(FillError::Digest)
            }
            Err(error) => Err(FillError::Disk(error.to_string())),
        }
    }
}

fn unwanted(fill: &Fill) -> bool {
    let state = lock(&fill.state);
    state.readers.is_empty() && !state.whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_like_any_other() {
        let filling = async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        };
        let caught: Result<(), _> = caught(filling).await;
        assert!(matches!(caught, Err(FillError::Disk(_))), "{caught:?}");
    }
}

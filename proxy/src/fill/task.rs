//! The task of one fill: starts streams where the plan says, watches them, verifies, commits.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use larder_shared::Range;
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    Fill, FillError, Fills, Phase, Source,
    fetch::{End, IDLE},
    lock,
    ramp::{INTERVAL, Ramp},
    start::{resume, take_back},
    streams::Stream,
    suspects::Share,
};
use crate::{
    metrics,
    store::{FLUSHED_WITHIN, HANGS, Link, Partial, SLOWEST, Store},
    telemetry,
};

/// A fill whose readers have headers is not given up before it has been without progress for this long (promise P14).
pub(super) const GIVE_UP_ERRORS: Duration = Duration::from_secs(5);

/// The same where the source stalls instead of failing (promise P12).
pub(super) const GIVE_UP_STALLS: Duration = Duration::from_secs(20);

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A fill that nobody wants stays on the list this long, for the client that comes back for the next chunk.
const LINGER: Duration = Duration::from_secs(2);

/// A request waits so long for what an earlier process left; then it goes on without it.
const LEFT_WITHIN: Duration = Duration::from_millis(1500);

/// What the task alone knows.
pub(super) struct Running {
    pub(super) fills: Arc<Fills>,
    pub(super) fill: Arc<Fill>,
    pub(super) streams: JoinSet<(u64, End)>,
    pub(super) flights: Vec<Stream>,
    pub(super) next_id: u64,
    pub(super) received: Arc<AtomicU64>,
    pub(super) ramp: Ramp,
    /// Whether the endpoint in use answers ranges; a stream finds out.
    pub(super) ranged: Arc<AtomicBool>,
    /// The source in use: an index into the list, which only grows.
    pub(super) source: usize,
    /// The endpoint to begin with, counted through.
    pub(super) first: usize,
    /// Who brought bytes, should they turn out to be wrong.
    pub(super) used: Vec<(Source, usize)>,
    /// How often the bytes turned out to be wrong.
    pub(super) restarts: usize,
    /// Whether the length is known from a `Content-Range`, and nobody has told another. A `Content-Length` alone may
    /// be what a body ends short of.
    pub(super) sure: bool,
    pub(super) progress: Progress,
    /// What members brought, should it turn out to be wrong.
    pub(super) shares: Vec<Share>,
    /// The member that told the length, if one did.
    pub(super) size_from: Option<Share>,
}

/// When to try again and when to stop trying.
pub(super) struct Progress {
    /// Bytes that are present. What comes a second time, from a source without ranges, is no progress.
    pub(super) present: u64,
    pub(super) since: Instant,
    /// The first failure after that.
    pub(super) failing: Option<Instant>,
    pub(super) backoff: Duration,
    pub(super) not_before: Option<Instant>,
}

/// Runs a fill from its first request to its end.
pub async fn run(fills: Arc<Fills>, fill: Arc<Fill>) {
    let outcome = caught(Box::pin(fill_up(&fills, &fill))).await;
    match outcome {
        Ok(Some(partial)) => {
            fill.set_phase(Phase::Verified);
            // What this process has seen, and what the one before wrote down.
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
                    // What is wrong with the disk was said by the store.
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
        // Nobody wants the rest; what is here stays as a partial.
        Ok(None) => {
            fills.metrics.fills.withdrawn.inc();
        }
        Err(error) => {
            fills.metrics.fills.failed.inc();
            let (partial, opened) = {
                let state = lock(&fill.state);
                (state.partial.clone(), state.opened)
            };
            // Who has no headers yet is told, and that is where it is logged.
            if !opened {
                tracing::debug!(blob.digest = %fill.digest, %error, "a fill failed");
            } else if let Some(due) = telemetry::due("a fill failed", fill.registry.as_str()) {
                tracing::warn!(blob.digest = %fill.digest, upstream.registry = %fill.registry, %error, unsaid = due.unsaid, "a download broke off and its readers end short, clients ask again; look at the registry and the way to it");
            }
            if matches!(error, FillError::Disk(_)) {
                // Before the file is taken away: a disk that hangs keeps it for as long as it likes.
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
            // Only now may another begin: it would find the file that is being taken away.
            fills.unlist(&fill);
            if matches!(error, FillError::Disk(_)) {
                // Room may be made.
                fills.grown.notify_one();
            }
            fill.set_phase(Phase::Failed(error));
        }
    }
}

/// A panic is a failure like any other: a fill that nobody takes off the list would be in the way of its digest until the
/// next restart.
async fn caught<T>(filling: impl Future<Output = Result<T, FillError>>) -> Result<T, FillError> {
    let caught = AssertUnwindSafe(filling).catch_unwind().await;
    caught.unwrap_or_else(|_| {
        tracing::error!("a fill panicked; please report this");
        Err(FillError::Disk("a fill panicked".to_owned()))
    })
}

/// Has the disk do something that readers wait for. If it is not done within this time they go on without the disk, as
/// after any of its errors, or end short where the bytes are wrong. The fill stays on the list until it is done: another
/// would meet the same file.
pub(super) async fn ask_disk<T: Send + 'static>(
    fills: &Fills,
    fill: &Fill,
    what: &str,
    within: Duration,
    call: impl FnOnce(&Store) -> T + Send + 'static,
) -> Result<T, FillError> {
    let what = format!("{what} {}", fill.digest);
    let mut asked = pin!(fills.store.ask_to_the_end(&what, within.max(HANGS), call));
    if let Ok(done) = timeout(within, &mut asked).await {
        return done.map_err(|panic| FillError::Disk(panic.to_string()));
    }
    let late = FillError::Disk(format!("{what} does not come"));
    fill.set_phase(Phase::Failed(late.clone()));
    let _ = asked.await;
    Err(late)
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
                    // Its word is worth no more than a member's.
                    fill.object_failed.store(true, Ordering::Relaxed);
                    if let Some(store) = &fills.cluster.store {
                        store.distrust(fill.digest);
                    }
                }
                let others = running.distrust().await;
                if !others || !take_back(fill) {
                    lock(&fill.state).wrong = true;
                    // The next fill names who lied.
                    running.suspect(&partial);
                    return Err(FillError::Digest);
                }
                // Nobody was given anything yet: another endpoint may have the right bytes.
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
    /// Nothing has been asked yet.
    pub(super) fn new(fills: &Arc<Fills>, fill: &Arc<Fill>) -> Self {
        Self {
            fills: Arc::clone(fills),
            fill: Arc::clone(fill),
            streams: JoinSet::new(),
            flights: Vec::new(),
            next_id: 0,
            received: Arc::default(),
            ramp: Ramp::new(Instant::now()),
            ranged: Arc::new(AtomicBool::new(true)),
            source: 0,
            first: 0,
            used: Vec::new(),
            restarts: 0,
            sure: true,
            progress: Progress {
                present: 0,
                since: Instant::now(),
                failing: None,
                backoff: BACKOFF_FIRST,
                not_before: None,
            },
            shares: Vec::new(),
            size_from: None,
        }
    }

    /// Enough of a blob that is read by ranges is here to be worth the rest (`store.complete_after`).
    fn complete_if_due(&self, partial: &Partial) {
        let Some(after) = self.fills.config.load().store.complete_after else {
            return;
        };
        if partial.present().total() >= after.of(partial.size()) {
            lock(&self.fill.state).whole = true;
        }
    }

    /// Fetches until everything is here and right, or nobody wants the rest (`None`).
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
            self.progress.note(now, partial.present().total());
            let due = self.progress.not_before.is_none_or(|at| at <= now);
            if due {
                self.start_streams(partial)?;
            }
            if self.flights.is_empty() && due {
                // Nobody wants anything: that is no lack of progress, and what failed before says nothing of the next.
                self.progress.begin_anew(now);
                let since = *idle_since.get_or_insert(now);
                if now.duration_since(since) >= LINGER && unwanted(&self.fill) {
                    // Written down before the fill leaves the list: the next one goes on from it.
                    let last = Arc::clone(partial);
                    let left = move |_: &Store| last.checkpoint();
                    let what = "the last checkpoint of the partial";
                    // Nobody waits for it yet, and what is here must not be lost to a journal that is busy.
                    let _ = ask_disk(&self.fills, &self.fill, what, HANGS, left).await?;
                    if self.fills.retire(&self.fill) {
                        return Ok(None);
                    }
                }
            } else {
                idle_since = None;
            }
            let wake = self
                .progress
                .not_before
                .filter(|at| *at > now)
                .unwrap_or(now + INTERVAL);
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

impl Progress {
    pub(super) fn note(&mut self, now: Instant, present: u64) {
        if present > self.present {
            self.present = present;
            self.begin_anew(now);
        }
    }

    fn begin_anew(&mut self, now: Instant) {
        self.since = now;
        self.failing = None;
        self.backoff = BACKOFF_FIRST;
    }
}

fn unwanted(fill: &Fill) -> bool {
    let state = lock(&fill.state);
    state.seats.is_empty() && !state.whole
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

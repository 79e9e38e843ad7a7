//! The task of one fill: starts streams where the plan says, watches them, verifies, commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use larder_shared::Range;
use tokio::{sync::OwnedSemaphorePermit, task::JoinSet, time::sleep_until};

use super::{
    Fill, FillError, Fills, HELD_BACK, Phase, Source, Wants,
    fetch::{self, End, Opened, Track},
    lock,
    plan::{self, Flight, Step, View, WINDOW},
    ramp::{INTERVAL, PARALLEL_FROM, Ramp},
};
use crate::{
    store::{Link, Partial},
    upstream::{Failure, Want},
};

/// A fill whose readers have headers is not given up before it has been without progress for this long (promise P14).
const GIVE_UP_ERRORS: Duration = Duration::from_secs(5);

/// The same where the source stalls instead of failing (promise P12).
const GIVE_UP_STALLS: Duration = Duration::from_secs(20);

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A fill that nobody wants stays on the list this long, for the client that comes back for the next chunk.
const LINGER: Duration = Duration::from_secs(2);

struct Stream {
    id: u64,
    /// One of the node's extra streams, unless it is the fill's only one.
    _permit: Option<OwnedSemaphorePermit>,
    track: Arc<Track>,
    source: Source,
    /// The endpoint that it began with.
    first: usize,
}

/// What the task alone knows.
struct Running {
    fills: Arc<Fills>,
    fill: Arc<Fill>,
    streams: JoinSet<(u64, End)>,
    flights: Vec<Stream>,
    next_id: u64,
    received: Arc<AtomicU64>,
    ramp: Ramp,
    /// Whether the endpoint in use answers ranges; a stream finds out.
    ranged: Arc<AtomicBool>,
    /// The source in use: an index into the list, which only grows.
    source: usize,
    /// The endpoint to begin with, counted through.
    first: usize,
    /// Who brought bytes, should they turn out to be wrong.
    used: Vec<(Source, usize)>,
    /// How often the bytes turned out to be wrong.
    restarts: usize,
    /// Whether the length is known from a `Content-Range`, and nobody has told another. A `Content-Length` alone may
    /// be what a body ends short of.
    sure: bool,
    progress: Progress,
}

/// When to try again and when to stop trying.
struct Progress {
    /// Bytes that are present. What comes a second time, from a source without ranges, is no progress.
    present: u64,
    since: Instant,
    /// The first failure after that.
    failing: Option<Instant>,
    backoff: Duration,
    not_before: Option<Instant>,
}

/// Runs a fill from its first request to its end.
pub async fn run(fills: Arc<Fills>, fill: Arc<Fill>) {
    let outcome = fill_up(&fills, &fill).await;
    match outcome {
        Ok(Some(partial)) => {
            fill.set_phase(Phase::Verified);
            let served = lock(&fill.state).served.clone();
            for source in served {
                let record = fills
                    .store
                    .repositories()
                    .get(&source.registry, &source.repository);
                record.add_link(Link {
                    digest: fill.digest,
                    size: partial.size(),
                    media_type: None,
                });
            }
            let store = Arc::clone(&fills.store);
            let committed = tokio::task::spawn_blocking(move || store.commit(&partial)).await;
            match committed {
                Ok(Ok(())) => {
                    fills.metrics.fills.committed.inc();
                }
                Ok(Err(error)) => {
                    tracing::warn!(blob.digest = %fill.digest, %error, "a blob was served but could not be kept");
                }
                Err(panic) => tracing::error!(%panic, "a commit panicked"),
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
            tracing::warn!(blob.digest = %fill.digest, %error, "a fill failed");
            let partial = lock(&fill.state).partial.clone();
            if let (FillError::Digest | FillError::Disk(_), Some(partial)) = (&error, partial) {
                let _ = tokio::task::spawn_blocking(move || partial.discard()).await;
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

async fn fill_up(fills: &Arc<Fills>, fill: &Arc<Fill>) -> Result<Option<Arc<Partial>>, FillError> {
    let mut running = Running {
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
    };
    let (store, digest) = (Arc::clone(&fills.store), fill.digest);
    let left = tokio::task::spawn_blocking(move || store.resume(digest)).await;
    let partial = match left {
        Ok(Ok(Some(partial))) => {
            fills.metrics.fills.resumed.inc();
            let partial = Arc::new(partial);
            enter(fill, &partial, false);
            partial
        }
        Ok(Ok(None)) => running.start().await?,
        Ok(Err(error)) => return Err(FillError::Disk(error.to_string())),
        Err(panic) => return Err(FillError::Disk(panic.to_string())),
    };
    let mut partial = partial;
    loop {
        match running.complete(&partial).await {
            Err(FillError::Digest) => {
                let others = running.distrust().await;
                if !others || !take_back(fill) {
                    return Err(FillError::Digest);
                }
                // Nobody was given anything yet: another endpoint may have the right bytes.
                partial = running.restart(partial).await?;
            }
            Err(error @ (FillError::Broken(_) | FillError::Upstream(_))) => {
                // The next fill goes on from here, unless the length itself is in doubt.
                let (last, sure) = (Arc::clone(&partial), running.sure);
                let left = move || {
                    if sure {
                        last.checkpoint()
                    } else {
                        last.discard()
                    }
                };
                let _ = tokio::task::spawn_blocking(left).await;
                return Err(error);
            }
            done => return done,
        }
    }
}

/// The size is known: readers may begin.
fn enter(fill: &Fill, partial: &Arc<Partial>, answered: bool) {
    {
        let mut state = lock(&fill.state);
        state.partial = Some(Arc::clone(partial));
        state.answered = answered;
        state.phase = Phase::Filling;
        // What is verified before its first byte is fetched whole.
        state.whole |= partial.size() <= HELD_BACK;
    }
    fill.wake_readers();
}

/// Takes the partial away again, if no reader has been told its size.
fn take_back(fill: &Fill) -> bool {
    let mut state = lock(&fill.state);
    if state.opened {
        return false;
    }
    state.partial = None;
    state.phase = Phase::Starting;
    true
}

impl Running {
    /// The first request: learns the size and makes the partial.
    async fn start(&mut self) -> Result<Arc<Partial>, FillError> {
        let mut want = first_want(&self.fill);
        loop {
            let source = self.pick_source()?;
            let end = match fetch::open(&self.fills, &self.fill, &source, want, self.first).await {
                Ok(opened) => {
                    let (store, digest, size) =
                        (Arc::clone(&self.fills.store), self.fill.digest, opened.size);
                    let begun =
                        tokio::task::spawn_blocking(move || store.begin(digest, size)).await;
                    let partial = match begun {
                        Ok(Ok(partial)) => Arc::new(partial),
                        Ok(Err(error)) => return Err(FillError::Disk(error.to_string())),
                        Err(panic) => return Err(FillError::Disk(panic.to_string())),
                    };
                    let range = match want {
                        Want::Part(range) if opened.ranged => {
                            Range::new(range.start, range.end.min(size))
                        }
                        _ => Range::new(0, size),
                    };
                    self.pump(&partial, source, opened, range);
                    enter(&self.fill, &partial, true);
                    return Ok(partial);
                }
                Err(end) => end,
            };
            match end {
                // The length first, then what fits; or no range at all, for the empty blob and for sources that
                // know no ranges and say so.
                End::Refused(Failure::Unsatisfiable { total }) if want != Want::All => {
                    want = match (total, want) {
                        (Some(total), Want::Part(asked)) if total > 0 && asked.start >= total => {
                            Want::Part(Range::new(0, 1.min(total)))
                        }
                        _ => Want::All,
                    };
                }
                End::Refused(failure) => self.refuse(source, failure),
                End::WrongObject(why) | End::Broken { why, .. } => {
                    let failure = Failure::Invalid {
                        place: source.registry.to_string(),
                        why,
                    };
                    self.refuse(source, failure);
                }
                End::Disk(error) => return Err(FillError::Disk(error.to_string())),
                End::Done => {}
            }
        }
    }

    /// The bytes were wrong: whoever brought them is asked last from now on. Whether there is anybody else.
    async fn distrust(&mut self) -> bool {
        let mut others = false;
        for (source, endpoint) in std::mem::take(&mut self.used) {
            self.fills
                .upstreams
                .lied(&source.registry, endpoint, &self.fill.digest)
                .await;
            others |= self.restarts + 1 < self.fills.upstreams.count(&source.registry);
        }
        self.restarts += 1;
        others
    }

    /// Begins anew, with what the next endpoint says is the size.
    async fn restart(&mut self, old: Arc<Partial>) -> Result<Arc<Partial>, FillError> {
        let _ = tokio::task::spawn_blocking(move || old.discard()).await;
        self.progress.present = 0;
        self.progress.since = Instant::now();
        self.progress.failing = None;
        self.start().await
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
            let received = self.received.load(Ordering::Relaxed);
            self.ramp.look(now, received);
            self.progress.note(now, partial.present().total());
            let due = self.progress.not_before.is_none_or(|at| at <= now);
            if due {
                self.start_streams(partial)?;
            }
            if self.flights.is_empty() && due {
                let since = *idle_since.get_or_insert(now);
                if now.duration_since(since) >= LINGER && unwanted(&self.fill) {
                    // Written down before the fill leaves the list: the next one goes on from it.
                    let last = Arc::clone(partial);
                    let _ = tokio::task::spawn_blocking(move || last.checkpoint()).await;
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

    fn start_streams(&mut self, partial: &Arc<Partial>) -> Result<(), FillError> {
        loop {
            let (demands, whole) = demands(&self.fill, partial.size());
            let flights: Vec<Flight> = self.flights.iter().map(Stream::flight).collect();
            let streams = if partial.size() >= PARALLEL_FROM {
                self.ramp.streams()
            } else {
                1
            };
            // A reader that waits at a place of its own gets a stream of its own.
            let streams = streams.max(demands.len().min(super::ramp::MAX_STREAMS));
            let step = plan::next(&View {
                size: partial.size(),
                present: &partial.present(),
                flights: &flights,
                demands: &demands,
                whole,
                streams,
                ranged: self.ranged.load(Ordering::Relaxed),
            });
            match step {
                Step::Wait => return Ok(()),
                Step::Cut { id, end } => {
                    if let Some(stream) = self.flights.iter().find(|s| s.id == id) {
                        stream.track.end.store(end, Ordering::Release);
                    }
                }
                Step::Fetch(range) => {
                    let permit = if self.flights.is_empty() {
                        None
                    } else {
                        match Arc::clone(&self.fills.extra_streams).try_acquire_owned() {
                            Ok(permit) => Some(permit),
                            // The node has enough streams: this fill goes on with what it has.
                            Err(_) => return Ok(()),
                        }
                    };
                    let source = self.pick_source()?;
                    self.fetch(partial, source, range, permit);
                }
            }
        }
    }

    /// A stream that asks first.
    fn fetch(
        &mut self,
        partial: &Arc<Partial>,
        source: Source,
        range: Range,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let (id, track) = self.track(range, source.clone(), permit);
        let (fills, fill, partial) = (
            Arc::clone(&self.fills),
            Arc::clone(&self.fill),
            Arc::clone(partial),
        );
        let (received, ranged, first) = (
            Arc::clone(&self.received),
            Arc::clone(&self.ranged),
            self.first,
        );
        self.streams.spawn(async move {
            let want = if ranged.load(Ordering::Relaxed) {
                Want::Part(range)
            } else {
                Want::All
            };
            let opened = match fetch::open(&fills, &fill, &source, want, first).await {
                Ok(opened) => opened,
                Err(end) => return (id, end),
            };
            if opened.size != partial.size() {
                let why = format!("{} bytes where {} were before", opened.size, partial.size());
                return (id, End::WrongObject(why));
            }
            if !opened.ranged {
                // It answers with everything: this stream brings all of it.
                ranged.store(false, Ordering::Relaxed);
                track.at.store(0, Ordering::Release);
                track.end.store(partial.size(), Ordering::Release);
            }
            track.endpoint.store(opened.endpoint, Ordering::Relaxed);
            answered(&fill);
            (
                id,
                fetch::pump(fill, partial, opened, track, received).await,
            )
        });
    }

    /// A stream whose answer is here.
    fn pump(&mut self, partial: &Arc<Partial>, source: Source, opened: Opened, range: Range) {
        self.ranged.store(opened.ranged, Ordering::Relaxed);
        self.sure = opened.ranged;
        let (id, track) = self.track(range, source, None);
        track.endpoint.store(opened.endpoint, Ordering::Relaxed);
        let (fill, partial, received) = (
            Arc::clone(&self.fill),
            Arc::clone(partial),
            Arc::clone(&self.received),
        );
        self.streams.spawn(async move {
            let end = fetch::pump(fill, partial, opened, track, received).await;
            (id, end)
        });
    }

    fn track(
        &mut self,
        range: Range,
        source: Source,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (u64, Arc<Track>) {
        let id = self.next_id;
        self.next_id += 1;
        let track = Arc::new(Track {
            at: AtomicU64::new(range.start),
            end: AtomicU64::new(range.end),
            endpoint: AtomicUsize::new(usize::MAX),
        });
        self.flights.push(Stream {
            id,
            _permit: permit,
            track: Arc::clone(&track),
            source,
            first: self.first,
        });
        (id, track)
    }

    fn ended(&mut self, partial: &Partial, id: u64, end: End) -> Result<(), FillError> {
        let Some(at) = self.flights.iter().position(|stream| stream.id == id) else {
            return Ok(());
        };
        let stream = self.flights.swap_remove(at);
        let endpoint = stream.track.endpoint.load(Ordering::Relaxed);
        if endpoint != usize::MAX {
            let used = (stream.source.clone(), endpoint);
            if !self.used.contains(&used) {
                self.used.push(used);
            }
        }
        let (why, stalled) = match end {
            End::Done => return Ok(()),
            End::Disk(error) => {
                self.fills.store.failed(&error);
                return Err(FillError::Disk(error.to_string()));
            }
            End::WrongObject(why) => {
                self.sure = false;
                (why, false)
            }
            End::Broken { why, stalled } => (why, stalled),
            // This credential opens nothing any more; another reader's may.
            End::Refused(failure @ Failure::Refused(_)) => {
                let why = failure.to_string();
                self.refuse(stream.source.clone(), failure);
                (why, false)
            }
            // A source that has answered before is asked again: a server may have been replaced.
            End::Refused(failure) => (failure.to_string(), false),
        };
        lock(&self.fill.state).answered = false;
        let now = Instant::now();
        self.progress.note(now, partial.present().total());
        // A stall has taken its time already: the other sources still get theirs.
        let failing = *self.progress.failing.get_or_insert(now);
        let given_up = !stalled && now.duration_since(failing) >= GIVE_UP_ERRORS;
        if given_up || now.duration_since(self.progress.since) >= GIVE_UP_STALLS {
            return Err(FillError::Broken(why));
        }
        tracing::debug!(blob.digest = %self.fill.digest, why, "a stream broke off; it is asked for again");
        // Another endpoint, another source; streams that break together count once.
        if stream.first == self.first {
            self.first += 1;
            self.source += 1;
            self.ranged.store(true, Ordering::Relaxed);
        }
        // With another endpoint to go to there is nothing to wait for, the first time round.
        let registry = self.pick_source()?.registry;
        let others = self.first < self.fills.upstreams.count(&registry);
        let wait = if others {
            Duration::ZERO
        } else {
            self.progress.backoff.mul_f64(0.5 + fastrand::f64())
                + self.fills.upstreams.retry_delay(&registry)
        };
        self.progress.not_before = Some(now + wait);
        self.progress.backoff = (self.progress.backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }

    /// The sources in turn; without one that was not refused, the first refusal is the reason.
    fn pick_source(&mut self) -> Result<Source, FillError> {
        let state = lock(&self.fill.state);
        let good: Vec<&Source> = state
            .sources
            .iter()
            .filter(|source| !state.refusals.iter().any(|(refused, _)| refused == *source))
            .collect();
        match good.get(self.source % good.len().max(1)) {
            Some(source) => Ok((*source).clone()),
            None => Err(match state.refusals.first() {
                Some((_, failure)) => FillError::Upstream(failure.clone()),
                None => FillError::Broken("no source".to_owned()),
            }),
        }
    }

    /// A source is out. Its readers learn why; the others go on.
    fn refuse(&mut self, source: Source, failure: Failure) {
        lock(&self.fill.state).refusals.push((source, failure));
        self.fill.wake_readers();
    }

    async fn verify(&self, partial: &Arc<Partial>) -> Result<Arc<Partial>, FillError> {
        let checked = Arc::clone(partial);
        match tokio::task::spawn_blocking(move || checked.verify()).await {
            Ok(Ok(Some(true))) => Ok(Arc::clone(partial)),
            Ok(Ok(_)) => {
                self.fills.metrics.fills.mismatched.inc();
                Err(FillError::Digest)
            }
            Ok(Err(error)) => Err(FillError::Disk(error.to_string())),
            Err(panic) => Err(FillError::Disk(panic.to_string())),
        }
    }
}

impl Stream {
    fn flight(&self) -> Flight {
        Flight {
            id: self.id,
            at: self.track.at.load(Ordering::Acquire),
            end: self.track.end.load(Ordering::Acquire),
        }
    }
}

impl Progress {
    fn note(&mut self, now: Instant, present: u64) {
        if present > self.present {
            self.present = present;
            self.since = now;
            self.failing = None;
            self.backoff = BACKOFF_FIRST;
        }
    }
}

fn unwanted(fill: &Fill) -> bool {
    let state = lock(&fill.state);
    state.seats.is_empty() && !state.whole
}

fn answered(fill: &Fill) {
    lock(&fill.state).answered = true;
    fill.wake_readers();
}

/// What to ask for while nothing is known: the first bytes that anybody wants, as many as a run has.
fn first_want(fill: &Fill) -> Want {
    let state = lock(&fill.state);
    let starts = state.seats.values().filter_map(|seat| match seat.wants {
        Wants::Opening { start, .. } => start,
        _ => None,
    });
    match (state.whole, starts.min()) {
        (true, _) => Want::Part(Range::new(0, 2 * WINDOW)),
        (false, Some(start)) => Want::Part(Range::new(
            start / plan::SPAN * plan::SPAN,
            (start / plan::SPAN * plan::SPAN).saturating_add(plan::SPAN),
        )),
        // A suffix: the length decides where it begins.
        (false, None) => Want::Part(Range::new(0, 1)),
    }
}

/// What the readers want now, and whether the blob is wanted as a whole.
fn demands(fill: &Fill, size: u64) -> (Vec<Range>, bool) {
    let state = lock(&fill.state);
    let mut demands: Vec<Range> = state
        .seats
        .values()
        .flat_map(|seat| match &seat.wants {
            Wants::Opening {
                start: Some(start),
                whole: false,
            } => vec![Range::new(*start, start.saturating_add(1))],
            Wants::Opening { .. } => Vec::new(),
            Wants::Whole { at } => vec![Range::new(*at, size)],
            Wants::Open { at } => vec![Range::new(*at, at.saturating_add(WINDOW).min(size))],
            Wants::Parts(parts) => parts.clone(),
        })
        .filter(|range| range.start < range.end.min(size))
        .collect();
    demands.sort_by_key(|range| range.start);
    (demands, state.whole)
}

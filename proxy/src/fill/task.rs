//! The task of one fill: starts streams where the plan says, watches them, verifies, commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder_shared::Range;
use tokio::{task::JoinSet, time::sleep_until};

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
    track: Arc<Track>,
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
    ranged: bool,
    /// The source in use: an index into the list, which only grows.
    source: usize,
    progress: Progress,
}

/// When to try again and when to stop trying.
struct Progress {
    /// Bytes that are present. What comes a second time, from a source without ranges, is no progress.
    present: u64,
    since: Instant,
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
        }
        // Nobody wants the rest; what is here stays as a partial.
        Ok(None) => {
            fills.metrics.fills.withdrawn.inc();
        }
        Err(error) => {
            fills.unlist(&fill);
            fills.metrics.fills.failed.inc();
            tracing::warn!(blob.digest = %fill.digest, %error, "a fill failed");
            let partial = lock(&fill.state).partial.clone();
            if let (FillError::Digest | FillError::Disk(_), Some(partial)) = (&error, partial) {
                let _ = tokio::task::spawn_blocking(move || partial.discard()).await;
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
        ranged: true,
        source: 0,
        progress: Progress {
            present: 0,
            since: Instant::now(),
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
    let outcome = running.complete(&partial).await;
    if let Err(FillError::Broken(_) | FillError::Upstream(_)) = &outcome {
        // The next fill goes on from here. A source without ranges would begin again anyway, and nothing confirms
        // the length that it told.
        let (last, ranged) = (Arc::clone(&partial), running.ranged);
        let left = move || {
            if ranged {
                last.checkpoint()
            } else {
                last.discard()
            }
        };
        let _ = tokio::task::spawn_blocking(left).await;
    }
    outcome
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

impl Running {
    /// The first request: learns the size and makes the partial.
    async fn start(&mut self) -> Result<Arc<Partial>, FillError> {
        let mut want = first_want(&self.fill);
        loop {
            let source = self.pick_source()?;
            let end = match fetch::open(&self.fills, &self.fill, &source, want).await {
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
                    self.pump(&partial, opened, range);
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
            self.ramp.look(now, self.received.load(Ordering::Relaxed));
            self.progress.note(now, partial.present().total());
            let due = self.progress.not_before.is_none_or(|at| at <= now);
            if due {
                self.start_streams(partial)?;
            }
            if self.flights.is_empty() && due {
                let since = *idle_since.get_or_insert(now);
                if now.duration_since(since) >= LINGER && self.fills.retire(&self.fill) {
                    let last = Arc::clone(partial);
                    let _ = tokio::task::spawn_blocking(move || last.checkpoint()).await;
                    return Ok(None);
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
                    Ok((id, end)) => self.ended(id, end)?,
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
                ranged: self.ranged,
            });
            match step {
                Step::Wait => return Ok(()),
                Step::Cut { id, end } => {
                    if let Some(stream) = self.flights.iter().find(|s| s.id == id) {
                        stream.track.end.store(end, Ordering::Release);
                    }
                }
                Step::Fetch(range) => {
                    let source = self.pick_source()?;
                    self.fetch(partial, source, range);
                }
            }
        }
    }

    /// A stream that asks first.
    fn fetch(&mut self, partial: &Arc<Partial>, source: Source, range: Range) {
        let (id, track) = self.track(range);
        let (fills, fill, partial) = (
            Arc::clone(&self.fills),
            Arc::clone(&self.fill),
            Arc::clone(partial),
        );
        let (received, ranged) = (Arc::clone(&self.received), self.ranged);
        self.streams.spawn(async move {
            let want = if ranged { Want::Part(range) } else { Want::All };
            let end = match fetch::open(&fills, &fill, &source, want).await {
                Ok(opened) if opened.size != partial.size() => End::WrongObject(format!(
                    "{} bytes where {} were before",
                    opened.size,
                    partial.size()
                )),
                Ok(opened)
                    if ranged && !opened.ranged && range != Range::new(0, partial.size()) =>
                {
                    // It answers with everything: this stream becomes the only one.
                    track.at.store(0, Ordering::Release);
                    track.end.store(partial.size(), Ordering::Release);
                    answered(&fill);
                    fetch::pump(fill, partial, opened, track, received).await
                }
                Ok(opened) => {
                    answered(&fill);
                    fetch::pump(fill, partial, opened, track, received).await
                }
                Err(end) => end,
            };
            (id, end)
        });
    }

    /// A stream whose answer is here.
    fn pump(&mut self, partial: &Arc<Partial>, opened: Opened, range: Range) {
        self.ranged = opened.ranged;
        let (id, track) = self.track(range);
        let (fill, partial, received) = (
            Arc::clone(&self.fill),
            Arc::clone(partial),
            Arc::clone(&self.received),
        );
        self.streams.spawn(async move {
            (
                id,
                fetch::pump(fill, partial, opened, track, received).await,
            )
        });
    }

    fn track(&mut self, range: Range) -> (u64, Arc<Track>) {
        let id = self.next_id;
        self.next_id += 1;
        let track = Arc::new(Track {
            at: AtomicU64::new(range.start),
            end: AtomicU64::new(range.end),
        });
        self.flights.push(Stream {
            id,
            track: Arc::clone(&track),
        });
        (id, track)
    }

    fn ended(&mut self, id: u64, end: End) -> Result<(), FillError> {
        self.flights.retain(|stream| stream.id != id);
        let mut other = false;
        let (why, stalled) = match end {
            End::Done => return Ok(()),
            End::Disk(error) => return Err(FillError::Disk(error.to_string())),
            End::WrongObject(why) => {
                other = true;
                (why, false)
            }
            End::Broken { why, stalled } => (why, stalled),
            // A source that has answered before is asked again: a token may have expired, a server been replaced.
            End::Refused(failure) => (failure.to_string(), false),
        };
        lock(&self.fill.state).answered = false;
        let now = Instant::now();
        let limit = if stalled {
            GIVE_UP_STALLS
        } else {
            GIVE_UP_ERRORS
        };
        if now.duration_since(self.progress.since) >= limit {
            // What is here may be the wrong one of the two, so it does not stay to spoil the next fill.
            return Err(if other {
                FillError::Digest
            } else {
                FillError::Broken(why)
            });
        }
        tracing::debug!(blob.digest = %self.fill.digest, why, "a stream broke off; it is asked for again");
        self.source += 1;
        self.progress.not_before = Some(now + self.progress.backoff);
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

    fn refuse(&mut self, source: Source, failure: Failure) {
        lock(&self.fill.state).refusals.push((source, failure));
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
            self.backoff = BACKOFF_FIRST;
        }
    }
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

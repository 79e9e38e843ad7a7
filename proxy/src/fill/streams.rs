//! The streams of a fill: starts a stream where the plan says, and decides what follows when a stream ends.

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use larder_shared::Range;
use tokio::{sync::OwnedSemaphorePermit, task::JoinSet};

use super::{
    Fill, FillError, HELD_BACK, Manner, ReaderEntry, Source, Wants,
    fetch::{self, Track},
    lock,
    opened::{End, Opened},
    patience::Next,
    plan::{self, Demand, Flight, Spread, Step, View},
    ramp::{MAX_STREAMS, PARALLEL_FROM},
    running::{Running, Stream},
    sources::{self, Via},
    suspects::Share,
};
use crate::{
    cluster::placement::RUN,
    store::Partial,
    upstream::{Became, Failure, Want},
};

impl Running {
    pub(super) fn start_streams(&mut self, partial: &Arc<Partial>) -> Result<(), FillError> {
        loop {
            let (demands, whole) = demands(&self.fill, partial.size());
            let flights: Vec<Flight> = self.flights.iter().map(Stream::flight).collect();
            let clustered = self.fills.cluster.has_others();
            let streams = if clustered {
                // Each stream asks another member, so more streams burden no single member.
                MAX_STREAMS
            } else if partial.size() >= PARALLEL_FROM {
                self.ramp.streams()
            } else {
                1
            };
            // A reader that waits at a place of its own gets a stream of its own.
            let streams = streams.max(demands.len().min(MAX_STREAMS));
            let turn = |run| self.fills.cluster.turn(&self.fill.digest, run);
            let step = plan::next(&View {
                size: partial.size(),
                present: &partial.present(),
                flights: &flights,
                demands: &demands,
                whole,
                streams,
                ranged: self.ranged.load(Ordering::Relaxed),
                spread: clustered.then_some(Spread {
                    run: RUN,
                    // All members together have as many as one node would have by itself.
                    direct: (MAX_STREAMS / self.fills.cluster.members.view().keys.len().max(1))
                        .max(1),
                    turn: &turn,
                }),
            });
            match step {
                Step::Wait => return Ok(()),
                Step::Cut { id, end } => {
                    if let Some(stream) = self.flights.iter().find(|s| s.id == id) {
                        stream.track.end.store(end, Ordering::Release);
                    }
                }
                Step::Fetch { range, depth } => {
                    let via = self.via(range.start, depth);
                    // The first stream of each depth needs no permit: it must never wait for streams that may wait for
                    // it.
                    let first = self.flights.iter().all(|s| s.depth != via.depth());
                    let permit = if first {
                        None
                    } else {
                        match Arc::clone(&self.fills.extra_streams).try_acquire_owned() {
                            Ok(permit) => Some(permit),
                            // The node has enough streams: this fill goes on with what it has.
                            Err(_) => return Ok(()),
                        }
                    };
                    let source = self.pick_source()?;
                    self.fetch(partial, source, range, via, permit);
                }
            }
        }
    }

    /// What to ask for the bytes that begin at `at`, with at most `depth` members in between.
    pub(super) fn via(&self, at: u64, depth: u8) -> Via {
        let (cluster, run) = (&self.fills.cluster, sources::run_of(at));
        // After wrong bytes, only a holder or the source itself is asked: another member may pass on what a suspect
        // gives it.
        if self.fills.suspects.doubts(&self.fill.digest) {
            return Via::Direct;
        }
        let worth_it =
            |member: &SocketAddr| !self.fill.has_failed(run, *member) && cluster.admits(*member);
        let candidates = cluster.candidates(&self.fill.digest, run, depth);
        match candidates.into_iter().find(|(member, _)| worth_it(member)) {
            Some((member, role)) => Via::Peer { member, role },
            None => Via::Direct,
        }
    }

    /// Starts a stream that has yet to ask.
    pub(super) fn fetch(
        &mut self,
        partial: &Arc<Partial>,
        source: Source,
        range: Range,
        via: Via,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        tracing::trace!(blob.digest = %self.fill.digest, ?range, ?via, "a stream begins");
        let (id, track) = self.track(range, source.clone(), via, permit);
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
            let by_range = ranged.load(Ordering::Relaxed);
            let want = if by_range {
                Want::Part(range)
            } else {
                Want::All
            };
            let opened = match sources::open(&fills, &fill, &source, want, first, via).await {
                Ok(opened) => opened,
                Err(end) => return (id, end),
            };
            if let (Some(member), true) = (opened.member, opened.size != partial.size()) {
                let why = "it tells another length".to_owned();
                return (id, End::Peer { member, why });
            }
            if opened.size != partial.size() {
                let why = format!("{} bytes where {} were before", opened.size, partial.size());
                let plain = !opened.ranged;
                let became = Became::BrokeOff { plain };
                let (registry, endpoint) = (&source.registry, opened.endpoint);
                fills
                    .upstreams
                    .became(registry, endpoint, &fill.digest, became);
                return (id, End::WrongObject(why));
            }
            if !opened.ranged {
                // The source answers with the whole blob: the first stream that learns so brings all of it.
                if !ranged.swap(false, Ordering::Relaxed) && by_range {
                    return (id, End::Done);
                }
                track.at.store(0, Ordering::Release);
                track.end.store(partial.size(), Ordering::Release);
            }
            track.endpoint.store(opened.endpoint, Ordering::Relaxed);
            track.note(&opened);
            note_proofs(&fill, &partial);
            answered(&fill);
            (
                id,
                fetch::pump(fill, partial, opened, track, received).await,
            )
        });
    }

    /// Starts a stream whose answer is here already.
    pub(super) fn pump(
        &mut self,
        partial: &Arc<Partial>,
        source: Source,
        opened: Opened,
        range: Range,
        via: Via,
    ) {
        self.ranged.store(opened.ranged, Ordering::Relaxed);
        self.sure = opened.ranged;
        self.size_from = opened.member.map(|member| Share {
            range: Range::new(0, 0),
            member,
            passed_on: opened.passed_on,
        });
        note_proofs(&self.fill, partial);
        let (id, track) = self.track(range, source, via, None);
        track.endpoint.store(opened.endpoint, Ordering::Relaxed);
        track.note(&opened);
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

    pub(super) fn track(
        &mut self,
        range: Range,
        source: Source,
        via: Via,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (u64, Arc<Track>) {
        let id = self.next_id;
        self.next_id += 1;
        let track = Arc::new(Track {
            at: AtomicU64::new(range.start),
            end: AtomicU64::new(range.end),
            endpoint: AtomicUsize::new(usize::MAX),
            wrote: Mutex::default(),
            member: OnceLock::new(),
            passed_on: AtomicBool::new(false),
            object: AtomicBool::new(false),
            plain: AtomicBool::new(false),
        });
        self.flights.push(Stream {
            id,
            _permit: permit,
            track: Arc::clone(&track),
            source,
            first: self.first,
            start: range.start,
            depth: via.depth(),
        });
        (id, track)
    }

    /// Notes which source brought what, in case it turns out to be wrong. Returns the endpoint; `usize::MAX` if none
    /// answered.
    fn note_brought(&mut self, stream: &Stream) -> usize {
        let endpoint = stream.track.endpoint.load(Ordering::Relaxed);
        if endpoint != usize::MAX {
            let used = (stream.source.clone(), endpoint);
            if !self.used.contains(&used) {
                self.used.push(used);
            }
        }
        if let Some(member) = stream.track.member.get() {
            let wrote = lock(&stream.track.wrote);
            let passed_on = stream.track.passed_on.load(Ordering::Relaxed);
            self.shares.extend(wrote.iter().map(|range| Share {
                range,
                member: *member,
                passed_on,
            }));
        }
        endpoint
    }

    /// Ends all streams.
    pub(super) fn stop_streams(&mut self) {
        for stream in std::mem::take(&mut self.flights) {
            self.note_brought(&stream);
        }
        // Dropping the set ends the streams that still run.
        self.streams = JoinSet::new();
    }

    pub(super) fn ended(&mut self, partial: &Partial, id: u64, end: End) -> Result<(), FillError> {
        let Some(at) = self.flights.iter().position(|stream| stream.id == id) else {
            return Ok(());
        };
        let stream = self.flights.swap_remove(at);
        let endpoint = self.note_brought(&stream);
        if let (End::Broken { .. }, None, true) =
            (&end, stream.track.member.get(), endpoint != usize::MAX)
        {
            let plain = stream.track.plain.load(Ordering::Relaxed);
            // A range that broke off in its middle is asked for again from there. An endpoint that brings only a few
            // bytes each time is of no use, though.
            if plain || lock(&stream.track.wrote).total() < HELD_BACK {
                let became = Became::BrokeOff { plain };
                let registry = &stream.source.registry;
                let upstreams = &self.fills.upstreams;
                upstreams.became(registry, endpoint, &self.fill.digest, became);
            }
        }
        if let (End::Broken { .. }, true) = (&end, stream.track.object.load(Ordering::Relaxed)) {
            // Upstream brings the rest.
            self.fill.object_failed.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let (why, stalled) = match end {
            End::Done => return Ok(()),
            End::Peer { member, why } => {
                // Another source is asked for the rest, at once.
                tracing::debug!(blob.digest = %self.fill.digest, %member, why, "a member's stream ended, another source goes on");
                self.fills.metrics.peers.failovers.inc();
                self.fill.note_failed(sources::run_of(stream.start), member);
                let holder = stream.depth == 0;
                if holder {
                    self.fill.note_failed(sources::ANY_RUN, member);
                }
                return Ok(());
            }
            End::Disk(error) => {
                self.fills.store.failed(&error);
                return Err(FillError::Disk(error.to_string()));
            }
            End::Hangs(write) => {
                let what = format!("a write of {}", self.fill.digest);
                if let Some(hung) = self.fills.store.hangs(&what) {
                    tokio::spawn(async move {
                        let _ = write.await;
                        drop(hung);
                    });
                }
                return Err(FillError::Disk(what + " does not return"));
            }
            End::WrongObject(why) => {
                self.sure = false;
                // A member said one length, and the registry says another: one of the two is wrong.
                if let Some(share) = self.size_from {
                    self.shares.push(share);
                    return Err(FillError::Digest);
                }
                (why, false)
            }
            End::Broken { why, stalled } => (why, stalled),
            // This credential is no longer accepted; another reader's may be.
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
        self.patience.note(now, partial.present().total());
        if self.patience.failed(now, stalled) == Next::GiveUp {
            let upstreams = &self.fills.upstreams;
            for endpoint in 0..upstreams.count(&stream.source.registry) {
                let registry = &stream.source.registry;
                upstreams.became(registry, endpoint, &self.fill.digest, Became::Failed);
            }
            return Err(FillError::Broken(why));
        }
        tracing::debug!(blob.digest = %self.fill.digest, why, "a stream broke off; it is asked for again");
        // The next attempt asks another endpoint and another source. Streams that break together count once.
        if stream.first == self.first {
            self.first += 1;
            self.source += 1;
            self.ranged.store(true, Ordering::Relaxed);
        }
        // While some endpoint was not tried yet, the next attempt need not wait.
        let registry = self.pick_source()?.registry;
        let others = self.first < self.fills.upstreams.count(&registry);
        let pause = self.patience.pause(fastrand::f64());
        let wait = if others {
            Duration::ZERO
        } else {
            pause + self.fills.upstreams.retry_delay(&registry)
        };
        self.patience.hold_until(now + wait);
        Ok(())
    }
}

impl Stream {
    fn flight(&self) -> Flight {
        Flight {
            id: self.id,
            at: self.track.at.load(Ordering::Acquire),
            end: self.track.end.load(Ordering::Acquire),
            depth: self.depth,
        }
    }
}

/// Notes in the partial which repositories hold the digest: with it, the fact outlives this process.
fn note_proofs(fill: &Fill, partial: &Partial) {
    let state = lock(&fill.state);
    for source in state.served.iter().chain(&state.vouched) {
        partial.prove_in(&source.repository);
    }
}

fn answered(fill: &Fill) {
    lock(&fill.state).answered = true;
    fill.wake_readers();
}

/// What the readers want now, and whether the blob is wanted as a whole.
fn demands(fill: &Fill, size: u64) -> (Vec<Demand>, bool) {
    let state = lock(&fill.state);
    let ranges = |entry: &ReaderEntry| match &entry.wants {
        Wants::Opening {
            start: Some(start),
            end: Some(end),
            whole: false,
        } if entry.manner == Manner::SPAN => vec![Range::new(*start, *end)],
        Wants::Opening {
            start: Some(start),
            whole: false,
            ..
        } => vec![Range::new(*start, start.saturating_add(1))],
        // For a suffix, or a range that does not fit, the last byte stands in.
        Wants::Opening {
            start: None,
            whole: false,
            ..
        } => vec![Range::new(size.saturating_sub(1), size)],
        Wants::Opening { .. } | Wants::Open { .. } => Vec::new(),
        Wants::Whole { at } => vec![Range::new(*at, size)],
        Wants::Parts(parts) => parts.clone(),
    };
    let mut demands: Vec<Demand> = Vec::new();
    for entry in state.readers.values() {
        let Manner { depth, exact } = entry.manner;
        if let Wants::Open { from, at } = entry.wants {
            demands.push(Demand::open(from, at, size, depth));
        }
        let wanted = ranges(entry).into_iter();
        demands.extend(wanted.map(|range| Demand {
            range,
            depth,
            exact,
            enough: u64::MAX,
        }));
    }
    demands.retain(|demand| demand.range.start < demand.range.end.min(size));
    // What other members wait for on behalf of their readers goes first.
    demands.sort_by_key(|demand| (demand.depth, demand.range.start));
    (demands, state.whole)
}

//! How a fill begins: what to ask, the first request, the size, the empty file; and how it begins anew when the bytes
//! were wrong.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_shared::{Range, Spans};
use tokio::time::{sleep_until, timeout};

use super::{
    Fill, FillError, HELD_BACK, Manner, Phase, Source, Wants,
    disk::ask_disk,
    lock,
    opened::{Brought, End, Opened},
    patience::IDLE,
    plan::{self, DEPTH, WINDOW},
    running::Running,
    sources::{self, Via},
};
use crate::{
    cluster::placement::RUN,
    store::{HANGS, Partial, Store},
    upstream::{Failure, Subject, Want},
};

impl Running {
    /// The first request: learns the size and makes the partial.
    pub(super) async fn start(&mut self) -> Result<Arc<Partial>, FillError> {
        let begun = Instant::now();
        let mut depth = least_depth(&self.fill);
        let mut want = first_want(&self.fill, depth);
        let mut passed = 0;
        loop {
            let source = self.pick_source()?;
            let at = match want {
                Want::Part(range) => range.start,
                Want::All | Want::Head => 0,
            };
            // A client waits for its headers, so members must leave enough time to ask upstream.
            let mut via = match want {
                Want::Part(_) if begun.elapsed() < MEMBERS_FIRST => self.via(at, depth),
                _ => Via::Direct,
            };
            if let (true, Want::Part(range)) = (self.fills.cluster.has_others(), want) {
                // The next run belongs to another member.
                let end = (range.start / RUN + 1) * RUN;
                want = Want::Part(Range::new(range.start, range.end.min(end)));
            }
            let opening = Box::pin(self.open_first(&source, want, via, depth, begun));
            let end = match opening.await {
                None => {
                    depth = least_depth(&self.fill);
                    want = first_want(&self.fill, depth);
                    continue;
                }
                Some((by, Ok(mut opened))) => {
                    via = by;
                    if let Some(member) = opened.member
                        && !self.confirms(&source, opened.size).await
                    {
                        self.fill.note_failed(sources::ANY_RUN, member);
                        continue;
                    }
                    let size = opened.size;
                    self.fits(size).await?;
                    lock(&self.fill.state).by_member = opened.member.is_some();
                    tell(&self.fill, size, true);
                    let partial = self.begin(&mut opened).await?;
                    let range = match want {
                        Want::Part(range) if opened.ranged => {
                            Range::new(range.start, range.end.min(size))
                        }
                        _ => Range::new(0, size),
                    };
                    enter(&self.fill, &partial);
                    self.pump(&partial, source, opened, range, via);
                    return Ok(partial);
                }
                Some((_, Err(end))) => end,
            };
            match end {
                End::Peer { member, why } => {
                    tracing::debug!(blob.digest = %self.fill.digest, %member, why, "a member cannot begin it");
                    self.fill.note_failed(sources::run_of(at), member);
                }
                // The length is asked first, then a range that fits. No range is asked of the empty blob, and of a
                // source that says it knows none.
                End::Refused(Failure::Unsatisfiable { total }) if want != Want::All => {
                    want = match (total, want) {
                        (Some(total), Want::Part(asked)) if total > 0 && asked.start >= total => {
                            Want::Part(Range::new(0, 1.min(total)))
                        }
                        _ => Want::All,
                    };
                }
                End::Refused(failure) => {
                    self.refuse(source, failure);
                    passed = 0;
                }
                // This endpoint's answer is of no use: the next endpoint is asked.
                End::WrongObject(_) | End::Broken { .. }
                    if passed + 1 < self.fills.upstreams.count(&source.registry) =>
                {
                    passed += 1;
                    self.first += 1;
                }
                End::WrongObject(why) | End::Broken { why, .. } => {
                    let failure = Failure::Invalid {
                        at: source.registry.to_string(),
                        why,
                    };
                    self.refuse(source, failure);
                    passed = 0;
                }
                End::Disk(error) => return Err(FillError::Disk(error.to_string())),
                // Nothing is written before the body.
                End::Hangs(_) => return Err(FillError::Disk("a write does not return".to_owned())),
                End::Done => {}
            }
        }
    }

    /// The first answer, and the source that gave it. A live member may wait for a slow registry as this node would, or
    /// be stuck. So after `MEMBERS_FIRST` upstream is asked as well, and the first answer will do. `None` if meanwhile
    /// a reader joined that must not wait for the member that was asked: the reader may be a member nearer to the
    /// source.
    async fn open_first(
        &self,
        source: &Source,
        want: Want,
        via: Via,
        depth: u8,
        begun: Instant,
    ) -> Option<(Via, Result<Opened, End>)> {
        let open = |via| sources::open(&self.fills, &self.fill, source, want, self.first, via);
        let asked = open(via);
        let due = begun + MEMBERS_FIRST;
        let beside = async {
            sleep_until(due.into()).await;
            open(Via::Beside).await
        };
        tokio::pin!(asked, beside);
        let (mut failed, mut alone) = (None, via.depth() == 0);
        loop {
            tokio::select! {
                opened = &mut asked, if failed.is_none() => match opened {
                    Err(end) if !alone && due <= Instant::now() => failed = Some(end),
                    opened => return Some((via, opened)),
                },
                opened = &mut beside, if !alone => match (opened, failed.take()) {
                    (Err(_), Some(end)) => return Some((via, Err(end))),
                    (Err(_), None) => alone = true,
                    (opened, _) => return Some((Via::Beside, opened)),
                },
                () = self.fill.demand.notified(), if via.depth() > 0 => {
                    if least_depth(&self.fill) < depth.min(via.depth()) {
                        // The new reader may get its headers from the very answer that is on its way here.
                        let answer = async { timeout(ON_ITS_WAY, &mut asked).await.ok() };
                        let opened = if failed.is_none() { answer.await } else { None };
                        return opened.map(|opened| (via, opened));
                    }
                }
            }
        }
    }

    /// Whether a length is right that only a member has told. Readers get the length before the bytes are verified, so
    /// the origin is asked for it unless a manifest says the same. In an outage the member is believed.
    async fn confirms(&self, source: &Source, size: u64) -> bool {
        if self.fills.expected(&self.fill.digest) == Some(size) {
            return true;
        }
        let subject = Subject::Blob(self.fill.digest);
        let ask = self.fills.place(source).ask(subject, Want::Head);
        match self.fills.upstreams.ask_length(ask).await {
            Ok(answer) => answer.whole_length().is_none_or(|told| told == size),
            Err(_) => true,
        }
    }

    /// The bytes were wrong: the sources that brought them are asked last from now on. All streams end, since another
    /// attempt has no use for their bytes. Returns whether another attempt is worth it.
    pub(super) async fn distrust(&mut self) -> bool {
        self.stop_streams();
        // An attempt without these members and the object store shows whether the other sources are right.
        let by_object = std::mem::take(&mut lock(&self.fill.state).by_object);
        let mut others = (by_object || !self.shares.is_empty()) && self.restarts < RESTARTS;
        for (source, endpoint) in std::mem::take(&mut self.used) {
            let upstreams = &self.fills.upstreams;
            let steps_down =
                upstreams.brought_wrong_bytes(&source.registry, endpoint, &self.fill.digest);
            // The ranges were wrong: an answer with the whole may be right.
            others |= steps_down.await && self.restarts < RESTARTS;
            others |= self.restarts + 1 < self.fills.upstreams.count(&source.registry);
        }
        self.restarts += 1;
        others
    }

    /// Keeps the wrong file with the names of the members that brought it.
    pub(super) fn suspect(&mut self, wrong: &Partial) {
        let shares = std::mem::take(&mut self.shares);
        let resumed = lock(&self.fill.state).resumed;
        let file = Arc::clone(wrong.blob());
        self.fills.suspects.keep(file, shares, resumed);
    }

    /// Begins anew, with the size that the next endpoint tells.
    pub(super) async fn restart(&mut self, old: Arc<Partial>) -> Result<Arc<Partial>, FillError> {
        self.suspect(&old);
        self.size_from = None;
        let end = move |_: &Store| old.discard();
        let _ = ask_disk(&self.fills, &self.fill, "the wrong partial", IDLE, end).await?;
        self.patience.restarted(Instant::now());
        self.start().await
    }

    /// Refuses a blob that is larger than the node tier may be, or that does not fit beside what is pinned or in use.
    /// Such a blob is passed on: no room is made for it, and the disk is not at fault.
    async fn fits(&self, size: u64) -> Result<(), FillError> {
        let asked = "the room on the store's file system".to_owned();
        let space = self.fills.store.ask(asked, Store::space).await;
        let Some(space) = space else {
            return Err(FillError::Disk("the disk does not answer".to_owned()));
        };
        let total = space.map_or(u64::MAX, |space| space.total);
        let most = self.fills.config.load().store.max_size.of(total);
        if size > most {
            let why = format!("{size} bytes are more than the node tier may hold, {most}");
            return Err(FillError::Disk(why));
        }
        let room = self.fills.store.room();
        if !room.takes(size) {
            let why = format!(
                "{size} bytes do not fit beside what is pinned or in use: {} of {}",
                room.kept, room.allowed
            );
            return Err(FillError::Disk(why));
        }
        Ok(())
    }

    /// Makes a fresh partial. Readers do not wait for the file: the bytes that come meanwhile they get from memory.
    async fn begin(&self, opened: &mut Opened) -> Result<Arc<Partial>, FillError> {
        let size = opened.size;
        let (store, digest, registry) = (
            Arc::clone(&self.fills.store),
            self.fill.digest,
            self.fill.registry.clone(),
        );
        let begin = move || store.begin(digest, size, &registry);
        let mut begun = tokio::task::spawn_blocking(begin);
        let hangs = Instant::now() + HANGS;
        let mut late = false;
        let mut hung = None;
        let begun = loop {
            tokio::select! {
                begun = &mut begun => break begun,
                () = sleep_until(hangs.into()), if !late => {
                    // Readers go on without the file. The fill stays on the list: another fill must not meet a file
                    // that comes late.
                    late = true;
                    let late = format!("a file for {}", self.fill.digest);
                    hung = self.fills.store.hangs(&late);
                    self.fill.set_phase(Phase::Failed(FillError::Disk(late + " does not come")));
                }
                brought = opened.body.next(IDLE), if opened.first.is_none() => {
                    if let Brought::Data(bytes) = &brought {
                        lock(&self.fill.state).fresh = Some((opened.start, bytes.clone()));
                        self.fill.wake_readers();
                    }
                    opened.first = Some(brought);
                }
            }
        };
        drop(hung);
        match begun {
            Ok(Ok(partial)) if late => {
                let _ = tokio::task::spawn_blocking(move || partial.discard()).await;
                Err(FillError::Disk("a new file came late".to_owned()))
            }
            Ok(Ok(partial)) => Ok(Arc::new(partial)),
            Ok(Err(error)) => Err(FillError::Disk(error.to_string())),
            Err(panic) => Err(FillError::Disk(panic.to_string())),
        }
    }
}

/// How long other members are asked for the first bytes before this node asks for them itself.
const MEMBERS_FIRST: Duration = Duration::from_millis(1500);

/// How long an answer on its way is awaited for a reader of smaller depth. Headers reach all members at about the same
/// time.
const ON_ITS_WAY: Duration = Duration::from_millis(250);

/// How often a blob whose bytes were wrong is begun anew without the sources that brought them.
const RESTARTS: usize = 3;

/// No blob is this long, and additions to it do not overflow: a client's range may begin anywhere.
const FARTHEST: u64 = 1 << 62;

/// How many members may stand between the source and the reader that is nearest to it.
fn least_depth(fill: &Fill) -> u8 {
    let state = lock(&fill.state);
    let depths = state.readers.values().map(|entry| entry.manner.depth);
    depths.min().unwrap_or(DEPTH)
}

/// Tells readers the size, from a source that has answered or from an earlier fill's partial: readers may begin.
fn tell(fill: &Fill, size: u64, answered: bool) {
    {
        let mut state = lock(&fill.state);
        state.size = Some(size);
        state.answered = answered;
        state.resumed = !answered;
        state.phase = Phase::Filling;
        // A blob that is verified before its first byte leaves is fetched whole.
        state.whole |= size <= HELD_BACK;
    }
    fill.wake_readers();
}

/// Goes on with the partial that an earlier fill left.
pub(super) fn resume(fill: &Fill, partial: &Arc<Partial>) {
    tell(fill, partial.size(), false);
    // The readers have waited for the partial: all its bytes were here before them.
    for entry in lock(&fill.state).readers.values_mut() {
        entry.here = partial.present();
    }
    enter(fill, partial);
}

/// Gives the fill its file, to write to and to read from.
fn enter(fill: &Fill, partial: &Arc<Partial>) {
    lock(&fill.state).partial = Some(Arc::clone(partial));
    fill.wake_readers();
}

/// Takes the partial away again, if no reader has its headers.
pub(super) fn take_back(fill: &Fill) -> bool {
    let mut state = lock(&fill.state);
    if state.opened {
        return false;
    }
    state.size = None;
    state.partial = None;
    state.fresh = None;
    state.wrong = false;
    state.phase = Phase::Starting;
    for entry in state.readers.values_mut() {
        entry.here = Spans::default();
    }
    true
}

/// What to ask for while nothing is known: the first bytes that any reader at this depth wants. Members ask for whole
/// runs.
pub(super) fn first_want(fill: &Fill, depth: u8) -> Want {
    let state = lock(&fill.state);
    let entries = state.readers.values();
    let entries = entries.filter(|entry| entry.manner.depth == depth);
    let starts = entries.filter_map(|entry| match entry.wants {
        Wants::Opening { start, end, .. } => {
            Some((start?.min(FARTHEST), end, entry.manner == Manner::SPAN))
        }
        _ => None,
    });
    let first = starts.min();
    match (
        state.whole && depth == DEPTH,
        first.map(|(start, ..)| start),
    ) {
        (false, Some(start)) if depth < DEPTH => {
            let run = (start / RUN + 1) * RUN;
            let end = first.and_then(|(_, end, _)| end).unwrap_or(run);
            Want::Part(Range::new(start, end.clamp(start + 1, run)))
        }
        (true, _) => Want::Part(Range::new(0, WINDOW)),
        (false, Some(start)) => {
            if let Some((_, Some(end), true)) = first {
                return Want::Part(Range::new(start, end.max(start + 1)));
            }
            let bounded = first.is_some_and(|(_, end, _)| end.is_some());
            let start = start / plan::SPAN * plan::SPAN;
            Want::Part(Range::new(
                start,
                start + if bounded { plan::SPAN } else { WINDOW },
            ))
        }
        // A suffix: the length decides where it begins.
        (false, None) => Want::Part(Range::new(0, 1)),
    }
}

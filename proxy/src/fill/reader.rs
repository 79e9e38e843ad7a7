//! A reader of a fill: it says what it wants, and follows the growing file.

mod entitled;
#[cfg(test)]
mod tests;

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use larder_shared::{Range, RangeHeader};
use tokio::{
    task::JoinHandle,
    time::{Timeout, timeout},
};

use self::entitled::{Facts, Opening, entitled, is_refusal, own_failure};
use super::{
    Before, Fill, FillError, HELD_BACK, Manner, Passage, Phase, ReaderEntry, Right, Source,
    Through, Wants, lock, patience::STALLS, through::TRICKLE,
};
use crate::{
    store::{Blob, Partial},
    upstream::Failure,
};

/// Bytes that an open-ended reader is given at a time. Small, because bytes that it was given count as read, and those
/// behind them are fetched for it.
const OPEN_CHUNK: u64 = 512 << 10;

/// A small blob is verified before its headers leave, if it comes within this time.
pub const SMALL_WITHIN: Duration = Duration::from_millis(2500);

/// What may be sent now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// A range of the file.
    File(Range),
    /// The first bytes of a fill, which are not in the file yet.
    Memory(Bytes),
}

/// A reader of a fill. Dropping it withdraws its demand and disturbs no other reader.
#[derive(Debug)]
pub struct Reader {
    fill: Arc<Fill>,
    /// Its entry in the fill's list.
    id: u64,
    source: Source,
    /// Bytes of the whole blob, once [`Reader::opened`] has returned.
    size: u64,
    /// The file, once bytes of it were given.
    blob: Option<Arc<Blob>>,
    /// What is left of the part that is being read.
    part: Range,
    /// Where the part began.
    began: u64,
    held_back: bool,
    /// Bytes that were sent from memory. The digest says nothing about them before they are found in the file.
    lent: Vec<(u64, Bytes)>,
    /// The check whether these bytes are in the file.
    proving: Option<Pin<Box<Timeout<JoinHandle<bool>>>>>,
}

impl Reader {
    /// Puts a reader on the fill's list.
    pub(super) fn join(
        fill: &Arc<Fill>,
        source: Source,
        range: &RangeHeader,
        right: Right,
        manner: Manner,
    ) -> Self {
        let mut state = lock(&fill.state);
        let id = state.next_reader;
        state.next_reader += 1;
        let whole = matches!(range, RangeHeader::Whole);
        state.whole |= whole;
        if !state.sources.contains(&source) {
            state.sources.push(source.clone());
        }
        if right == Right::Digest && !state.served.contains(&source) {
            state.served.push(source.clone());
        }
        let own = source.clone();
        let wants = Wants::Opening {
            start: range.first_start(),
            end: range.first_end(),
            whole,
        };
        let here = state.partial.as_ref().map(|partial| partial.present());
        state.readers.insert(
            id,
            ReaderEntry {
                wants,
                source,
                right,
                manner,
                here: here.unwrap_or_default(),
                waker: None,
            },
        );
        drop(state);
        Self {
            fill: Arc::clone(fill),
            id,
            source: own,
            size: 0,
            blob: None,
            part: Range::new(0, 0),
            began: 0,
            held_back: false,
            lent: Vec::new(),
            proving: None,
        }
    }

    /// Waits until the size is known and a source has answered (or the first wanted byte is here), so that only a good
    /// answer gets headers. A blob of up to [`HELD_BACK`] bytes is awaited whole, unless it comes so slowly that the
    /// headers would be late: then its body waits. Returns the size.
    pub async fn opened(&mut self) -> Result<u64, FillError> {
        let soon = timeout(SMALL_WITHIN, poll_fn(|cx| self.poll_opened(cx, None))).await;
        self.size = if let Ok(opened) = soon {
            opened?
        } else {
            let partial = lock(&self.fill.state).partial.clone();
            let before = partial.map_or(0, |partial| partial.present().total());
            poll_fn(|cx| self.poll_opened(cx, Some(before))).await?
        };
        Ok(self.size)
    }

    /// `late`: the headers are late, and the file had so many bytes when they became so. If a small blob has grown
    /// since, its headers wait no longer.
    fn poll_opened(&self, cx: &mut Context<'_>, late: Option<u64>) -> Poll<Result<u64, FillError>> {
        let mut guard = lock(&self.fill.state);
        let state = &mut *guard;
        let Some(entry) = state.readers.get(&self.id) else {
            return Poll::Ready(Err(FillError::Broken("the reader has left".to_owned())));
        };
        let own =
            |counts: fn(&Failure) -> bool| own_failure(&state.refusals, &entry.source, counts);
        let failed = match entitled(entry.right, &Facts::of(state, entry, late)) {
            Opening::Opened(size) => {
                state.opened = true;
                return Poll::Ready(Ok(size));
            }
            Opening::FillFailed => own(|_| true).or_else(|| state.phase.failure()),
            Opening::SourceFailed => own(|_| true),
            Opening::SourceRefused => own(is_refusal),
            Opening::WaitsForWhole => {
                if !state.whole {
                    state.whole = true;
                    self.fill.demand.notify_one();
                }
                None
            }
            Opening::Waits => None,
        };
        if let Some(failed) = failed {
            return Poll::Ready(Err(failed));
        }
        if let Some(entry) = state.readers.get_mut(&self.id) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Says that everything is wanted. The tail comes when the digest is known to match.
    pub fn want_whole(&mut self) {
        let whole = Range::new(0, self.size);
        self.begin(whole, true, Wants::Whole { at: 0 });
    }

    /// Says that `range`, which ends where the blob ends, is wanted for as long as the client stays.
    pub fn want_open(&mut self, range: Range) {
        self.begin(
            range,
            true,
            Wants::Open {
                from: range.start,
                at: range.start,
            },
        );
    }

    /// Says that these ranges are wanted and nothing else. [`Reader::next_part`] goes from one to the next.
    pub fn want_parts(&mut self, parts: &[Range]) {
        let first = parts.first().copied().unwrap_or(Range::new(0, 0));
        self.begin(first, false, Wants::Parts(parts.to_vec()));
    }

    fn begin(&mut self, part: Range, held_back: bool, wants: Wants) {
        self.part = part;
        self.began = part.start;
        self.held_back = held_back;
        if let Some(entry) = lock(&self.fill.state).readers.get_mut(&self.id) {
            entry.wants = wants;
        }
        self.fill.demand.notify_one();
    }

    /// Goes on to the next of several parts.
    pub fn next_part(&mut self, part: Range) {
        self.part = part;
        self.began = part.start;
    }

    /// The file of the chunks that were given.
    pub fn blob(&self) -> Option<&Arc<Blob>> {
        self.blob.as_ref()
    }

    /// Whether the first bytes came from another member.
    pub fn is_by_member(&self) -> bool {
        lock(&self.fill.state).by_member
    }

    /// Whether all bytes of these ranges were on this node before the reader came.
    pub fn found(&self, ranges: &[Range]) -> bool {
        let state = lock(&self.fill.state);
        let here = state.readers.get(&self.id).map(|entry| &entry.here);
        here.is_some_and(|here| {
            !here.is_empty() && ranges.iter().all(|range| here.contains(*range))
        })
    }

    /// The next bytes of the part, when they may be sent; `None` at its end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, FillError>>> {
        if self.part.is_empty() {
            return Poll::Ready(None);
        }
        if !self.lent.is_empty() && matches!(lock(&self.fill.state).phase, Phase::Verified) {
            if !ready!(self.poll_proven(cx)) {
                return Poll::Ready(Some(Err(FillError::Digest)));
            }
            self.lent.clear();
        }
        let size = self.size;
        let mut guard = lock(&self.fill.state);
        let state = &mut *guard;
        let Some(entry) = state.readers.get_mut(&self.id) else {
            return Poll::Ready(None);
        };
        // Bytes that are known to be wrong go no further: a client would resume behind them, and find its whole copy
        // wrong. The body ends when the fill has left the list, so that a client that comes back at once meets a new
        // fill.
        let failed = matches!(state.phase, Phase::Failed(_));
        if matches!(state.phase, Phase::Failed(FillError::Digest)) || (state.wrong && failed) {
            return Poll::Ready(Some(Err(FillError::Digest)));
        }
        if state.wrong {
            entry.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let verified = matches!(state.phase, Phase::Verified);
        let at = self.part.start;
        let small = size <= HELD_BACK;
        let held = if (self.held_back || small) && !verified {
            size.saturating_sub(HELD_BACK).max(at)
        } else {
            size
        };
        let present = if verified {
            size
        } else {
            state
                .partial
                .as_ref()
                .map_or(at, |partial| partial.present_to(at))
        };
        let mut end = present.min(held).min(self.part.end);
        if end > at {
            if matches!(entry.wants, Wants::Open { .. }) {
                end = end.min(at + OPEN_CHUNK);
            }
            if self.blob.is_none() {
                self.blob = state.partial.as_ref().map(|p| Arc::clone(p.blob()));
            }
            let moved = entry.wants.advance(at, end);
            drop(guard);
            self.part.start = end;
            if moved {
                self.fill.demand.notify_one();
            }
            return Poll::Ready(Some(Ok(Chunk::File(Range::new(at, end)))));
        }
        if let Some(bytes) = fresh(
            state.fresh.as_ref(),
            Range::new(at, held.min(self.part.end)),
        ) {
            let end = at + bytes.len() as u64;
            let moved = entry.wants.advance(at, end);
            drop(guard);
            self.part.start = end;
            if self.held_back {
                self.lent.push((at, bytes.clone()));
            }
            if moved {
                self.fill.demand.notify_one();
            }
            return Poll::Ready(Some(Ok(Chunk::Memory(bytes))));
        }
        if let Phase::Failed(error) = &state.phase {
            return Poll::Ready(Some(Err(error.clone())));
        }
        // An open-ended reader at the tail waits for the digest, so the rest of the blob is fetched as well.
        if at == held && at < size && !state.whole {
            state.whole = true;
            self.fill.demand.notify_one();
        }
        entry.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the file has the bytes that were sent from memory. Another source may have written there first.
    fn poll_proven(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let proving = self.proving.get_or_insert_with(|| {
            let partial = lock(&self.fill.state).partial.clone();
            let lent = self.lent.clone();
            let prove = move || {
                let same = |(at, bytes): &(u64, Bytes)| {
                    let range = Range::new(*at, at + bytes.len() as u64);
                    let file = partial.as_ref().map(|partial| partial.blob().read(range));
                    matches!(file, Some(Ok(file)) if file == bytes[..])
                };
                lent.iter().all(same)
            };
            // A disk that hangs proves nothing, and a body must not wait for ever.
            Box::pin(timeout(STALLS, tokio::task::spawn_blocking(prove)))
        });
        let proven = ready!(proving.as_mut().poll(cx));
        self.proving = None;
        Poll::Ready(matches!(proven, Ok(Ok(true))))
    }

    /// What was sent up to `self.part`, as far as larder still knows it.
    fn before(&self) -> Before {
        let mut end = 0;
        for (at, bytes) in &self.lent {
            if *at != end {
                return Before::Lost;
            }
            end += bytes.len() as u64;
        }
        let sent = self.lent.iter().map(|(_, bytes)| bytes.clone()).collect();
        let state = lock(&self.fill.state);
        let whole = |partial: &&Arc<Partial>| partial.present_to(0) >= self.part.start;
        match state.partial.as_ref().filter(whole) {
            _ if end > 0 && end == self.part.start => Before::Memory(sent),
            Some(partial) => Before::File(sent, Arc::clone(partial)),
            None if self.part.start > self.began => Before::Lost,
            None => Before::NotSent,
        }
    }

    /// Fetches the rest of the current part without the store, which has failed.
    pub fn go_through(&self) -> (Passage, Through) {
        let passage = Passage {
            upstreams: Arc::clone(&self.fill.upstreams),
            source: self.source.clone(),
            digest: self.fill.digest,
            size: self.size,
            came: Arc::default(),
        };
        let through = passage.open(self.part, self.held_back, self.before());
        (passage, through)
    }

    /// Whether the tail waits for the digest.
    pub fn is_held_back(&self) -> bool {
        self.held_back
    }
}

impl Wants {
    /// Notes that `at..end` was handed out. Returns whether the task should look again.
    fn advance(&mut self, at: u64, end: u64) -> bool {
        match self {
            Self::Opening { .. } => false,
            Self::Whole { at: position } => {
                *position = end;
                false
            }
            Self::Open { at: position, .. } => {
                *position = end;
                true
            }
            Self::Parts(parts) => {
                if let Some(part) = parts.iter_mut().find(|p| p.start <= at && at < p.end) {
                    part.start = end;
                }
                parts.retain(|part| !part.is_empty());
                false
            }
        }
    }
}

/// The bytes in memory with which `wanted` begins.
fn fresh(bytes: Option<&(u64, Bytes)>, wanted: Range) -> Option<Bytes> {
    let (start, bytes) = bytes?;
    let from = wanted.start.checked_sub(*start)?;
    let to = (wanted.end - start).min(bytes.len() as u64);
    (from < to).then(|| bytes.slice(from as usize..to as usize))
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.fill.state).readers.remove(&self.id);
        self.fill.demand.notify_one();
    }
}

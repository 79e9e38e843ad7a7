//! The one type of response body.
//!
//! A list of segments: bytes that are here, and ranges of a blob that is on disk or on its way. Ranges of files leave
//! as addresses that the socket sends by sendfile. A body that cannot be completed ends in an error, which closes the
//! connection short of its Content-Length, so that a client resumes with a Range and never takes a part for the whole.

mod awaited;
mod build;
mod cold;
mod passed;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use larder_shared::Range;
use tokio::sync::mpsc;

pub use self::awaited::{Awaited, Coming};
use self::{
    awaited::Barren,
    cold::Cold,
    passed::{Passed, Verified},
};
use crate::{
    fill::{Chunk, FillError, Passage, Reader, Through},
    record::RequestRecord,
    store::{Blob, Checked, Store},
    sys::Regions,
};

/// Bytes of a file that are handed to the connection at a time. What was handed over counts as sent, so this is
/// how far the accounts may be ahead of a client that leaves.
const PIECE: u64 = 1 << 20;

/// A part of a body.
#[derive(Debug)]
pub enum Segment {
    Bytes(Bytes),
    /// A range of the body's content.
    Range(Range),
}

/// The content of which a body sends ranges.
#[derive(Debug)]
pub enum Content {
    None,
    Stored(Arc<Blob>),
    Memory(Bytes),
    Filling(Reader),
    /// Fetched for this body alone, because the store fails.
    Passing(Passing),
    /// Passed on as it comes: lists, which are not kept.
    Upstream(Passed),
    /// The same, checked against a digest: manifests that are too large to be kept.
    Verified(Box<Verified>),
    /// Not here yet: another body of the same length takes its place.
    Awaited(Awaited),
    /// A small blob that is on its way for this body alone: in memory once it is verified.
    Coming(Coming),
    /// Produced by a task of this process, a piece at a time, until it ends.
    Produced(mpsc::Receiver<Bytes>),
}

/// A blob that is passed on, and the range of it that is on its way.
#[derive(Debug)]
pub struct Passing {
    passage: Passage,
    /// Its ranges end where the blob ends, and their tail waits for the digest.
    hold: bool,
    through: Option<Through>,
}

/// A response body with its accounts.
#[derive(Debug)]
pub struct Body {
    content: Content,
    segments: VecDeque<Segment>,
    regions: Regions,
    /// Bytes still to come; `None` for a list of unknown length.
    left: Option<u64>,
    record: Option<RequestRecord>,
    /// A range of a fill is being read.
    inside: bool,
    /// Files are read, a piece at a time: the connection cannot send them.
    copied: bool,
    /// Set if the body goes to another member: bytes of a committed blob of this store are compared with its checksums.
    checks: Option<Arc<Store>>,
    /// The committed blob whose pieces are compared.
    checked: Option<Arc<Checked>>,
    cold: Cold,
    /// A range that the fill has given and that is not read yet.
    given: Option<Range>,
    /// The body has failed, while bytes that it handed out before are on their way.
    failed: Option<io::Error>,
    /// What is to happen if it ends without a byte.
    barren: Option<Barren>,
}

impl Body {
    /// Waits for the first bytes of a body that is on its way; they leave in their turn. A body on disk has nothing to
    /// wait for.
    pub async fn first(&mut self) -> io::Result<()> {
        if !matches!(
            self.content,
            Content::Filling(_) | Content::Passing(_) | Content::Coming(_)
        ) {
            return Ok(());
        }
        // The connection is not known yet, so nothing can be sent from a file.
        let copied = std::mem::replace(&mut self.copied, true);
        let first = poll_fn(|cx| self.poll_next(cx)).await;
        self.copied = copied;
        if let Some(bytes) = first.transpose()? {
            self.segments.push_front(Segment::Bytes(bytes));
        }
        Ok(())
    }

    /// Its bytes, if they are all in memory, in one piece.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match (&self.content, self.segments.front(), self.segments.len()) {
            (Content::None, Some(Segment::Bytes(bytes)), 1) => Some(bytes),
            _ => None,
        }
    }

    /// Reads the whole body into memory.
    pub async fn read(mut self) -> io::Result<Bytes> {
        self.copied = true;
        let mut bytes = BytesMut::with_capacity(self.left.unwrap_or(0) as usize);
        while let Some(piece) = poll_fn(|cx| self.poll_next(cx)).await.transpose()? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// The bytes of `range` of a file: addresses that the connection sends, or what was read.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        blob: &Arc<Blob>,
        range: Range,
        committed: bool,
    ) -> Poll<io::Result<Bytes>> {
        if self.copied {
            let store = self.checks.as_ref().filter(|_| committed);
            let checked = store.map(|store| {
                let new = || Arc::new(Checked::new(Arc::clone(store), Arc::clone(blob)));
                Arc::clone(self.checked.get_or_insert_with(new))
            });
            let cached = || match &checked {
                Some(checked) => checked.read_cached(range),
                None => blob.read_cached(range),
            };
            let read = || {
                let (checked, blob) = (checked.clone(), Arc::clone(blob));
                move || match checked {
                    Some(checked) => checked.read(range),
                    None => blob.read(range),
                }
            };
            let read = ready!(self.cold.poll_bytes(cx, cached, read));
            return Poll::Ready(read.map(Bytes::from));
        }
        // sendfile would wait for the disk on a thread that serves other requests too.
        let warm = ready!(self.cold.poll_warm(cx, blob, range));
        Poll::Ready(warm.map(|()| blob.slice(range, &self.regions)))
    }

    /// Whether its content comes from a fill, and so is not verified yet.
    pub fn is_filling(&self) -> bool {
        matches!(self.content, Content::Filling(_))
    }

    /// Bytes of the whole body, if known.
    pub fn len(&self) -> Option<u64> {
        self.left
    }

    pub fn is_empty(&self) -> bool {
        self.left == Some(0)
    }

    /// Goes on as `body`, which may have been begun.
    fn go_on_as(&mut self, mut body: Self) {
        self.content = std::mem::replace(&mut body.content, Content::None);
        self.segments = std::mem::take(&mut body.segments);
        self.inside = body.inside;
        self.given = body.given.take();
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Content::Produced(pieces) = &mut self.content {
            return pieces.poll_recv(cx).map(|piece| piece.map(Ok));
        }
        if let Content::Upstream(incoming) = &mut self.content {
            return incoming.poll_data(cx);
        }
        if let Content::Verified(verified) = &mut self.content {
            return verified.poll_data(cx);
        }
        if let Content::Awaited(awaited) = &mut self.content {
            match ready!(awaited.0.as_mut().poll(cx)) {
                Ok(body) if body.left == self.left => self.go_on_as(body),
                Ok(_) => return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into()))),
                Err(why) => return Poll::Ready(Some(Err(io::Error::other(why)))),
            }
        }
        if let Content::Coming(coming) = &mut self.content {
            match ready!(coming.0.as_mut().poll(cx)) {
                Ok(bytes) => self.content = Content::Memory(bytes),
                Err(error) => return Poll::Ready(Some(Err(io::Error::other(error)))),
            }
        }
        loop {
            match (self.segments.front(), &mut self.content) {
                (None, _) => return Poll::Ready(None),
                (Some(Segment::Bytes(_)), _)
                | (
                    _,
                    Content::None
                    | Content::Upstream(_)
                    | Content::Verified(_)
                    | Content::Produced(_)
                    | Content::Awaited(_)
                    | Content::Coming(_),
                ) => {
                    if let Some(Segment::Bytes(bytes)) = self.segments.pop_front() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                (Some(Segment::Range(range)), Content::Stored(blob)) => {
                    let (range, blob) = (*range, Arc::clone(blob));
                    let piece = Range::new(range.start, range.end.min(range.start + PIECE));
                    let bytes = match ready!(self.poll_piece(cx, &blob, piece, true)) {
                        Ok(bytes) => bytes,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    };
                    drop(blob);
                    let rest = Range::new(piece.end, range.end);
                    self.segments.pop_front();
                    if !rest.is_empty() {
                        self.segments.push_front(Segment::Range(rest));
                    } else if self.segments.is_empty() {
                        // After the last byte this body reads the blob no more: the blob may have rotted, and is looked
                        // at only while no client reads it.
                        self.content = Content::None;
                        self.checked = None;
                    }
                    return Poll::Ready(Some(Ok(bytes)));
                }
                (Some(Segment::Range(range)), Content::Passing(passing)) => {
                    let Passing {
                        passage,
                        hold,
                        through,
                    } = passing;
                    let through = through.get_or_insert_with(|| passage.begin(*range, *hold));
                    if let Some(done) = ready!(through.poll_bytes(cx)) {
                        return Poll::Ready(Some(done.map_err(io::Error::other)));
                    }
                    passing.through = None;
                    self.segments.pop_front();
                }
                (Some(Segment::Range(range)), Content::Memory(bytes)) => {
                    let bytes = bytes.slice(range.start as usize..range.end as usize);
                    self.segments.pop_front();
                    return Poll::Ready(Some(Ok(bytes)));
                }
                (Some(Segment::Range(range)), Content::Filling(reader)) => {
                    if !self.inside {
                        reader.next_part(*range);
                        self.inside = true;
                    }
                    // What a reader was given is read before it is given more.
                    let given = match self.given.take() {
                        Some(range) => Some(Ok(Chunk::File(range))),
                        None => ready!(reader.poll_chunk(cx)),
                    };
                    match given {
                        Some(Ok(Chunk::Memory(bytes))) => return Poll::Ready(Some(Ok(bytes))),
                        Some(Ok(Chunk::File(range))) => {
                            let Some(blob) = reader.blob().cloned() else {
                                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                            };
                            // A reader that joins late is given everything that is there.
                            let end = range.end.min(range.start + PIECE);
                            let piece = Range::new(range.start, end);
                            let Poll::Ready(bytes) = self.poll_piece(cx, &blob, piece, false)
                            else {
                                self.given = Some(range);
                                return Poll::Pending;
                            };
                            let rest = Range::new(piece.end, range.end);
                            self.given = (!rest.is_empty()).then_some(rest);
                            return Poll::Ready(Some(bytes));
                        }
                        // The disk failed, not the blob: go on without it, at the byte reached.
                        Some(Err(FillError::Disk(_))) => {
                            let hold = reader.is_held_back();
                            let (passage, through) = reader.go_through();
                            self.content = Content::Passing(Passing {
                                passage,
                                hold,
                                through: Some(through),
                            });
                        }
                        Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                        None => {
                            self.segments.pop_front();
                            self.inside = false;
                        }
                    }
                }
            }
        }
    }
}

impl Segment {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Range(range) => range.len(),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let next = if let Some(error) = this.failed.take() {
            Some(Err(error))
        } else {
            match ready!(this.poll_next(cx)) {
                // When a body fails, hyper throws away what it has not sent, the head included. It sends while a body
                // has nothing, so this body has nothing for a moment before its error.
                Some(Err(error)) => {
                    this.failed = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                next => next,
            }
        };
        match &next {
            Some(Ok(bytes)) => {
                let len = bytes.len() as u64;
                if let Some(barren) = this.barren.take() {
                    barren.take_away();
                }
                if let Some(left) = &mut this.left {
                    *left -= len.min(*left);
                }
                if let Some(record) = &mut this.record {
                    record.sent(len);
                    if this.left == Some(0) {
                        record.complete();
                    }
                }
            }
            Some(Err(_)) => {
                if let Some(record) = &mut this.record {
                    record.short();
                }
            }
            None => {
                if let Some(record) = &mut this.record {
                    record.complete();
                }
            }
        }
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0) && self.segments.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // A body of nothing (HEAD, an error without text) is complete as it is.
        if let (Some(0), Some(record)) = (self.left, &mut self.record) {
            record.complete();
        }
    }
}

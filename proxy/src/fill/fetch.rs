//! One stream of a fill: a range of the blob from one source into the partial.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use larder_shared::{Range, Spans};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Fill, HELD_BACK, Interest, lock,
    opened::{Brought, End, Opened, SourceBody},
    pace::{AT_LEAST, BATCH, Pace},
    patience::IDLE,
};
use crate::store::{HANGS, Partial, Piece};

/// The same as [`IDLE`] for a small blob, whose client has no headers before the last byte is here: another source must
/// have its turn in time.
const IDLE_SMALL: Duration = Duration::from_millis(1500);

/// How many bytes gather while those before them are written and hashed.
const GATHERED: usize = 512 << 10;

/// Pieces of one stream between the network and the hash: enough if each thread had a core.
const PIECES: usize = 2;

/// More pieces, for all streams of the node together. Where threads take turns, the one that waits for a core should not
/// make the others wait: a cold blob came at 0.6 of nginx's rate on two cores with six pieces a stream, and at 0.5 with
/// two. They are shared, so that many fills at once do not take all memory.
const MORE_PIECES: usize = 32;

/// The pieces that all streams of a node share.
#[derive(Clone, Debug)]
pub struct SharedPieces(Arc<Semaphore>);

impl Default for SharedPieces {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MORE_PIECES)))
    }
}

/// Room for one more piece of a stream.
async fn room_for_piece(
    own: &Arc<Semaphore>,
    shared: &SharedPieces,
) -> Result<OwnedSemaphorePermit, AcquireError> {
    tokio::select! {
        biased;
        room = Arc::clone(own).acquire_owned() => room,
        room = Arc::clone(&shared.0).acquire_owned() => room,
    }
}

/// A stream's progress, shared with the task that watches it. The task may lower `end`.
#[derive(Debug)]
pub struct Track {
    /// Everything the stream brought before this is present. Bytes that have come but are not written still count as on
    /// their way: otherwise they would look like a gap, and be fetched a second time.
    pub at: AtomicU64,
    pub end: AtomicU64,
    /// Which endpoint answered; `usize::MAX` until one did.
    pub endpoint: AtomicUsize,
    /// What it brought that no stream had brought before.
    pub wrote: Mutex<Spans>,
    /// Which member answered, if one did.
    pub member: OnceLock<SocketAddr>,
    /// Whether that member passed it on from another source.
    pub passed_on: AtomicBool,
    /// Whether the object store answered.
    pub object: AtomicBool,
    /// Whether the source sends everything, since it was asked without a range or knows none.
    pub plain: AtomicBool,
}

impl Track {
    /// Notes which source answered.
    pub fn note(&self, opened: &Opened) {
        if let Some(member) = opened.member {
            let _ = self.member.set(member);
        }
        self.passed_on.store(opened.passed_on, Ordering::Relaxed);
        let object = matches!(opened.body, SourceBody::Object(_));
        self.object.store(object, Ordering::Relaxed);
        self.plain.store(!opened.ranged, Ordering::Relaxed);
    }
}

/// Pumps a body into the partial until `track.end`. While one piece is hashed, the next is written and the one after it
/// is read. The stream ends once its last piece is written: that piece may be hashed while the next stream runs.
pub async fn pump(
    fill: Arc<Fill>,
    partial: Arc<Partial>,
    mut opened: Opened,
    track: Arc<Track>,
    received: Arc<AtomicU64>,
) -> End {
    let member = opened.member;
    let receiving = fill
        .upstreams
        .receiving(&fill.registry, opened.body.source());
    let mut at = opened.start;
    let mut gathered: Vec<Bytes> = Vec::new();
    let mut gathered_len = 0;
    let rooms = Arc::new(Semaphore::new(PIECES));
    let mut room: Option<OwnedSemaphorePermit> = None;
    let mut writing: Option<JoinHandle<io::Result<()>>> = None;
    let mut hangs = Instant::now();
    let mut ended: Option<End> = None;
    let mut pace = Pace::new(Instant::now());
    // When the gathered bytes are written, however few they are.
    let mut due = Instant::now();
    // When the bytes that the kernel gathers are taken, however few they are.
    let mut taken: Option<Instant> = None;
    let idle = if partial.size() <= HELD_BACK {
        IDLE_SMALL
    } else {
        IDLE
    };
    loop {
        let complete = gathered_len as u64 >= BATCH || ended.is_some() || Instant::now() >= due;
        if writing.is_none() && !gathered.is_empty() && complete && room.is_some() {
            let piece = Piece {
                start: at - gathered_len as u64,
                chunks: std::mem::take(&mut gathered),
                room: room.take(),
            };
            gathered_len = 0;
            let (fill, partial, track) =
                (Arc::clone(&fill), Arc::clone(&partial), Arc::clone(&track));
            hangs = Instant::now() + HANGS;
            let slow = pace.is_slow();
            writing = Some(tokio::task::spawn_blocking(move || {
                write(&fill, &partial, &track, piece, slow)
            }));
        }
        if writing.is_none()
            && gathered.is_empty()
            && let Some(end) = ended
        {
            return end;
        }
        tokio::select! {
            done = async { writing.as_mut().expect("guarded").await }, if writing.is_some() => {
                writing = None;
                match done {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return End::Disk(error),
                    Err(panic) => return End::Disk(io::Error::other(panic)),
                }
            }
            () = sleep_until(due), if !complete && !gathered.is_empty() => {}
            () = sleep_until(hangs), if writing.is_some() => {
                return End::Hangs(writing.take().expect("guarded"));
            }
            () = sleep_until(taken.unwrap_or(due)), if taken.is_some() && ended.is_none() => {
                taken = None;
                opened.arrivals.gather(1);
            }
            Ok(free) = room_for_piece(&rooms, &fill.more_pieces), if room.is_none() && !gathered.is_empty() => room = Some(free),
            brought = opened.next(idle), if ended.is_none() && gathered_len < GATHERED => {
                let limit = track.end.load(Ordering::Acquire);
                match brought {
                    Brought::Data(mut data) => {
                        data.truncate(limit.saturating_sub(at) as usize);
                        received.fetch_add(data.len() as u64, Ordering::Relaxed);
                        receiving.add(data.len() as u64);
                        if member.is_none() {
                            fill.flow.note();
                        }
                        let came = Range::new(at, at + data.len() as u64);
                        at = came.end;
                        gathered_len += data.len();
                        if !data.is_empty() {
                            let now = Instant::now();
                            pace.note(now, came.len());
                            let interest = fill.interest(came);
                            // What comes next may be awaited, such as the end of a reader's part.
                            let next = Range::new(at, at + u64::from(AT_LEAST));
                            let soon = fill.interest(next) == Interest::Awaited;
                            let at_least = pace.at_least(soon, opened.body.left());
                            opened.arrivals.gather(at_least);
                            let followed = interest == Interest::Followed;
                            let within = pace.taken_within(followed, member.is_some());
                            taken = (at_least == AT_LEAST).then(|| now + within);
                            match interest {
                                Interest::Awaited => due = now,
                                // The stream's own first bytes, for which it was begun.
                                Interest::Followed if came.start == opened.start => due = now,
                                _ if gathered.is_empty() => {
                                    due = now + pace.patience(followed);
                                }
                                Interest::Followed | Interest::Ahead => {}
                            }
                            gathered.push(data);
                        }
                        if at >= limit {
                            // If the body ends here, reading its end lets the connection be used again.
                            if limit == track.end.load(Ordering::Acquire) {
                                let _ = timeout(Duration::from_millis(5), opened.next(idle)).await;
                            }
                            ended = Some(End::Done);
                        }
                    }
                    Brought::End if at >= limit => ended = Some(End::Done),
                    Brought::End => ended = Some(broken(member, "it ended early".to_owned(), false)),
                    Brought::Broken { why, stalled } => ended = Some(broken(member, why, stalled)),
                }
            }
        }
    }
}

fn broken(member: Option<SocketAddr>, why: String, stalled: bool) -> End {
    match member {
        Some(member) => End::Peer { member, why },
        None => End::Broken { why, stalled },
    }
}

/// Writes the bytes that are missing, wakes the readers, and hands the piece over to be hashed (blocking). Bytes of a
/// slow source are hashed by the same thread.
fn write(
    fill: &Fill,
    partial: &Arc<Partial>,
    track: &Track,
    mut piece: Piece,
    slow: bool,
) -> io::Result<()> {
    let range = piece.range();
    if partial.present().contains(range) {
        track.at.store(range.end, Ordering::Release);
        return Ok(());
    }
    let wrote = partial.write(piece.start, &piece.chunks)?;
    if wrote != [range] {
        // A part was there already, from another source. So the hash reads the file, not this source's bytes in memory.
        piece = Piece {
            start: range.end,
            chunks: Vec::new(),
            room: None,
        };
    }
    {
        let mut all = lock(&track.wrote);
        for range in wrote {
            all.insert(range);
        }
    }
    track.at.store(range.end, Ordering::Release);
    {
        let mut state = lock(&fill.state);
        // A late write of an earlier attempt must not change the state of this one.
        let ours = |filled: &Arc<Partial>| Arc::ptr_eq(filled, partial);
        if state.partial.as_ref().is_some_and(ours) {
            state.fresh = None;
        }
    }
    fill.wake_readers();
    if partial.push(piece) {
        // If hashing fails, the next write or the verification reports it.
        if slow {
            let _ = partial.hash();
        } else {
            let partial = Arc::clone(partial);
            tokio::task::spawn_blocking(move || partial.hash());
        }
    }
    partial.checkpoint_if_due()
}

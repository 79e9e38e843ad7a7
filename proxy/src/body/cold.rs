//! Bytes of a file that are not in memory: they are read on another thread, so that a disk which is slow, or hangs,
//! holds up only the request that wants them.

use std::{
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use larder_shared::Range;

use crate::{
    store::Blob,
    sys::{Calls, Hangs},
};

/// How many bodies wait for the disk at once, and for how long. Then a body ends short, as with any source that is
/// idle.
const AT_ONCE: usize = 64;
const WITHIN: Duration = Duration::from_secs(20);

static CALLS: LazyLock<Calls> = LazyLock::new(|| Calls::new(AT_ONCE, WITHIN));

type Read<T> = Pin<Box<dyn Future<Output = Result<io::Result<T>, Hangs>> + Send>>;

/// What a body waits for.
#[derive(Default)]
pub(super) enum Cold {
    #[default]
    Nothing,
    /// The bytes themselves, for a connection that cannot send files.
    Bytes(Read<Vec<u8>>),
    /// That the bytes are in memory, for a connection that can send files.
    Warm(Read<()>),
}

impl std::fmt::Debug for Cold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Bytes(_) => "Bytes",
            Self::Warm(_) => "Warm",
        })
    }
}

impl Cold {
    /// The bytes that `cached` gives without waiting, or else those that `read` gives, whatever file it reads. A thread
    /// for each piece would cost more than the piece.
    pub(super) fn poll_bytes<F>(
        &mut self,
        cx: &mut Context<'_>,
        cached: impl FnOnce() -> Option<Vec<u8>>,
        read: impl FnOnce() -> F,
    ) -> Poll<io::Result<Vec<u8>>>
    where
        F: FnOnce() -> io::Result<Vec<u8>> + Send + 'static,
    {
        if let Self::Nothing = self {
            if let Some(bytes) = cached() {
                return Poll::Ready(Ok(bytes));
            }
            *self = Self::Bytes(Box::pin(CALLS.clone().run_owned(read())));
        }
        let Self::Bytes(reading) = self else {
            return Poll::Ready(Err(io::ErrorKind::Other.into()));
        };
        let read = std::task::ready!(reading.as_mut().poll(cx));
        *self = Self::Nothing;
        Poll::Ready(read.map_err(late).flatten())
    }

    /// Waits until a range is in memory, as far as that can be known.
    pub(super) fn poll_warm(
        &mut self,
        cx: &mut Context<'_>,
        blob: &Arc<Blob>,
        range: Range,
    ) -> Poll<io::Result<()>> {
        if let Self::Nothing = self {
            if blob.is_at_hand(range) {
                return Poll::Ready(Ok(()));
            }
            let blob = Arc::clone(blob);
            *self = Self::Warm(Box::pin(CALLS.clone().run_owned(move || blob.warm(range))));
        }
        let Self::Warm(warming) = self else {
            return Poll::Ready(Ok(()));
        };
        let warmed = std::task::ready!(warming.as_mut().poll(cx));
        *self = Self::Nothing;
        // The connection meets a read error when it sends, and the blob counts as damaged then.
        Poll::Ready(warmed.map(|_| ()).map_err(late))
    }
}

fn late(_: Hangs) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")
}

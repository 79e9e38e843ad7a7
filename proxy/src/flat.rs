//! Flat files over a FUSE connection: one directory, whose files are looked up by name and read.
//!
//! Owns the few requests of FUSE that this takes: what they mean ([`wire`]), what the kernel is told of the connection
//! ([`INIT`]), and when each is answered. Knows no layers, and neither opens a connection nor mounts one ([`crate::hold`]).
//!
//! A connection outlives the process that serves it. So nothing that the kernel keeps may depend on this process: a file's
//! node id follows from the file, there are no handles, and the answer to INIT never changes. What an earlier process
//! had read and not answered is asked for again before the first read (RESEND).

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod reply;
mod wire;

use std::{io, ops::Range, os::fd::AsFd as _, os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::reply::{INIT, Init};
use self::wire::{Operation, Request};
use crate::sys::fuse::{self, Requests};

/// A file, as the kernel is told of it. Both numbers are the same as long as there is a kernel that knows the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Not 0 or 1, and no other file's.
    pub node: u64,
    pub bytes: u64,
}

/// Why a read has no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// There is no such file any more.
    Gone,
    /// Its bytes cannot be had.
    Failed,
}

/// The files. [`Self::named`] and [`Self::of`] are asked on threads of the runtime: they touch no disk and wait for
/// nothing.
pub trait Files: Send + Sync + 'static {
    /// The file of this name.
    fn named(&self, name: &[u8]) -> Option<Entry>;

    /// The file with this node id.
    fn of(&self, node: u64) -> Option<Entry>;

    /// All bytes of a range that lies in the file. This may wait for a minute. It is dropped if the connection ends,
    /// and called again for the same range if another process takes over.
    fn read(
        self: Arc<Self>,
        node: u64,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Bytes, Unread>> + Send;
}

/// Why a connection is not served any more.
#[derive(Debug)]
pub enum End {
    /// It is over: unmounted everywhere, or aborted.
    Over,
    /// By [`serve`]'s `stop`. Reads that had begun are still answered.
    Stopped,
    /// Its requests cannot be read.
    Failed(io::Error),
}

/// A read that fails is answered no earlier than this after it came: the kernel repeats failed reads page by page, and
/// writes a line into its log for each.
const FAILED_AFTER: Duration = Duration::from_secs(1);

/// At least what the kernel wants (`FUSE_MIN_READ_BUFFER`); nothing that is answered here comes with more.
const BUFFER: usize = 16 << 10;

/// Serves `files` over a connection until it is over, or until `stop`. Within a runtime, on whose threads all is done.
///
/// Only one of these may be at work on one descriptor. Several processes may be, for a while: each request goes to one
/// of them, and an answer that comes second counts for nothing.
pub async fn serve<F: Files>(
    connection: Arc<OwnedFd>,
    files: Arc<F>,
    stop: impl Future<Output = ()>,
) -> End {
    tokio::select! {
        biased;
        () = stop => End::Stopped,
        end = requests(&connection, &files) => end,
    }
}

/// Has the kernel send again all that was read and not answered, by whichever process: what it had begun, a process that
/// has died can have left unanswered. What is still worked on is worked on twice, and answered once.
pub fn send_again(connection: &OwnedFd) {
    // An error is that of a connection which is over, or of a kernel before 6.9, which cannot send again.
    if let Err(error) = fuse::answer(connection.as_fd(), &reply::resend(), &[]) {
        tracing::debug!(%error, "what an earlier process has left is not sent again");
    }
}

async fn requests<F: Files>(connection: &Arc<OwnedFd>, files: &Arc<F>) -> End {
    send_again(connection);
    let requests = match Requests::of(Arc::clone(connection)) {
        Ok(requests) => requests,
        Err(error) => return End::Failed(error),
    };
    let over = CancellationToken::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match requests.next(&mut buffer).await {
            Ok(Some(length)) => take(&buffer[..length], connection, files, &over),
            Ok(None) => {
                over.cancel();
                return End::Over;
            }
            Err(error) => return End::Failed(error),
        }
    }
}

/// Answers one request, or sees to it that it is answered.
fn take<F: Files>(
    bytes: &[u8],
    connection: &Arc<OwnedFd>,
    files: &Arc<F>,
    over: &CancellationToken,
) {
    let Some(request) = Request::parse(bytes) else {
        tracing::warn!(
            length = bytes.len(),
            "the kernel's request is not understood"
        );
        return;
    };
    let Request {
        unique,
        node,
        operation,
    } = request;
    let Operation::Read { offset, size } = operation else {
        if let Some(reply) = reply::at_once(&request, &**files) {
            send(connection, &reply, &[]);
        }
        return;
    };
    let Some(file) = files.of(node) else {
        send(connection, &reply::error(unique, fuse::ESTALE), &[]);
        return;
    };
    // What lies behind the file's end is not asked for, and the answer is shorter.
    let start = offset.min(file.bytes);
    let end = offset.saturating_add(size.into()).min(file.bytes);
    if start == end {
        send(connection, &reply::head(unique, 0), &[]);
        return;
    }
    let (connection, files, over) = (Arc::clone(connection), Arc::clone(files), over.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = read(&connection, files, unique, node, start..end) => {}
            () = over.cancelled() => {}
        }
    });
}

/// A read, from asking to answering.
async fn read<F: Files>(
    connection: &OwnedFd,
    files: Arc<F>,
    unique: u64,
    node: u64,
    range: Range<u64>,
) {
    let began = Instant::now();
    let wanted = range.end - range.start;
    let error = match files.read(node, range).await {
        // The kernel takes what is missing for zeros.
        Ok(bytes) if bytes.len() as u64 == wanted => {
            send(connection, &reply::head(unique, bytes.len()), &bytes);
            return;
        }
        Ok(bytes) => {
            let had = bytes.len();
            tracing::error!(node, wanted, had, "a read brought another number of bytes");
            fuse::EIO
        }
        Err(Unread::Gone) => fuse::ESTALE,
        Err(Unread::Failed) => fuse::EIO,
    };
    sleep_until(began + FAILED_AFTER).await;
    send(connection, &reply::error(unique, error), &[]);
}

/// An answer that nobody waits for any more is no failure: its reader was killed, or another process has answered.
fn send(connection: &OwnedFd, head: &[u8], body: &[u8]) {
    if let Err(error) = fuse::answer(connection.as_fd(), head, body) {
        tracing::debug!(%error, "an answer to the kernel is not taken");
    }
}

//! Flat files over a FUSE connection: one directory, whose files are looked up by name and read.
//!
//! Owns the few FUSE requests that this takes: their meaning ([`wire`]), the parameters of the connection ([`INIT`]),
//! and when each request is answered. Knows nothing of layers. [`crate::hold`] opens connections and mounts them.
//!
//! A connection outlives the process that serves it, so nothing that the kernel keeps may depend on this process. A
//! file's node id follows from the file, there are no handles, and the answer to INIT never changes. Before its first
//! read a process has the kernel send again what an earlier process left unanswered (RESEND).

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

/// A file as the kernel knows it. Both numbers stay the same as long as a kernel knows the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Neither 0 nor 1, and different for each file.
    pub node: u64,
    pub bytes: u64,
}

/// Why a read failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// The file does not exist any more.
    Gone,
    /// No source gave the bytes.
    Failed,
}

/// The files. [`Self::named`] and [`Self::of`] run on the async runtime's threads: they must not use a disk or wait.
pub trait Files: Send + Sync + 'static {
    /// The file of this name.
    fn named(&self, name: &[u8]) -> Option<Entry>;

    /// The file with this node id.
    fn of(&self, node: u64) -> Option<Entry>;

    /// All bytes of a range within the file. A read may wait for a minute. It is dropped if the connection ends.
    /// Another process that takes over reads the same range again.
    fn read(
        self: Arc<Self>,
        node: u64,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Bytes, Unread>> + Send;
}

/// Why a connection is no longer served.
#[derive(Debug)]
pub enum End {
    /// The connection was unmounted everywhere, or aborted.
    Over,
    /// [`serve`]'s `stop` came. Reads that had begun are still answered.
    Stopped,
    /// The requests cannot be read.
    Failed(io::Error),
}

/// The least time between a read and its error. The kernel repeats failed reads page by page, and logs a line for each.
const FAILED_AFTER: Duration = Duration::from_secs(1);

/// At least `FUSE_MIN_READ_BUFFER`, which the kernel demands. No request that is answered here is longer.
const BUFFER: usize = 16 << 10;

/// Serves `files` over a connection until it ends, or until `stop`. Must run within an async runtime.
///
/// Only one call may serve a descriptor at a time. Several processes may serve one connection for a while: each request
/// goes to one of them, and the kernel ignores a second answer.
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

/// Has the kernel send again all requests that any process read and did not answer: a process that died may have left
/// some. A request that another process still works on is worked on twice, and answered once.
pub fn send_again(connection: &OwnedFd) {
    // This fails if the connection is over, and on kernels before 6.9, which do not know RESEND.
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

/// Answers one request, or starts a task that answers it.
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
    // Only bytes before the file's end are read: the answer may be shorter than the request.
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

/// Reads a range, and answers the request.
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
        // The kernel would fill a shorter answer with zeros, so that is an error.
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

/// The kernel may refuse an answer: its reader was killed, or another process has answered. That is no failure.
fn send(connection: &OwnedFd, head: &[u8], body: &[u8]) {
    if let Err(error) = fuse::answer(connection.as_fd(), head, body) {
        tracing::debug!(%error, "an answer to the kernel is not taken");
    }
}

//! The requests to the fake and the bytes that it sent, exactly.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use super::request::{Kind, Request};

/// One request to the fake, and the progress of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As sent.
    pub method: String,
    /// Percent-decoded, without the query.
    pub path: String,
    /// As sent, without the `?`.
    pub query: Option<String>,
    /// What the path asks for; [`Kind::Cdn`] came in on the second port.
    pub kind: Kind,
    /// The repository in the path, or nothing.
    pub repository: String,
    /// The tag or digest in the path, or nothing.
    pub reference: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// All `Accept` headers, joined by a comma.
    pub accept: Option<String>,
    /// All headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// 0 until the answer begins.
    pub status: u16,
    /// Body bytes that the socket has taken. Up to a few hundred KiB of them may still wait in the kernel; a client
    /// that has left never gets those.
    pub bytes_sent: u64,
    /// Which connection, counted from 1 since the fake was made.
    pub connection: u64,
    /// Whether the answer is over, however it ended.
    pub finished: bool,
}

#[derive(Debug)]
struct Entry {
    seen: Seen,
    status: AtomicU16,
    bytes_sent: Mutex<u64>,
    finished: AtomicBool,
}

impl Entry {
    fn bytes_sent(&self) -> MutexGuard<'_, u64> {
        self.bytes_sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// All requests, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Mutex<Vec<Arc<Entry>>>,
    /// Connections ever, and those before the last reset.
    connections: AtomicU64,
    forgotten: AtomicU64,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection and gives its number.
    pub(super) fn connected(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn begin(&self, request: &Request, connection: u64) -> Account {
        let header = |name: &str| request.header(name).map(str::to_owned);
        let accepts = request.headers.iter().filter(|(name, _)| name == "accept");
        let accepts: Vec<_> = accepts.map(|(_, value)| value.as_str()).collect();
        let seen = Seen {
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            kind: request.kind,
            repository: request.repository.clone(),
            reference: request.reference.clone(),
            range: header("range"),
            authorization: header("authorization"),
            accept: (!accepts.is_empty()).then(|| accepts.join(", ")),
            headers: request.headers.clone(),
            status: 0,
            bytes_sent: 0,
            connection,
            finished: false,
        };
        let entry = Arc::new(Entry {
            seen,
            status: AtomicU16::new(0),
            bytes_sent: Mutex::new(0),
            finished: AtomicBool::new(false),
        });
        self.entries().push(Arc::clone(&entry));
        Account(entry)
    }

    pub(super) fn requests(&self) -> Vec<Seen> {
        let entries = self.entries();
        let now = |entry: &Arc<Entry>| Seen {
            status: entry.status.load(Ordering::Relaxed),
            bytes_sent: *entry.bytes_sent(),
            finished: entry.finished.load(Ordering::Acquire),
            ..entry.seen.clone()
        };
        entries.iter().map(now).collect()
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed) - self.forgotten.load(Ordering::Relaxed)
    }

    pub(super) fn reset(&self) {
        self.entries().clear();
        let ever = self.connections.load(Ordering::Relaxed);
        self.forgotten.store(ever, Ordering::Relaxed);
    }
}

/// The account of one request; dropping it marks the answer as ended.
#[derive(Debug)]
pub(super) struct Account(Arc<Entry>);

impl Account {
    pub(super) fn status(&self, status: u16) {
        self.0.status.store(status, Ordering::Relaxed);
    }

    /// Lets `write` take body bytes and counts them. Nothing reads the count meanwhile, so a client that has received a
    /// byte also finds it counted.
    pub(super) fn write(
        &self,
        write: impl FnOnce() -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut sent = self.0.bytes_sent();
        let written = write();
        if let Poll::Ready(Ok(bytes)) = &written {
            *sent += *bytes as u64;
        }
        written
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.0.finished.store(true, Ordering::Release);
    }
}

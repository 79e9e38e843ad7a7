//! The durable half of the cluster tier: verified blobs and small records in a bucket. They are written behind, and
//! outlive every node.
//!
//! Owns the store's client, the layout of the bucket, the queue of writes, and when the store is not asked at all. Its
//! users decide which callers may have a blob, and what a record means. A failure here is a miss, never the end of a
//! pull. Bytes that are read here are as unverified as those of any other source.
//!
//! ```text
//! <prefix>/blobs/sha256/ab/<hex>                       a blob; `ab` begins its hex
//! <prefix>/blobs/sha256/ab/<hex>.lazy1                 the index of a layer, believed only with its proof
//! <prefix>/records/<registry>/<repository>/<name>      a record
//! ```

mod breaker;
mod connector;
mod failure;
mod limits;
mod line;
mod open;
mod read;
mod upload;
mod write;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fs::File,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use larder_shared::{Digest, Range};
use object_store::path::Path;
use tokio::time::Instant;

use crate::{
    client::Client,
    config,
    metrics::{ObjectOperation, ObjectOutcome, ObjectStoreMetrics},
};
use breaker::{Breaker, Permit};
use limits::{BLOB_BYTES, BLOBS, DISTRUSTED, LARGEST_RECORD, Limits, RECORD_BYTES, RECORDS};
use line::{Job, Line, Pushed};
use open::Backend;
use upload::Pace;

pub use failure::{ObjectAnswer, ObjectFailure};
pub use open::OpenError;

/// Whether a record that is in the store (the first) stays, and is not overwritten by a new one (the second).
pub type Stays = fn(&[u8], &[u8]) -> bool;

/// What the store holds under a digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Thing {
    Blob(Digest),
    /// The index of the layer that has the digest.
    Index(Digest),
}

/// A file to be written, and its own digest.
#[derive(Clone, Debug)]
struct StoredFile {
    file: Arc<File>,
    digest: Digest,
}

/// A record to be written.
#[derive(Debug)]
struct StoredRecord {
    bytes: Bytes,
    stays: Option<Stays>,
}

/// The store. A reader is never held up for long, and a writer never at all.
#[derive(Debug)]
pub struct ObjectStore {
    backend: Backend,
    limits: Limits,
    metrics: ObjectStoreMetrics,
    reading: Arc<Breaker>,
    writing: Arc<Breaker>,
    blobs: Line<Thing, StoredFile>,
    records: Line<String, StoredRecord>,
    pace: Pace,
    distrusted: Mutex<HashSet<Thing>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    already_there: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    failed_at: Mutex<Option<Instant>>,
    last_error: Mutex<Option<String>>,
}

/// What a reader gets.
pub struct Object {
    /// Bytes of the whole object.
    pub size: u64,
    /// Where `body` begins.
    pub start: u64,
    /// Where it ends, if it does not fail.
    pub end: u64,
    /// The bytes, unverified.
    pub body: BoxStream<'static, Result<Bytes, ObjectFailure>>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Object {}..{} of {}", self.start, self.end, self.size)
    }
}

/// The store at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Blobs and records that wait or are being written.
    pub queue: usize,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// Blobs and records written since the start.
    pub written: u64,
    /// Blobs that another node had written.
    pub already_there: u64,
    /// Blobs and records that were not written: the queue had no room, or every attempt failed.
    pub dropped: u64,
    /// Attempts to write that failed.
    pub failed: u64,
    /// How long ago the last of them was.
    pub failed_ago: Option<Duration>,
    /// What went wrong last, reading or writing.
    pub last_error: Option<String>,
    /// How much longer reads are not tried.
    pub resting: Option<Duration>,
}

impl ObjectStore {
    /// Makes the client; asks the store nothing yet.
    pub fn open(
        config: &config::ObjectStore,
        client: &Arc<Client>,
        metrics: &ObjectStoreMetrics,
    ) -> Result<Self, OpenError> {
        Self::open_within(config, client, metrics, Limits::default())
    }

    fn open_within(
        config: &config::ObjectStore,
        client: &Arc<Client>,
        metrics: &ObjectStoreMetrics,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            backend: Backend::open(config, client, &limits.patience)?,
            metrics: metrics.clone(),
            reading: Breaker::new(limits.rest),
            writing: Breaker::new(limits.rest),
            blobs: Line::new(BLOBS, BLOB_BYTES),
            records: Line::new(RECORDS, RECORD_BYTES),
            pace: Pace::new(config.max_rate),
            distrusted: Mutex::default(),
            counters: Counters::default(),
            limits,
        })
    }

    /// A blob's bytes of `range`, which may end beyond the blob's end. `None`: it is not there. The first bytes are
    /// here when this returns.
    pub async fn get(
        &self,
        digest: &Digest,
        range: Range,
    ) -> Result<Option<Object>, ObjectFailure> {
        self.get_thing(Thing::Blob(*digest), range).await
    }

    /// The index of a layer, with its envelope. It is unverified: the calling module checks it.
    pub async fn get_index(&self, layer: &Digest) -> Result<Option<Object>, ObjectFailure> {
        let all = Range::new(0, u64::MAX);
        self.get_thing(Thing::Index(*layer), all).await
    }

    async fn get_thing(&self, thing: Thing, range: Range) -> Result<Option<Object>, ObjectFailure> {
        if self.is_distrusted(thing) {
            return Ok(None);
        }
        let store = Arc::clone(&self.backend.reads);
        let (path, stall) = (self.path_of(thing), self.limits.stall);
        let operation = ObjectOperation::Get;
        let first = read::first(store, path, range, stall);
        let Some((found, permit)) = self.ask(operation, first).await? else {
            return Ok(None);
        };
        Ok(Some(read::object(found, permit, &self.metrics.read)))
    }

    /// The size of a blob. `None`: it is not there.
    pub async fn head(&self, digest: &Digest) -> Result<Option<u64>, ObjectFailure> {
        let thing = Thing::Blob(*digest);
        if self.is_distrusted(thing) {
            return Ok(None);
        }
        let store = Arc::clone(&self.backend.reads);
        let size = read::size(store, self.path_of(thing));
        let found = self.ask(ObjectOperation::Head, size).await?;
        Ok(found.map(|(size, permit)| {
            permit.succeeded();
            size
        }))
    }

    /// The record at `path`, as [`write_record`](Self::write_record) has it.
    pub async fn read_record(&self, path: &str) -> Result<Option<Bytes>, ObjectFailure> {
        let store = Arc::clone(&self.backend.reads);
        let whole = read::whole(store, self.record_path(path)?, self.limits.stall);
        let found = self.ask(ObjectOperation::ReadRecord, whole).await?;
        Ok(found.map(|(bytes, permit)| {
            permit.succeeded();
            self.metrics.read.inc_by(bytes.len() as u64);
            bytes
        }))
    }

    /// Has a verified blob written behind, once `after` has passed and if no other node has written it by then. Several
    /// nodes that hold the blob give each other precedence by `after`. Never waits, and drops the blob when too much
    /// waits already.
    pub fn write_blob(&self, digest: Digest, file: Arc<File>, size: u64, after: Duration) {
        let file = StoredFile { file, digest };
        self.write_thing(Thing::Blob(digest), file, size, after);
    }

    /// Has the index of a layer written behind, in the same way. `digest` is that of the file.
    pub fn write_index(&self, layer: Digest, file: Arc<File>, digest: Digest, size: u64) {
        let file = StoredFile { file, digest };
        self.write_thing(Thing::Index(layer), file, size, Duration::ZERO);
    }

    fn write_thing(&self, thing: Thing, file: StoredFile, size: u64, after: Duration) {
        let job = Job {
            key: thing,
            value: file,
            bytes: size,
            failed: 0,
            due: Instant::now() + after,
        };
        self.pushed(ObjectOperation::WriteBlob, self.blobs.push(job));
    }

    /// Has a record written behind, over whatever is there, unless that `stays`. `path` is
    /// `<registry>/<repository>/<name>`; a name begins with `_`, which no part of a repository does. Of several writes
    /// to one path that wait, the last is done.
    pub fn write_record(&self, path: &str, bytes: Bytes, stays: Option<Stays>) {
        if let Err(failure) = self.record_path(path) {
            return self.drop_one(ObjectOperation::WriteRecord, &failure);
        }
        if bytes.len() as u64 > LARGEST_RECORD {
            let failure = ObjectFailure::Damaged("a record is larger than 1 MiB");
            return self.drop_one(ObjectOperation::WriteRecord, &failure);
        }
        let job = Job {
            key: path.to_owned(),
            bytes: bytes.len() as u64,
            value: StoredRecord { bytes, stays },
            failed: 0,
            due: Instant::now(),
        };
        self.pushed(ObjectOperation::WriteRecord, self.records.replace(job));
    }

    /// Notes that the store has wrong bytes under `digest`. They are not read again, and the next
    /// [`write_blob`](Self::write_blob) of the digest overwrites them.
    pub fn distrust(&self, digest: Digest) {
        self.distrust_thing(Thing::Blob(digest));
    }

    /// The same for the index of a layer.
    pub fn distrust_index(&self, layer: Digest) {
        self.distrust_thing(Thing::Index(layer));
    }

    fn distrust_thing(&self, thing: Thing) {
        let mut distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if distrusted.len() < DISTRUSTED {
            distrusted.insert(thing);
        }
    }

    /// The store at a glance.
    pub fn view(&self) -> View {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ((blobs, blob_bytes), (records, record_bytes)) =
            (self.blobs.length(), self.records.length());
        let last_error = &self.counters.last_error;
        View {
            queue: blobs + records,
            waiting_bytes: blob_bytes + record_bytes,
            written: count(&self.counters.written),
            already_there: count(&self.counters.already_there),
            dropped: count(&self.counters.dropped),
            failed: count(&self.counters.failed),
            failed_ago: self
                .counters
                .failed_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .map(|at| at.elapsed()),
            last_error: last_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            resting: self.reading.resting(Instant::now()),
        }
    }

    /// Reads something from the store. The read fails if its first bytes take longer than `first_byte`. A store that is
    /// left alone is not asked.
    async fn ask<T: Send + 'static>(
        &self,
        operation: ObjectOperation,
        question: impl Future<Output = Result<Option<T>, ObjectFailure>> + Send + 'static,
    ) -> Result<Option<(T, Permit)>, ObjectFailure> {
        let mut permit = self.reading.permit(Instant::now()).map_err(|left| {
            self.metrics.count(operation, ObjectOutcome::Skipped);
            ObjectFailure::Skipped(left)
        })?;
        // A task of its own, so that credentials that come too late for this read are there for the next.
        let question = tokio::spawn(question);
        let first_byte = self.limits.first_byte;
        let answer = match tokio::time::timeout(first_byte, question).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ObjectFailure::Other("a read ended by itself".to_owned())),
            Err(_) => Err(ObjectFailure::Timeout(first_byte)),
        };
        match answer {
            Ok(Some(found)) => {
                self.metrics.count(operation, ObjectOutcome::Done);
                permit.answered();
                Ok(Some((found, permit)))
            }
            Ok(None) => {
                self.metrics.count(operation, ObjectOutcome::NotFound);
                permit.succeeded();
                Ok(None)
            }
            Err(failure) => {
                self.metrics.count(operation, failure.outcome());
                self.note(&failure);
                if failure.is_the_stores() {
                    permit.failed(Instant::now());
                }
                Err(failure)
            }
        }
    }

    fn pushed(&self, operation: ObjectOperation, pushed: Pushed) {
        match pushed {
            Pushed::Waits => self.show_queue(),
            Pushed::Known => {}
            Pushed::Full => {
                let full = ObjectFailure::Other("too much waits to be written".to_owned());
                self.drop_one(operation, &full);
            }
        }
    }

    fn drop_one(&self, operation: ObjectOperation, why: &ObjectFailure) {
        self.metrics.count(operation, ObjectOutcome::Dropped);
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        self.note(why);
    }

    fn note(&self, failure: &ObjectFailure) {
        let mut last = self
            .counters
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(failure.to_string());
    }

    fn show_queue(&self) {
        let ((blobs, blob_bytes), (records, record_bytes)) =
            (self.blobs.length(), self.records.length());
        self.metrics.waiting.set((blobs + records) as i64);
        let bytes = blob_bytes + record_bytes;
        self.metrics.waiting_bytes.set(bytes as i64);
    }

    fn is_distrusted(&self, thing: Thing) -> bool {
        let distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        distrusted.contains(&thing)
    }

    fn trust(&self, thing: Thing) {
        let mut distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        distrusted.remove(&thing);
    }

    fn path_of(&self, thing: Thing) -> Path {
        let (digest, end) = match thing {
            Thing::Blob(digest) => (digest, ""),
            Thing::Index(layer) => (layer, ".lazy1"),
        };
        let (hex, algorithm) = (digest.hex(), digest.algorithm().as_str());
        let name = format!("{hex}{end}");
        self.backend.path(["blobs", algorithm, &hex[..2], &name])
    }

    fn record_path(&self, path: &str) -> Result<Path, ObjectFailure> {
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        let valid = path.split('/').count() > 1
            && path.split('/').all(plain)
            && Path::parse(path).is_ok_and(|parsed| parsed.as_ref() == path);
        if !valid {
            return Err(ObjectFailure::Path(path.to_owned()));
        }
        let parts = std::iter::once("records").chain(path.split('/'));
        Ok(self.backend.path(parts))
    }
}

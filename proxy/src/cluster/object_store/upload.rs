//! One verified file becomes one object: in pieces, at a bounded rate, and only if it still has its digest.

use std::{
    fs::File,
    future::Future,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use larder_shared::{Digest, Hasher};
use object_store::{
    Error, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    path::Path,
};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::ObjectFailure;

/// Up to this size a blob is one request, which either creates the object or finds it there.
const ONE_REQUEST: u64 = 16 << 20;

/// The least size of a part of a larger blob, and how many parts there may be. S3 takes 10,000 parts, none but the last
/// smaller than 5 MiB, and R2 wants all of the same size.
const PART: u64 = 8 << 20;
const PARTS: u64 = 9_000;

/// How long the removal of an unfinished upload may take.
const ABORT: Duration = Duration::from_secs(2);

/// The rate that all uploads share.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    free: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            free: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` may be sent.
    async fn wait(&self, bytes: u64) {
        if let Some(at) = self.reserve(bytes, Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// When `bytes` may be sent, for a caller that comes at `now`.
    fn reserve(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let rate = self.rate?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*free).max(now);
        *free = at + Duration::from_secs_f64(bytes as f64 / rate as f64);
        Some(at)
    }
}

/// How a write ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Now,
    AlreadyThere,
}

/// What an upload needs besides its blob.
#[derive(Debug)]
pub(super) struct Upload<'a> {
    pub(super) store: &'a dyn ObjectStore,
    pub(super) path: &'a Path,
    pub(super) pace: &'a Pace,
    /// How long each request may take, with all its retries.
    pub(super) patience: Duration,
    pub(super) stop: &'a CancellationToken,
    pub(super) written: &'a Counter,
}

impl Upload<'_> {
    /// Writes the blob unless another node has. `distrusted`: the object in the store is known to be wrong.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        file: &Arc<File>,
        size: u64,
        distrusted: bool,
    ) -> Result<Written, ObjectFailure> {
        let mut mode = match self.size().await? {
            Some(there) if there == size && !distrusted => return Ok(Written::AlreadyThere),
            // Another size means other content: an upload that the store has taken for complete.
            Some(_) => PutMode::Overwrite,
            None => PutMode::Create,
        };
        if size > ONE_REQUEST {
            self.in_parts(digest, file, size).await?;
            return Ok(Written::Now);
        }
        let mut pieces = Pieces::new(digest, file, size);
        let bytes = pieces.next(size).await?;
        pieces.finish()?;
        loop {
            match self.put(bytes.clone(), mode.clone()).await? {
                Ok(()) => return Ok(Written::Now),
                // Another node was faster, or is still writing.
                Err(Error::AlreadyExists { .. }) => {
                    return match self.size().await? {
                        Some(there) if there == size => Ok(Written::AlreadyThere),
                        _ => Err(ObjectFailure::Busy),
                    };
                }
                // The store has no conditional writes: at worst, the same bytes are written twice.
                Err(error) if mode == PutMode::Create && lacks_conditions(&error) => {
                    mode = PutMode::Overwrite;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes a record, whatever is there.
    pub(super) async fn record(&self, bytes: Bytes) -> Result<(), ObjectFailure> {
        Ok(self.put(bytes, PutMode::Overwrite).await??)
    }

    async fn size(&self) -> Result<Option<u64>, ObjectFailure> {
        match self.step(self.store.head(self.path)).await? {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn put(&self, bytes: Bytes, mode: PutMode) -> Result<Result<(), Error>, ObjectFailure> {
        let size = bytes.len() as u64;
        self.may_send(size).await?;
        let payload = PutPayload::from_bytes(bytes);
        let put = self
            .store
            .put_opts(self.path, payload, PutOptions::from(mode));
        let put = self.step(put).await?;
        if put.is_ok() {
            self.written.inc_by(size);
        }
        Ok(put.map(drop))
    }

    async fn in_parts(
        &self,
        digest: &Digest,
        file: &Arc<File>,
        size: u64,
    ) -> Result<(), ObjectFailure> {
        let mut upload = self.step(self.store.put_multipart(self.path)).await??;
        let sent = self.parts(upload.as_mut(), digest, file, size).await;
        if sent.is_err() {
            // Parts that stay behind cost money until the bucket's lifecycle rule removes them.
            let _ = tokio::time::timeout(ABORT, upload.abort()).await;
        }
        sent
    }

    async fn parts(
        &self,
        upload: &mut dyn MultipartUpload,
        digest: &Digest,
        file: &Arc<File>,
        size: u64,
    ) -> Result<(), ObjectFailure> {
        let part = part_size(size);
        let mut pieces = Pieces::new(digest, file, size);
        while pieces.left() > 0 {
            let bytes = pieces.next(part).await?;
            let len = bytes.len() as u64;
            self.may_send(len).await?;
            self.step(upload.put_part(PutPayload::from_bytes(bytes)))
                .await??;
            self.written.inc_by(len);
        }
        // The last moment at which wrong bytes can be kept out.
        pieces.finish()?;
        self.step(upload.complete()).await??;
        Ok(())
    }

    /// Waits until the rate allows `bytes`. A slow rate is no stall: the wait has no time limit, but it ends when
    /// larder stops.
    async fn may_send(&self, bytes: u64) -> Result<(), ObjectFailure> {
        tokio::select! {
            () = self.pace.wait(bytes) => Ok(()),
            () = self.stop.cancelled() => Err(ObjectFailure::Stopping),
        }
    }

    /// Makes one request, which ends after `patience` or when larder stops.
    async fn step<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, ObjectFailure> {
        tokio::select! {
            done = tokio::time::timeout(self.patience, request) => {
                done.map_err(|_| ObjectFailure::Timeout(self.patience))
            }
            () = self.stop.cancelled() => Err(ObjectFailure::Stopping),
        }
    }
}

/// Whether the store cannot create an object on the condition that there is none.
fn lacks_conditions(error: &Error) -> bool {
    match error {
        Error::NotImplemented { .. } | Error::NotSupported { .. } => true,
        error => matches!(
            ObjectFailure::of(error),
            ObjectFailure::Answered(answer) if answer.status == http::StatusCode::NOT_IMPLEMENTED
        ),
    }
}

/// The size of a part, so that no blob has too many.
fn part_size(size: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    PART.max(size.div_ceil(PARTS).div_ceil(MIB) * MIB)
}

/// A file that is read and hashed from its first byte to its last.
struct Pieces<'a> {
    digest: &'a Digest,
    file: &'a Arc<File>,
    size: u64,
    at: u64,
    hasher: Option<Hasher>,
}

impl<'a> Pieces<'a> {
    fn new(digest: &'a Digest, file: &'a Arc<File>, size: u64) -> Self {
        Self {
            digest,
            file,
            size,
            at: 0,
            hasher: Some(Hasher::new(digest.algorithm())),
        }
    }

    fn left(&self) -> u64 {
        self.size - self.at
    }

    /// The next `most` bytes, or what is left. A piece at a time, on a thread that may block.
    async fn next(&mut self, most: u64) -> Result<Bytes, ObjectFailure> {
        let (len, at) = (self.left().min(most), self.at);
        let file = Arc::clone(self.file);
        let mut hasher = self.hasher.take().ok_or(SHORT)?;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, at)?;
            hasher.update(&bytes);
            Ok::<_, std::io::Error>((Bytes::from(bytes), hasher))
        });
        let (bytes, hasher) = read.await.map_err(|_| SHORT)?.map_err(|_| SHORT)?;
        self.hasher = Some(hasher);
        self.at += len;
        Ok(bytes)
    }

    /// Whether the bytes were those of the digest.
    fn finish(self) -> Result<(), ObjectFailure> {
        match self.hasher.map(Hasher::finish) {
            Some(found) if found == *self.digest => Ok(()),
            _ => Err(ObjectFailure::Damaged(
                "the blob on disk no longer has its digest",
            )),
        }
    }
}

const SHORT: ObjectFailure = ObjectFailure::Damaged("the blob on disk cannot be read to its end");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_enough_and_whole_mebibytes() {
        assert_eq!(part_size(17 << 20), PART);
        assert_eq!(part_size(PART * PARTS), PART);
        let huge = 5 << 40;
        assert!(huge / part_size(huge) < 10_000);
        assert_eq!(part_size(huge) % (1 << 20), 0);
    }

    #[test]
    fn all_share_one_rate() {
        let pace = Pace::new(Some(1000));
        let now = Instant::now() + Duration::from_mins(1);
        let at = |bytes, now: Instant| pace.reserve(bytes, now).unwrap() - now;
        assert_eq!(at(500, now), Duration::ZERO);
        assert_eq!(at(500, now), Duration::from_millis(500));
        assert_eq!(at(1, now), Duration::from_secs(1));
        let later = now + Duration::from_mins(1);
        assert_eq!(at(5000, later), Duration::ZERO);
        assert_eq!(
            at(1, later),
            Duration::from_secs(5),
            "idle time is not saved up"
        );
        assert_eq!(Pace::new(None).reserve(1 << 40, now), None);
    }
}

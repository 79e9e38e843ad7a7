//! The tasks that write behind: two for blobs, one for records, so that tags do not wait for large layers.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    ObjectFailure, ObjectStore,
    line::{Job, Line},
    upload::{Upload, Written},
};
use crate::{
    drain::Watch,
    metrics::{ObjectOperation, ObjectOutcome},
    telemetry,
};

/// How many blobs are written at once.
const UPLOADS: usize = 2;

/// The longest pause between two attempts at one thing.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How writing ends: after `closing`, no write waits until it may begin; after `stop`, everything stops.
#[derive(Clone, Default)]
struct Ends {
    closing: CancellationToken,
    stop: CancellationToken,
}

impl ObjectStore {
    /// Writes what comes until larder stops. Writes that are due then still have a bounded time.
    pub async fn run(self: Arc<Self>, mut watch: Watch) {
        let ends = Ends::default();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..UPLOADS {
            tasks.spawn(Arc::clone(&self).write_blobs(ends.clone()));
        }
        tasks.spawn(Arc::clone(&self).write_records(ends.clone()));
        watch.stopped().await;
        ends.closing.cancel();
        let unwritten = self.blobs.close() + self.records.close();
        let all = async { while tasks.join_next().await.is_some() {} };
        tokio::pin!(all);
        if tokio::time::timeout(self.limits.finish, &mut all)
            .await
            .is_err()
        {
            ends.stop.cancel();
            all.await;
        }
        let (left, _) = self.blobs.length();
        if unwritten + left > 0 {
            tracing::info!(
                count = unwritten + left,
                "not written to the object store before the end"
            );
        }
    }

    async fn write_blobs(self: Arc<Self>, ends: Ends) {
        while let Some(job) = next(&self.blobs, &ends.stop).await {
            let path = self.path_of(job.key);
            let upload = self.upload(&path, &ends.stop);
            let (distrusted, value) = (self.is_distrusted(job.key), &job.value);
            let written = upload.blob(&value.digest, &value.file, job.bytes, distrusted);
            let written = self.attempt(&ends, written).await;
            if written.is_ok() {
                self.trust(job.key);
            }
            self.conclude(ObjectOperation::WriteBlob, &self.blobs, job, written);
        }
    }

    async fn write_records(self: Arc<Self>, ends: Ends) {
        while let Some(job) = next(&self.records, &ends.stop).await {
            let written = match self.record_path(&job.key) {
                Ok(path) => {
                    let upload = self.upload(&path, &ends.stop);
                    let written = async {
                        if let Some(stays) = job.value.stays
                            && let Ok(Some(there)) = self.read_record(&job.key).await
                            && stays(&there, &job.value.bytes)
                        {
                            return Ok(Written::AlreadyThere);
                        }
                        upload.record(job.value.bytes.clone()).await?;
                        Ok(Written::Now)
                    };
                    self.attempt(&ends, written).await
                }
                Err(failure) => Err(failure),
            };
            self.conclude(ObjectOperation::WriteRecord, &self.records, job, written);
        }
    }

    fn upload<'a>(
        &'a self,
        path: &'a object_store::path::Path,
        stop: &'a CancellationToken,
    ) -> Upload<'a> {
        Upload {
            store: self.backend.writes.as_ref(),
            path,
            pace: &self.pace,
            patience: self.limits.patience.write * 2,
            stop,
            written: &self.metrics.written,
        }
    }

    /// Waits until the breaker lets the store be asked, then writes.
    async fn attempt(
        &self,
        ends: &Ends,
        write: impl Future<Output = Result<Written, ObjectFailure>>,
    ) -> Result<Written, ObjectFailure> {
        let permit = loop {
            match self.writing.permit(Instant::now()) {
                Ok(permit) => break permit,
                Err(left) => tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    // larder does not end later for the sake of a store that is left alone.
                    () = ends.closing.cancelled() => return Err(ObjectFailure::Stopping),
                },
            }
        };
        let written = write.await;
        match &written {
            Ok(_) => permit.succeeded(),
            Err(failure) if failure.is_the_stores() => permit.failed(Instant::now()),
            Err(_) => {}
        }
        written
    }

    /// Counts how a write ended. A failed write is tried again later, or given up.
    fn conclude<K: Eq + Clone, V>(
        &self,
        operation: ObjectOperation,
        line: &Line<K, V>,
        mut job: Job<K, V>,
        written: Result<Written, ObjectFailure>,
    ) {
        let key = job.key.clone();
        let (counter, outcome) = match &written {
            Ok(Written::Now) => (&self.counters.written, ObjectOutcome::Done),
            Ok(Written::AlreadyThere) => {
                (&self.counters.already_there, ObjectOutcome::AlreadyThere)
            }
            Err(failure) => (&self.counters.failed, failure.outcome()),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.metrics.count(operation, outcome);
        match written {
            Ok(_) => {
                line.done(&key, None);
            }
            Err(failure) => {
                self.note(&failure);
                *self
                    .counters
                    .failed_at
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                job.failed += 1;
                let hopeless = matches!(
                    failure,
                    ObjectFailure::Damaged(_) | ObjectFailure::Path(_) | ObjectFailure::Stopping
                );
                let again = (!hopeless && job.failed < self.limits.attempts).then(|| {
                    let pause = self.limits.pause * 2_u32.saturating_pow(job.failed - 1);
                    let pause = pause
                        .min(LONGEST_PAUSE)
                        .mul_f64(0.5 + fastrand::f64() / 2.0);
                    job.due = Instant::now() + pause;
                    job
                });
                let given_up = again.is_none();
                if !line.done(&key, again) || given_up {
                    if let Some(due) = telemetry::due("object store", operation.as_str()) {
                        tracing::warn!(%failure, what = operation.as_str(), unsaid = due.unsaid, "not written to the object store, which will lack it; look at its address, its credentials and its room");
                    }
                    self.drop_one(operation, &failure);
                }
            }
        }
        self.show_queue();
    }
}

/// The next job; `None` at the end.
async fn next<K: Eq + Clone, V>(line: &Line<K, V>, stop: &CancellationToken) -> Option<Job<K, V>> {
    if stop.is_cancelled() {
        return None;
    }
    tokio::select! {
        job = line.next() => job,
        () = stop.cancelled() => None,
    }
}

//! Requests' calls to the disk, on threads of their own, and what happens when the disk does not answer.
//!
//! A request waits for the disk only for a while. If a call is late, the disk counts as failing until the call returns,
//! and the request goes on without the node tier. A thread that hangs cannot be ended. So larder does not begin a call
//! again that is known to hang, and bounds how many calls run.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_shared::{Digest, RegistryName, Repository};

use super::{Blob, Hung, RepositoryRecord, Store, lock};
use crate::sys::{Calls, Hangs, Ongoing};

/// Calls that requests wait for, all together; and how long a request waits for one.
const AT_ONCE: usize = 64;
const WITHIN: Duration = Duration::from_millis(1500);

/// Surveys of the whole store that run at once; and how long a caller waits for one.
const SURVEYS: usize = 4;
const SURVEYED_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn of_surveys() -> Calls {
    Calls::new(SURVEYS, SURVEYED_WITHIN)
}

pub(super) fn of_requests() -> Calls {
    Calls::new(AT_ONCE, WITHIN)
}

impl Store {
    /// Takes note that `what` hangs, so that the disk counts as failing. `None` if that is known already.
    pub fn hangs(&self, what: &str) -> Option<Hung> {
        let new = self.hanging.begin(what);
        let late = format!("{what} does not come: the disk does not answer");
        self.failed(&io::Error::new(io::ErrorKind::TimedOut, late));
        new
    }

    /// Waits for `called` as long as a request waits for the disk. `None` if it is late.
    async fn within<T>(
        &self,
        what: String,
        called: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        if self.hanging.has(&what) {
            return None;
        }
        let mut called = Box::pin(called);
        if let Ok(done) = self.calls.wait(&mut called).await {
            return Some(done);
        }
        if let Some(hung) = self.hangs(&what) {
            tokio::spawn(async move {
                called.await;
                drop(hung);
            });
        }
        None
    }

    /// What `call` returns, if the disk answers in time. `what` names the call: two calls share a name only if they are
    /// the same.
    pub async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        what: String,
        call: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let (store, calls) = (Arc::clone(self), self.calls.clone());
        let called = async move { calls.to_its_end(move || call(&store)).await };
        self.within(what, called).await?.ok()
    }

    /// What `look` finds in the whole store, with a longer time limit than a request's call has. `None` if it takes too
    /// long.
    pub async fn survey<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let store = Arc::clone(self);
        self.surveys.run(move || look(&store)).await.ok()
    }

    /// Begins a survey that may take longer than a caller waits for it.
    pub fn begin_survey<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Ongoing<T> {
        let store = Arc::clone(self);
        self.surveys.begin(move || look(&store))
    }

    /// Waits for a survey that has begun. `None` if it takes too long: the survey goes on, and the caller can wait for
    /// it again.
    pub async fn wait_for_survey<T>(&self, look: &mut Ongoing<T>) -> Option<Result<T, Hangs>> {
        let ended = self.surveys.wait(look).await.ok()?;
        Some(ended.unwrap_or(Err(Hangs)))
    }

    /// Runs `call` to its end, however long that takes. If it takes longer than `within`, the disk counts as failing.
    pub async fn ask_to_the_end<T: Send + 'static>(
        self: &Arc<Self>,
        what: &str,
        within: Duration,
        call: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        let store = Arc::clone(self);
        let mut called = tokio::task::spawn_blocking(move || call(&store));
        if let Ok(done) = tokio::time::timeout(within, &mut called).await {
            return done;
        }
        let _hung = self.hangs(what);
        called.await
    }

    /// The record of one repository, with what its log says. If the log is not read in time, the caller gets the record
    /// without it, and the record learns the rest when the read returns.
    pub async fn record(
        &self,
        registry: &RegistryName,
        repository: &Repository,
    ) -> Arc<RepositoryRecord> {
        let record = self.repositories.seen(registry, repository);
        if !record.is_ready() {
            let what = format!("what is known of {registry}/{repository}");
            let reading = Arc::clone(&record).ready(self.calls.clone());
            self.within(what, reading).await;
        }
        record
    }

    /// As [`Self::blob`], for a caller that must not wait for the disk: a file that is not open yet is opened on a
    /// thread that may wait. A blob that is not in the tier is looked for in the container runtime's content store.
    pub async fn find(self: &Arc<Self>, digest: &Digest, size: Option<u64>) -> Option<Arc<Blob>> {
        if !self.is_held() {
            return None;
        }
        match self.find_own(digest, size).await {
            Some(blob) => Some(blob),
            None => self.find_adopted(digest, size).await,
        }
    }

    async fn find_own(self: &Arc<Self>, digest: &Digest, size: Option<u64>) -> Option<Arc<Blob>> {
        let open = lock(&self.index).open(digest);
        // The kernel answers this for an open file without the disk.
        if let Some(blob) = open.filter(|blob| !blob.is_damaged() && blob.is_in_place()) {
            return self.unless_late(blob);
        }
        let (store, calls, wanted) = (Arc::clone(self), self.calls.clone(), *digest);
        let open = async move { calls.to_its_end(move || store.blob(&wanted, size)).await };
        let opening = self.opening.clone();
        let opened = async move { opening.run((wanted, size), open).await };
        self.within(format!("the blob {digest}"), opened)
            .await??
            .ok()?
    }

    /// An open blob, unless a read of it hangs. Then the disk counts as failing until the read returns, and the request
    /// goes on as if the blob were not here.
    pub(super) fn unless_late(&self, blob: Arc<Blob>) -> Option<Arc<Blob>> {
        let tell = || self.hangs(&format!("a read of {}", blob.digest()));
        (!blob.reads().are_late(tell)).then_some(blob)
    }

    /// As [`Self::read`], for a caller that must not wait for the disk.
    pub async fn bytes(self: &Arc<Self>, digest: &Digest, limit: u64) -> Option<Bytes> {
        // The bytes in memory may be those of a blob of the runtime.
        self.adopted.note_used(digest, self.clock().now());
        if let Some(bytes) = self.small(digest) {
            return Some(bytes);
        }
        match self.own_bytes(digest, limit).await {
            Some(bytes) => Some(bytes),
            None if self.is_held() => self.adopted_bytes(digest, limit).await,
            None => None,
        }
    }

    async fn own_bytes(self: &Arc<Self>, digest: &Digest, limit: u64) -> Option<Bytes> {
        let (store, calls, wanted) = (Arc::clone(self), self.calls.clone(), *digest);
        let read = async move { calls.to_its_end(move || store.read(&wanted, limit)).await };
        let reading = self.reading.clone();
        let read = async move { reading.run(wanted, read).await };
        self.within(format!("the bytes of {digest}"), read)
            .await??
            .ok()?
    }

    /// The size of a blob that is committed or may be adopted, for a caller that must not wait for the disk. Does not
    /// count as a use.
    pub async fn length(self: &Arc<Self>, digest: &Digest) -> Option<u64> {
        let wanted = *digest;
        let look = move |store: &Self| store.peek(&wanted).map(|blob| blob.size());
        let own = self.ask(format!("the length of {digest}"), look).await;
        own.flatten().or_else(|| self.adoptable_size(digest))
    }

    /// Whether some repository of `registry` is known to hold `digest`. `false` if the disk does not answer.
    pub async fn is_held_in(self: &Arc<Self>, registry: &RegistryName, digest: &Digest) -> bool {
        let (store, wanted, at) = (Arc::clone(self), *digest, registry.clone());
        // The first look reads every log, so a long wait says nothing about the disk. Each single read has a time
        // limit.
        let looked = tokio::spawn(async move { store.repositories.held_in(&at, &wanted).await });
        matches!(self.calls.wait(looked).await, Ok(Ok(true)))
    }
}

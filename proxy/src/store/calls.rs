//! What requests ask of the disk, on threads of their own, and what it means when the disk does not answer.
//!
//! A request waits for the disk for a while. A call that is late counts as a disk that fails until it returns, and the
//! request goes on without the node tier. A thread that hangs cannot be ended, so a call that is known to hang is not begun
//! again, and there is a bound to how many are.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_shared::{Digest, RegistryName, Repository};

use super::{Blob, Hung, RepositoryRecord, Store, lock};
use crate::sys::{Calls, Hangs, Ongoing};

/// Calls that requests wait for, all together; and how long a request waits for one.
const AT_ONCE: usize = 64;
const WITHIN: Duration = Duration::from_millis(1500);

/// Looks at all of the store at once, for people; and how long one may take.
const SURVEYS: usize = 4;
const SURVEYED_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn of_surveys() -> Calls {
    Calls::new(SURVEYS, SURVEYED_WITHIN)
}

pub(super) fn of_requests() -> Calls {
    Calls::new(AT_ONCE, WITHIN)
}

impl Store {
    /// Takes note that `what` hangs: the disk fails. `None` if that is known.
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

    /// What `call` returns, if the disk answers in time. `what` names it, and is the same for the same call alone.
    pub async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        what: String,
        call: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let (store, calls) = (Arc::clone(self), self.calls.clone());
        let called = async move { calls.to_its_end(move || call(&store)).await };
        self.within(what, called).await?.ok()
    }

    /// What `look` finds in the whole store, which may take its time. `None` if it takes too long.
    pub async fn survey<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let store = Arc::clone(self);
        self.surveys.run(move || look(&store)).await.ok()
    }

    /// Begins such a look, which may take longer than one is waited for.
    pub fn begin_survey<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Ongoing<T> {
        let store = Arc::clone(self);
        self.surveys.begin(move || look(&store))
    }

    /// Waits for a look that has begun. `None` if it takes too long: it goes on, and can be waited for again.
    pub async fn wait_for_survey<T>(&self, look: &mut Ongoing<T>) -> Option<Result<T, Hangs>> {
        let ended = self.surveys.wait(look).await.ok()?;
        Some(ended.unwrap_or(Err(Hangs)))
    }

    /// The same for what must come to its end, however long that takes: a disk that takes longer than `within` fails.
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

    /// The record of one repository, with what its log says. Where that does not come in time, the record goes on
    /// without it, and learns it when it comes.
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

    /// As [`Self::blob`], for a caller that must not wait for the disk: open files are at hand, others are opened on a
    /// thread that may wait. What is not in the tier may lie in the container runtime's content store.
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
        // What the kernel says of a file that is open needs no disk.
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

    /// A blob that is open, unless a read of it does not return. Then the disk counts as failing until it does, and the
    /// request goes on as if the blob were not here.
    pub(super) fn unless_late(&self, blob: Arc<Blob>) -> Option<Arc<Blob>> {
        let tell = || self.hangs(&format!("a read of {}", blob.digest()));
        (!blob.reads().are_late(tell)).then_some(blob)
    }

    /// As [`Self::read`], for a caller that must not wait for the disk.
    pub async fn bytes(self: &Arc<Self>, digest: &Digest, limit: u64) -> Option<Bytes> {
        // Bytes in memory may be those of the runtime.
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

    /// How long a committed blob is, for a look that is no use and must not wait for the disk.
    pub async fn length(self: &Arc<Self>, digest: &Digest) -> Option<u64> {
        let wanted = *digest;
        let look = move |store: &Self| store.peek(&wanted).map(|blob| blob.size());
        let own = self.ask(format!("the length of {digest}"), look).await;
        own.flatten().or_else(|| self.adoptable_size(digest))
    }

    /// Whether some repository of `registry` is known to hold `digest`. Where the disk does not answer nothing is known.
    pub async fn is_held_in(self: &Arc<Self>, registry: &RegistryName, digest: &Digest) -> bool {
        let (store, wanted, at) = (Arc::clone(self), *digest, registry.clone());
        // The first look reads every log: that it takes its time says nothing about the disk. Single reads have bounds.
        let looked = tokio::spawn(async move { store.repositories.held_in(&at, &wanted).await });
        matches!(self.calls.wait(looked).await, Ok(Ok(true)))
    }
}

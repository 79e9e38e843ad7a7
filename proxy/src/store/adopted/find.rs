//! The runtime's blobs in the store: listing, finding and reading them, and what is known of them.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_shared::{Digest, Range, media};

use super::{AdoptedView, Looked, State, WITHIN};
use crate::store::{Blob, Entry, Store, file_state, sums::Sums};

impl Store {
    /// Takes over the blobs that the runtime lists, each with the time since which the runtime has it. `content` is the
    /// runtime's content store, if larder may read there. Blobs that are no longer listed are not served any more.
    pub fn list_adoptable(
        &self,
        content: Option<&Path>,
        blobs: impl IntoIterator<Item = (Digest, Entry)>,
    ) {
        self.adopted.list(content, blobs.into_iter());
    }

    /// Whether the runtime's content store holds this blob and larder has hashed it. Does not ask the disk.
    pub fn adopts(&self, digest: &Digest) -> bool {
        let known = self.adopted.lock();
        let entry = known.listed.get(digest);
        entry.is_some_and(|entry| matches!(entry.state, State::Sound(_)))
    }

    /// Whether the runtime lists this blob, and no look found it wrong, gone or unreadable.
    pub fn may_adopt(&self, digest: &Digest) -> bool {
        self.adoptable_size(digest).is_some()
    }

    /// The size of a blob of the runtime, if it may be adopted.
    pub(in crate::store) fn adoptable_size(&self, digest: &Digest) -> Option<u64> {
        let known = self.adopted.lock();
        let entry = known.listed.get(digest)?;
        matches!(entry.state, State::Listed | State::Sound(_)).then_some(entry.size)
    }

    /// Every blob of the runtime that was hashed, with its size.
    pub fn adopted_blobs(&self) -> Vec<(Digest, u64)> {
        let known = self.adopted.lock();
        let sound = known.listed.iter();
        sound
            .filter(|(_, entry)| matches!(entry.state, State::Sound(_)))
            .map(|(digest, entry)| (*digest, entry.size))
            .collect()
    }

    /// What is known of the runtime's content.
    pub fn adopted_view(&self) -> AdoptedView {
        let hangs = self.adopted.hangs();
        let known = self.adopted.lock();
        let mut view = AdoptedView {
            dir: known.dir.clone(),
            hangs,
            ..AdoptedView::default()
        };
        for entry in known.listed.values() {
            let of = match entry.state {
                State::Listed => &mut view.waiting,
                State::Gone => &mut view.gone,
                State::Sound(_) => &mut view.sound,
                State::Wrong(_) => &mut view.wrong,
                State::Unreadable => &mut view.unreadable,
            };
            of.add(entry.size);
        }
        view
    }

    /// A blob of the runtime, for a request, which must not wait for long. While the directory hangs, every blob is a
    /// miss.
    pub(in crate::store) async fn find_adopted(
        self: &Arc<Self>,
        digest: &Digest,
        size: Option<u64>,
    ) -> Option<Arc<Blob>> {
        self.adopted.note_used(digest, self.clock().now());
        self.peek_adopted(digest, size).await
    }

    /// As `find_adopted`, without counting as a use.
    pub async fn peek_adopted(
        self: &Arc<Self>,
        digest: &Digest,
        size: Option<u64>,
    ) -> Option<Arc<Blob>> {
        let listed = self.adopted.entry(digest)?.1.size;
        if size.is_some_and(|size| size != listed) {
            return None;
        }
        if self.adopted.hangs() {
            return None;
        }
        if let Some(blob) = self.adopted.at_hand(digest) {
            return Some(blob);
        }
        self.adopted.lock().hurried.insert(*digest);
        let looking = self.look_at_adopted(*digest, u64::MAX);
        let looked = tokio::time::timeout(WITHIN, looking).await.ok()?;
        looked.blob()
    }

    /// Looks at a blob of the runtime, and hashes it at `rate` bytes a second if needed. While a request waits for the
    /// blob, larder hashes it without pauses.
    pub async fn look_at_adopted(self: &Arc<Self>, digest: Digest, rate: u64) -> Looked {
        let (store, calls) = (Arc::clone(self), self.adopted.calls.clone());
        let look = async move {
            let look = move || {
                let adopted = &store.adopted;
                let begun = Instant::now();
                let pause = |at: u64| {
                    let due = Duration::from_secs_f64(at as f64 / rate as f64);
                    let early = due.saturating_sub(begun.elapsed());
                    if !early.is_zero() && !adopted.is_hurried(&digest) {
                        std::thread::sleep(early);
                    }
                };
                let keep = |size, sums: &Sums| {
                    // While another larder owns the store, this one serves nothing from it and writes no checksums.
                    if store.is_held() && store.lacks_sums(&digest, size) {
                        store.keep_sums(&digest, size, sums);
                    }
                };
                // A blob that an earlier process hashed may lack its checksums. Then it is hashed again.
                let complete = |size| !store.lacks_sums(&digest, size);
                let looked = adopted.look(&digest, complete, keep, pause);
                adopted.lock().hurried.remove(&digest);
                looked
            };
            calls.to_its_end(look).await.unwrap_or(Looked::Unknown)
        };
        let looking = self.adopted.looking.run(digest, look);
        looking.await.unwrap_or(Looked::Unknown)
    }

    /// All bytes of a blob of the runtime, if they are at most `limit`. Does not count as a use.
    pub async fn adopted_bytes(self: &Arc<Self>, digest: &Digest, limit: u64) -> Option<Bytes> {
        if self.adoptable_size(digest)? > limit {
            return None;
        }
        let blob = self.peek_adopted(digest, None).await?;
        let bytes: Bytes = self
            .read_adopted(&blob, Range::new(0, blob.size()))
            .await?
            .into();
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            self.adopted.distrust(&blob);
            return None;
        }
        self.remember(digest, &bytes);
        Some(bytes)
    }

    /// Bytes of a blob, read on a thread that may wait for the runtime's directory.
    pub async fn read_adopted(self: &Arc<Self>, blob: &Arc<Blob>, range: Range) -> Option<Vec<u8>> {
        let (store, blob) = (Arc::clone(self), Arc::clone(blob));
        let read = move || {
            let _step = store.adopted.reads.begin();
            blob.read(range)
        };
        self.adopted.calls.run(read).await.ok()?.ok()
    }

    /// The bytes of a manifest of the runtime, if they have its digest (blocking). Does not count as a use.
    pub fn read_adopted_unseen(&self, digest: &Digest) -> Option<Vec<u8>> {
        let small = self.adoptable_size(digest)? <= media::MAX_MANIFEST;
        if !small || self.adopted.hangs() {
            return None;
        }
        let (path, _) = self.adopted.entry(digest)?;
        let _step = self.adopted.reads.begin();
        let (file, found) = file_state::open(&path).ok()?;
        let blob = Blob::adopted(*digest, file, found).ok()?;
        let bytes = blob.read(Range::new(0, blob.size())).ok()?;
        (Digest::of(digest.algorithm(), &bytes) == *digest).then_some(bytes)
    }

    /// Takes note that a blob of the runtime is damaged: it is not served until its file is another one. `false` if the
    /// file was replaced, changed or removed already.
    pub(in crate::store) fn distrust_adopted(&self, blob: &Blob) -> bool {
        self.adopted.distrust(blob)
    }

    /// How many owners other than its readers hold a blob of the runtime open.
    pub(in crate::store) fn keeps_open(&self, blob: &Arc<Blob>) -> usize {
        let known = self.adopted.lock();
        let open = known.open.peek(blob.digest());
        usize::from(open.is_some_and(|open| Arc::ptr_eq(open, blob)))
    }
}

//! What this node's containers use, as far as the store was told. Age evicts none of it, and it goes last when room is
//! wanted.
//!
//! The list outlives the process in a file, whose modification time says when the list was last right. So a restart
//! without a report of the runtime, or with a report that cannot be read, evicts nothing that was in use.

use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    sync::Arc,
    time::Duration,
};

use larder_shared::Digest;

use super::{Store, Totals, layout::Layout, lock, partial::remove_if_there};

/// The file's time is written this often while the list stays the same.
const STAMP_EVERY: u64 = 60;

/// The times of last use go to the blobs' files this often, for a larder that does not know the list.
const WRITE_EVERY: u64 = 3600;

/// What is in use, and when that was last known. Cheap to clone.
#[derive(Clone, Default, Debug)]
pub struct InUse {
    digests: Arc<HashSet<Digest>>,
    /// When the list was last right, by the store's clock. `None` if there was never a list.
    at: Option<u64>,
    /// The file has this list.
    on_disk: bool,
    /// The file's modification time.
    stamped: u64,
    /// When the times of use last went to the blobs' files.
    written: u64,
}

impl InUse {
    /// Whether a container uses it, or did when that was last known.
    pub fn has(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }

    /// Whether the list counts at `now`, for content that may stay for `ttl` without use.
    pub fn holds(&self, now: u64, ttl: Option<Duration>) -> bool {
        self.at.is_some_and(|at| {
            let age = Duration::from_secs(now.saturating_sub(at));
            ttl.is_none_or(|ttl| age <= ttl)
        })
    }

    /// All digests in use.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.digests.iter()
    }

    /// When the list was last right, by the store's clock.
    pub fn at(&self) -> Option<u64> {
        self.at
    }

    /// When a digest was last known to be in use; 0 if it never was.
    pub(super) fn used(&self, digest: &Digest) -> u64 {
        let at = self.at.filter(|_| self.has(digest));
        at.unwrap_or(0)
    }
}

impl Store {
    /// What is in use, as it was last known.
    pub fn in_use(&self) -> InUse {
        lock(&self.in_use).clone()
    }

    /// Whether a container of this node uses a digest, or did less than `ttl` ago.
    pub fn is_in_use(&self, digest: &Digest, ttl: Option<Duration>) -> bool {
        let in_use = self.in_use();
        in_use.has(digest) && in_use.holds(self.clock().now(), ttl)
    }

    /// Takes note that the same digests were still in use at `at` (blocking).
    pub fn still_in_use(&self, at: u64) {
        self.set_in_use(self.in_use().digests, at);
    }

    /// How much of the tier is in use, for content that may stay for `ttl` without use.
    pub fn in_use_totals(&self, ttl: Option<Duration>) -> Totals {
        let in_use = self.in_use();
        let mut totals = Totals::default();
        if in_use.holds(self.clock().now(), ttl) {
            let index = lock(&self.index);
            for size in in_use.digests().filter_map(|digest| index.size(digest)) {
                totals.blobs += 1;
                totals.bytes += size;
            }
        }
        totals
    }

    /// Takes note that these digests were in use at `at`, by the store's clock, and no others (blocking).
    pub fn set_in_use(&self, digests: impl Into<Arc<HashSet<Digest>>>, at: u64) {
        if !self.is_held() {
            return;
        }
        let (old, digests) = (self.in_use(), digests.into());
        let same = Arc::ptr_eq(&old.digests, &digests) || old.digests == digests;
        let mut new = InUse {
            digests,
            at: Some(at),
            ..old
        };
        if !same || !old.on_disk {
            new.on_disk = self.write_in_use(&new);
        }
        // If the new list could not be written, the file has an old list, which keeps its time.
        let new_file = !same || !old.on_disk;
        if new.on_disk && (new_file || at >= old.stamped + STAMP_EVERY) {
            self.stamp_in_use(at);
            new.stamped = at;
        }
        let write = at >= old.written + WRITE_EVERY;
        if write {
            new.written = at;
        }
        {
            let mut index = lock(&self.index);
            // A digest that left the list was in use until the old list's time.
            let left = old.digests.iter().filter(|digest| !new.has(digest));
            let used = old.at.unwrap_or(0);
            left.for_each(|digest| index.renew(digest, used, true));
            let used = new.digests.iter();
            used.for_each(|digest| index.renew(digest, at, write));
        }
        *lock(&self.in_use) = new;
    }

    /// Forgets what is in use (blocking). What was in use counts as used until the list was last right.
    pub fn forget_in_use(&self) {
        let known = self.in_use().at;
        if let Some(at) = known
            && self.is_held()
        {
            self.set_in_use(HashSet::new(), at);
            *lock(&self.in_use) = InUse::default();
            let _ = remove_if_there(&self.layout.in_use());
        }
    }

    fn write_in_use(&self, new: &InUse) -> bool {
        let mut lines: Vec<String> = new.digests().map(|digest| format!("{digest}\n")).collect();
        lines.sort();
        let path = self.layout.in_use();
        let written = self
            .layout
            .write_atomic(&path, lines.concat().as_bytes(), false);
        if let Err(error) = &written {
            tracing::debug!(%error, "what is in use was not written down, and will be again");
        }
        written.is_ok()
    }

    fn stamp_in_use(&self, at: u64) {
        let stamp = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        // If this fails, the list looks older than it is.
        let _ = File::open(self.layout.in_use()).and_then(|file| file.set_modified(stamp));
    }

    /// What an earlier process wrote down.
    pub(super) fn read_in_use(layout: &Layout) -> InUse {
        let path = layout.in_use();
        let read = fs::read_to_string(&path);
        let Ok((text, metadata)) = read.and_then(|text| Ok((text, fs::metadata(&path)?))) else {
            return InUse::default();
        };
        let at = layout.clock().seen(metadata.mtime().max(0) as u64);
        let digests = text.lines().filter_map(|line| line.parse().ok());
        InUse {
            digests: Arc::new(digests.collect()),
            at: Some(at),
            on_disk: true,
            stamped: at,
            written: 0,
        }
    }
}

//! What the node tier holds, in memory: sizes and last uses, open files, and the bytes of small blobs.
//!
//! Only an account: it does no I/O. It may lag behind the disk by one scan.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_shared::Digest;
use lru::LruCache;

use super::{Blob, SMALL};
use crate::clock::{Clock, unix_now};

/// One committed blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub size: u64,
    /// When it was last used, by the store's [`Clock`].
    pub used: u64,
}

/// Sums over the index.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Totals {
    pub blobs: u64,
    pub bytes: u64,
}

/// Files kept open for the next reader.
const OPEN: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Bytes of small blobs kept in memory.
const SMALL_TOTAL: u64 = 4 << 20;

/// Blobs whose last serving is remembered, and for how long it matters.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const SOON: Duration = Duration::from_mins(10);

/// When a blob was served whole, and when it was last hashed.
#[derive(Clone, Copy, Debug)]
struct Serving {
    served: Instant,
    checked: Option<Instant>,
}

#[derive(Debug)]
pub struct Index {
    clock: Clock,
    entries: LruCache<Digest, Entry>,
    totals: Totals,
    open: LruCache<Digest, Arc<Blob>>,
    /// Files that fell off `open` while they were read. A file that hangs stays here for as long as it does.
    read: HashMap<Digest, Arc<Blob>>,
    small: LruCache<Digest, Bytes>,
    small_total: u64,
    touched: HashSet<Digest>,
    servings: LruCache<Digest, Serving>,
}

/// Whether a digest is of this part of `0..parts`.
pub fn is_of_part(digest: &Digest, part: u16, parts: u16) -> bool {
    let first = u16::from_be_bytes([digest.as_bytes()[0], digest.as_bytes()[1]]);
    first % parts.max(1) == part
}

impl Default for Index {
    fn default() -> Self {
        Self {
            clock: Clock::from(unix_now()),
            entries: LruCache::unbounded(),
            totals: Totals::default(),
            open: LruCache::new(OPEN),
            read: HashMap::new(),
            small: LruCache::unbounded(),
            small_total: 0,
            touched: HashSet::new(),
            servings: LruCache::new(REMEMBERED),
        }
    }
}

impl Index {
    /// Sets the clock by which uses are counted.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    pub fn found(&mut self, digest: Digest, size: u64, used: u64) {
        if let Some(entry) = self.entries.get_mut(&digest) {
            self.totals.bytes = self.totals.bytes - entry.size + size;
            entry.size = size;
            entry.used = entry.used.max(used);
        } else {
            self.entries.put(digest, Entry { size, used });
            self.totals.blobs += 1;
            self.totals.bytes += size;
        }
    }

    /// A file that is open already, if the blob still counts as present.
    pub fn open(&mut self, digest: &Digest) -> Option<Arc<Blob>> {
        self.touch(digest);
        let open = self.open.get(digest).or_else(|| self.read.get(digest));
        open.cloned()
    }

    pub fn opened(&mut self, blob: &Arc<Blob>) {
        self.found(*blob.digest(), blob.size(), self.clock.now());
        // Not by `touch`: a blob that the scan has not reached is new here, and its use must reach the disk all the
        // same.
        self.touched.insert(*blob.digest());
        self.read.retain(|_, blob| blob.reads().are_under_way());
        self.read.remove(blob.digest());
        let fell = self.open.push(*blob.digest(), Arc::clone(blob));
        let fell = fell.filter(|(digest, _)| digest != blob.digest());
        self.read
            .extend(fell.filter(|(_, blob)| blob.reads().are_under_way()));
    }

    fn is_open(&self, digest: &Digest) -> Option<&Arc<Blob>> {
        let open = self.open.peek(digest);
        open.or_else(|| self.read.get(digest))
    }

    /// Forgets this open file, but not another one that has taken its place.
    pub fn close(&mut self, blob: &Arc<Blob>) {
        let listed = self.is_open(blob.digest());
        if listed.is_some_and(|listed| Arc::ptr_eq(listed, blob)) {
            self.open.pop(blob.digest());
            self.read.remove(blob.digest());
        }
    }

    pub fn small(&mut self, digest: &Digest) -> Option<Bytes> {
        self.touch(digest);
        self.small.get(digest).cloned()
    }

    pub fn remember(&mut self, digest: Digest, bytes: &Bytes) {
        let size = bytes.len() as u64;
        if size > SMALL {
            return;
        }
        if let Some(old) = self.small.put(digest, bytes.clone()) {
            self.small_total -= old.len() as u64;
        }
        self.small_total += size;
        while self.small_total > SMALL_TOTAL {
            let Some((_, old)) = self.small.pop_lru() else {
                break;
            };
            self.small_total -= old.len() as u64;
        }
    }

    pub fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.pop(digest) {
            self.totals.blobs -= 1;
            self.totals.bytes -= entry.size;
        }
        self.open.pop(digest);
        self.read.remove(digest);
        if let Some(old) = self.small.pop(digest) {
            self.small_total -= old.len() as u64;
        }
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn touch(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.get_mut(digest) {
            let now = self.clock.now();
            if entry.used != now {
                entry.used = now;
                self.touched.insert(*digest);
            }
        }
    }

    /// Takes note that a container of this node used the blob at `used`. With `write`, the time goes to the blob's
    /// file.
    pub fn renew(&mut self, digest: &Digest, used: u64, write: bool) {
        if let Some(entry) = self.entries.get_mut(digest) {
            entry.used = entry.used.max(used);
            if write {
                self.touched.insert(*digest);
            }
        }
    }

    /// The blob's size, if it is here.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.entries.peek(digest).map(|entry| entry.size)
    }

    /// Whether it is here, or on its way to the disk.
    pub fn comes(&self, digest: &Digest) -> bool {
        self.entries.contains(digest) || self.small.contains(digest)
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.entries.contains(digest)
    }

    /// Everything that is here, the least recently used first. The order is more exact than the seconds of
    /// [`Entry::used`].
    pub fn entries(&self) -> Vec<(Digest, Entry)> {
        self.entries.iter().rev().map(|(d, e)| (*d, *e)).collect()
    }

    /// The blobs of `part` of `0..parts`, by the first bits of their digests: about one in `parts`.
    pub fn part(&self, part: u16, parts: u16) -> Vec<Digest> {
        let digests = self.entries.iter().map(|(digest, _)| *digest);
        digests
            .filter(|digest| is_of_part(digest, part, parts))
            .collect()
    }

    pub fn entry(&self, digest: &Digest) -> Option<Entry> {
        self.entries.peek(digest).copied()
    }

    /// Takes note that the blob was used on another node at `used`.
    pub fn used_elsewhere(&mut self, digest: &Digest, used: u64) {
        let used = used.min(self.clock.now());
        if let Some(entry) = self.entries.peek_mut(digest)
            && entry.used < used
        {
            entry.used = used;
            self.touched.insert(*digest);
        }
    }

    /// When the least recently used blob was last used.
    pub fn oldest_use(&self) -> Option<u64> {
        self.entries.iter().map(|(_, entry)| entry.used).min()
    }

    /// The blobs that were used since the last call, and when.
    pub fn take_touched(&mut self) -> Vec<(Digest, u64)> {
        let touched = std::mem::take(&mut self.touched);
        touched
            .into_iter()
            .filter_map(|digest| Some((digest, self.entries.peek(&digest)?.used)))
            .collect()
    }

    /// Whether a reader has the blob now.
    pub fn is_being_read(&self, digest: &Digest) -> bool {
        self.is_open(digest)
            .is_some_and(|blob| blob.readers(1) > 0 || blob.is_being_sent())
    }

    pub fn note_served(&mut self, digest: &Digest) {
        let served = Instant::now();
        match self.servings.get_mut(digest) {
            Some(serving) => serving.served = served,
            None => {
                self.servings.put(
                    *digest,
                    Serving {
                        served,
                        checked: None,
                    },
                );
            }
        }
    }

    pub fn note_checked(&mut self, digest: &Digest) {
        if let Some(serving) = self.servings.get_mut(digest) {
            serving.checked = Some(Instant::now());
        }
    }

    /// See [`super::Store::is_suspicious`]. The caller holds the blob, besides the list of open files and `others` more
    /// owners.
    pub fn is_suspicious(&mut self, blob: &Arc<Blob>, others: usize) -> bool {
        let Some(serving) = self.servings.peek(blob.digest()) else {
            return false;
        };
        let soon = serving.served.elapsed() < SOON;
        let unchecked = serving.checked.is_none_or(|at| at.elapsed() > SOON);
        let known = usize::from(self.is_open(blob.digest()).is_some());
        soon && unchecked && blob.readers(known + others + 1) == 0
    }
}

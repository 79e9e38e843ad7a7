//! A blob on its way in: a sparse file, the spans that are present, and a hash that follows the contiguous prefix.
//!
//! Any number of streams write to it at once, each in its own range. A span counts as present when its write has
//! returned. Bytes are hashed once, on the way in ([`prefix`]). Every method here blocks; callers are on blocking
//! threads.

mod checkpoint;
mod prefix;

use std::{
    collections::BTreeSet,
    fs::{File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_encoding::BASE64;
use larder_shared::{Digest, Hasher, Range, RegistryName, Repository, Spans};

#[cfg(any(test, fuzzing))]
pub(super) use self::checkpoint::checkpoint;
pub(super) use self::checkpoint::{
    came_through, list_left, present, remove_if_there, remove_spans, sweep_strays,
};
pub use self::prefix::Piece;
use self::{
    checkpoint::{Checkpoint, left_behind},
    prefix::Prefix,
};
use super::{Blob, layout::Layout, sums::Sums};
use crate::sys::disk;

/// A checkpoint is written when this much time has passed since the last one, or this many bytes have come. A kill
/// loses no more than that.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);
const CHECKPOINT_BYTES: u64 = 8 << 20;

/// One blob being filled.
#[derive(Debug)]
pub struct Partial {
    layout: Arc<Layout>,
    blob: Arc<Blob>,
    registry: RegistryName,
    present: Mutex<Spans>,
    prefix: Prefix,
    saved: Mutex<Saved>,
    /// Committed, discarded or closed. A late write must not leave a checkpoint for the next partial to find.
    gone: RwLock<bool>,
    /// The ranges that a writer has begun to write.
    claimed: Mutex<Spans>,
    proven_in: Mutex<BTreeSet<Repository>>,
}

/// When the last checkpoint was written, and how many bytes were present by then.
#[derive(Debug)]
struct Saved {
    at: Instant,
    present: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partial {
    /// A fresh partial of `size` bytes. An older one of the same digest is unlinked, its readers keep their file.
    pub(super) fn create(
        layout: &Arc<Layout>,
        digest: Digest,
        size: u64,
        registry: &RegistryName,
    ) -> io::Result<Self> {
        let path = layout.partial(&digest);
        remove_spans(layout, &digest)?;
        remove_if_there(&path)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.set_len(size)?;
        let hasher = Hasher::new(digest.algorithm());
        Self::new(
            layout,
            digest,
            size,
            registry.clone(),
            file,
            Spans::default(),
            Prefix::new(hasher, 0),
        )
    }

    /// The partial that an earlier process left, if it can be trusted: same registry, same boot, a readable checkpoint,
    /// and a file of the right length with no hole where bytes should be. Anything else is swept away.
    pub(super) fn resume(
        layout: &Arc<Layout>,
        digest: Digest,
        registry: &RegistryName,
    ) -> io::Result<Option<Self>> {
        let path = layout.partial(&digest);
        let left = left_behind(layout, &digest);
        let ours = left.filter(|(checkpoint, ..)| checkpoint.registry == *registry);
        let Some((checkpoint, hasher, spans, file)) = ours else {
            remove_spans(layout, &digest)?;
            remove_if_there(&path)?;
            return Ok(None);
        };
        let prefix = Prefix::new(hasher, checkpoint.hashed);
        let (size, registry) = (checkpoint.size, checkpoint.registry);
        let mut partial = Self::new(layout, digest, size, registry, file, spans, prefix)?;
        partial.proven_in = Mutex::new(checkpoint.proven_in);
        Ok(Some(partial))
    }

    fn new(
        layout: &Arc<Layout>,
        digest: Digest,
        size: u64,
        registry: RegistryName,
        file: File,
        present: Spans,
        prefix: Prefix,
    ) -> io::Result<Self> {
        let saved = Saved {
            at: Instant::now(),
            present: present.total(),
        };
        let claimed = present.clone();
        Ok(Self {
            layout: Arc::clone(layout),
            blob: Arc::new(Blob::new(digest, size, file)?),
            registry,
            present: Mutex::new(present),
            prefix,
            saved: Mutex::new(saved),
            gone: RwLock::new(false),
            claimed: Mutex::new(claimed),
            proven_in: Mutex::default(),
        })
    }

    /// The file, for readers that follow it.
    pub fn blob(&self) -> &Arc<Blob> {
        &self.blob
    }

    /// Bytes of the whole blob.
    pub fn size(&self) -> u64 {
        self.blob.size()
    }

    /// Records that the registry gave bytes out of this repository. Once they are verified, that proves that the
    /// repository holds the digest.
    pub fn prove_in(&self, repository: &Repository) {
        lock(&self.proven_in).insert(repository.clone());
    }

    /// The repositories that hold the digest, by what the registry gave to this process or an earlier one.
    pub fn proven_in(&self) -> Vec<Repository> {
        lock(&self.proven_in).iter().cloned().collect()
    }

    /// The registry that the bytes come from.
    pub fn registry(&self) -> &RegistryName {
        &self.registry
    }

    /// A copy of what is present now.
    pub fn present(&self) -> Spans {
        lock(&self.present).clone()
    }

    /// The end of the present run that holds `at`.
    pub fn present_to(&self, at: u64) -> u64 {
        lock(&self.present).end_from(at)
    }

    /// Writes those bytes of `chunks`, which begin at `offset`, that no writer has claimed before. When it returns,
    /// they count as present. A byte is written once: another source's bytes must never replace what was hashed from
    /// memory. Returns the ranges that were new. If they are all of `chunks`, the chunks may be hashed from memory.
    pub fn write(&self, offset: u64, chunks: &[Bytes]) -> io::Result<Vec<Range>> {
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        if *gone {
            return Ok(Vec::new());
        }
        if let Some(error) = self.prefix.failure() {
            return Err(error);
        }
        let len: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let piece = Range::new(offset, offset + len);
        let mut fresh = Vec::new();
        {
            let mut claimed = lock(&self.claimed);
            let mut from = piece.start;
            while let Some(gap) = claimed.first_missing(Range::new(from, piece.end)) {
                from = gap.end;
                fresh.push(gap);
            }
            claimed.insert(piece);
        }
        for gap in &fresh {
            let part = cut(chunks, offset, *gap);
            disk::write_all_at(self.blob.file(), &part, gap.start)?;
            lock(&self.present).insert(*gap);
        }
        Ok(fresh)
    }

    /// Writes a checkpoint and takes no more bytes. Late writes then touch neither file nor checkpoint, so that another
    /// fill may go on from here.
    pub fn close(&self) -> io::Result<()> {
        let saved = self.checkpoint();
        self.set_gone();
        saved
    }

    fn set_gone(&self) {
        *self.gone.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Takes in a piece that was just written, to be hashed from memory if it is next. Returns whether the caller has
    /// to call [`Self::hash`].
    pub fn push(&self, piece: Piece) -> bool {
        self.prefix.push(piece, |at| self.present_to(at))
    }

    /// Lets the hash follow the present prefix until it has caught up. A second caller leaves the work to the first.
    pub fn hash(&self) -> io::Result<()> {
        let present_to = |at| self.present_to(at);
        self.prefix.follow(self.blob.file(), present_to, false)
    }

    /// The hasher as it is, and how many bytes it has seen.
    pub fn midstate(&self) -> (Hasher, u64) {
        self.prefix.midstate()
    }

    /// A hasher that has seen the first `at` bytes, all of which are present (blocking: reads what the hash cannot
    /// give).
    pub fn hasher_at(&self, at: u64) -> io::Result<Hasher> {
        let (mut hasher, mut seen) = self.midstate();
        if seen > at {
            (hasher, seen) = (Hasher::new(self.blob.digest().algorithm()), 0);
        }
        while seen < at {
            let end = at.min(seen + (1 << 20));
            hasher.update(&self.blob.read(Range::new(seen, end))?);
            seen = end;
        }
        Ok(hasher)
    }

    /// Whether all bytes are present and hash to the digest; `None` while some are absent.
    pub fn verify(&self) -> io::Result<Option<bool>> {
        if !lock(&self.present).contains(Range::new(0, self.size())) {
            return Ok(None);
        }
        let present_to = |at| self.present_to(at);
        self.prefix.follow(self.blob.file(), present_to, true)?;
        let (hasher, at) = self.midstate();
        debug_assert_eq!(at, self.size());
        Ok(Some(hasher.finish() == *self.blob.digest()))
    }

    /// Writes a checkpoint, if the last one is old or many bytes have come since.
    pub fn checkpoint_if_due(&self) -> io::Result<()> {
        {
            let present = self.present().total();
            let mut saved = lock(&self.saved);
            if saved.at.elapsed() < CHECKPOINT_EVERY && present < saved.present + CHECKPOINT_BYTES {
                return Ok(());
            }
            *saved = Saved {
                at: Instant::now(),
                present,
            };
        }
        self.checkpoint()
    }

    /// Writes a checkpoint, from which a later process can go on. It survives a kill, not a crash of the machine.
    pub fn checkpoint(&self) -> io::Result<()> {
        // The hash is read before the spans: all that it covers is present by then. The other order does not ensure
        // that.
        let (hasher, hashed) = self.midstate();
        let checkpoint = Checkpoint {
            size: self.size(),
            registry: self.registry.clone(),
            boot_id: disk::boot_id(),
            spans: self.present().iter().map(|r| (r.start, r.end)).collect(),
            hashed,
            midstate: BASE64.encode(&hasher.save()),
            hasher: Hasher::FORMAT,
            proven_in: lock(&self.proven_in).clone(),
        };
        let text = serde_json::to_vec(&checkpoint)?;
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        if *gone {
            return Ok(());
        }
        let digest = self.blob.digest();
        self.layout
            .write_atomic(&self.layout.spans(digest), &text, false)?;
        // The age of an abandoned partial is counted by the store's clock, as all ages are.
        let _ = self.blob.file().set_modified(self.layout.clock().stamp());
        self.layout.left().insert(*digest);
        Ok(())
    }

    /// The checksums of what was hashed here; they can be taken once. `None` if an earlier process has hashed a part of
    /// the blob.
    pub(super) fn take_sums(&self) -> Option<Sums> {
        self.prefix.take_sums()
    }

    /// The first of three steps that commit a verified file: it is on disk and read-only.
    pub(super) fn seal(&self) -> io::Result<()> {
        self.set_gone();
        self.layout.stamp(self.blob.file())?;
        self.blob.file().sync_all()?;
        self.blob
            .file()
            .set_permissions(Permissions::from_mode(0o444))
    }

    /// The second step of a commit: the file gets its name among the committed blobs.
    pub(super) fn put_in_place(&self) -> io::Result<()> {
        let digest = self.blob.digest();
        self.layout.put_in_place(
            &self.layout.partial(digest),
            &self.layout.blob(digest),
            false,
        )
    }

    /// The last step of a commit: the name is on disk, and the checkpoint is removed.
    pub(super) fn settle(&self) -> io::Result<()> {
        let digest = self.blob.digest();
        self.layout.sync_dir(&self.layout.blob(digest))?;
        remove_spans(&self.layout, digest)
    }

    /// Removes the file. Readers that still have it open end when they have read what is present.
    pub fn discard(&self) -> io::Result<()> {
        self.set_gone();
        remove_spans(&self.layout, self.blob.digest())?;
        remove_if_there(&self.layout.partial(self.blob.digest()))
    }
}

/// The bytes of `gap` out of `chunks`, which begin at `offset`.
fn cut(chunks: &[Bytes], offset: u64, gap: Range) -> Vec<Bytes> {
    let mut at = offset;
    let mut part = Vec::new();
    for chunk in chunks {
        let end = at + chunk.len() as u64;
        let (from, to) = (gap.start.max(at), gap.end.min(end));
        if from < to {
            part.push(chunk.slice((from - at) as usize..(to - at) as usize));
        }
        at = end;
    }
    part
}

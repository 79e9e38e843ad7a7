//! Keeping the node tier sound: uses, rot, and what to do when the disk fails.

use std::{
    fs::{self, File, FileTimes},
    io::{self, Read as _},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use larder_shared::{Digest, Hasher, Range, media};

use super::{Blob, Counts, Entry, Names, Store, lock, partial::remove_if_there, sums::Sums};
use crate::sys::disk;

/// After a failure the disk is left alone for this long, then tried again.
const LEFT_ALONE: Duration = Duration::from_secs(3);

/// Bytes read at a time for hashing.
const PIECE: u64 = 1 << 20;

/// A disk that fails.
#[derive(Debug)]
pub(super) struct Trouble {
    why: String,
    last: Instant,
    /// The disk did not answer in time. By now it may.
    hung: bool,
}

impl Store {
    /// Takes note that the disk failed. Until it is tried again, larder is a plain proxy.
    pub fn failed(&self, error: &io::Error) {
        let mut trouble = lock(&self.trouble);
        if trouble.is_none() {
            tracing::error!(%error, store = %self.root().display(), "the node tier cannot be written, larder is a plain proxy until it can; look at the disk: space, inodes, permissions, the kernel's log");
        }
        *trouble = Some(Trouble {
            why: error.to_string(),
            last: Instant::now(),
            hung: error.kind() == io::ErrorKind::TimedOut,
        });
    }

    pub(super) fn works(&self) {
        if lock(&self.trouble).take().is_some() {
            tracing::info!(store = %self.root().display(), "the node tier can be written again");
        }
    }

    /// Whether a fill may be tried.
    pub fn usable(&self) -> bool {
        self.is_held()
            && self.hanging.is_bearable()
            && lock(&self.trouble)
                .as_ref()
                .is_none_or(|trouble| trouble.last.elapsed() > LEFT_ALONE)
    }

    /// Whether a thread may be spent on a small write.
    pub fn takes_more(&self) -> bool {
        self.is_held() && self.hanging.is_bearable()
    }

    /// What is wrong with the disk, if anything.
    pub fn trouble(&self) -> Option<String> {
        let over = |trouble: &mut Trouble| trouble.hung && trouble.last.elapsed() > LEFT_ALONE;
        // Every call that hung has returned: the disk answers again, and no write is needed to know it.
        let answers = self.hanging.is_empty() && lock(&self.trouble).as_mut().is_some_and(over);
        if answers {
            self.works();
        }
        lock(&self.trouble)
            .as_ref()
            .map(|trouble| trouble.why.clone())
    }

    /// Writes the times of the last uses to the files, so that they survive a restart (blocking).
    pub fn write_uses(&self) {
        if !self.is_held() {
            return;
        }
        if let Err(error) = self.layout.save_clock() {
            tracing::debug!(%error, "how much time has passed was not written down, and will be again");
        }
        // The index is unlocked before the files are opened: requests ask it, and must not wait for the disk.
        let touched = lock(&self.index).take_touched();
        if let Some(ready) = self.ready() {
            ready.write_uses();
        }
        for (digest, used) in touched {
            let times =
                FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + Duration::from_secs(used));
            if let Ok(file) = File::open(self.layout.blob(&digest)) {
                let _ = file.set_times(times);
            }
        }
    }

    /// A manifest and all that it names, also through further manifests, as far as those can be read here (blocking).
    pub fn family(&self, digest: &Digest) -> Vec<Digest> {
        let mut all = vec![*digest];
        let mut next = 0;
        while let Some(digest) = all.get(next).copied() {
            next += 1;
            let own = self.read(&digest, media::MAX_MANIFEST).map(Vec::from);
            if let Some(bytes) = own.or_else(|| self.read_adopted_unseen(&digest)) {
                for child in Names::of(&bytes).all() {
                    if !all.contains(&child.digest) {
                        all.push(child.digest);
                    }
                }
            }
        }
        all
    }

    /// Whether `blob` should be hashed before it is served again. It was served whole a short time ago, so its client
    /// may have found it wrong, and no client reads it now.
    pub fn is_suspicious(&self, blob: &Arc<Blob>) -> bool {
        let kept_open = self.keeps_open(blob);
        lock(&self.index).is_suspicious(blob, kept_open)
    }

    /// Takes note that the blob is about to be served to its end.
    pub fn note_served(&self, digest: &Digest) {
        lock(&self.index).note_served(digest);
    }

    /// Hashes a blob again (blocking). `false` if it has rotted: then it is taken out of the tier.
    pub fn check(&self, blob: &Blob) -> bool {
        self.check_counted(blob, &Counts::default())
    }

    /// As [`Self::check`], with its progress in `counts`. A check that is stopped half way counts the blob as sound.
    pub fn check_counted(&self, blob: &Blob, counts: &Counts) -> bool {
        // A blob that has no checksums gets them now, because it is hashed anyway.
        let (digest, size) = (blob.digest(), blob.size());
        let mut sums = self.lacks_sums(digest, size).then(Sums::default);
        let hashed = hash(blob, counts, sums.as_mut());
        if counts.is_stopped() {
            return true;
        }
        let sound = self.judge(blob, &hashed);
        if let (true, Some(sums)) = (sound, sums) {
            self.keep_sums(digest, size, &sums);
        }
        sound
    }

    /// Takes note of a blob's hash (blocking). `false` if it is not the digest, or the blob could not be read: then the
    /// blob is taken out of the tier.
    pub fn judge(&self, blob: &Blob, hashed: &io::Result<Digest>) -> bool {
        let sound = matches!(hashed, Ok(digest) if digest == blob.digest());
        if sound {
            lock(&self.index).note_checked(blob.digest());
        } else {
            self.quarantine(blob);
        }
        sound
    }

    /// Takes a damaged blob out of the tier and keeps it aside for a while. `false` if another file is in its place by
    /// now, or none: the damage says nothing about that file.
    pub fn quarantine(&self, blob: &Blob) -> bool {
        if !self.is_held() {
            return false;
        }
        // larder changes nothing in the runtime's directory.
        if blob.is_adopted() {
            return self.distrust_adopted(blob);
        }
        let digest = blob.digest();
        let path = self.layout.blob(digest);
        {
            let _alone = self.places.take(digest);
            if !blob.is_at(&path) {
                return false;
            }
            lock(&self.index).remove(digest);
            let aside = self.layout.quarantine().join(format!(
                "{}-{}",
                digest.algorithm().as_str(),
                digest.hex()
            ));
            let moved = self.layout.put_in_place(&path, &aside, false);
            if moved.is_ok() && !blob.is_at(&aside) {
                // Another blob was committed in between, and the rename moved that one.
                let _ = fs::rename(&aside, &path);
                return false;
            }
            // The time for which it stays there begins now.
            let _ = blob.file().set_modified(self.clock().stamp());
            let gone = moved.or_else(|_| remove_if_there(&path)).is_ok();
            let mut stuck = lock(&self.stuck);
            let known = stuck.remove(digest);
            if !gone && let Some(identity) = blob.identity() {
                stuck.insert(*digest, identity);
            }
            if known.is_some() && known == blob.identity() {
                return true;
            }
        }
        // Its checksums stay: a reader that has the file open has to find the damage, too.
        self.note_rotten(digest);
        true
    }

    /// Whether the file is known to be damaged and could not be moved away. Each request for it tries that again.
    pub(super) fn is_stuck(&self, blob: &Blob) -> bool {
        let stuck = lock(&self.stuck).get(blob.digest()).copied();
        stuck.is_some() && stuck == blob.identity()
    }

    pub(super) fn note_rotten(&self, digest: &Digest) {
        self.gone.note(super::Gone {
            digest: *digest,
            expired: false,
        });
        self.rotten
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::warn!(blob.digest = %digest, "a blob is damaged on disk, is set aside, and is fetched again when it is asked for; if there are more, look at the disk");
    }

    /// Damaged blobs that were found since the start.
    pub fn rotten(&self) -> u64 {
        self.rotten.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Every committed blob, for `verify` and the scrub.
    pub fn digests(&self) -> Vec<Digest> {
        let entries = self.entries().into_iter();
        entries.map(|(digest, _)| digest).collect()
    }

    /// Every committed blob with its size and its last use, the least recently used first.
    pub fn entries(&self) -> Vec<(Digest, Entry)> {
        lock(&self.index).entries()
    }

    /// Takes note that a blob was used on another node, `ago` before now. Ages count from the last use on any node.
    pub fn used_elsewhere(&self, digest: &Digest, ago: Duration) {
        let used = self.clock().now().saturating_sub(ago.as_secs());
        lock(&self.index).used_elsewhere(digest, used);
        self.adopted.note_used(digest, used);
    }

    /// Whether a blob is committed, as far as the index knows.
    pub fn has(&self, digest: &Digest) -> bool {
        lock(&self.index).has(digest)
    }

    /// The bytes of a blob that may be a manifest (blocking). Does not count as a use.
    pub fn read_unseen(&self, digest: &Digest) -> Option<Vec<u8>> {
        let mut file = disk::open_unseen(&self.layout.blob(digest)).ok()?;
        let small = file.metadata().ok()?.len() <= media::MAX_MANIFEST;
        let mut bytes = Vec::new();
        (small && file.read_to_end(&mut bytes).is_ok()).then_some(bytes)
    }
}

fn hash(blob: &Blob, counts: &Counts, mut sums: Option<&mut Sums>) -> io::Result<Digest> {
    let mut hasher = Hasher::new(blob.digest().algorithm());
    let mut at = 0;
    while at < blob.size() && !counts.is_stopped() {
        let end = (at + PIECE).min(blob.size());
        let bytes = blob.read(Range::new(at, end))?;
        hasher.update(&bytes);
        if let Some(sums) = &mut sums {
            sums.update(&bytes);
        }
        counts.add(0, end - at);
        at = end;
    }
    Ok(hasher.finish())
}

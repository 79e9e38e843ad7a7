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
    /// It did not answer; it may be that it does by now.
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

    /// Whether it is worth a thread to write something small.
    pub fn takes_more(&self) -> bool {
        self.is_held() && self.hanging.is_bearable()
    }

    /// What is wrong with the disk, if anything.
    pub fn trouble(&self) -> Option<String> {
        let over = |trouble: &mut Trouble| trouble.hung && trouble.last.elapsed() > LEFT_ALONE;
        // All that hung has come: nothing needs to be written for that to be known.
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
        // Requests ask the index: it must not wait for these files.
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

    /// A manifest and all that it names, as far as it is here (blocking).
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

    /// Whether `blob` should be looked at before it is served again: it was served whole a short time ago, its client
    /// may have found it wrong, and no client reads it now.
    pub fn is_suspicious(&self, blob: &Arc<Blob>) -> bool {
        let kept_open = self.keeps_open(blob);
        lock(&self.index).is_suspicious(blob, kept_open)
    }

    /// The blob is about to be served to its end.
    pub fn note_served(&self, digest: &Digest) {
        lock(&self.index).note_served(digest);
    }

    /// Hashes a blob again (blocking). One that rotted is taken out of the tier; `false` says so.
    pub fn check(&self, blob: &Blob) -> bool {
        self.check_counted(blob, &Counts::default())
    }

    /// The same, watched. One that is stopped in the middle counts as sound.
    pub fn check_counted(&self, blob: &Blob, counts: &Counts) -> bool {
        // A blob that came before there were checksums gets them while it is hashed anyway.
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

    /// Takes note of what a blob was found to be (blocking). One that is not what it should be is taken out of the tier;
    /// `false` says so.
    pub fn judge(&self, blob: &Blob, hashed: &io::Result<Digest>) -> bool {
        let sound = matches!(hashed, Ok(digest) if digest == blob.digest());
        if sound {
            lock(&self.index).note_checked(blob.digest());
        } else {
            self.quarantine(blob);
        }
        sound
    }

    /// Takes a damaged blob out of the tier and keeps it aside for a while. `false` if another file has its place by now,
    /// or none: that it is damaged says nothing about what is there.
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
                // Another was committed in between, and this is that one.
                let _ = fs::rename(&aside, &path);
                return false;
            }
            // It stays there for a while from now on.
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
        // Its checksums stay: a reader that has it open has to find the same.
        self.note_rotten(digest);
        true
    }

    /// Whether the file is known to be damaged and is still there. It is tried again to take it away when it is asked for.
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

    /// A blob was used on another node, `ago`. Ages count from the last use anywhere.
    pub fn used_elsewhere(&self, digest: &Digest, ago: Duration) {
        let used = self.clock().now().saturating_sub(ago.as_secs());
        lock(&self.index).used_elsewhere(digest, used);
        self.adopted.note_used(digest, used);
    }

    /// Whether a blob is committed, as far as the index knows.
    pub fn has(&self, digest: &Digest) -> bool {
        lock(&self.index).has(digest)
    }

    /// The bytes of what may be a manifest, for a look that is no use: its time does not change (blocking).
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

//! Keeping the node tier sound and within its bounds: eviction, pins, rot, and what to do when the disk fails.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, FileTimes},
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use larder_shared::{Digest, Hasher, Range, RegistryName, media};

use super::{
    Blob, Counts, Entry, Names, Store,
    bounds::{Bounds, Candidate, excess, victims},
    lock,
    partial::remove_if_there,
    sums::Sums,
};
use crate::sys::disk;

/// After a failure the disk is left alone for this long, then tried again.
const LEFT_ALONE: Duration = Duration::from_secs(3);

/// Bytes read at a time for hashing.
const PIECE: u64 = 1 << 20;

/// What the operator allows, as configured.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_size: crate::config::Amount,
    pub min_free: crate::config::Amount,
    pub ttl: Option<Duration>,
    /// For content of these registries another time holds.
    pub ttl_of: Vec<(RegistryName, Option<Duration>)>,
}

/// What a round of keeping did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Evicted {
    pub blobs: u64,
    pub bytes: u64,
    /// Those of them that had outlived their time.
    pub expired_blobs: u64,
    pub expired_bytes: u64,
}

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

    /// Brings the tier within its limits (blocking). `active` tells whether a digest is being filled now.
    pub fn enforce(
        &self,
        limits: &Limits,
        counts: &Counts,
        active: impl Fn(&Digest) -> bool,
    ) -> io::Result<Evicted> {
        self.owned()?;
        let space = self.space()?;
        let bounds = Bounds {
            max: limits.max_size.of(space.total),
            min_free: limits.min_free.of(space.total),
        };
        let partials = self.leftovers();
        let held: u64 = partials.values().map(|(bytes, _)| bytes).sum();
        let mut over = excess(bounds, self.totals().bytes + held, space.free);
        over = over.saturating_sub(self.sweep(&partials, &active, limits.ttl, over));
        if over == 0 && !self.may_have_expired(limits) {
            return Ok(Evicted::default());
        }
        let mut candidates = self.candidates(limits);
        // Pins last: a pin that is there when this has looked holds.
        let stays = |digest: &Digest| {
            active(digest) || lock(&self.index).in_use(digest) || lock(&self.pins).contains(digest)
        };
        let at = self.clock().now();
        let gone = victims(&mut candidates, at, over, |digest| {
            stays(digest) || self.has_children(digest)
        });
        let known: HashMap<Digest, (u64, bool)> = candidates
            .iter()
            .map(|c| (c.digest, (c.entry.size, c.has_expired(at))))
            .collect();
        let size = |digest: &Digest| known.get(digest).map_or(0, |(size, _)| *size);
        counts.expect(gone.len() as u64, gone.iter().map(size).sum());
        let mut evicted = Evicted::default();
        for digest in gone.iter().take_while(|_| !counts.is_stopped()) {
            // To choose and to remove takes seconds: the blob may have been pinned or read since.
            if stays(digest) {
                continue;
            }
            self.remove(digest);
            let (size, expired) = known.get(digest).copied().unwrap_or_default();
            evicted.blobs += 1;
            evicted.bytes += size;
            if expired {
                evicted.expired_blobs += 1;
                evicted.expired_bytes += size;
            }
            counts.add(1, size);
        }
        Ok(evicted)
    }

    /// Whether anything is old enough for the most impatient of the times. Rounds are many, and most find nothing: an idle
    /// node must not sort its whole index for them.
    fn may_have_expired(&self, limits: &Limits) -> bool {
        let of = limits.ttl_of.iter().filter_map(|(_, ttl)| *ttl);
        let Some(shortest) = of.chain(limits.ttl).min() else {
            return false;
        };
        let oldest = lock(&self.index).oldest_use();
        oldest.is_some_and(|used| self.clock().age(used) > shortest)
    }

    fn candidates(&self, limits: &Limits) -> Vec<Candidate> {
        let mut own: HashMap<Digest, Option<Duration>> = HashMap::new();
        for (registry, ttl) in &limits.ttl_of {
            for digest in self.repositories.digests_of(registry) {
                // Content of several registries stays as long as the most patient one says.
                let longest =
                    |a: Option<Duration>, b: Option<Duration>| a.zip(b).map(|(a, b)| a.max(b));
                let ttl = own.get(&digest).map_or(*ttl, |known| longest(*known, *ttl));
                own.insert(digest, ttl);
            }
        }
        let entries = self.entries();
        let candidate = |(digest, entry)| Candidate {
            digest,
            entry,
            ttl: own.get(&digest).copied().unwrap_or(limits.ttl),
        };
        entries.into_iter().map(candidate).collect()
    }

    /// Whether a blob is a manifest of which something is still here: a manifest goes after what it names.
    fn has_children(&self, digest: &Digest) -> bool {
        let Some(bytes) = self.read_unseen(digest) else {
            return false;
        };
        let names = Names::of(&bytes);
        names
            .all()
            .any(|child| lock(&self.index).has(&child.digest))
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
        for (digest, used) in touched {
            let times =
                FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + Duration::from_secs(used));
            if let Ok(file) = File::open(self.layout.blob(&digest)) {
                let _ = file.set_times(times);
            }
        }
    }

    /// Pinned content is never evicted. Pins are kept in a file of one digest a line (blocking).
    pub fn pin(&self, digests: &[Digest], pinned: bool) -> io::Result<()> {
        self.owned()?;
        // One after the other: what is written last must be what was said last.
        let _alone = lock(&self.pinning);
        let text = {
            let mut pins = lock(&self.pins);
            for digest in digests {
                if pinned {
                    pins.insert(*digest);
                } else {
                    pins.remove(digest);
                }
            }
            let mut lines: Vec<String> = pins.iter().map(|digest| format!("{digest}\n")).collect();
            lines.sort();
            lines.concat()
        };
        self.layout
            .write_atomic(&self.layout.pins(), text.as_bytes(), true)
    }

    pub(super) fn read_pins(path: &PathBuf) -> HashSet<Digest> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// A manifest and all that it names, as far as it is here (blocking).
    pub fn family(&self, digest: &Digest) -> Vec<Digest> {
        let mut all = vec![*digest];
        let mut next = 0;
        while let Some(digest) = all.get(next).copied() {
            next += 1;
            if let Some(bytes) = self.read(&digest, media::MAX_MANIFEST) {
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
        lock(&self.index).is_suspicious(blob)
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

    /// Whether a blob is committed, as far as the index knows.
    pub fn has(&self, digest: &Digest) -> bool {
        lock(&self.index).has(digest)
    }

    /// What is never evicted.
    pub fn pins(&self) -> HashSet<Digest> {
        lock(&self.pins).clone()
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

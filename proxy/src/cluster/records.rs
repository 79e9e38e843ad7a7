//! What members know of tags and of rights to read. Keepers hold these records for the other members, which ask for
//! them in an outage.
//!
//! A record says what a tag pointed to, when its repository was public or was not, and which credentials the registry
//! accepted, as keyed hashes under a key of the whole cluster. The newest answer wins, field by field. Records outlive
//! a restart in a directory of the store.

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZeroUsize,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use larder_shared::{Digest, RegistryName, Repository, Tag, TagRecord};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::{
    clock::{Clock, SKEW},
    identity::Fingerprint,
    sys::Turns,
};

/// Records in memory; the others are read when they are asked for.
const IN_MEMORY: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// How many records stay on disk, and how long a record stays that no member renews.
const ON_DISK: usize = 100_000;
const STAYS: Duration = Duration::from_hours(30 * 24);

/// Credentials remembered in a record, the newest.
const GRANTS: usize = 256;

/// Keepers are not sent the same news again within this time. So many things are remembered for this.
const SENT_AGAIN: Duration = Duration::from_mins(1);
const SENT: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// One record. Times are Unix seconds.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct PeerRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<TagRecord>,
    /// The registry served the repository to an anonymous client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<u64>,
    /// The registry refused an anonymous client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// The registry accepted these credentials (fingerprints), then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grants: BTreeMap<String, u64>,
    /// The registry refused these credentials, then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked: BTreeMap<String, u64>,
}

impl PeerRecord {
    /// Takes over what is newer in `other`.
    pub fn merge(&mut self, other: Self) {
        let checked = |tag: &Option<TagRecord>| tag.as_ref().map(|tag| tag.checked);
        // Of two answers of the same second, the one that came later wins: a tag may be moved and pulled at once.
        if other.tag.is_some() && checked(&other.tag) >= checked(&self.tag) {
            self.tag = other.tag;
        }
        self.public = self.public.max(other.public);
        self.refused = self.refused.max(other.refused);
        newest(&mut self.grants, other.grants);
        newest(&mut self.revoked, other.revoked);
        // Void grants are removed first, because `bound` may drop their revocations.
        let revoked = &self.revoked;
        self.grants
            .retain(|credential, at| revoked.get(credential).is_none_or(|revoked| revoked < at));
        for map in [&mut self.grants, &mut self.revoked] {
            bound(map);
        }
    }

    /// Whether the record lets some caller in. A record of refusals alone stays in memory: anyone may ask for any name,
    /// and be refused.
    fn opens(&self) -> bool {
        self.tag.is_some() || self.public.is_some() || !self.grants.is_empty()
    }

    /// The latest of its times for the tag and for anonymous clients.
    pub fn latest(&self) -> Option<u64> {
        let checked = self.tag.as_ref().map(|tag| tag.checked);
        checked.max(self.public).max(self.refused)
    }

    /// When the registry last accepted a credential, if it has not refused it since.
    pub fn granted(&self, credential: &str) -> Option<u64> {
        let at = *self.grants.get(credential)?;
        (self
            .revoked
            .get(credential)
            .is_none_or(|revoked| *revoked < at))
        .then_some(at)
    }

    /// The same without what cannot be true: times in the future, and credentials that are no fingerprints.
    #[must_use]
    pub fn sane(mut self, now: u64) -> Self {
        let latest = now + SKEW;
        let past = |at: &u64| *at <= latest;
        self.tag = self.tag.filter(|tag| past(&tag.checked));
        self.public = self.public.filter(past);
        self.refused = self.refused.filter(past);
        for map in [&mut self.grants, &mut self.revoked] {
            map.retain(|credential, at| past(at) && Fingerprint::parse(credential).is_some());
        }
        self
    }

    /// The same without its times: a record that differs only in its times is no news.
    #[must_use]
    pub fn timeless(&self) -> Self {
        let mut timeless = self.clone();
        for at in [&mut timeless.public, &mut timeless.refused]
            .into_iter()
            .flatten()
        {
            *at = 1;
        }
        for map in [&mut timeless.grants, &mut timeless.revoked] {
            for at in map.values_mut() {
                *at = 1;
            }
        }
        if let Some(tag) = &mut timeless.tag {
            tag.checked = 0;
        }
        timeless
    }

    /// When the repository was last found public, if it was not refused since.
    pub fn public(&self) -> Option<u64> {
        self.public.filter(|public| Some(*public) >= self.refused)
    }

    /// When the repository was last found not to be public, if it was not found public since.
    pub fn refused(&self) -> Option<u64> {
        self.refused.filter(|_| self.public().is_none())
    }
}

/// Takes over newer times.
fn newest(known: &mut BTreeMap<String, u64>, other: BTreeMap<String, u64>) {
    for (credential, at) in other {
        let known = known.entry(credential).or_insert(at);
        *known = at.max(*known);
    }
}

/// Drops the oldest entries where there are too many.
fn bound(known: &mut BTreeMap<String, u64>) {
    while known.len() > GRANTS {
        let oldest = known.iter().min_by_key(|(_, at)| **at);
        let Some(oldest) = oldest.map(|(credential, _)| credential.clone()) else {
            break;
        };
        known.remove(&oldest);
    }
}

/// The digest that stands for a tag in rankings.
pub fn of_tag(registry: &RegistryName, repository: &Repository, tag: &Tag) -> Digest {
    Digest::sha256(format!("tag\n{registry}\n{repository}\n{tag}").as_bytes())
}

/// The digest that stands for the rights to read a repository.
pub fn of_repository(registry: &RegistryName, repository: &Repository) -> Digest {
    Digest::sha256(format!("repository\n{registry}\n{repository}").as_bytes())
}

/// The records that this node keeps.
#[derive(Debug)]
pub struct PeerRecords {
    dir: PathBuf,
    known: Mutex<LruCache<Digest, PeerRecord>>,
    /// What the keepers were last sent of a thing, as a hash, and when.
    sent: Mutex<LruCache<Digest, (Digest, Instant)>>,
    /// Each record is changed by one caller at a time.
    changing: Turns<Digest>,
    /// Whether the directory is this larder's; until then records are in memory alone. Locked for reading while a
    /// record is changed.
    held: RwLock<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PeerRecords {
    /// Records in `dir`, which need not exist.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            held: RwLock::new(true),
            ..Self::waiting(dir)
        }
    }

    /// The same while the directory is another larder's: nothing there is read or written until [`Self::take_over`].
    pub fn waiting(dir: PathBuf) -> Self {
        Self {
            dir,
            known: Mutex::new(LruCache::new(IN_MEMORY)),
            sent: Mutex::new(LruCache::new(SENT)),
            changing: Turns::default(),
            held: RwLock::new(false),
        }
    }

    /// Takes over the directory: what was learned meanwhile is added to the records there (blocking).
    pub fn take_over(&self, now: u64) {
        let learned: Vec<_> = {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut *held, true) {
                return;
            }
            let mut known = lock(&self.known);
            std::iter::from_fn(|| known.pop_lru()).collect()
        };
        for (thing, kept) in learned {
            if let Err(error) = self.put(&thing, kept, now) {
                tracing::debug!(%error, "a record was not written");
            }
        }
    }

    /// What is known of `thing` (blocking).
    pub fn get(&self, thing: &Digest) -> Option<PeerRecord> {
        if let Some(kept) = self.known(thing) {
            return Some(kept);
        }
        if !self.is_held() {
            return None;
        }
        let text = fs::read(self.path(thing)).ok()?;
        let kept: PeerRecord = serde_json::from_slice(&text).ok()?;
        let mut known = lock(&self.known);
        // What was put meanwhile is newer.
        Some(known.get_or_insert(*thing, || kept).clone())
    }

    /// The same, from memory alone.
    pub fn known(&self, thing: &Digest) -> Option<PeerRecord> {
        lock(&self.known).get(thing).cloned()
    }

    fn is_held(&self) -> bool {
        *self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds `news` of `thing`, from this node or another member (blocking).
    pub fn put(&self, thing: &Digest, news: PeerRecord, now: u64) -> io::Result<()> {
        let _one = self.changing.take(thing);
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let news = news.sane(now);
        let before = if *held {
            self.get(thing)
        } else {
            self.known(thing)
        };
        let mut after = before.clone().unwrap_or_default();
        after.merge(news);
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        lock(&self.known).put(*thing, after.clone());
        if !*held || !(after.opens() || before.is_some_and(|before| before.opens())) {
            return Ok(());
        }
        let path = self.path(thing);
        let new = path.with_extension("new");
        fs::create_dir_all(&self.dir)?;
        fs::write(&new, serde_json::to_vec(&after)?)?;
        fs::rename(new, path)
    }

    /// Whether `news` of `thing` (a hash) is worth sending: it was not sent a moment ago.
    pub fn is_news(&self, thing: &Digest, news: &Digest) -> bool {
        let mut sent = lock(&self.sent);
        let recent = sent
            .get(thing)
            .is_some_and(|(last, at)| last == news && at.elapsed() < SENT_AGAIN);
        if !recent {
            sent.put(*thing, (*news, Instant::now()));
        }
        !recent
    }

    /// Removes records that no member has renewed for long, and the oldest ones where there are too many (blocking).
    pub fn sweep(&self, clock: Clock) {
        let mut files: Vec<(u64, PathBuf)> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.mtime().max(0) as u64, entry.path())))
            .collect();
        files.sort_unstable();
        let many = files.len().saturating_sub(ON_DISK);
        for (index, (written, path)) in files.iter().enumerate() {
            let old = clock.age_of_file(path, *written) > STAYS;
            if old || index < many {
                remove(path);
            }
        }
    }

    fn path(&self, thing: &Digest) -> PathBuf {
        self.dir.join(thing.hex())
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "an old record stays");
    }
}

#[cfg(test)]
mod tests;

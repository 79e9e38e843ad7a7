//! Which credential has opened which repository, and when (promise P17).
//!
//! A grant holds a fingerprint, never a secret. Grants are kept in a file that only its owner may read, one line of JSON
//! each, newest last; refusals are remembered for a moment and in memory only.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    num::NonZeroUsize,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use larder_shared::{RegistryName, Repository};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::{
    identity::Fingerprint,
    store::{Journal, age, now},
    telemetry,
};

/// A refusal is believed this long: long enough for one pull's many requests, short enough for a right that was just
/// given.
const REFUSED: Duration = Duration::from_secs(20);

/// Of so many grants, or revocations, half are forgotten, the oldest; the file is written anew.
const CROWDED: usize = 50_000;

const REFUSALS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

type Key = (RegistryName, Repository, Fingerprint);

#[derive(Serialize, Deserialize)]
struct Line {
    registry: RegistryName,
    repository: Repository,
    credential: String,
    /// Unix seconds of the proof; 0 when it was revoked.
    at: u64,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<u64>,
}

/// All verdicts over credentials.
#[derive(Debug)]
pub struct Grants {
    lifetime: Duration,
    refused: Mutex<LruCache<Key, Instant>>,
    kept: Arc<Kept>,
}

/// What is in the file.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    known: Mutex<HashMap<Key, u64>>,
    /// When the origin last refused what another member may still know as accepted.
    revoked: Mutex<HashMap<Key, u64>>,
    /// Pushed to while `known` is held, so that a refusal stands behind what it voids.
    lines: Journal,
    /// Somebody is about to write them: a disk that hangs has one thread of this.
    queued: AtomicBool,
    /// Whether the file is this larder's, and lines in it. Held while it is written.
    file: Mutex<Option<usize>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Grants {
    /// Reads the grants at `path` that are younger than `lifetime` and writes the file anew (blocking).
    pub fn load(path: PathBuf, lifetime: Duration) -> Self {
        let grants = Self::waiting(path, lifetime);
        grants.take_over();
        grants
    }

    /// The same while the file is another larder's: nothing is read or written until [`Self::take_over`].
    pub fn waiting(path: PathBuf, lifetime: Duration) -> Self {
        Self {
            lifetime,
            refused: Mutex::new(LruCache::new(REFUSALS)),
            kept: Arc::new(Kept {
                path,
                known: Mutex::default(),
                revoked: Mutex::default(),
                lines: Journal::default(),
                queued: AtomicBool::new(false),
                file: Mutex::default(),
            }),
        }
    }

    /// The file is this larder's now: what it says is added to what was learned meanwhile, and it is written anew
    /// (blocking).
    pub fn take_over(&self) {
        let mut file = lock(&self.kept.file);
        if file.is_some() {
            return;
        }
        let mut known = HashMap::new();
        let mut revoked = HashMap::new();
        let text = fs::read_to_string(&self.kept.path).unwrap_or_default();
        for line in text.lines() {
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                continue;
            };
            let Some(fingerprint) = Fingerprint::parse(&line.credential) else {
                continue;
            };
            let key = (line.registry, line.repository, fingerprint);
            if let Some(at) = line.revoked {
                // Written while the clock was wrong: it is refused, and not for ever.
                revoked.insert(key.clone(), at.min(now()));
            }
            known.insert(key, line.at);
        }
        {
            let (mut here, mut voided) = (lock(&self.kept.known), lock(&self.kept.revoked));
            // A refusal voids what the other of the two accepted before it.
            here.retain(|key, at| revoked.get(key).is_none_or(|refused| refused < at));
            for (key, at) in known {
                if voided.get(&key).is_none_or(|refused| *refused < at) {
                    let newest = here.entry(key).or_insert(at);
                    *newest = at.max(*newest);
                }
            }
            for (key, at) in revoked {
                let newest = voided.entry(key).or_insert(at);
                *newest = at.max(*newest);
            }
            for map in [&mut *here, &mut *voided] {
                map.retain(|_, at| age(*at).is_some_and(|age| age < self.lifetime));
            }
        }
        *file = Some(self.kept.rewrite());
    }

    /// Writes what the disk has not taken so far (blocking).
    pub fn flush(&self) {
        self.kept.write();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.kept.known).len()
    }

    /// How long ago the origin accepted this credential for this repository.
    pub fn age(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        who: Fingerprint,
    ) -> Option<Duration> {
        let key = (registry.clone(), repository.clone(), who);
        age(*lock(&self.kept.known).get(&key)?)
    }

    /// How long ago it refused it, if that was its last word.
    pub fn refused_since(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        who: Fingerprint,
    ) -> Option<Duration> {
        let key = (registry.clone(), repository.clone(), who);
        if lock(&self.kept.known).contains_key(&key) {
            return None;
        }
        age(*lock(&self.kept.revoked).get(&key)?)
    }

    /// Whether the origin has just refused it.
    pub fn was_refused(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        who: Fingerprint,
    ) -> bool {
        let key = (registry.clone(), repository.clone(), who);
        lock(&self.refused)
            .get(&key)
            .is_some_and(|at| at.elapsed() < REFUSED)
    }

    /// The origin accepted it now.
    pub fn accept(&self, registry: &RegistryName, repository: &Repository, who: Fingerprint) {
        let key = (registry.clone(), repository.clone(), who);
        lock(&self.refused).pop(&key);
        let at = now();
        let mut known = lock(&self.kept.known);
        let old = known.get(&key).copied();
        known.insert(key.clone(), at);
        // Tokens that clients bring are new ones again and again.
        bound(&mut known);
        // A pull makes a handful of proofs; one line is enough.
        if old.is_none_or(|old| at.abs_diff(old) >= 5) {
            self.append(&line(&key, at), known);
        }
    }

    /// Another member says that the origin accepted it at that time.
    pub fn learn(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        who: Fingerprint,
        at: u64,
    ) {
        let key = (registry.clone(), repository.clone(), who);
        let mut known = lock(&self.kept.known);
        let void = lock(&self.kept.revoked)
            .get(&key)
            .is_some_and(|revoked| at <= *revoked);
        let old = known.get(&key).is_some_and(|known| at <= *known);
        if void || old || at > now() {
            return;
        }
        known.insert(key.clone(), at);
        bound(&mut known);
        self.append(&line(&key, at), known);
    }

    /// The origin refused it now: whatever was granted before is void.
    pub fn refuse(&self, registry: &RegistryName, repository: &Repository, who: Fingerprint) {
        let key = (registry.clone(), repository.clone(), who);
        let at = now();
        // First of all the revocation: whoever adds what another larder knows looks at these two in the other order.
        let news = {
            let mut revoked = lock(&self.kept.revoked);
            let news = revoked.insert(key.clone(), at).is_none();
            // Anyone may show any secret: what is remembered must not grow without bound.
            bound(&mut revoked);
            news
        };
        let mut known = lock(&self.kept.known);
        let granted = known.remove(&key).is_some();
        if granted || news {
            self.append(&revocation(&key, at), known);
        }
        lock(&self.refused).put(key, Instant::now());
    }

    /// Takes a line down that `known` agrees with, and lets go of it.
    fn append(&self, text: &str, known: MutexGuard<'_, HashMap<Key, u64>>) {
        self.kept.lines.push(text.as_bytes());
        drop(known);
        if !self.kept.queued.swap(true, Ordering::AcqRel) {
            let kept = Arc::clone(&self.kept);
            tokio::task::spawn_blocking(move || kept.write());
        }
    }
}

/// Of too many the newer half stays.
fn bound(map: &mut HashMap<Key, u64>) {
    if map.len() < CROWDED {
        return;
    }
    let mut times: Vec<u64> = map.values().copied().collect();
    let (_, middle, _) = times.select_nth_unstable(CROWDED / 2);
    let middle = *middle;
    // Of those of the same second some have to go as well.
    let mut equal = CROWDED / 4;
    map.retain(|_, at| {
        let stays = *at > middle || (*at == middle && equal > 0);
        equal -= usize::from(stays && *at == middle);
        stays
    });
}

impl Kept {
    /// Appends what is waiting (blocking).
    fn write(&self) {
        let mut file = lock(&self.file);
        // Before the lines are taken: what comes later is written by another.
        self.queued.store(false, Ordering::Release);
        let Some(lines) = &mut *file else {
            // What is another larder's now gets all of it with the memory, later.
            self.lines.waiting().clear();
            return;
        };
        let mut added = 0;
        let written = self.lines.write(|text| {
            added = text.split(|byte| *byte == b'\n').count();
            private(&self.path, false)?.write_all(text)
        });
        if let Err(error) = written {
            tracing::debug!(%error, path = %self.path.display(), "grants were not written, and will be again");
        }
        *lines = lines.saturating_add(added);
        if *lines > 4 * CROWDED {
            *lines = self.rewrite();
        }
    }

    /// Writes all that is in memory to a new file, for who holds `file`; says how many lines that are (blocking).
    fn rewrite(&self) -> usize {
        let text: String = {
            let (known, revoked) = (lock(&self.known), lock(&self.revoked));
            // All of that is in memory, and so in the text.
            self.lines.waiting().clear();
            let revocations = revoked.iter().map(|(key, at)| revocation(key, *at));
            let granted = known.iter().map(|(key, at)| line(key, *at));
            revocations.chain(granted).collect()
        };
        // Whoever asks for a verdict does not wait for the disk.
        match rewrite(&self.path, &text) {
            Ok(()) => text.lines().count(),
            Err(error) => {
                if let Some(due) = telemetry::due("the grants are not written", "") {
                    tracing::warn!(%error, path = %self.path.display(), unsaid = due.unsaid, "the grants cannot be written and are asked for again after a restart; look at the disk and the file's owner");
                }
                // So that it is tried again.
                usize::MAX / 2
            }
        }
    }
}

/// A line that voids what stands before it.
fn revocation(key: &Key, at: u64) -> String {
    told(key, 0, Some(at))
}

fn line(key: &Key, at: u64) -> String {
    told(key, at, None)
}

fn told(key: &Key, at: u64, revoked: Option<u64>) -> String {
    let line = Line {
        registry: key.0.clone(),
        repository: key.1.clone(),
        credential: key.2.to_string(),
        at,
        revoked,
    };
    // Serializing these types to memory cannot fail.
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

fn private(path: &Path, truncate: bool) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.create(true).mode(0o600);
    if truncate {
        options.write(true).truncate(true);
    } else {
        options.append(true);
    }
    options.open(path)
}

fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    private(&new, true)?.write_all(text.as_bytes())?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place() -> (RegistryName, Repository) {
        ("a.io".parse().unwrap(), "b".parse().unwrap())
    }

    fn who(n: u8) -> Fingerprint {
        Fingerprint::parse(&format!("{n:02x}").repeat(16)).unwrap()
    }

    async fn lines(path: &Path, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::read_to_string(path).unwrap_or_default().lines().count() < count {
            assert!(Instant::now() < deadline, "the grants were not written");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_grant_survives_a_restart_until_it_is_revoked_or_old() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (registry, repository) = place();
        let day = Duration::from_hours(24);
        let grants = Grants::load(path.clone(), day);
        grants.accept(&registry, &repository, who(1));
        grants.accept(&registry, &repository, who(2));
        grants.refuse(&registry, &repository, who(2));
        lines(&path, 3).await;
        let other: Repository = "c".parse().unwrap();
        let reread = Grants::load(path.clone(), day);
        assert!(reread.age(&registry, &repository, who(1)).is_some());
        assert!(reread.age(&registry, &repository, who(2)).is_none());
        assert!(reread.age(&registry, &other, who(1)).is_none());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let old = Grants::load(path, Duration::ZERO);
        assert!(old.age(&registry, &repository, who(1)).is_none());
    }

    /// However the threads that write are scheduled: what was refused last must not be granted after a restart.
    #[tokio::test]
    async fn the_file_tells_the_order_of_acceptance_and_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (registry, repository) = place();
        let day = Duration::from_hours(24);
        let grants = Grants::load(path.clone(), day);
        for n in 0..100 {
            grants.accept(&registry, &repository, who(n));
            grants.refuse(&registry, &repository, who(n));
        }
        lines(&path, 200).await;
        let reread = Grants::load(path, day);
        let granted = (0..100).filter(|n| reread.age(&registry, &repository, who(*n)).is_some());
        assert_eq!(granted.count(), 0);
    }

    /// What is granted on disk and refused in memory would be granted after a restart.
    #[tokio::test]
    async fn what_the_disk_did_not_take_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let aside = dir.path().join("aside");
        let (registry, repository) = place();
        let day = Duration::from_hours(24);
        let grants = Grants::load(path.clone(), day);
        grants.accept(&registry, &repository, who(1));
        lines(&path, 1).await;
        // What leads nowhere takes no line.
        fs::rename(&path, &aside).unwrap();
        symlink(dir.path().join("no/where"), &path).unwrap();
        grants.refuse(&registry, &repository, who(1));
        grants.flush();
        fs::write(&aside, fs::read_to_string(&aside).unwrap() + "{\"regis").unwrap();
        fs::rename(&aside, &path).unwrap();
        grants.flush();
        let reread = Grants::load(path.clone(), day);
        assert_eq!(reread.age(&registry, &repository, who(1)), None);
        // The same where the file could not be written anew.
        let waiting = Grants::waiting(path.clone(), day);
        waiting.refuse(&registry, &repository, who(2));
        let new = path.with_extension("new");
        fs::create_dir(&new).unwrap();
        waiting.take_over();
        fs::remove_dir(&new).unwrap();
        waiting.flush();
        let reread = Grants::load(path, day);
        assert!(
            reread
                .refused_since(&registry, &repository, who(2))
                .is_some()
        );
    }

    /// The clock was ahead when it was written.
    #[tokio::test]
    async fn what_was_accepted_at_a_time_to_come_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (registry, repository) = place();
        let day = Duration::from_hours(24);
        let of = |n| (registry.clone(), repository.clone(), who(n));
        let ahead = now() + 8 * 3600;
        fs::write(&path, line(&of(1), ahead) + &revocation(&of(2), ahead)).unwrap();
        let grants = Grants::load(path, day);
        assert_eq!(grants.age(&registry, &repository, who(1)), None);
        assert_eq!(grants.age(&registry, &repository, who(2)), None);
        for n in [1, 2] {
            grants.accept(&registry, &repository, who(n));
            assert!(grants.age(&registry, &repository, who(n)).is_some());
        }
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded_in_memory_and_on_disk() {
        let mut known = HashMap::new();
        let (registry, _) = place();
        for n in 0..2 * CROWDED {
            let repository: Repository = format!("r{n}").parse().unwrap();
            known.insert((registry.clone(), repository, who(1)), (n / 1000) as u64);
            bound(&mut known);
            assert!(known.len() < CROWDED);
        }
        let newest: Repository = format!("r{}", 2 * CROWDED - 1).parse().unwrap();
        assert!(known.contains_key(&(registry.clone(), newest, who(1))));
        let mut same: HashMap<Key, u64> = known.into_keys().map(|key| (key, 7)).collect();
        for n in 0..CROWDED {
            let repository: Repository = format!("s{n}").parse().unwrap();
            same.insert((registry.clone(), repository, who(1)), 7);
            bound(&mut same);
            assert!(same.len() < CROWDED);
        }
    }

    #[tokio::test]
    async fn a_refusal_voids_a_grant_and_is_remembered_for_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let (registry, repository) = place();
        let grants = Grants::load(dir.path().join("grants"), Duration::from_hours(1));
        grants.accept(&registry, &repository, who(1));
        assert!(!grants.was_refused(&registry, &repository, who(1)));
        grants.refuse(&registry, &repository, who(1));
        assert!(grants.was_refused(&registry, &repository, who(1)));
        assert!(grants.age(&registry, &repository, who(1)).is_none());
        grants.accept(&registry, &repository, who(1));
        assert!(!grants.was_refused(&registry, &repository, who(1)));
    }

    /// Neither of two larders at one store undoes what the origin told the other.
    #[tokio::test]
    async fn what_was_learned_in_waiting_is_added_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (registry, repository) = place();
        let day = Duration::from_hours(24);
        let before = Grants::load(path.clone(), day);
        for n in [1, 2] {
            before.accept(&registry, &repository, who(n));
        }
        lines(&path, 2).await;
        let successor = Grants::waiting(path.clone(), day);
        assert!(successor.age(&registry, &repository, who(1)).is_none());
        successor.refuse(&registry, &repository, who(2));
        successor.accept(&registry, &repository, who(3));
        before.accept(&registry, &repository, who(4));
        lines(&path, 3).await;
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
        successor.take_over();
        for grants in [successor, Grants::load(path, day)] {
            let known = [1, 2, 3, 4].map(|n| grants.age(&registry, &repository, who(n)).is_some());
            assert_eq!(known, [true, false, true, true]);
        }
    }

    /// What another member still knows as accepted does not bring back what the origin has refused since.
    #[tokio::test]
    async fn hearsay_does_not_undo_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (registry, repository) = place();
        let day = Duration::from_hours(24);
        let grants = Grants::load(path.clone(), day);
        let before = now() - 10;
        grants.learn(&registry, &repository, who(1), before);
        assert!(grants.age(&registry, &repository, who(1)).is_some());
        grants.refuse(&registry, &repository, who(1));
        grants.learn(&registry, &repository, who(1), before);
        assert!(grants.age(&registry, &repository, who(1)).is_none());
        lines(&path, 2).await;
        let reread = Grants::load(path, day);
        reread.learn(&registry, &repository, who(1), before);
        assert!(reread.age(&registry, &repository, who(1)).is_none());
        reread.learn(&registry, &repository, who(2), now() + 3600);
        assert!(
            reread.age(&registry, &repository, who(2)).is_none(),
            "not yet"
        );
        reread.accept(&registry, &repository, who(1));
        assert!(reread.age(&registry, &repository, who(1)).is_some());
    }
}

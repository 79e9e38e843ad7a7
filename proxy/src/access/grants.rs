//! Which credential has opened which repository, and when (promise P17).
//!
//! A grant holds a fingerprint, never a secret. The memory has the accepted credentials, the refused ones, and the
//! single subjects that were refused. A file keeps them over a restart ([`mod@file`]).

mod file;

use std::{
    collections::HashMap,
    fs,
    hash::Hash,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use larder_shared::Reference;

use self::file::Contents;
use super::Key;
use crate::{
    clock::{unix_age, unix_now},
    store::Journal,
    telemetry,
};

/// At this many grants or revocations, the older half is forgotten. At more than four times as many lines, the file is
/// written anew.
const CROWDED: usize = 50_000;

/// The same limit for refusals of repositories from which nothing was ever served.
const CROWDED_MADE_UP: usize = 4000;

/// All verdicts over credentials.
#[derive(Debug)]
pub struct Grants {
    lifetime: Duration,
    kept: Arc<GrantLog>,
}

/// The content of the file.
#[derive(Debug)]
struct GrantLog {
    path: PathBuf,
    known: Mutex<HashMap<Key, u64>>,
    /// When the origin last refused a credential that another member may still know as accepted.
    revoked: Mutex<HashMap<Key, u64>>,
    /// The same for repositories from which nothing was ever served, in memory alone: a client may make up names.
    made_up: Mutex<HashMap<Key, u64>>,
    /// When the origin last refused a single subject.
    denied: Mutex<HashMap<(Key, Reference), u64>>,
    /// Lines to be written. A line is pushed while `known` is held, so that a refusal follows the grant that it voids.
    lines: Journal,
    /// A task is about to write the lines. A disk that hangs blocks only one thread this way.
    queued: AtomicBool,
    /// The content of the file is in memory.
    taken_over: AtomicBool,
    /// The number of lines in the file; `None` while it is another larder's. The lock is held during a write.
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

    /// As [`Self::load`], while another larder has the file: nothing is read or written before [`Self::take_over`].
    pub fn waiting(path: PathBuf, lifetime: Duration) -> Self {
        Self {
            lifetime,
            kept: Arc::new(GrantLog {
                path,
                known: Mutex::default(),
                revoked: Mutex::default(),
                made_up: Mutex::default(),
                denied: Mutex::default(),
                lines: Journal::default(),
                queued: AtomicBool::new(false),
                taken_over: AtomicBool::new(false),
                file: Mutex::default(),
            }),
        }
    }

    /// Takes over the file, which is this larder's from now on. Its content is merged with what was learned meanwhile,
    /// and the file is written anew (blocking).
    pub fn take_over(&self) {
        let mut file = lock(&self.kept.file);
        if file.is_some() {
            return;
        }
        let text = fs::read_to_string(&self.kept.path).unwrap_or_default();
        let Contents {
            accepted,
            refused,
            denied,
        } = file::parse(&text);
        {
            let (mut here, mut voided) = (lock(&self.kept.known), lock(&self.kept.revoked));
            // A refusal in the file voids what memory accepted before it, and the other way round.
            here.retain(|key, at| refused.get(key).is_none_or(|refused| refused < at));
            for (key, at) in accepted {
                if voided.get(&key).is_none_or(|refused| *refused < at) {
                    let newest = here.entry(key).or_insert(at);
                    *newest = at.max(*newest);
                }
            }
            for (key, at) in refused {
                let newest = voided.entry(key).or_insert(at);
                *newest = at.max(*newest);
            }
            for map in [&mut *here, &mut *voided] {
                map.retain(|_, at| unix_age(*at).is_some_and(|age| age < self.lifetime));
            }
        }
        lock(&self.kept.denied).extend(denied);
        self.kept.taken_over.store(true, Ordering::Release);
        *file = Some(self.kept.rewrite());
    }

    /// Writes the lines that did not reach the disk so far (blocking).
    pub fn flush(&self) {
        self.kept.write();
    }

    /// The number of grants.
    pub fn count(&self) -> usize {
        lock(&self.kept.known).len()
    }

    /// How long ago the origin accepted this credential for this repository.
    pub fn age(&self, key: &Key) -> Option<Duration> {
        unix_age(*lock(&self.kept.known).get(key)?)
    }

    /// How long ago the origin refused this credential for this repository, if that was its last word.
    pub fn refused_since(&self, key: &Key) -> Option<Duration> {
        if lock(&self.kept.known).contains_key(key) {
            return None;
        }
        unix_age(self.refused_at(key)?)
    }

    fn refused_at(&self, key: &Key) -> Option<u64> {
        let revoked = lock(&self.kept.revoked).get(key).copied();
        revoked.max(lock(&self.kept.made_up).get(key).copied())
    }

    /// Records that the origin accepted the credential now.
    pub fn accept(&self, key: &Key) {
        let at = unix_now();
        let mut known = lock(&self.kept.known);
        let old = known.get(key).copied();
        known.insert(key.clone(), at);
        // Some clients bring a new token each time, so the map must be bounded.
        bound(&mut known);
        // A pull makes a handful of proofs within seconds; one line is enough.
        if old.is_none_or(|old| at.abs_diff(old) >= 5) {
            self.append(&file::accepted(key, at), known);
        }
    }

    /// Records that the origin accepted the credential at that time, by another member's word.
    pub fn learn(&self, key: &Key, at: u64) {
        let mut known = lock(&self.kept.known);
        let void = self.refused_at(key).is_some_and(|refused| at <= refused);
        let old = known.get(key).is_some_and(|known| at <= *known);
        if void || old || at > unix_now() {
            return;
        }
        known.insert(key.clone(), at);
        bound(&mut known);
        self.append(&file::accepted(key, at), known);
    }

    /// Records that the origin refused the credential now, which voids any grant.
    pub fn refuse(&self, key: &Key) {
        let at = unix_now();
        // Comes before the removal of the grant: `take_over` and `learn` look at the two in the other order.
        let news = {
            let mut revoked = lock(&self.kept.revoked);
            let news = revoked.insert(key.clone(), at).is_none();
            // A client may show any secret, so the map must be bounded.
            bound(&mut revoked);
            news
        };
        let mut known = lock(&self.kept.known);
        let granted = known.remove(key).is_some();
        if granted || news {
            self.append(&file::refused(key, at), known);
        }
    }

    /// As [`Self::refuse`], for a repository from which nothing is stored here. If the credential was never accepted
    /// for it either, a restart has nothing to undo, and nothing is written.
    pub fn refuse_made_up(&self, key: &Key) {
        // While another larder has the file, the file may say that the credential was accepted.
        let unknown = !self.kept.taken_over.load(Ordering::Acquire);
        if unknown
            || lock(&self.kept.known).contains_key(key)
            || lock(&self.kept.revoked).contains_key(key)
        {
            self.refuse(key);
            return;
        }
        let mut made_up = lock(&self.kept.made_up);
        made_up.insert(key.clone(), unix_now());
        bound_at(&mut made_up, CROWDED_MADE_UP);
    }

    /// Whether no single subject is refused to any caller, which is the usual case.
    pub fn denies_nothing(&self) -> bool {
        lock(&self.kept.denied).is_empty()
    }

    /// Whether the origin refused this caller this subject alone, and has not served it since.
    pub fn is_denied(&self, key: &Key, subject: &Reference) -> bool {
        let mark = (key.clone(), subject.clone());
        lock(&self.kept.denied).contains_key(&mark)
    }

    /// Records that the origin refused these subjects now.
    pub fn deny(&self, key: &Key, subjects: &[Reference]) {
        self.mark(key, subjects, true);
    }

    /// Ends the refusals of these single subjects, which the origin has served.
    pub fn serve(&self, key: &Key, subjects: &[Reference]) {
        self.mark(key, subjects, false);
    }

    fn mark(&self, key: &Key, subjects: &[Reference], denied: bool) {
        let at = unix_now();
        for subject in subjects {
            let known = lock(&self.kept.known);
            let mut marks = lock(&self.kept.denied);
            if marks.is_empty() && !denied {
                return;
            }
            let mark = (key.clone(), subject.clone());
            let news = if denied {
                let news = marks.insert(mark, at).is_none();
                bound(&mut marks);
                news
            } else {
                marks.remove(&mark).is_some()
            };
            drop(marks);
            if news {
                let text = if denied {
                    file::denied(key, subject, at)
                } else {
                    file::served(key, subject)
                };
                self.append(&text, known);
            }
        }
    }

    /// Queues a line that agrees with `known`, then releases `known`.
    fn append(&self, text: &str, known: MutexGuard<'_, HashMap<Key, u64>>) {
        let all = || self.kept.all(&known).into_bytes();
        self.kept.lines.push(text.as_bytes(), all);
        drop(known);
        if !self.kept.queued.swap(true, Ordering::AcqRel) {
            let kept = Arc::clone(&self.kept);
            tokio::task::spawn_blocking(move || kept.write());
        }
    }
}

/// Keeps the newer half of a map that has become too large.
fn bound<K: Eq + Hash>(map: &mut HashMap<K, u64>) {
    bound_at(map, CROWDED);
}

fn bound_at<K: Eq + Hash>(map: &mut HashMap<K, u64>, most: usize) {
    if map.len() < most {
        return;
    }
    let mut times: Vec<u64> = map.values().copied().collect();
    let (_, middle, _) = times.select_nth_unstable(most / 2);
    let middle = *middle;
    // Many entries may be of the same second, so some of those go as well.
    let mut equal = most / 4;
    map.retain(|_, at| {
        let stays = *at > middle || (*at == middle && equal > 0);
        equal -= usize::from(stays && *at == middle);
        stays
    });
}

impl GrantLog {
    /// Appends the waiting lines (blocking).
    fn write(&self) {
        let mut file = lock(&self.file);
        // Reset before the lines are taken, so that another task writes lines that arrive later.
        self.queued.store(false, Ordering::Release);
        let Some(lines) = &mut *file else {
            // The file is another larder's. On take-over, all of memory is written to it.
            self.lines.waiting().clear();
            return;
        };
        let mut added = 0;
        let written = self.lines.write(|text| {
            added = text.split(|byte| *byte == b'\n').count();
            file::append(&self.path, text)
        });
        if let Err(error) = written {
            tracing::debug!(%error, path = %self.path.display(), "grants were not written, and will be again");
        }
        *lines = lines.saturating_add(added);
        if *lines > 4 * CROWDED {
            *lines = self.rewrite();
        }
    }

    /// All that is in memory, as lines.
    fn all(&self, known: &HashMap<Key, u64>) -> String {
        let (revoked, denied) = (lock(&self.revoked), lock(&self.denied));
        let revocations = revoked.iter().map(|(key, at)| file::refused(key, *at));
        let granted = known.iter().map(|(key, at)| file::accepted(key, *at));
        let denied = denied
            .iter()
            .map(|((key, subject), at)| file::denied(key, subject, *at));
        revocations.chain(granted).chain(denied).collect()
    }

    /// Replaces the file with all that is in memory, and returns the number of lines. `file` must be held (blocking).
    fn rewrite(&self) -> usize {
        let text = {
            let known = lock(&self.known);
            // The waiting lines are in memory too, and so in the text.
            self.lines.waiting().clear();
            self.all(&known)
        };
        // The lock is released by now, so that a request for a verdict does not wait for the disk.
        match file::replace(&self.path, &text) {
            Ok(()) => text.lines().count(),
            Err(error) => {
                if let Some(due) = telemetry::due("the grants are not written", "") {
                    tracing::warn!(%error, path = %self.path.display(), unsaid = due.unsaid, "the grants cannot be written and are asked for again after a restart; look at the disk and the file's owner");
                }
                // Larger than any limit, so that the next write tries again.
                usize::MAX / 2
            }
        }
    }
}

#[cfg(test)]
mod tests;

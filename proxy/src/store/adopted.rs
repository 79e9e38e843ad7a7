//! Blobs that lie in the container runtime's content store.
//!
//! larder only reads there. It hashes each file once, remembers which file that was, and serves the file from where it
//! lies. A removed file is a miss. A replaced or changed file counts as another file, and is hashed again. A file whose
//! bytes do not have the digest in its name is not served, and larder leaves it in place. That a blob is here gives no
//! caller a right to it.

mod find;
mod hashed;
mod holding;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use larder_shared::{Digest, Range};
use lru::LruCache;

use super::{
    Blob,
    file_state::{self, FileState},
    gone,
    reads::Reads,
    sums::Sums,
};
use crate::{coalesce::Coalesce, sys::Calls};

/// The most blobs of the runtime that larder adopts. It ignores the rest of a longer list.
const LISTED: usize = 50_000;

/// Files kept open for the next reader.
const OPEN: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Threads that look at the directory, and how long a request waits for one. If hashing takes longer, only a later
/// request finds the blob.
const AT_ONCE: usize = 4;
const WITHIN: Duration = Duration::from_secs(2);

/// A read or a look that takes longer than this means that the directory hangs.
const LATE: Duration = Duration::from_millis(1500);

/// Bytes that are hashed at a time.
const PIECE: u64 = 256 << 10;

/// What one look at a blob of the runtime found.
#[derive(Clone, Debug)]
pub enum Looked {
    /// Its bytes have the digest.
    Sound(Arc<Blob>),
    /// Its bytes have the digest, but the file changed so recently that it may change again unseen. The next look
    /// hashes it again.
    Young(Arc<Blob>),
    /// Its bytes have another digest, or another length than the runtime says.
    Wrong,
    /// There is no such file.
    Gone,
    Unreadable(io::ErrorKind),
    /// The runtime does not list it, or nothing could be found out.
    Unknown,
}

impl Looked {
    fn blob(self) -> Option<Arc<Blob>> {
        match self {
            Self::Sound(blob) | Self::Young(blob) => Some(blob),
            Self::Wrong | Self::Gone | Self::Unreadable(_) | Self::Unknown => None,
        }
    }
}

/// What is known of one blob that the runtime lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// larder has not looked at it since the runtime listed it.
    Listed,
    Sound(FileState),
    /// This file's bytes are wrong; it is not hashed again.
    Wrong(FileState),
    Gone,
    Unreadable,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    state: State,
    /// A repository is known to hold it.
    proven: bool,
    /// When it was last used, by the store's clock; 0 if that is not known.
    used: u64,
}

/// Numbers and bytes of blobs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Sum {
    pub blobs: u64,
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }
}

/// What is known of the runtime's content, for people.
#[derive(Clone, Default, Debug)]
pub struct AdoptedView {
    /// The directory of its blobs. `None` if nothing is adopted.
    pub dir: Option<PathBuf>,
    /// Hashed, and served.
    pub sound: Sum,
    /// Not hashed yet.
    pub waiting: Sum,
    /// Gone since the runtime was asked.
    pub gone: Sum,
    pub wrong: Sum,
    pub unreadable: Sum,
    /// A look at the directory does not return.
    pub hangs: bool,
}

#[derive(Debug)]
struct Known {
    /// `<content store>/blobs`
    dir: Option<PathBuf>,
    listed: HashMap<Digest, Entry>,
    open: LruCache<Digest, Arc<Blob>>,
    /// Blobs that requests wait for: they are hashed without pauses.
    hurried: HashSet<Digest>,
    /// Files that an earlier process hashed, and that were not looked at since.
    hashed: HashMap<Digest, FileState>,
    /// There is more to write down about hashed files.
    unwritten: bool,
}

/// The runtime's content as this larder knows it.
#[derive(Debug)]
pub(super) struct Adopted {
    known: Mutex<Known>,
    calls: Calls,
    looking: Coalesce<Digest, Looked>,
    reads: Reads,
    /// Blobs that other members counted on and that are here no longer.
    gone: gone::List,
}

impl Default for Adopted {
    fn default() -> Self {
        Self {
            known: Mutex::new(Known {
                dir: None,
                listed: HashMap::new(),
                open: LruCache::new(OPEN),
                hurried: HashSet::new(),
                hashed: HashMap::new(),
                unwritten: false,
            }),
            calls: Calls::new(AT_ONCE, WITHIN),
            looking: Coalesce::default(),
            reads: Reads::default(),
            gone: gone::List::default(),
        }
    }
}

impl Adopted {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a look at the directory, or a read of an open file, is overdue.
    fn hangs(&self) -> bool {
        let late = self.reads.oldest().is_some_and(|age| age > LATE);
        // A late read here says nothing about larder's own disk, so the store is not told.
        let hung = |blob: &Arc<Blob>| blob.reads().are_late(|| None);
        late || self.lock().open.iter().any(|(_, blob)| hung(blob))
    }

    /// Replaces the list of blobs. What is known of a file that is still listed stays known.
    fn list(&self, content: Option<&Path>, blobs: impl Iterator<Item = (Digest, super::Entry)>) {
        let dir = content.map(|content| content.join("blobs"));
        let mut known = self.lock();
        let mut before = std::mem::take(&mut known.listed);
        if known.dir != dir {
            known.dir = dir;
            known.open.clear();
            self.note_gone(before.drain());
        }
        if known.dir.is_some() {
            for (digest, super::Entry { size, used }) in blobs {
                if known.listed.len() == LISTED {
                    break;
                }
                if known.listed.contains_key(&digest) {
                    continue;
                }
                let same = before.get(&digest).is_some_and(|entry| entry.size == size);
                let mut entry = Entry {
                    size,
                    state: State::Listed,
                    proven: false,
                    used,
                };
                if same && let Some(before) = before.remove(&digest) {
                    entry = before;
                    // The list is newer: the file may be back, or its mode may have changed.
                    if matches!(entry.state, State::Gone | State::Unreadable) {
                        entry.state = State::Listed;
                    }
                }
                known.listed.insert(digest, entry);
            }
        }
        for digest in before.keys() {
            known.open.pop(digest);
        }
        if known.dir.is_some() {
            let Known { listed, hashed, .. } = &mut *known;
            hashed.retain(|digest, _| listed.contains_key(digest));
        }
        known.unwritten |= !before.is_empty();
        self.note_gone(before.into_iter());
    }

    fn note(&self, digest: &Digest, state: State) {
        let mut known = self.lock();
        if let Some(entry) = known.listed.get_mut(digest) {
            let before = *entry;
            entry.state = state;
            if entry.held().is_none() {
                self.note_gone(std::iter::once((*digest, before)));
            }
            known.unwritten = true;
        }
        if !matches!(state, State::Sound(_)) {
            known.open.pop(digest);
        }
    }

    /// Where a listed blob lies, its size, and what is known of it.
    fn entry(&self, digest: &Digest) -> Option<(PathBuf, Entry)> {
        let known = self.lock();
        let entry = known.listed.get(digest)?;
        let dir = known.dir.as_ref()?.join(digest.algorithm().as_str());
        Some((dir.join(digest.hex()), *entry))
    }

    /// A blob that is open and is still the file that was hashed. The kernel knows that without the disk.
    fn at_hand(&self, digest: &Digest) -> Option<Arc<Blob>> {
        let open = self.lock().open.get(digest).cloned();
        open.filter(|blob| !blob.is_damaged() && blob.is_in_place())
    }

    /// Opens a blob, and hashes the file unless that was done before (blocking). `complete` says whether the store has
    /// checksums for a blob of that size. Without them, a file that an earlier process hashed is hashed again. `pause`
    /// is called after each piece, with the number of bytes hashed so far.
    fn look(
        &self,
        digest: &Digest,
        complete: impl FnOnce(u64) -> bool,
        keep_sums: impl FnOnce(u64, &Sums),
        pause: impl Fn(u64),
    ) -> Looked {
        let Some((path, entry)) = self.entry(digest) else {
            return Looked::Unknown;
        };
        let opened = {
            let _step = self.reads.begin();
            file_state::open(&path)
        };
        let (file, found) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.note(digest, State::Gone);
                return Looked::Gone;
            }
            Err(error) => {
                self.note(digest, State::Unreadable);
                return Looked::Unreadable(error.kind());
            }
        };
        let wrong = || {
            if entry.state != State::Wrong(found) {
                tracing::warn!(blob.digest = %digest, path = %path.display(), "a file in the container runtime's content store is not what its name says; larder does not serve it, and the runtime should fetch it again");
            }
            self.note(digest, State::Wrong(found));
            Looked::Wrong
        };
        if found.size() != entry.size || entry.state == State::Wrong(found) {
            return wrong();
        }
        let Ok(blob) = Blob::adopted(*digest, file, found) else {
            return Looked::Unknown;
        };
        let blob = Arc::new(blob);
        let known = entry.state == State::Sound(found)
            || (self.was_hashed(digest, found) && complete(found.size()));
        if !known {
            match self.hash(&blob, pause) {
                Ok((hashed, sums)) if hashed == *digest => keep_sums(found.size(), &sums),
                // The file changed meanwhile: the hash is of neither the old file nor the new one.
                _ if !blob.is_in_place() => return Looked::Unknown,
                Ok(_) => return wrong(),
                Err(error) => {
                    self.note(digest, State::Unreadable);
                    return Looked::Unreadable(error.kind());
                }
            }
            if !blob.is_in_place() {
                return Looked::Unknown;
            }
            if found.is_young() {
                return Looked::Young(blob);
            }
        }
        if entry.state != State::Sound(found) {
            self.note(digest, State::Sound(found));
        }
        let mut known = self.lock();
        if known.listed.contains_key(digest) {
            known.open.put(*digest, Arc::clone(&blob));
        }
        Looked::Sound(blob)
    }

    fn hash(&self, blob: &Blob, pause: impl Fn(u64)) -> io::Result<(Digest, Sums)> {
        let mut hasher = larder_shared::Hasher::new(blob.digest().algorithm());
        let mut sums = Sums::default();
        let mut at = 0;
        while at < blob.size() {
            let end = (at + PIECE).min(blob.size());
            let bytes = {
                let _step = self.reads.begin();
                blob.read(Range::new(at, end))?
            };
            hasher.update(&bytes);
            sums.update(&bytes);
            at = end;
            pause(at);
        }
        Ok((hasher.finish(), sums))
    }

    fn is_hurried(&self, digest: &Digest) -> bool {
        self.lock().hurried.contains(digest)
    }
}

impl Adopted {
    fn distrust(&self, blob: &Blob) -> bool {
        let in_place = blob.is_in_place();
        let Some(state) = blob.verified() else {
            return false;
        };
        if in_place {
            tracing::warn!(blob.digest = %blob.digest(), "a blob in the container runtime's content store is damaged; larder does not serve it, and the runtime should fetch it again");
            self.note(blob.digest(), State::Wrong(state));
        } else {
            self.lock().open.pop(blob.digest());
        }
        in_place
    }
}

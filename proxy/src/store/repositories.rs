//! What is known of each repository: the digests that are proven to be in it, its tags, and whether it is public.
//!
//! Digests alone open nothing: a client gets content only through a repository that is known to hold it (promise P16).
//! Each repository has one append-only log of JSON lines; the newest line about a thing wins, a torn last line is
//! skipped, and a log that is mostly history is rewritten when it is read. Losing a line costs a question upstream.

mod search;

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use larder_shared::{Digest, RegistryName, Repository, Tag};
use lru::LruCache;
use serde::{Deserialize, Serialize};

pub use self::search::Holding;
use super::{Journal, layout::Layout};

/// A digest that the repository holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    pub digest: Digest,
    pub size: u64,
    /// The `Content-Type` that the registry gave, for a manifest; blobs have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

/// What a tag pointed to when its registry was last asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagRecord {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    /// Unix seconds.
    pub checked: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Link(Link),
    Tag {
        tag: Tag,
        record: TagRecord,
    },
    Forget(Tag),
    /// The registry served this repository to an anonymous client, at that time (Unix seconds).
    Public(u64),
    /// The registry refused an anonymous client, at that time.
    NotPublic(u64),
}

#[derive(Default, Debug)]
struct Known {
    links: HashMap<Digest, Link>,
    tags: HashMap<Tag, TagRecord>,
    public: Option<u64>,
    refused: Option<u64>,
}

impl Known {
    /// What a log says, and how many lines it takes to say it.
    fn read(text: &[u8]) -> (Self, usize) {
        let mut known = Self::default();
        let lines = known.replay(text);
        (known, lines)
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Link(link) => {
                self.links.insert(link.digest, link);
            }
            Line::Tag { tag, record } => {
                // What was checked at a time that is still to come is no newer word: the clock was wrong.
                let counts = self.tags.get(&tag).is_none_or(|known| {
                    known.checked <= record.checked || age(known.checked).is_none()
                });
                if counts {
                    self.tags.insert(tag, record);
                }
            }
            Line::Forget(tag) => {
                self.tags.remove(&tag);
            }
            Line::Public(at) => (self.public, self.refused) = (Some(at), None),
            Line::NotPublic(at) => (self.public, self.refused) = (None, Some(at)),
        }
    }

    /// Adds what was learned while another larder had the log, and gives back what of it counts. A refusal that the other
    /// one heard in the meantime is the newer word.
    fn merge(&mut self, text: &[u8]) -> Vec<u8> {
        let mut counts = Vec::new();
        for line in text.split_inclusive(|b| *b == b'\n') {
            let Ok(read) = serde_json::from_slice(line) else {
                continue;
            };
            if let Line::Public(at) = read
                && self.refused.is_some_and(|refused| refused > at)
            {
                continue;
            }
            self.apply(read);
            counts.extend_from_slice(line);
        }
        counts
    }

    /// Applies the lines of a log, and says how many they are.
    fn replay(&mut self, text: &[u8]) -> usize {
        let mut lines = 0;
        for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            lines += 1;
            if let Ok(line) = serde_json::from_slice(line) {
                self.apply(line);
            }
        }
        lines
    }

    fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        let links = self.links.values().cloned().map(Line::Link);
        let tags = self.tags.iter().map(|(tag, record)| Line::Tag {
            tag: tag.clone(),
            record: record.clone(),
        });
        links
            .chain(tags)
            .chain(self.public.map(Line::Public))
            .chain(self.refused.map(Line::NotPublic))
    }
}

/// One repository's knowledge. Reads are from memory; writes go to memory at once and to the log on a blocking thread.
#[derive(Debug)]
pub struct RepositoryRecord {
    layout: Arc<Layout>,
    path: PathBuf,
    known: Mutex<Known>,
    /// What tags were said to point to when the manifest was not here yet. It may never come.
    announced: Mutex<HashMap<Tag, TagRecord>>,
    log: Arc<Log>,
}

/// Lines on their way to the file.
#[derive(Default, Debug)]
struct Log {
    lines: Journal,
    /// Held while the file is read or written.
    writing: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Announced tags that are remembered of a repository.
const ANNOUNCED: usize = 256;

/// Clocks are set forward and back by so many seconds without anybody noticing.
const SKEW: u64 = 60;

/// How long ago that was (Unix seconds). `None` for what is still to come: it was written while the clock was wrong, and
/// says nothing.
pub fn age(at: u64) -> Option<Duration> {
    let now = now();
    (at <= now + SKEW).then(|| Duration::from_secs(now.saturating_sub(at)))
}

/// Now, in Unix seconds.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

impl RepositoryRecord {
    fn load(layout: &Arc<Layout>, path: PathBuf) -> Self {
        // Another larder's log goes on without us: what it says now would be old when it is used.
        let known = if layout.claim().is_held() {
            Self::read(layout, &path)
        } else {
            Known::default()
        };
        Self {
            layout: Arc::clone(layout),
            path,
            known: Mutex::new(known),
            announced: Mutex::default(),
            log: Arc::default(),
        }
    }

    /// What the log says. One that is mostly history is rewritten.
    fn read(layout: &Layout, path: &Path) -> Known {
        let text = fs::read(path).unwrap_or_default();
        let torn = text.last().is_some_and(|last| *last != b'\n');
        let (known, lines) = Known::read(&text);
        let live = known.lines().count();
        if lines > 64 && lines > 4 * live {
            let mut text = Vec::new();
            for line in known.lines() {
                // Serializing these types to memory cannot fail.
                let _ = serde_json::to_writer(&mut text, &line);
                text.push(b'\n');
            }
            let _ = layout.write_atomic(path, &text, false);
        } else if torn {
            // The next line must not become a part of it.
            let _ = append(path, b"\n");
        }
        known
    }

    /// The log is this larder's now: what it says comes before what was learned while it was not (blocking).
    fn take_over(&self) {
        {
            let _one = lock(&self.log.writing);
            let mut all = Self::read(&self.layout, &self.path);
            let mut known = lock(&self.known);
            let mut waiting = self.log.lines.waiting();
            *waiting = all.merge(&waiting);
            drop(waiting);
            *known = all;
        }
        self.flush();
    }

    pub fn link(&self, digest: &Digest) -> Option<Link> {
        lock(&self.known).links.get(digest).cloned()
    }

    pub fn tag(&self, tag: &Tag) -> Option<TagRecord> {
        lock(&self.known).tags.get(tag).cloned()
    }

    /// How long ago the registry last served this repository to an anonymous client.
    pub fn public_since(&self) -> Option<Duration> {
        age(lock(&self.known).public?)
    }

    /// How long ago the registry refused an anonymous client, if that was its last word.
    pub fn refused_since(&self) -> Option<Duration> {
        age(lock(&self.known).refused?)
    }

    /// Takes down that the repository holds a digest. What is known as a manifest stays one.
    pub fn add_link(&self, link: Link) {
        let known = self.link(&link.digest);
        let new = known.is_none_or(|known| {
            known.size != link.size
                || (link.media_type.is_some() && known.media_type != link.media_type)
        });
        let digest = link.digest;
        if new {
            self.write(Line::Link(link));
        }
        let mut announced = lock(&self.announced);
        let arrived: Vec<_> = announced
            .extract_if(|_, record| record.digest == digest)
            .collect();
        drop(announced);
        for (tag, record) in arrived {
            self.set_tag(tag, record);
        }
    }

    /// Takes down what a tag was said to point to, which is not here. It counts once the manifest is: until then the
    /// one that is here is the better answer to who asks in an outage.
    pub fn announce_tag(&self, tag: Tag, record: TagRecord) {
        let mut announced = lock(&self.announced);
        // Anyone may ask about any tag: what is remembered must not grow without bound.
        if announced.len() >= ANNOUNCED {
            announced.clear();
        }
        announced.insert(tag, record);
    }

    pub fn set_tag(&self, tag: Tag, record: TagRecord) {
        // A new time alone is worth a line only now and then: it matters to `fresh_for` after a restart.
        let minor = self.tag(&tag).is_some_and(|old| {
            old.digest == record.digest && record.checked.abs_diff(old.checked) < 5
        });
        if minor {
            lock(&self.known).tags.insert(tag, record);
        } else {
            self.write(Line::Tag { tag, record });
        }
    }

    pub fn forget_tag(&self, tag: &Tag) {
        if self.tag(tag).is_some() {
            self.write(Line::Forget(tag.clone()));
        }
    }

    pub fn set_public(&self) {
        let recent = self
            .public_since()
            .is_some_and(|age| age < Duration::from_secs(5));
        if !recent {
            self.write(Line::Public(now()));
        }
    }

    pub fn set_not_public(&self) {
        let recent = self
            .refused_since()
            .is_some_and(|age| age < Duration::from_secs(5));
        if !recent {
            self.write(Line::NotPublic(now()));
        }
    }

    /// Another member says that the repository was public at that time. Counts only where nothing is known here.
    pub fn learn_public(&self, at: u64) {
        if self.public_since().is_none() && self.refused_since().is_none() {
            self.write(Line::Public(at));
        }
    }

    /// The same for one that was not.
    pub fn learn_not_public(&self, at: u64) {
        if self.public_since().is_none() && self.refused_since().is_none() {
            self.write(Line::NotPublic(at));
        }
    }

    fn write(&self, line: Line) {
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        {
            // Together, so that the file tells the same order as the memory.
            let mut known = lock(&self.known);
            known.apply(line);
            self.log.lines.push(&text);
        }
        // While the log is another larder's, the lines wait.
        if self.layout.claim().is_held() {
            let path = self.path.clone();
            let log = Arc::clone(&self.log);
            tokio::task::spawn_blocking(move || log.write(&path));
        }
    }

    /// Waits until everything that was said so far is in the file (blocking).
    pub fn flush(&self) {
        if self.layout.claim().is_held() {
            self.log.write(&self.path);
        }
    }
}

impl Log {
    /// Appends what is waiting (blocking).
    fn write(&self, path: &Path) {
        let _one = lock(&self.writing);
        if let Err(error) = self.lines.write(|lines| append(path, lines)) {
            tracing::debug!(path = %path.display(), %error, "a repository's log was not written, and will be again");
        }
    }
}

fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    let open = || File::options().append(true).create(true).open(path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            open()?
        }
        done => done?,
    };
    file.write_all(text)
}

/// All repositories, loaded when first asked for.
#[derive(Debug)]
pub struct Repositories {
    layout: Arc<Layout>,
    loaded: Mutex<LruCache<(RegistryName, Repository), Arc<RepositoryRecord>>>,
}

/// Repositories held in memory at once. One that falls out is read again from its log.
const LOADED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Of these at most so many are passed over because their lines are not written yet.
const UNWRITTEN: usize = 256;

impl Repositories {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self {
            layout,
            loaded: Mutex::new(LruCache::new(LOADED)),
        }
    }

    /// Adds what the logs say to the records that were made while they were another larder's (blocking).
    pub(super) fn take_over(&self) {
        let loaded: Vec<_> = lock(&self.loaded)
            .iter()
            .map(|(_, record)| Arc::clone(record))
            .collect();
        for record in loaded {
            record.take_over();
        }
    }

    /// Writes what the disk has not taken so far (blocking).
    pub fn flush(&self) {
        let loaded: Vec<_> = lock(&self.loaded)
            .iter()
            .map(|(_, record)| Arc::clone(record))
            .collect();
        for record in loaded {
            record.flush();
        }
    }

    /// The record of one repository. Reads a small file the first time.
    pub fn get(&self, registry: &RegistryName, repository: &Repository) -> Arc<RepositoryRecord> {
        let key = (registry.clone(), repository.clone());
        let mut loaded = lock(&self.loaded);
        if let Some(record) = loaded.get(&key) {
            return Arc::clone(record);
        }
        let path = self.layout.repository_log(registry, repository);
        let record = Arc::new(RepositoryRecord::load(&self.layout, path));
        let mut fallen = loaded.push(key, Arc::clone(&record));
        // What is in memory alone must not be forgotten. A disk that takes nothing does so for more than a few.
        for _ in 0..UNWRITTEN {
            match fallen {
                Some((key, fell)) if !fell.log.lines.waiting().is_empty() => {
                    fallen = loaded.push(key, fell);
                }
                _ => break,
            }
        }
        record
    }
}

#[cfg(test)]
mod tests;

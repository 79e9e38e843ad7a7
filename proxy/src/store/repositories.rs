//! What is known of each repository: the digests that are proven to be in it, its tags, and whether it is public.
//!
//! A digest alone opens nothing: a client gets content only through a repository that is known to hold it (promise
//! P16). Each repository has one append-only log of JSON lines. The newest line about a thing wins, and a torn last
//! line is skipped. A log that is mostly history is rewritten when it is read. A lost line costs a question upstream.

mod held;
mod list;
mod log;
mod reading;
mod said;
mod search;
mod sweep;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use larder_shared::{Digest, Link, RegistryName, Repository, Tag, TagRecord};
use lru::LruCache;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::{
    held::{Held, Name},
    log::{Log, Writers},
    reading::Reading,
    said::Said,
};
pub use self::{
    list::Repositories,
    search::{HeldAs, Holding},
};
use super::layout::Layout;
use crate::clock::{unix_age, unix_now};

/// A line of a log.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Link(Link),
    Tag {
        tag: Tag,
        record: TagRecord,
    },
    /// What the registry said of a tag whose manifest is not here.
    Said {
        tag: Tag,
        record: TagRecord,
    },
    /// What a list of the registry says of a tag; `checked` is when the registry was asked for the list.
    Listed {
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
pub(super) struct Known {
    links: HashMap<Digest, Link>,
    tags: HashMap<Tag, TagRecord>,
    said: Said,
    listed: Said,
    public: Option<u64>,
    refused: Option<u64>,
}

impl Known {
    /// What a log says, and how many lines it has.
    pub(super) fn read(text: &[u8]) -> (Self, usize) {
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
                // A record with a time in the future is no newer one: the clock was wrong when it was written.
                let counts = self.tags.get(&tag).is_none_or(|known| {
                    known.checked <= record.checked || unix_age(known.checked).is_none()
                });
                self.said.came(&tag, &record);
                self.listed.came(&tag, &record);
                if counts {
                    self.tags.insert(tag, record);
                }
            }
            Line::Said { tag, record } => self.said.put(tag, record),
            Line::Listed { tag, record } => self.listed.put(tag, record),
            Line::Forget(tag) => {
                self.tags.remove(&tag);
                self.said.forget(&tag);
                self.listed.forget(&tag);
            }
            Line::Public(at) => (self.public, self.refused) = (Some(at), None),
            Line::NotPublic(at) => (self.public, self.refused) = (None, Some(at)),
        }
    }

    /// Whether nothing of the repository is here: no link, no tag, no answer about a tag. Such a name leaves nothing on
    /// disk, since anyone may ask for any name.
    fn holds_nothing(&self) -> bool {
        let unsaid = self.said.is_empty() && self.listed.is_empty();
        self.links.is_empty() && self.tags.is_empty() && unsaid
    }

    fn verdicts(&self) -> impl Iterator<Item = Line> + use<> {
        let public = self.public.map(Line::Public);
        public.into_iter().chain(self.refused.map(Line::NotPublic))
    }

    /// Adds the lines that were learned while another larder had the log, and returns those that count. A refusal that
    /// the other larder heard later than a line's `Public` wins.
    pub(super) fn merge(&mut self, text: &[u8]) -> Vec<u8> {
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

    /// A log that says all of this, without lines that no longer count.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.lines().for_each(|line| put_line(&mut text, &line));
        text
    }

    fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        let links = self.links.values().cloned().map(Line::Link);
        let tags = self.tags.iter().map(|(tag, record)| Line::Tag {
            tag: tag.clone(),
            record: record.clone(),
        });
        let said = self.said.words();
        let listed = self.listed.words();
        links
            .chain(tags)
            .chain(said.map(|(tag, record)| Line::Said { tag, record }))
            .chain(listed.map(|(tag, record)| Line::Listed { tag, record }))
            .chain(self.public.map(Line::Public))
            .chain(self.refused.map(Line::NotPublic))
    }
}

/// What is known of one repository. Questions are answered from memory. New lines go to memory at once, and to the log
/// on a thread of its own.
#[derive(Debug)]
pub struct RepositoryRecord {
    name: Name,
    layout: Arc<Layout>,
    known: Mutex<Known>,
    /// Manifests that tags were said to point to before the manifests were here. They may never come.
    announced: Mutex<LruCache<Tag, TagRecord>>,
    log: Arc<Log>,
    writers: Writers,
    held: Arc<Held>,
    reading: watch::Sender<Reading>,
    /// There is a log, but it could not be read: `known` is incomplete.
    unreadable: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Announced tags that are remembered of a repository.
const ANNOUNCED: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Whether the record's time is in the future: the clock was wrong when it was written.
fn is_to_come(word: &TagRecord) -> bool {
    unix_age(word.checked).is_none()
}

/// Serializing these types to memory cannot fail.
fn put_line(text: &mut Vec<u8>, line: &Line) {
    let _ = serde_json::to_writer(&mut *text, line);
    text.push(b'\n');
}

impl RepositoryRecord {
    /// A record that does not know yet what its log says.
    fn unread(all: &Repositories, name: (RegistryName, Repository)) -> Self {
        let path = all.layout.repository_log(&name.0, &name.1);
        Self {
            name: Name::new(name),
            layout: Arc::clone(&all.layout),
            known: Mutex::default(),
            announced: Mutex::new(LruCache::new(ANNOUNCED)),
            log: Arc::new(Log::new(path)),
            writers: all.writers.clone(),
            held: Arc::clone(&all.held),
            reading: watch::Sender::new(Reading::Not),
            unreadable: AtomicBool::new(false),
        }
    }

    /// Adds what the repository holds to the list of its registry.
    fn note_held(&self) {
        let links: Vec<Digest> = lock(&self.known).links.keys().copied().collect();
        for digest in links {
            self.held.note(&self.name, &digest);
        }
    }

    /// What is known of a digest that the repository holds.
    pub fn link(&self, digest: &Digest) -> Option<Link> {
        lock(&self.known).links.get(digest).cloned()
    }

    /// What a tag pointed to when its registry was last asked, or as another member reported it.
    pub fn tag(&self, tag: &Tag) -> Option<TagRecord> {
        lock(&self.known).tags.get(tag).cloned()
    }

    /// How long ago the registry last served this repository to an anonymous client, if that was its last word. Where
    /// the clock was wrong then, the age is unknown, and it was public all the same.
    pub fn public_since(&self) -> Option<Duration> {
        let at = lock(&self.known).public?;
        Some(unix_age(at).unwrap_or(Duration::MAX))
    }

    /// How long ago the registry refused an anonymous client, if that was its last word.
    pub fn refused_since(&self) -> Option<Duration> {
        unix_age(lock(&self.known).refused?)
    }

    /// Records that the repository holds a digest. A digest that is known as a manifest stays one. Tags that were
    /// announced to point to it count from now on. They are returned, since other members have not heard of them yet.
    pub fn add_link(&self, link: Link) -> Vec<(Tag, TagRecord)> {
        let known = self.link(&link.digest);
        let new = known.is_none_or(|known| {
            known.size != link.size
                || (link.media_type.is_some() && known.media_type != link.media_type)
        });
        let digest = link.digest;
        if new {
            self.write(Line::Link(link));
            self.held.note(&self.name, &digest);
        }
        self.arrived(&digest)
    }

    /// Takes note that the manifest with this digest is here. Tags that were announced to point to it do so now, and
    /// are returned.
    pub fn arrived(&self, digest: &Digest) -> Vec<(Tag, TagRecord)> {
        let announced = lock(&self.announced);
        let points_here = |(_, record): &(&Tag, &TagRecord)| record.digest == *digest;
        let arrived: Vec<_> = announced
            .iter()
            .filter(points_here)
            .map(|(tag, record)| (tag.clone(), record.clone()))
            .collect();
        drop(announced);
        for (tag, record) in &arrived {
            self.set_tag(tag.clone(), record.clone());
        }
        arrived
    }

    /// Records that a tag points to a manifest that is not here. The record counts once that manifest is here: until
    /// then the tag's older manifest is the better answer in an outage.
    pub fn announce_tag(&self, tag: Tag, record: TagRecord) {
        // A client may ask about any tag, so the number of announced tags has a bound.
        lock(&self.announced).put(tag, record);
    }

    /// Records what a tag points to.
    pub fn set_tag(&self, tag: Tag, record: TagRecord) {
        lock(&self.announced).pop(&tag);
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

    /// Records what the registry says of a tag whose manifest is not asked for.
    pub fn say_tag(&self, tag: Tag, record: TagRecord) {
        if !lock(&self.known).said.is_minor(&tag, &record) {
            self.write(Line::Said { tag, record });
        }
    }

    /// Records what a registry's list says of a tag whose manifest is here. It is as old as the list, and wins over
    /// what the registry said before the list was made.
    pub fn list_tag(&self, tag: Tag, record: TagRecord) {
        let known = {
            let mut known = lock(&self.known);
            let later = |word: Option<&TagRecord>| {
                word.is_some_and(|word| word.checked > record.checked && !is_to_come(word))
            };
            later(known.tags.get(&tag))
                || later(known.listed.get(&tag))
                || known.listed.is_minor(&tag, &record)
        };
        if !known {
            self.write(Line::Listed { tag, record });
        }
    }

    /// What a list says of a tag, if that is newer than the tag's record, and names another digest or the record is a
    /// member's.
    pub fn listed_since(&self, tag: &Tag) -> Option<TagRecord> {
        let known = lock(&self.known);
        let listed = known.listed.get(tag)?;
        let newer = known.tags.get(tag).is_none_or(|known| {
            let other = known.digest != listed.digest || known.checked == 0;
            other && known.checked < listed.checked
        });
        (newer && !is_to_come(listed)).then(|| listed.clone())
    }

    /// The last thing that the registry said of a tag, whether its manifest is here or not. What another member
    /// reported does not count.
    pub fn last_said(&self, tag: &Tag) -> Option<TagRecord> {
        let known = lock(&self.known);
        let words = [known.tags.get(tag), known.said.get(tag)];
        let said = words.into_iter().flatten().filter(|word| word.checked > 0);
        said.max_by_key(|word| word.checked).cloned()
    }

    /// Takes note that the registry has no such tag any more.
    pub fn forget_tag(&self, tag: &Tag) {
        let listed = lock(&self.known).listed.get(tag).is_some();
        if listed || self.tag(tag).is_some() || self.last_said(tag).is_some() {
            self.write(Line::Forget(tag.clone()));
        }
    }

    /// Takes note that the registry has just served the repository to an anonymous client.
    pub fn set_public(&self) {
        let recent = self
            .public_since()
            .is_some_and(|age| age < Duration::from_secs(5));
        if !recent {
            self.write(Line::Public(unix_now()));
        }
    }

    /// Takes note that the registry has just refused an anonymous client.
    pub fn set_not_public(&self) {
        let recent = self
            .refused_since()
            .is_some_and(|age| age < Duration::from_secs(5));
        if !recent {
            self.write(Line::NotPublic(unix_now()));
        }
    }

    /// Takes note that another member says that the repository was public at that time. It counts only if nothing is
    /// known here.
    pub fn learn_public(&self, at: u64) {
        if self.public_since().is_none() && self.refused_since().is_none() {
            self.write(Line::Public(at));
        }
    }

    /// As [`Self::learn_public`], for a refusal.
    pub fn learn_not_public(&self, at: u64) {
        if self.public_since().is_none() && self.refused_since().is_none() {
            self.write(Line::NotPublic(at));
        }
    }

    fn write(&self, line: Line) {
        let mut text = Vec::new();
        {
            // Under one lock, so that the file has the same order as the memory.
            let mut known = lock(&self.known);
            let first = self.is_read() && known.holds_nothing();
            if first {
                known
                    .verdicts()
                    .for_each(|verdict| put_line(&mut text, &verdict));
            }
            put_line(&mut text, &line);
            known.apply(line);
            if first && known.holds_nothing() {
                return;
            }
            self.log.lines.push(&text, || known.text());
        }
        // While the log is another larder's, or is not read yet, the lines wait.
        if self.is_read() {
            self.writers.write(&self.log);
        }
    }

    /// Whether something is known to be in the repository.
    pub fn holds_something(&self) -> bool {
        !lock(&self.known).holds_nothing()
    }

    /// Writes all lines that wait to the file (blocking). While the log is not read, it is not known what the file
    /// says, and nothing is written.
    pub fn flush(&self) {
        if self.is_read() {
            self.log.write();
        }
    }
}

#[cfg(test)]
mod tests;

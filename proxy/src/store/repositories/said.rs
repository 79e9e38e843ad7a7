//! What a registry said that tags point to, besides its answers to pulls. There are two kinds: answers to a client that
//! has the manifest and asks for no more, and lists of tags.
//!
//! In an outage, answers of the first kind serve the same question, a HEAD. The second kind is newer than an older
//! answer. Neither gives a right to content, and neither keeps content in the store.

use std::{collections::HashMap, time::Duration};

use larder_shared::{Tag, TagRecord};

use crate::clock::unix_age;

/// The most tags of a repository of which this is kept: a client may ask for any tag.
const MOST: usize = 256;

/// How long a record is kept if the registry does not say it again.
const KEPT: Duration = Duration::from_hours(30 * 24);

/// A client asks each time a pod starts. The log gets the same answer only once in so many seconds.
const AGAIN: u64 = 24 * 3600;

#[derive(Debug)]
struct Word {
    record: TagRecord,
    /// The time in the log's line.
    written: u64,
}

#[derive(Default, Debug)]
pub(super) struct Said(HashMap<Tag, Word>);

impl Said {
    pub(super) fn get(&self, tag: &Tag) -> Option<&TagRecord> {
        self.0.get(tag).map(|word| &word.record)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a record is worth no line: the log has a line with the same digest that is not old. If so, the record is
    /// kept in memory alone.
    pub(super) fn is_minor(&mut self, tag: &Tag, record: &TagRecord) -> bool {
        match self.0.get_mut(tag) {
            Some(word)
                if word.record.digest == record.digest
                    && record.checked.abs_diff(word.written) < AGAIN =>
            {
                word.record = record.clone();
                true
            }
            _ => false,
        }
    }

    pub(super) fn put(&mut self, tag: Tag, record: TagRecord) {
        if self.0.len() >= MOST && !self.0.contains_key(&tag) {
            let oldest = self.0.iter().min_by_key(|(_, word)| word.record.checked);
            if let Some(oldest) = oldest.map(|(tag, _)| tag.clone()) {
                self.0.remove(&oldest);
            }
        }
        let written = record.checked;
        self.0.insert(tag, Word { record, written });
    }

    pub(super) fn forget(&mut self, tag: &Tag) {
        self.0.remove(tag);
    }

    /// Takes note that the tag's manifest is here. A record that is not newer than that is forgotten.
    pub(super) fn came(&mut self, tag: &Tag, record: &TagRecord) {
        let over = self
            .get(tag)
            .is_some_and(|said| said.checked <= record.checked || unix_age(said.checked).is_none());
        if over {
            self.forget(tag);
        }
    }

    pub(super) fn forget_old(&mut self) {
        self.0
            .retain(|_, word| unix_age(word.record.checked).is_some_and(|age| age < KEPT));
    }

    /// Forgets records of manifests that are not here any more.
    pub(super) fn retain(&mut self, here: impl Fn(&TagRecord) -> bool) {
        self.0.retain(|_, word| here(&word.record));
    }

    pub(super) fn words(&self) -> impl Iterator<Item = (Tag, TagRecord)> + '_ {
        let words = self.0.iter();
        words.map(|(tag, word)| (tag.clone(), word.record.clone()))
    }
}

#[cfg(test)]
mod tests {
    use larder_shared::Digest;

    use super::*;
    use crate::clock::unix_now;

    fn record(of: &[u8], checked: u64) -> TagRecord {
        TagRecord {
            digest: Digest::sha256(of),
            size: 1,
            media_type: "m".into(),
            checked,
        }
    }

    fn tag(number: usize) -> Tag {
        format!("v{number}").parse().unwrap()
    }

    #[test]
    fn the_oldest_word_makes_room_for_the_newest() {
        let mut said = Said::default();
        let now = unix_now();
        for number in 0..=MOST {
            said.put(tag(number), record(b"x", now - 1000 + number as u64));
        }
        assert_eq!(said.len(), MOST);
        assert!(said.get(&tag(0)).is_none() && said.get(&tag(1)).is_some());
        // A tag that is known needs no more room.
        said.put(tag(1), record(b"y", now));
        assert!(said.get(&tag(2)).is_some());
    }

    #[test]
    fn the_same_word_is_written_once_a_day() {
        let mut said = Said::default();
        assert!(!said.is_minor(&tag(1), &record(b"x", 1000)));
        said.put(tag(1), record(b"x", 1000));
        assert!(said.is_minor(&tag(1), &record(b"x", 2000)));
        assert_eq!(said.get(&tag(1)).unwrap().checked, 2000);
        assert!(!said.is_minor(&tag(1), &record(b"y", 2000)));
        assert!(!said.is_minor(&tag(1), &record(b"x", 1000 + AGAIN)));
    }

    #[test]
    fn a_manifest_that_comes_ends_what_was_said_before_it() {
        let mut said = Said::default();
        let now = unix_now();
        said.put(tag(1), record(b"x", now - 10));
        // A member's record, which has no time.
        said.came(&tag(1), &record(b"y", 0));
        assert!(said.get(&tag(1)).is_some());
        said.came(&tag(1), &record(b"x", now));
        assert!(said.is_empty());
    }

    #[test]
    fn what_is_not_said_again_is_forgotten() {
        let mut said = Said::default();
        let now = unix_now();
        said.put(tag(1), record(b"x", now - KEPT.as_secs()));
        said.put(tag(2), record(b"x", now - 10));
        // A time in the future: the clock was wrong.
        said.put(tag(3), record(b"x", now + 9000));
        said.forget_old();
        assert_eq!(said.len(), 1);
        assert!(said.get(&tag(2)).is_some());
    }
}

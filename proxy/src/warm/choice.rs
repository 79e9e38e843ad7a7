//! Which images of a repository belong to a set: a pure choice by its list and the set's rules, with a reason for every
//! tag.
//!
//! Named tags come first, then the newest of each pattern. `count` counts images, so tags of one digest take one place.
//! If the list has no digests, the choice names the tags to ask for, and is made again with the answers.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use larder_shared::{
    Digest, Tag,
    warm::{ListedTag, Listing},
};

use crate::config::FromRepository;

/// Further tags of one image are not listed.
const MOST_TAGS: usize = 100;

/// The result of a question for a tag's digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolved {
    Digest(Digest),
    /// The registry does not have it.
    Missing,
    /// The registry could not be asked, or did not answer.
    Failed(String),
}

/// What is known of tags besides the list.
pub type Answers = HashMap<Tag, Resolved>;

/// The images, in the order in which they are fetched, and a reason for every tag.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    pub images: Vec<Chosen>,
    /// Every tag of the list, the named ones first.
    pub tags: Vec<(Tag, Why)>,
    /// Chosen tags whose digest is not known: the registry has to be asked.
    pub unresolved: Vec<Tag>,
}

/// One image of the choice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Absent if the registry could not be asked for it.
    pub digest: Option<Digest>,
    /// All known tags of the image. The first is the one by which it was chosen.
    pub tags: Vec<Tag>,
    /// Bytes, if the list tells them.
    pub size: Option<u64>,
    pub why: Why,
}

/// Why a tag was chosen, or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    Named,
    Newest {
        pattern: String,
        place: usize,
        count: usize,
    },
    /// It is the same image as this chosen tag.
    SameAs(Tag),
    Skipped(String),
    TooOld {
        days: u64,
    },
    Older {
        pattern: String,
        count: usize,
    },
    NoMatch,
    Missing,
    Failed(String),
}

impl Why {
    /// Whether the tag's image belongs to the set.
    pub const fn is_chosen(&self) -> bool {
        matches!(self, Self::Named | Self::Newest { .. } | Self::SameAs(_))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named => f.write_str("named in `tags`"),
            Self::Newest {
                pattern,
                place,
                count,
            } => write!(f, "number {place} of the newest {count} for {pattern}"),
            Self::SameAs(tag) => write!(f, "the same image as {tag}"),
            Self::Skipped(pattern) => write!(f, "skipped by {pattern}"),
            Self::TooOld { days } => write!(f, "pushed {days} days ago, before `max_age`"),
            Self::Older { pattern, count } => {
                write!(f, "older than the newest {count} for {pattern}")
            }
            Self::NoMatch => f.write_str("no pattern of `newest` matches"),
            Self::Missing => f.write_str("the registry does not have it"),
            Self::Failed(why) => write!(f, "the registry could not be asked: {why}"),
        }
    }
}

const DAY: u64 = 86_400;

/// Chooses from `listing`. `answers` are those to an earlier choice's `unresolved`; `now` is in Unix seconds.
pub fn choose(source: &FromRepository, listing: &Listing, answers: &Answers, now: u64) -> Choice {
    let mut known = HashSet::new();
    let listed: Vec<&ListedTag> = listing
        .tags
        .iter()
        .filter(|listed| known.insert(&listed.tag))
        .collect();
    let mut choosing = Choosing {
        listed: listed.iter().map(|listed| (&listed.tag, *listed)).collect(),
        answers,
        whys: HashMap::new(),
        choice: Choice::default(),
    };
    for tag in &source.tags {
        choosing.take(tag, Why::Named);
    }
    let skipped = |tag: &Tag| source.skip.iter().find(|skip| skip.matches(tag.as_str()));
    let too_old = |listed: &ListedTag| {
        let age = now.saturating_sub(listed.pushed?);
        (age > source.max_age?.as_secs()).then_some(age / DAY)
    };
    for rule in &source.newest {
        let mut candidates = Vec::new();
        for listed in &listed {
            let Some(version) = rule.pattern.read(listed.tag.as_str()) else {
                continue;
            };
            let not = match (skipped(&listed.tag), too_old(listed)) {
                (Some(skip), _) => Why::Skipped(skip.to_string()),
                (None, Some(days)) => Why::TooOld { days },
                (None, None) => {
                    candidates.push((version, &listed.tag));
                    continue;
                }
            };
            choosing.say(&listed.tag, not);
        }
        candidates.sort_by(|a, b| b.cmp(a));
        choosing.newest(
            candidates.iter().map(|(_, tag)| *tag),
            rule.pattern.as_str(),
            rule.count,
        );
    }
    choosing.finish(&source.tags, &listed)
}

struct Choosing<'a> {
    listed: HashMap<&'a Tag, &'a ListedTag>,
    answers: &'a Answers,
    whys: HashMap<Tag, Why>,
    choice: Choice,
}

/// The identity of a tag's image, as far as it is known.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Which {
    Digest(Digest),
    /// Only the tag is known: another tag may be the same image.
    Unknown(Tag),
}

impl<'a> Choosing<'a> {
    fn digest(&self, tag: &Tag) -> Option<Digest> {
        let listed = self.listed.get(tag).and_then(|listed| listed.digest);
        listed.or_else(|| match self.answers.get(tag) {
            Some(Resolved::Digest(digest)) => Some(*digest),
            _ => None,
        })
    }

    fn is_missing(&self, tag: &Tag) -> bool {
        self.digest(tag).is_none() && self.answers.get(tag) == Some(&Resolved::Missing)
    }

    /// A reason to choose a tag replaces any other reason. Otherwise the first reason stays.
    fn say(&mut self, tag: &Tag, why: Why) {
        let said = self.whys.get(tag);
        if said.is_none_or(|said| !said.is_chosen() && why.is_chosen()) {
            self.whys.insert(tag.clone(), why);
        }
    }

    fn newest(&mut self, candidates: impl Iterator<Item = &'a Tag>, pattern: &str, count: usize) {
        let mut taken: Vec<(Which, &Tag)> = Vec::new();
        for tag in candidates {
            if self.is_missing(tag) {
                self.say(tag, Why::Missing);
                continue;
            }
            let which = self
                .digest(tag)
                .map_or_else(|| Which::Unknown(tag.clone()), Which::Digest);
            if let Some((_, first)) = taken.iter().find(|(other, _)| *other == which) {
                let first = (*first).clone();
                self.say(tag, Why::SameAs(first));
                continue;
            }
            if taken.len() == count {
                let pattern = pattern.to_owned();
                self.say(tag, Why::Older { pattern, count });
                continue;
            }
            taken.push((which, tag));
            let why = Why::Newest {
                pattern: pattern.to_owned(),
                place: taken.len(),
                count,
            };
            self.take(tag, why);
        }
    }

    /// Adds the tag's image at the end of the choice, unless it is there already.
    fn take(&mut self, tag: &Tag, why: Why) {
        let Some(digest) = self.digest(tag) else {
            match self.answers.get(tag) {
                Some(Resolved::Missing) => self.say(tag, Why::Missing),
                Some(Resolved::Failed(error)) => {
                    self.say(tag, Why::Failed(error.clone()));
                    self.push(None, tag, Why::Failed(error.clone()));
                }
                _ => {
                    if !self.choice.unresolved.contains(tag) {
                        self.choice.unresolved.push(tag.clone());
                    }
                }
            }
            return;
        };
        self.say(tag, why.clone());
        self.push(Some(digest), tag, why);
    }

    fn push(&mut self, digest: Option<Digest>, tag: &Tag, why: Why) {
        let same = |image: &&mut Chosen| match digest {
            Some(_) => image.digest == digest,
            None => image.tags.contains(tag),
        };
        if let Some(image) = self.choice.images.iter_mut().find(same) {
            if !image.tags.contains(tag) {
                image.tags.push(tag.clone());
            }
            return;
        }
        let listed = self.listed.get(tag);
        self.choice.images.push(Chosen {
            digest,
            tags: vec![tag.clone()],
            size: listed.and_then(|listed| listed.size),
            why,
        });
    }

    /// Adds the other tags of the chosen images, and a reason for every remaining tag.
    fn finish(mut self, named: &[Tag], listed: &[&ListedTag]) -> Choice {
        let by_digest: HashMap<Digest, usize> = self
            .choice
            .images
            .iter()
            .enumerate()
            .filter_map(|(index, image)| Some((image.digest?, index)))
            .collect();
        for listed in listed {
            let tag = &listed.tag;
            let image = self.digest(tag).and_then(|digest| by_digest.get(&digest));
            if let Some(index) = image {
                let image = &mut self.choice.images[*index];
                // A registry may give one image any number of tags.
                if image.tags.len() < MOST_TAGS && !image.tags.contains(tag) {
                    image.tags.push(tag.clone());
                }
                let first = image.tags[0].clone();
                self.say(tag, Why::SameAs(first));
            }
            self.say(tag, Why::NoMatch);
        }
        let mut said = HashSet::new();
        let all = named.iter().chain(listed.iter().map(|listed| &listed.tag));
        for tag in all.filter(|tag| said.insert(*tag)) {
            if let Some(why) = self.whys.remove(tag) {
                self.choice.tags.push((tag.clone(), why));
            }
        }
        self.choice
    }
}

#[cfg(test)]
mod tests;

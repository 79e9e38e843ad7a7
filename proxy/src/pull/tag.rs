//! What a tag stands for: what is known, whether the registry has to be asked, and what its answer means.
//!
//! The decisions are those of [`crate::tags`]; the acts around them are here. Nothing is fetched.

use std::time::Duration;

use larder_shared::{Reference, Tag};

use super::{Pull, PullError, Pulled};
use crate::{
    access::Place,
    clock::unix_age,
    metrics::{Outcome, Tier},
    store::TagRecord,
    tags::{self, After, Before, Policy, TagAnswer, Word},
    upstream::Subject,
};

/// A check of a tag that nothing can bridge takes as long as an answer of upstream may: a client that asks the registry
/// itself waits for it as well.
const UNBRIDGED: Duration = Duration::from_secs(4);

/// What is known of a tag before the registry is asked.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) record: Option<TagRecord>,
    /// How long ago it was checked; [`Duration::MAX`] where this node's clock does not know, and where a list has said
    /// something else since: a list is no check.
    pub(super) age: Duration,
    pub(super) policy: Policy,
}

impl Cached {
    /// What the registry's word means for it.
    pub(super) fn conclude(&self, word: Word) -> After {
        tags::conclude(self.record.clone(), word, self.policy)
    }
}

/// What a tag stands for, and how that came to be known.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) answer: Known,
    /// Which endpoint was asked, if one answered.
    pub(super) endpoint: Option<usize>,
    /// Whether it was the origin, or one whose word the operator takes for the origin's.
    pub(super) proves: bool,
    pub(super) cached: Cached,
}

impl Resolved {
    fn unasked(answer: Known, cached: Cached) -> Self {
        Self {
            answer,
            endpoint: None,
            proves: false,
            cached,
        }
    }
}

/// Either known without a question, or concluded from what the registry said.
#[derive(Debug)]
pub(super) enum Known {
    Fresh(Box<Pulled>),
    Concluded(After),
}

impl Pull {
    /// What a tag stands for, before anything is fetched: what is known, or what the registry has just said.
    pub(super) async fn resolve_tag(
        &self,
        place: &Place,
        tag: &Tag,
        head: bool,
    ) -> Result<Resolved, PullError> {
        let cached = self.cached_tag(place, tag);
        let config = self.config.load();
        let fresh_for = config.fresh_for(place.registry.as_str(), tag.as_str());
        drop(config);
        let reference = Reference::Tag(tag.clone());
        if self.proven(place, &reference)?
            && let Before::Fresh(known) =
                tags::decide(cached.record.as_ref(), cached.age, fresh_for)
            && let Some(pulled) = self.stored_manifest(place, &known.digest, head).await
        {
            let pulled = pulled.from(Tier::Node, Outcome::Hit);
            return Ok(Resolved::unasked(Known::Fresh(Box::new(pulled)), cached));
        }
        // A first GET is its own question: asking with HEAD first would only add a round trip. Where there are other
        // members, the question is small and the manifest comes from them.
        if cached.record.is_none() && !head && !self.cluster.has_others() {
            let fetch = Known::Concluded(After::Fetch);
            return Ok(Resolved::unasked(fetch, cached));
        }
        // Boxed, as whatever is asked beyond memory: every request carries room for it.
        let stale = Box::pin(self.has_stale(place, tag, &cached));
        let optional = stale.await;
        let within = self.tag_within(optional);
        let asking = self.tags.ask(place, tag, within, optional);
        let asked = Box::pin(asking).await;
        self.count_word(cached.record.as_ref(), &asked.word);
        self.note_tag(place, tag, &asked);
        // A mirror's word: the origin has to say so too. Without a digest in the word, the fetch that follows proves
        // it.
        if let Word::Descriptor(_) = &asked.word
            && !asked.proves
            && !self.proven(place, &reference)?
        {
            let subject = Subject::Manifest(reference);
            self.access.prove(place, subject).await?;
        }
        Ok(Resolved {
            answer: Known::Concluded(cached.conclude(asked.word)),
            endpoint: asked.endpoint,
            proves: asked.proves,
            cached,
        })
    }

    /// What the origin says that a tag stands for. A mirror's word has led to nothing and is dropped.
    pub(super) async fn resolve_tag_at_origin(
        &self,
        place: &Place,
        tag: &Tag,
        cached: &Cached,
    ) -> After {
        let stale = self.has_stale(place, tag, cached);
        let within = self.tag_within(stale.await);
        let asked = Box::pin(self.tags.ask_origin(place, tag, within)).await;
        self.note_tag(place, tag, &asked);
        cached.conclude(asked.word)
    }

    fn cached_tag(&self, place: &Place, tag: &Tag) -> Cached {
        let config = self.config.load();
        let listed = place.record.listed_since(tag);
        let checked = place.record.tag(tag).filter(|_| listed.is_none());
        let age = checked.as_ref().and_then(|record| unix_age(record.checked));
        Cached {
            record: listed.or(checked),
            age: age.unwrap_or(Duration::MAX),
            policy: Policy {
                when_unreachable: config.tags.when_unreachable,
                when_deleted: config.tags.when_deleted,
            },
        }
    }

    /// What an answer about a tag says of the caller's right.
    fn note_tag(&self, place: &Place, tag: &Tag, asked: &TagAnswer) {
        let named = Reference::Tag(tag.clone());
        match &asked.word {
            Word::Failed(failure) => {
                self.access.met(place, &Subject::Manifest(named), failure);
            }
            Word::Descriptor(now) if asked.proves => {
                let served = [named, Reference::Digest(now.digest)];
                self.access.accepted(place, &served);
            }
            Word::Descriptor(_) | Word::NoDigest => {}
        }
    }

    /// How long a check of a tag may take: what the operator says, where an old answer or another member can take the
    /// place of the registry's; else all the time that there is.
    fn tag_within(&self, stale: bool) -> Duration {
        if stale || self.cluster.is_there() {
            self.config.load().tags.timeout
        } else {
            UNBRIDGED
        }
    }
}

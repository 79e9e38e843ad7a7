//! Resolves tags: what is known, whether the registry has to be asked, and what its answer means.
//!
//! [`crate::tags`] makes the decisions, and this module carries them out. Nothing is fetched.

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

/// If nothing could replace the registry's answer, a check of a tag may take this long. A client that asks the registry
/// itself would wait as well.
const UNBRIDGED: Duration = Duration::from_secs(4);

/// What is known of a tag before the registry is asked.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) record: Option<TagRecord>,
    /// How long ago the registry was asked about the tag. [`Duration::MAX`] if this node's clock cannot tell, or if a
    /// list has named another digest since: a list is no check.
    pub(super) age: Duration,
    pub(super) policy: Policy,
}

impl Cached {
    /// Decides what the registry's word means for this record.
    pub(super) fn conclude(&self, word: Word) -> After {
        tags::conclude(self.record.clone(), word, self.policy)
    }
}

/// What a tag stands for, and how this was found out.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) answer: Known,
    /// The endpoint that answered, if any.
    pub(super) endpoint: Option<usize>,
    /// Whether the answer came from the origin, or from an endpoint that the operator trusts as much.
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

/// The result: known without asking, or concluded from the registry's word.
#[derive(Debug)]
pub(super) enum Known {
    Fresh(Box<Pulled>),
    Concluded(After),
}

impl Pull {
    /// Resolves a tag before anything is fetched, from what is known or from the registry's answer.
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
        // A first GET goes straight to the manifest: a HEAD before it would only add a round trip. In a cluster, the
        // HEAD is worth it, since the manifest can then come from other members.
        if cached.record.is_none() && !head && !self.cluster.has_others() {
            let fetch = Known::Concluded(After::Fetch);
            return Ok(Resolved::unasked(fetch, cached));
        }
        // Boxed, like all steps that go beyond memory, since every request's future would reserve room for it.
        let stale = Box::pin(self.has_stale(place, tag, &cached));
        let optional = stale.await;
        let within = self.tag_within(optional);
        let asking = self.tags.ask(place, tag, within, optional);
        let asked = Box::pin(asking).await;
        self.count_word(cached.record.as_ref(), &asked.word);
        self.note_tag(place, tag, &asked);
        // A mirror's answer proves no right, so the origin is asked too. If the answer has no digest, the fetch proves
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

    /// Asks the origin what a tag stands for. The mirror named a manifest that cannot be had, so its answer is dropped.
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

    /// Records what an answer about a tag says of the caller's right.
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

    /// How long a check of a tag may take. The operator's limit applies if an old answer or another member could
    /// replace the registry's answer; otherwise [`UNBRIDGED`] does.
    fn tag_within(&self, stale: bool) -> Duration {
        if stale || self.cluster.is_there() {
            self.config.load().tags.timeout
        } else {
            UNBRIDGED
        }
    }
}

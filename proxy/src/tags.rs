//! Tags: what a tag points to, and how old that knowledge may be.
//!
//! A tag is the only mutable thing in a registry; everything else is addressed by its content. What to do about a tag
//! is a pure decision, taken twice: [`decide`] before the registry is asked, [`conclude`] after.

use std::{sync::Arc, time::Duration};

use larder_shared::{Digest, Reference, RegistryName, Repository, Tag, media};

use crate::{
    access::Place,
    clock::unix_now,
    coalesce::Coalesce,
    config::{WhenDeleted, WhenUnreachable},
    identity::Fingerprint,
    store::TagRecord,
    upstream::{Answer, Ask, Failure, Subject, Upstreams, Want},
};

/// The digest, size and type of a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

impl Descriptor {
    /// The record of a tag that points there, checked now.
    pub fn checked_now(&self) -> TagRecord {
        TagRecord {
            digest: self.digest,
            size: self.size,
            media_type: self.media_type.clone(),
            checked: unix_now(),
        }
    }
}

impl From<&TagRecord> for Descriptor {
    fn from(record: &TagRecord) -> Self {
        Self {
            digest: record.digest,
            size: record.size,
            media_type: record.media_type.clone(),
        }
    }
}

/// What to do before the registry is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Before {
    /// The tag is known and fresh enough: the registry is not asked.
    Fresh(TagRecord),
    /// Ask the registry where the tag points now.
    Ask,
}

/// Decides about a tag with this `record`, which was checked `age` ago and may be `fresh_for` old.
pub fn decide(record: Option<&TagRecord>, age: Duration, fresh_for: Duration) -> Before {
    match record {
        Some(record) if age < fresh_for => Before::Fresh(record.clone()),
        _ => Before::Ask,
    }
}

/// A registry's answer about a tag.
#[derive(Clone, Debug)]
pub enum Word {
    /// The tag points there.
    Descriptor(Descriptor),
    /// The tag exists, but the answer has no digest: the manifest itself must be fetched.
    NoDigest,
    Failed(Failure),
}

/// A registry's answer about a tag, and where it came from.
#[derive(Clone, Debug)]
pub struct TagAnswer {
    pub word: Word,
    /// Whether the answer proves the caller's right.
    pub proves: bool,
    /// The endpoint that gave the answer.
    pub endpoint: Option<usize>,
}

impl TagAnswer {
    const fn nobody(word: Word) -> Self {
        Self {
            word,
            proves: false,
            endpoint: None,
        }
    }
}

/// What to do after the registry was asked.
#[derive(Clone, Debug)]
pub enum After {
    Serve(Descriptor),
    /// Fetch the manifest by its tag.
    Fetch,
    /// Serve the known digest, and say that it may be old.
    Stale {
        known: TagRecord,
        failure: Failure,
    },
    /// Forget the tag and say that it does not exist.
    Forget(Failure),
    Fail(Failure),
}

/// The operator's choices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    pub when_unreachable: WhenUnreachable,
    pub when_deleted: WhenDeleted,
}

/// Decides what follows from the registry's answer about a tag with this `record`.
///
/// A refusal stays a refusal, whatever is known: a stale answer never gives a right (promise P14).
pub fn conclude(record: Option<TagRecord>, word: Word, policy: Policy) -> After {
    let failure = match word {
        Word::Descriptor(descriptor) => return After::Serve(descriptor),
        Word::NoDigest => return After::Fetch,
        Word::Failed(failure) => failure,
    };
    let serve = match failure {
        Failure::NotFound(_) => policy.when_deleted == WhenDeleted::Serve,
        Failure::Unreachable { .. } | Failure::Limited { .. } | Failure::Invalid { .. } => {
            policy.when_unreachable == WhenUnreachable::Serve
        }
        Failure::Refused(_) | Failure::Forbidden(_) | Failure::Unsatisfiable { .. } => false,
    };
    match (record, &failure) {
        (Some(known), _) if serve => After::Stale { known, failure },
        (Some(_), Failure::NotFound(_)) => After::Forget(failure),
        _ => After::Fail(failure),
    }
}

/// Only callers with the same credential share a question.
type Question = (RegistryName, Repository, Tag, Fingerprint, bool);

/// Asks registries about tags. Callers with the same credential that ask at the same time share one question.
#[derive(Debug)]
pub struct Tags {
    upstreams: Arc<Upstreams>,
    questions: Coalesce<Question, TagAnswer>,
}

impl Tags {
    pub fn new(upstreams: Arc<Upstreams>) -> Self {
        Self {
            upstreams,
            questions: Coalesce::default(),
        }
    }

    /// One HEAD upstream for `place`'s caller, bounded by `within`. `optional` means that a cached answer would do if
    /// the registry should be spared.
    pub async fn ask(
        &self,
        place: &Place,
        tag: &Tag,
        within: Duration,
        optional: bool,
    ) -> TagAnswer {
        let mut ask = question(place, tag);
        if optional {
            ask = ask.optional();
        }
        self.put(place, tag, ask, within).await
    }

    /// The same question to the origin alone, after a mirror's answer was of no use.
    pub async fn ask_origin(&self, place: &Place, tag: &Tag, within: Duration) -> TagAnswer {
        let mut ask = question(place, tag);
        ask.of_origin = true;
        self.put(place, tag, ask, within).await
    }

    async fn put(&self, place: &Place, tag: &Tag, mut ask: Ask, within: Duration) -> TagAnswer {
        let within = place.within(within);
        ask.within = Some(within);
        let of_origin = ask.of_origin;
        let late = Word::Failed(Failure::Unreachable {
            at: place.registry.to_string(),
            why: format!("no answer within {within:?}"),
        });
        let upstreams = Arc::clone(&self.upstreams);
        let question = async move {
            match tokio::time::timeout(within, upstreams.ask(&ask)).await {
                Ok(Ok(answer)) => {
                    let word = descriptor(&answer).map_or(Word::NoDigest, Word::Descriptor);
                    TagAnswer {
                        word,
                        proves: answer.proves,
                        endpoint: Some(answer.endpoint),
                    }
                }
                // The answer to HEAD was invalid; the answer to a GET may be valid.
                Ok(Err(Failure::Invalid { .. })) => TagAnswer::nobody(Word::NoDigest),
                Ok(Err(failure)) => TagAnswer::nobody(Word::Failed(failure)),
                Err(_) => TagAnswer::nobody(late),
            }
        };
        let key = (
            place.registry.clone(),
            place.repository.clone(),
            tag.clone(),
            place.identity.fingerprint(),
            of_origin,
        );
        self.questions
            .run(key, question)
            .await
            .unwrap_or(TagAnswer::nobody(Word::NoDigest))
    }
}

fn question(place: &Place, tag: &Tag) -> Ask {
    let subject = Subject::Manifest(Reference::Tag(tag.clone()));
    place.ask(subject, Want::Head)
}

/// The descriptor in an answer's headers. `None` if a part of it is missing.
fn descriptor(answer: &Answer) -> Option<Descriptor> {
    let media_type = answer.header("content-type")?;
    // Schema 1's digest is not that of its bytes, so the manifest has to be refused after a GET.
    if media::is_schema1(media_type) {
        return None;
    }
    Some(Descriptor {
        digest: answer.header("docker-content-digest")?.parse().ok()?,
        // A length of 0 counts as missing: a client would compare the manifest with it.
        size: answer.content_length().filter(|size| *size > 0)?,
        media_type: media_type.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Limit, Refusal, Refused};

    fn record() -> TagRecord {
        TagRecord {
            digest: Digest::sha256(b"x"),
            size: 1,
            media_type: "m".into(),
            checked: 0,
        }
    }

    #[test]
    fn only_what_is_young_enough_is_fresh() {
        let known = record();
        let second = Duration::from_secs(1);
        assert_eq!(decide(None, Duration::ZERO, second), Before::Ask);
        assert_eq!(
            decide(Some(&known), Duration::ZERO, Duration::ZERO),
            Before::Ask
        );
        assert_eq!(decide(Some(&known), second, second), Before::Ask);
        assert_eq!(
            decide(Some(&known), Duration::ZERO, second),
            Before::Fresh(known.clone())
        );
    }

    /// Promise P14, row by row: each failure and each policy, with and without a cached tag.
    #[test]
    fn after_the_registry_was_asked() {
        let registry = || "r".to_owned();
        let unreachable = || Failure::Unreachable {
            at: registry(),
            why: "w".into(),
        };
        let refused = || {
            Failure::Refused(Refusal {
                at: registry(),
                what: Refused::Subject,
            })
        };
        let limited = || Failure::Limited {
            at: registry(),
            retry_after: None,
            why: Limit::Quota,
        };
        let (serve, fail, forget) = (
            WhenUnreachable::Serve,
            WhenUnreachable::Fail,
            WhenDeleted::Forget,
        );
        let keep = WhenDeleted::Serve;
        for (failure, when_unreachable, when_deleted, cached, uncached) in [
            (unreachable(), serve, keep, "stale", "fail"),
            (unreachable(), fail, keep, "fail", "fail"),
            (limited(), serve, forget, "stale", "fail"),
            (limited(), fail, forget, "fail", "fail"),
            (Failure::NotFound(registry()), serve, keep, "stale", "fail"),
            (Failure::NotFound(registry()), fail, keep, "stale", "fail"),
            (
                Failure::NotFound(registry()),
                serve,
                forget,
                "forget",
                "fail",
            ),
            (refused(), serve, keep, "fail", "fail"),
            (Failure::Forbidden(registry()), serve, keep, "fail", "fail"),
        ] {
            let policy = Policy {
                when_unreachable,
                when_deleted,
            };
            let name = |after: After| match after {
                After::Serve(_) => "serve",
                After::Fetch => "fetch",
                After::Stale { .. } => "stale",
                After::Forget(_) => "forget",
                After::Fail(_) => "fail",
            };
            let word = || Word::Failed(failure.clone());
            assert_eq!(
                name(conclude(Some(record()), word(), policy)),
                cached,
                "{failure:?} {policy:?}"
            );
            assert_eq!(
                name(conclude(None, word(), policy)),
                uncached,
                "{failure:?} {policy:?}"
            );
            assert_eq!(name(conclude(None, Word::NoDigest, policy)), "fetch");
            assert_eq!(
                name(conclude(
                    Some(record()),
                    Word::Descriptor(Descriptor::from(&record())),
                    policy
                )),
                "serve"
            );
        }
    }
}

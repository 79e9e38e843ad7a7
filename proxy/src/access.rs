//! May this caller read this repository?
//!
//! This question comes before any tier (promise P16). A verdict is the origin's own answer to this caller's credential,
//! or to an anonymous request where the repository is public. It is remembered for a bounded time.
//!
//! Owns the memory of rights, and the questions to the origin about them ([`proof`]). Two decisions are pure: the
//! verdict from all that is known ([`decision::verdict`]), and the meaning of an answer ([`decision::conclude`]). A
//! refusal of one subject takes the whole right away at once. The origin is then asked for something else that the
//! repository is known to hold, and its answer decides whether the right comes back ([`refusals`]).
//!
//! Credentials never share verdicts. No stale answer, no mirror's word, and no manifest that merely names a digest
//! makes one.

mod decision;
mod grants;
mod holds;
mod pauses;
mod place;
mod proof;
mod refusals;
mod sessions;

use std::{
    hash::RandomState,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use larder_shared::Reference;
use lru::LruCache;

use self::{
    decision::Known,
    pauses::{Pauses, Refusal},
    place::Key,
    proof::Fits,
};
pub use self::{
    decision::Verdict,
    grants::Grants,
    holds::{Part, Unproven},
    place::Place,
    sessions::{Bearer, EXPIRES_IN, Session, Sessions},
};
use crate::{
    coalesce::Coalesce,
    config::Config,
    identity::Identity,
    metrics::Metrics,
    upstream::{self, Answer, Failure, Refused, Subject, Upstreams},
};

/// How many suspended rights are looked into at the same time, at most.
const SUSPENDED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Verdicts over repositories.
#[derive(Debug)]
pub struct Access {
    config: Arc<ArcSwap<Config>>,
    upstreams: Arc<Upstreams>,
    grants: Grants,
    proofs: proof::Questions,
    comparisons: holds::Comparisons,
    /// Draws the part of a blob that an origin has to return.
    draw: RandomState,
    /// Questions after a refusal, for something else that the repository holds.
    looks: Coalesce<Key, ()>,
    memory: Mutex<Memory>,
    metrics: Arc<Metrics>,
}

/// The memory of refusals, kept in memory alone.
#[derive(Debug)]
struct Memory {
    repositories: Pauses<Key>,
    subjects: Pauses<(Key, Reference)>,
    /// Rights that are suspended, and whether the repository was public before.
    suspended: LruCache<Key, bool>,
    /// Digests for which a registry gave bytes that differ from the bytes here.
    differ: holds::Differ,
}

impl Access {
    pub fn new(
        config: Arc<ArcSwap<Config>>,
        upstreams: Arc<Upstreams>,
        grants: Grants,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            config,
            upstreams,
            grants,
            proofs: proof::Questions::default(),
            comparisons: holds::Comparisons::default(),
            draw: RandomState::new(),
            looks: Coalesce::default(),
            memory: Mutex::new(Memory {
                repositories: Pauses::new(),
                subjects: Pauses::new(),
                suspended: LruCache::new(SUSPENDED),
                differ: holds::Differ::new(),
            }),
            metrics,
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the grants on disk, which are this larder's from now on (blocking).
    pub fn take_over(&self) {
        self.grants.take_over();
    }

    /// Writes verdicts that the disk has not taken so far (blocking).
    pub fn flush(&self) {
        self.grants.flush();
    }

    /// The verdict on this caller and this repository.
    pub fn verdict(&self, place: &Place) -> Verdict {
        self.verdict_on(place, None)
    }

    /// The verdict on this caller and a subject in this repository.
    pub fn verdict_on(&self, place: &Place, subject: Option<&Reference>) -> Verdict {
        let config = self.config.load();
        let (ttl, grace) = (config.access.ttl, config.access.grace);
        decision::verdict(self.known(place, subject), ttl, grace)
    }

    fn known(&self, place: &Place, subject: Option<&Reference>) -> Known {
        let (key, now) = (place.key(), Instant::now());
        let denied = |key: &Key| subject.is_some_and(|subject| self.grants.is_denied(key, subject));
        let mut known = Known {
            anonymous: place.identity.is_anonymous(),
            public: place.record.public_since(),
            not_public: place.record.refused_since(),
            granted: self.grants.age(&key),
            refusal: Refusal::None,
            suspended: false,
            holds: place.record.holds_something(),
            subject: Refusal::None,
        };
        if !self.grants.denies_nothing() {
            if denied(&place.key_of(&Identity::anonymous())) {
                known.public = None;
            }
            if denied(&key) {
                known.subject = Refusal::Doubted;
            }
        }
        let mut memory = self.memory();
        if let Some(subject) = subject
            && !memory.subjects.is_empty()
            && memory.subjects.look(&(key.clone(), subject.clone()), now) == Refusal::Believed
        {
            known.subject = Refusal::Believed;
        }
        known.refusal = memory.repositories.look(&key, now);
        known.suspended = memory.suspended.contains(&key);
        known
    }

    /// Whether a failure counts as an outage for this caller. A web page in a registry's place counts as one for public
    /// content and for a right that was proven a moment ago. For everything else it bridges nothing.
    pub fn is_outage(&self, place: &Place, failure: &Failure) -> bool {
        let public = place.record.public_since().is_some();
        decision::is_outage(failure, public || self.verdict(place) == Verdict::Allowed)
    }

    /// How many grants are remembered: accepted credentials, counted once for each repository.
    pub fn grants(&self) -> usize {
        self.grants.count()
    }

    /// Records an answer for this caller. It is a proof if the origin gave it now, and if it fits a subject of this
    /// size.
    pub fn answered(&self, place: &Place, subject: &Subject, answer: &Answer, size: Option<u64>) {
        let size = size.or_else(|| known_size(place, subject));
        let fits = proof::fits(subject, answer, size) == Fits::Yes;
        if answer.proves && !answer.remembered && fits {
            self.accepted(place, subject.reference().as_slice());
        }
    }

    /// Records that the origin served these subjects to this caller.
    pub fn accepted(&self, place: &Place, served: &[Reference]) {
        if place.identity.is_lent() {
            return;
        }
        let key = place.key();
        {
            let mut memory = self.memory();
            memory.repositories.served(&key);
            memory.suspended.pop(&key);
            if !place.identity.is_anonymous() {
                // The origin refuses anonymous callers for good reason, so their growing pause is reset.
                let anybody = place.key_of(&Identity::anonymous());
                memory.repositories.served(&anybody);
            }
            for subject in served {
                memory.subjects.served(&(key.clone(), subject.clone()));
            }
        }
        self.grants.serve(&key, served);
        if place.identity.is_anonymous() {
            place.record.set_public();
        } else {
            self.grants.accept(&key);
        }
    }

    /// How long ago the origin last served this caller, if that still counts.
    pub fn accepted_since(&self, place: &Place) -> Option<Duration> {
        if place.identity.is_anonymous() {
            return place.record.public_since();
        }
        self.grants.age(&place.key())
    }

    /// How long ago the origin refused this caller the repository, if that was its last word.
    pub fn refused_since(&self, place: &Place) -> Option<Duration> {
        let key = place.key();
        if self.memory().suspended.contains(&key) {
            return None;
        }
        if place.identity.is_anonymous() {
            return place.record.refused_since();
        }
        self.grants.refused_since(&key)
    }

    /// Takes over another member's knowledge: when the repository was public, when it was not, and when the origin
    /// accepted this caller (Unix seconds). Returns whether that changes anything.
    pub fn learn(
        &self,
        place: &Place,
        public: Option<u64>,
        refused: Option<u64>,
        accepted: Option<u64>,
    ) -> bool {
        let before = (self.verdict(place), place.record.refused_since().is_some());
        if let Some(at) = public {
            place.record.learn_public(at);
        }
        if let Some(at) = refused {
            place.record.learn_not_public(at);
        }
        if let (Some(at), false) = (accepted, place.identity.is_anonymous()) {
            self.grants.learn(&place.key(), at);
        }
        (self.verdict(place), place.record.refused_since().is_some()) != before
    }
}

/// The size that an answer about `subject` must state, if it is known.
fn known_size(place: &Place, subject: &Subject) -> Option<u64> {
    match subject {
        Subject::Blob(digest) => Some(place.record.link(digest)?.size),
        _ => None,
    }
}

/// The failure for a caller whose refusal is remembered.
pub fn refused_before(place: &Place) -> Failure {
    Failure::Refused(upstream::Refusal {
        at: place.registry.to_string(),
        what: Refused::Before,
    })
}

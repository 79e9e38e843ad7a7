//! May this caller read this repository?
//!
//! Asked before any tier (promise P16). A verdict is the origin's own answer to this caller's credential, or to nobody's
//! where the repository is public, and is remembered for a bounded time.
//!
//! Owns what is remembered of rights and how the origin is asked for one ([`proof`]). What is known ([`decision::verdict`])
//! and what an answer means ([`decision::conclude`]) are pure decisions. A refusal of one subject takes the right away at
//! once; the origin is asked for something else that the repository is known to hold, and gives it back or not.
//!
//! Verdicts are never shared between credentials, never made by a stale answer, a mirror's word, or a manifest that
//! merely names a digest.

mod decision;
mod grants;
mod pauses;
mod proof;
mod sessions;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use larder_shared::{Reference, RegistryName, Repository};
use lru::LruCache;

pub use self::{
    decision::Verdict,
    grants::Grants,
    sessions::{Bearer, EXPIRES_IN, Session, Sessions},
};
use self::{
    decision::{Conclusion, Known, Question, Said},
    pauses::{Pauses, Refusal},
    proof::Fits,
};
use crate::{
    coalesce::Coalesce,
    config::Config,
    identity::{Fingerprint, Identity},
    metrics::Metrics,
    store::{Link, RepositoryRecord},
    trace::Trace,
    upstream::{self, Answer, Ask, Failure, Refused, Subject, Upstreams, Want},
};

/// A repository, the caller that asks for it, and what is known of both.
#[derive(Clone, Debug)]
pub struct Place {
    pub registry: RegistryName,
    pub repository: Repository,
    pub record: Arc<RepositoryRecord>,
    pub identity: Identity,
    /// Whose request it is.
    pub trace: Trace,
    /// How long upstream may take to answer a question, where that is less than usual.
    pub patience: Option<Duration>,
}

impl Place {
    /// A question about this repository by this caller.
    pub fn ask(&self, subject: Subject, want: Want) -> Ask {
        let ask = Ask::new(&self.registry, &self.repository, subject, want)
            .by(self.identity.clone())
            .traced(&self.trace);
        Ask {
            within: self.patience,
            ..ask
        }
    }

    /// The time that a question may take which has `usual` otherwise.
    pub fn within(&self, usual: Duration) -> Duration {
        self.patience.map_or(usual, |patience| patience.min(usual))
    }

    /// The same place, with less patience.
    #[must_use]
    pub fn hurried(&self, patience: Duration) -> Self {
        Self {
            patience: Some(self.within(patience)),
            ..self.clone()
        }
    }

    /// Whose right to which repository.
    fn key(&self) -> Key {
        self.key_of(&self.identity)
    }

    fn key_of(&self, identity: &Identity) -> Key {
        let fingerprint = identity.fingerprint();
        (self.registry.clone(), self.repository.clone(), fingerprint)
    }
}

/// A repository, and the caller that asks for it.
type Key = (RegistryName, Repository, Fingerprint);

/// Rights that are being looked into at the same time, at the most.
const SUSPENDED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Things that a repository holds of which one is asked for after a refusal, until one is served.
const HELD_ASKED: usize = 2;

/// Verdicts over repositories.
#[derive(Debug)]
pub struct Access {
    config: Arc<ArcSwap<Config>>,
    upstreams: Arc<Upstreams>,
    grants: Grants,
    proofs: proof::Questions,
    /// Questions for something that a repository holds, after a refusal.
    looks: Coalesce<Key, ()>,
    memory: Mutex<Memory>,
    metrics: Arc<Metrics>,
}

/// What is remembered of refusals, in memory alone.
#[derive(Debug)]
struct Memory {
    repositories: Pauses<Key>,
    subjects: Pauses<(Key, Reference)>,
    /// Rights that are suspended, and whether the repository was public before.
    suspended: LruCache<Key, bool>,
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
            looks: Coalesce::default(),
            memory: Mutex::new(Memory {
                repositories: Pauses::new(),
                subjects: Pauses::new(),
                suspended: LruCache::new(SUSPENDED),
            }),
            metrics,
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The grants on disk are this larder's now (blocking).
    pub fn take_over(&self) {
        self.grants.take_over();
    }

    /// Writes verdicts that the disk has not taken so far (blocking).
    pub fn flush(&self) {
        self.grants.flush();
    }

    /// What is known of this caller and this repository.
    pub fn verdict(&self, place: &Place) -> Verdict {
        self.verdict_on(place, None)
    }

    /// What is known of this caller and something in this repository.
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

    /// Whether a failure counts as an outage for this caller: a web page in a registry's place does not end what is public,
    /// nor a right that was proven a moment ago, and bridges nothing else.
    pub fn is_outage(&self, place: &Place, failure: &Failure) -> bool {
        let public = place.record.public_since().is_some();
        decision::is_outage(failure, public || self.verdict(place) == Verdict::Allowed)
    }

    /// Credentials that are remembered as accepted, one for each repository.
    pub fn grants(&self) -> usize {
        self.grants.count()
    }

    /// An answer came for this caller. It is a proof if the origin gave it now, and if it is what the origin would say of
    /// something of that size.
    pub fn answered(&self, place: &Place, subject: &Subject, answer: &Answer, size: Option<u64>) {
        let size = size.or_else(|| known_size(place, subject));
        let fits = proof::fits(subject, answer, size) == Fits::Yes;
        if answer.proves && !answer.remembered && fits {
            self.accepted(place, subject.reference().as_slice());
        }
    }

    /// The origin has served this caller, and that.
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
                // A caller that shows nothing is refused for good reason.
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

    /// How long ago the origin served this caller, if it did and that still counts for something.
    pub fn accepted_since(&self, place: &Place) -> Option<Duration> {
        if place.identity.is_anonymous() {
            return place.record.public_since();
        }
        self.grants.age(&place.key())
    }

    /// How long ago it refused this caller the repository, if that was its last word.
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

    /// What another member was told by the origin: when the repository was public or was not, and when it accepted this
    /// caller (Unix seconds). Says whether that makes a difference.
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

    /// Takes note of what this caller met when it asked for `subject`. Only a refusal is a verdict, and that of a list is
    /// one on the list alone.
    pub fn met(self: &Arc<Self>, place: &Place, subject: &Subject, failure: &Failure) {
        let Some(denied) = subject.reference() else {
            return;
        };
        if place.identity.is_lent() {
            return;
        }
        let denied = with_its_digest(place, denied);
        let said = Said::of(&Err::<(), _>(failure.clone()));
        let held = self.held_besides(place, &denied);
        let others = !held.is_empty();
        match decision::conclude(Question::Wanted { others }, said) {
            Conclusion::Suspend => {
                self.pause(place, &denied);
                // At once: a right that comes back later must not open what is refused now.
                self.deny(place, &denied);
                self.suspend(place);
                self.look_into(place, denied, held);
            }
            Conclusion::Void => {
                if said == Said::Denied {
                    self.deny(place, &denied);
                }
                self.void(place);
            }
            Conclusion::Keep | Conclusion::Nothing => {}
        }
    }

    /// What else the repository is known to hold, that which is most likely still there first.
    fn held_besides(&self, place: &Place, denied: &[Reference]) -> Vec<Link> {
        let key = place.key();
        place.record.held(HELD_ASKED, |digest| {
            let digest = Reference::Digest(*digest);
            !denied.contains(&digest) && !self.grants.is_denied(&key, &digest)
        })
    }

    /// The origin has refused this to this caller a moment ago, whatever else it may read.
    fn pause(&self, place: &Place, denied: &[Reference]) {
        let (key, now) = (place.key(), Instant::now());
        let mut memory = self.memory();
        for subject in denied {
            let subject = (key.clone(), subject.clone());
            memory.subjects.refused(subject, now);
        }
    }

    /// It stays refused until the origin serves it. Of what is not here nothing could be served.
    fn deny(&self, place: &Place, denied: &[Reference]) {
        let here: Vec<Reference> = denied
            .iter()
            .filter(|reference| match reference {
                Reference::Digest(digest) => place.record.link(digest).is_some(),
                Reference::Tag(tag) => place.record.tag(tag).is_some(),
            })
            .cloned()
            .collect();
        self.grants.deny(&place.key(), &here);
    }

    /// The right ends for now, and would not come back with a restart.
    fn suspend(&self, place: &Place) {
        let key = place.key();
        let public = place.identity.is_anonymous() && place.record.public_since().is_some();
        {
            let mut memory = self.memory();
            let was = memory.suspended.get(&key).copied().unwrap_or_default();
            memory.suspended.put(key.clone(), public || was);
        }
        if place.identity.is_anonymous() {
            place.record.set_not_public();
        } else {
            self.grants.refuse(&key);
        }
    }

    /// The right has ended.
    fn void(&self, place: &Place) {
        let (key, now) = (place.key(), Instant::now());
        let anonymous = place.identity.is_anonymous();
        let public = anonymous && place.record.public_since().is_some();
        {
            let mut memory = self.memory();
            let public = memory.suspended.pop(&key).unwrap_or_default() || public;
            // What only credentials have opened is closed to all others for as long as a verdict is good.
            let private = anonymous && !public && place.record.holds_something();
            if !private || memory.repositories.look(&key, now) != Refusal::None {
                memory.repositories.refused(key.clone(), now);
            }
        }
        if anonymous {
            place.record.set_not_public();
        } else if place.record.holds_something() {
            self.grants.refuse(&key);
        } else {
            self.grants.refuse_made_up(&key);
        }
    }

    /// Asks the origin for something that the repository is known to hold, on behalf of a caller whose right is suspended.
    /// The caller does not wait for it: how long it is answered to would tell what is here.
    fn look_into(self: &Arc<Self>, place: &Place, denied: Vec<Reference>, held: Vec<Link>) {
        let (access, place, key) = (Arc::clone(self), place.clone(), place.key());
        let look = async move {
            let mut void = false;
            for link in held {
                let subject = match link.media_type {
                    Some(_) => Subject::Manifest(Reference::Digest(link.digest)),
                    None => Subject::Blob(link.digest),
                };
                let asked = access.ask_origin(&place, subject, false, Some(link.size));
                let asked = asked.await;
                access.metrics.access.proof(proof::outcome(&asked));
                match decision::conclude(Question::Held, Said::of(&asked)) {
                    Conclusion::Keep => {
                        access.deny(&place, &denied);
                        access.accepted(&place, &[Reference::Digest(link.digest)]);
                        return;
                    }
                    Conclusion::Void => void = true,
                    Conclusion::Suspend | Conclusion::Nothing => break,
                }
            }
            if void {
                access.void(&place);
            }
        };
        // Asked once, it goes on by itself.
        let _ = self.looks.run(key, look).now_or_never();
    }

    /// Waits until it is known whether a refusal was one of the repository, if that is being asked.
    pub async fn settled(&self, place: &Place) {
        self.looks.join(&place.key()).await;
    }
}

/// The size that an answer about `subject` must tell, where it is known.
fn known_size(place: &Place, subject: &Subject) -> Option<u64> {
    match subject {
        Subject::Blob(digest) => Some(place.record.link(digest)?.size),
        _ => None,
    }
}

/// A tag, and the digest that it last named.
fn with_its_digest(place: &Place, reference: Reference) -> Vec<Reference> {
    let named = match &reference {
        Reference::Tag(tag) => place.record.tag(tag),
        Reference::Digest(_) => None,
    };
    let named = named.map(|record| Reference::Digest(record.digest));
    [reference].into_iter().chain(named).collect()
}

/// A refusal that is remembered.
pub fn refused_before(place: &Place) -> Failure {
    Failure::Refused(upstream::Refusal {
        at: place.registry.to_string(),
        what: Refused::Before,
    })
}

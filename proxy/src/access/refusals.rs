//! The effects of a failure: which right it ends, and the question to the origin that tells whether it refused one
//! subject or the whole repository.

use std::{sync::Arc, time::Instant};

use futures_util::FutureExt as _;
use larder_shared::Reference;

use super::{
    Access, Place,
    decision::{self, Conclusion, Question, Said},
    pauses::Refusal,
    proof,
};
use crate::{
    store::Link,
    upstream::{Failure, Subject},
};

/// After a refusal, this many other subjects are asked for at most, until the origin serves one.
const HELD_ASKED: usize = 2;

impl Access {
    /// Records a failure that this caller met when it asked for `subject`. Only a refusal is a verdict. The refusal of
    /// a list concerns that list alone.
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
                // Denied at once: if the right comes back later, it must not include the subject that is refused now.
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

    /// Other content that the repository is known to hold. The registry most likely still has the first of it.
    fn held_besides(&self, place: &Place, denied: &[Reference]) -> Vec<Link> {
        let key = place.key();
        place.record.held(HELD_ASKED, |digest| {
            let digest = Reference::Digest(*digest);
            !denied.contains(&digest) && !self.grants.is_denied(&key, &digest)
        })
    }

    /// Remembers for a while that the origin refused these subjects to this caller, whatever else it may read.
    fn pause(&self, place: &Place, denied: &[Reference]) {
        let (key, now) = (place.key(), Instant::now());
        let mut memory = self.memory();
        for subject in denied {
            let subject = (key.clone(), subject.clone());
            memory.subjects.refused(subject, now);
        }
    }

    /// Keeps these subjects refused until the origin serves them. Subjects that are not here are left out, since larder
    /// could not serve them anyway.
    fn deny(&self, place: &Place, denied: &[Reference]) {
        let here: Vec<Reference> = denied
            .iter()
            .filter(|reference| match reference {
                Reference::Digest(digest) => place.record.link(digest).is_some(),
                Reference::Tag(tag) => {
                    place.record.tag(tag).is_some() || place.record.last_said(tag).is_some()
                }
            })
            .cloned()
            .collect();
        self.grants.deny(&place.key(), &here);
    }

    /// Ends the right for now. A restart does not bring it back.
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

    /// Ends the right.
    fn void(&self, place: &Place) {
        let (key, now) = (place.key(), Instant::now());
        let anonymous = place.identity.is_anonymous();
        let public = anonymous && place.record.public_since().is_some();
        {
            let mut memory = self.memory();
            let public = memory.suspended.pop(&key).unwrap_or_default() || public;
            // If only credentials have opened the repository, it stays closed to anonymous callers while a verdict is
            // valid.
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

    /// Asks the origin for something else that the repository is known to hold, on behalf of a caller whose right is
    /// suspended. The caller does not wait for this, since the time until its answer would reveal what is here.
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
        // Polled once, the task goes on by itself.
        let _ = self.looks.run(key, look).now_or_never();
    }

    /// Waits for the question, if one is under way, whether the origin refuses one subject or the whole repository.
    pub async fn settled(&self, place: &Place) {
        self.looks.join(&place.key()).await;
    }
}

/// The reference itself. For a tag, also the digest that it last named, and the digest that a list has named since.
fn with_its_digest(place: &Place, reference: Reference) -> Vec<Reference> {
    let named = match &reference {
        Reference::Tag(tag) => [place.record.tag(tag), place.record.listed_since(tag)],
        Reference::Digest(_) => [None, None],
    };
    let named = named.into_iter().flatten();
    let named = named.map(|record| Reference::Digest(record.digest));
    [reference].into_iter().chain(named).collect()
}

//! Stale answers: what a tag pointed to before, given when the registry has no answer of its own. Only a caller that
//! may still read the repository gets one (promise P14).

use http::header;
use larder_shared::{Reference, Tag};

use super::{Pull, PullError, Pulled, manifest::headers_only, put, tag::Cached};
use crate::{
    access::{Place, Verdict},
    clock::unix_age,
    config::{WhenDeleted, WhenUnreachable},
    metrics::{Outcome, Tier},
    store::TagRecord,
    tags::{After, Descriptor},
    upstream::{Failure, Subject},
};

impl Pull {
    /// Answers when the registry gave no answer, or said that the tag does not exist.
    pub(super) async fn without(
        &self,
        place: &Place,
        tag: &Tag,
        otherwise: After,
        head: bool,
    ) -> Result<Pulled, PullError> {
        match otherwise {
            After::Stale { known, failure } => {
                self.newest_stale(place, tag, known, failure, head).await
            }
            After::Forget(failure) => {
                place.record.forget_tag(tag);
                Err(failure.into())
            }
            After::Fail(failure) => {
                let gone = matches!(failure, Failure::NotFound(_));
                if gone && self.config.load().tags.when_deleted == WhenDeleted::Forget {
                    place.record.forget_tag(tag);
                }
                Err(failure.into())
            }
            // A failure never leads to one of these two.
            After::Serve(_) | After::Fetch => Err(Failure::Unreachable {
                at: place.registry.to_string(),
                why: "the question was lost".to_owned(),
            }
            .into()),
        }
    }

    /// Whether an old answer can replace the registry's: the tag's last manifest is here, or other members may have it.
    pub(super) async fn has_stale(&self, place: &Place, tag: &Tag, cached: &Cached) -> bool {
        let Some(record) = &cached.record else {
            return false;
        };
        cached.policy.when_unreachable == WhenUnreachable::Serve
            && self.may_have_stale(place, &Reference::Tag(tag.clone()))
            && (self.cluster.is_there()
                || self.store.small(&record.digest).is_some()
                || self.store.length(&record.digest).await.is_some())
    }

    /// Whether this caller may get a stale answer. It needs a live verdict, and it never makes one (promise P14).
    pub(super) fn may_have_stale(&self, place: &Place, subject: &Reference) -> bool {
        match self.access.verdict_on(place, Some(subject)) {
            Verdict::Allowed | Verdict::Ask { bridged: true } => true,
            Verdict::Ask { bridged: false } | Verdict::Refused => false,
        }
    }

    /// As [`Self::may_have_stale`], given the `failure` of the registry. A registry may answer 404 for content that
    /// this caller may not read any more, so a 404 bridges nothing: if the verdict is old, the origin is asked for the
    /// manifest that the tag pointed to. An answer that no registry gives bridges only public content and rights that
    /// were proven a moment ago.
    pub(super) async fn right_to_stale(
        &self,
        place: &Place,
        tag: &Tag,
        known: &TagRecord,
        failure: &Failure,
    ) -> Result<(), PullError> {
        let named = Reference::Digest(known.digest);
        let hidden = matches!(failure, Failure::NotFound(_));
        let bridges = hidden || self.access.is_outage(place, failure);
        let may = [&Reference::Tag(tag.clone()), &named]
            .iter()
            .all(|subject| self.may_have_stale(place, subject));
        if !(bridges && may) {
            return Err(failure.clone().into());
        }
        if !hidden || self.access.verdict_on(place, Some(&named)) == Verdict::Allowed {
            return Ok(());
        }
        let subject = Subject::Manifest(named);
        let proven = self.access.prove_claim(place, subject, None).await;
        proven.map_err(|proof| match proof {
            Failure::Refused(_) | Failure::Forbidden(_) => proof.into(),
            // Without an answer to the proof, the 404 is the registry's last word: it is no outage, which would be
            // bridged.
            _ => failure.clone().into(),
        })
    }

    /// A stale answer, for a caller that may still read the repository. A header marks it as stale.
    async fn stale(
        &self,
        place: &Place,
        tag: &Tag,
        known: &TagRecord,
        failure: Failure,
        head: bool,
    ) -> Result<Pulled, PullError> {
        self.right_to_stale(place, tag, known, &failure).await?;
        let stored = self.stored_manifest(place, &known.digest, head).await;
        let mut pulled = match stored {
            Some(pulled) => pulled,
            None if self.cluster.is_there() => {
                match self.manifest_from_anybody(place, &known.digest).await {
                    Some(manifest) => self.kept(place, manifest).pulled(head, Outcome::Miss),
                    None => return Err(failure.into()),
                }
            }
            None => return Err(failure.into()),
        };
        warn(&mut pulled, &failure, known);
        let tier = match pulled.outcome {
            Outcome::Hit => Tier::Node,
            _ => Tier::Cluster,
        };
        Ok(pulled.from(tier, Outcome::Stale))
    }

    /// The answer to a HEAD as a last resort: what the registry last said of the tag, under the same verdict. The
    /// manifest may be gone everywhere. A client that has it only needs to know that its tag still points there.
    pub(super) fn last_said(&self, place: &Place, tag: &Tag, error: &PullError) -> Option<Pulled> {
        let PullError::Upstream(failure) = error else {
            return None;
        };
        if self.config.load().tags.when_unreachable == WhenUnreachable::Fail {
            return None;
        }
        let said = place.record.last_said(tag)?;
        let subjects = [Reference::Tag(tag.clone()), Reference::Digest(said.digest)];
        if !subjects.iter().all(|one| self.may_have_stale(place, one)) {
            return None;
        }
        let mut pulled = headers_only(&Descriptor::from(&said));
        warn(&mut pulled, failure, &said);
        Some(pulled.from(Tier::Node, Outcome::Stale))
    }

    /// The newest stale answer that can be had. Other members are asked what the tag points to in two cases: this node
    /// has only heard its record, or no member has the manifest that the record names.
    async fn newest_stale(
        &self,
        place: &Place,
        tag: &Tag,
        known: TagRecord,
        failure: Failure,
        head: bool,
    ) -> Result<Pulled, PullError> {
        let was_heard = known.checked == 0;
        let may = self.may_have_stale(place, &Reference::Tag(tag.clone()));
        if !was_heard {
            let served = self.stale(place, tag, &known, failure.clone(), head);
            let served = served.await;
            if served.is_ok() || !may {
                return served;
            }
        }
        if may
            && let Some(newer) = self.hear_newer(place, tag, &known).await
            && let Ok(served) = self.stale(place, tag, &newer, failure.clone(), head).await
        {
            if was_heard {
                place.record.set_tag(tag.clone(), newer);
            }
            return Ok(served);
        }
        if was_heard {
            return self.stale(place, tag, &known, failure, head).await;
        }
        // The manifest that a list named may be gone, while the one that the tag pointed to before is here.
        if let Some(before) = place.record.tag(tag)
            && before.digest != known.digest
        {
            return self.stale(place, tag, &before, failure, head).await;
        }
        Err(failure.into())
    }
}

/// Adds a `Warning` header that says how old the answer is, and why.
fn warn(pulled: &mut Pulled, failure: &Failure, known: &TagRecord) {
    let when = match (known.checked, unix_age(known.checked)) {
        (0, _) => "as another node knows it".to_owned(),
        (_, None) => "at a time that this node's clock does not know".to_owned(),
        (_, Some(age)) => format!("{} s ago", age.as_secs()),
    };
    let warning = format!("299 - \"larder: {failure}; this is what the tag pointed to {when}\"");
    put(&mut pulled.headers, header::WARNING, &warning);
}

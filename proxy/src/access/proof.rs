//! Asks the origin whether a caller has a right, and checks whether an answer is one that the origin would give.
//!
//! A portal in front of a registry answers 200 to everything. So an answer proves a right only if it states the size of
//! a blob that is here, or the digest of a manifest. A manifest without a stated digest is read and hashed.

use std::{sync::Arc, time::Duration};

use larder_shared::{Digest, Range, Reference, RegistryName, Repository, media};

use super::{Access, Place, Verdict, decision, known_size, refused_before};
use crate::{
    client,
    coalesce::Coalesce,
    identity::Fingerprint,
    metrics::ProofOutcome,
    upstream::{Answer, Ask, Failure, Subject, Upstreams, Want},
};

/// How long a proof may take before the registry counts as unreachable.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions under way. Simultaneous questions of one caller about one subject are coalesced.
pub(super) type Questions =
    Coalesce<(RegistryName, Repository, Fingerprint, String), Result<(), Failure>>;

/// Whether an answer fits what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fits {
    Yes,
    No,
    /// Its headers do not tell; its bytes have to be checked.
    ByBytes,
}

/// Whether a 200 or 206 is an answer that a registry gives about `subject`, which has this `size` if it is known.
#[expect(clippy::match_same_arms, reason = "a row of the table each")]
pub(super) fn fits(subject: &Subject, answer: &Answer, size: Option<u64>) -> Fits {
    let digest = answer.header("docker-content-digest");
    let digest: Option<Digest> = digest.and_then(|digest| digest.parse().ok());
    match (subject, digest) {
        (Subject::Manifest(Reference::Digest(wanted)), Some(told)) if told == *wanted => Fits::Yes,
        (Subject::Manifest(Reference::Tag(_)), Some(_)) => Fits::Yes,
        (Subject::Manifest(_), _) => Fits::ByBytes,
        (Subject::Blob(_), _) => {
            let told = if answer.partial {
                answer.content_range().map(|(_, total)| total)
            } else {
                answer.content_length()
            };
            match (told, size) {
                (Some(told), Some(size)) if told != size => Fits::No,
                _ => Fits::Yes,
            }
        }
        (Subject::Tags(_) | Subject::AcrTags(_) | Subject::Referrers(..), _) => Fits::Yes,
    }
}

impl Access {
    /// Asks the origin whether it serves `subject` to this caller, and remembers the answer. The repository is known to
    /// hold `subject`. An outage is bridged for a caller that was allowed not long ago.
    pub async fn prove(self: &Arc<Self>, place: &Place, subject: Subject) -> Result<(), Failure> {
        let verdict = self.verdict_on(place, subject.reference().as_ref());
        let bridged = verdict == Verdict::Ask { bridged: true };
        let proven = self.question(place, subject, bridged, None).await;
        let public = place.record.public_since().is_some();
        let outcome = match &proven {
            Err(failure) if bridged && decision::is_outage(failure, public) => {
                ProofOutcome::Bridged
            }
            other => outcome(other),
        };
        self.metrics.access.proof(outcome);
        match outcome {
            ProofOutcome::Bridged => Ok(()),
            _ => proven,
        }
    }

    /// As [`Self::prove`], for a subject that the repository is not known to hold, of that size if it is known. A right
    /// to the repository is no right to everything in the cache. So no outage is bridged, and the origin itself has to
    /// answer for this very subject.
    pub async fn prove_claim(
        self: &Arc<Self>,
        place: &Place,
        subject: Subject,
        size: Option<u64>,
    ) -> Result<(), Failure> {
        let proven = self.question(place, subject, false, size).await;
        self.metrics.access.proof(outcome(&proven));
        proven
    }

    /// Asks the origin for a list that a mirror gave. Some registries have separate rights for lists and for content,
    /// and neither implies the other. So the answer is not remembered.
    pub async fn prove_list(&self, place: &Place, list: Subject) -> Result<(), Failure> {
        let proven = self.ask_origin(place, list, false, None).await;
        self.metrics.access.proof(outcome(&proven));
        proven
    }

    /// As [`Self::prove`], but asks nothing if the right is already known.
    pub async fn prove_unless_known(
        self: &Arc<Self>,
        place: &Place,
        subject: Subject,
    ) -> Result<(), Failure> {
        match self.verdict_on(place, subject.reference().as_ref()) {
            Verdict::Allowed => Ok(()),
            _ => self.prove(place, subject).await,
        }
    }

    /// Asks the origin whether it serves `subject` to this caller. Its answer is a verdict.
    async fn question(
        self: &Arc<Self>,
        place: &Place,
        subject: Subject,
        optional: bool,
        size: Option<u64>,
    ) -> Result<(), Failure> {
        let reference = subject.reference();
        if self.verdict_on(place, reference.as_ref()) == Verdict::Refused {
            return Err(refused_before(place));
        }
        let size = size.or_else(|| known_size(place, &subject));
        let proven = self
            .ask_origin(place, subject.clone(), optional, size)
            .await;
        match &proven {
            Ok(()) => self.accepted(place, reference.as_slice()),
            Err(failure) => self.met(place, &subject, failure),
        }
        proven
    }

    /// Asks the origin for a blob's first byte, since public ECR refuses a HEAD, or for a whole list, since some
    /// registries have no HEAD for lists. Simultaneous questions of one caller about one subject are coalesced. With
    /// `optional`, an origin that keeps failing is not asked.
    pub(super) async fn ask_origin(
        &self,
        place: &Place,
        subject: Subject,
        optional: bool,
        size: Option<u64>,
    ) -> Result<(), Failure> {
        let key = (
            place.registry.clone(),
            place.repository.clone(),
            place.identity.fingerprint(),
            format!("{subject:?}"),
        );
        let want = match subject {
            Subject::Blob(_) => Want::Part(Range::new(0, 1)),
            Subject::Manifest(_) => Want::Head,
            Subject::Tags(_) | Subject::AcrTags(_) | Subject::Referrers(..) => Want::All,
        };
        let mut ask = place.ask(subject, want).proof();
        let within = place.within(PROOF_TIMEOUT);
        ask.within = Some(within);
        if optional {
            ask = ask.optional();
        }
        let upstreams = Arc::clone(&self.upstreams);
        let late = Failure::Unreachable {
            at: place.registry.to_string(),
            why: format!("no answer within {within:?}"),
        };
        let lost = late.clone();
        let question = async move {
            let asked = tokio::time::timeout(within, served(&upstreams, ask, size)).await;
            match asked {
                Ok(Err(Failure::Unsatisfiable { .. })) => Ok(()),
                Ok(asked) => asked,
                Err(_) => Err(late),
            }
        };
        self.proofs
            .run(key, Box::pin(question))
            .await
            .unwrap_or(Err(lost))
    }
}

/// Checks whether the origin serves the subject.
async fn served(upstreams: &Upstreams, mut ask: Ask, size: Option<u64>) -> Result<(), Failure> {
    let mut answer = upstreams.ask(&ask).await?;
    let other = |why: &str| Failure::Invalid {
        at: ask.registry.to_string(),
        why: why.to_owned(),
    };
    match fits(&ask.subject, &answer, size) {
        Fits::Yes => return Ok(()),
        Fits::No => return Err(other("something of another size")),
        Fits::ByBytes => {}
    }
    if ask.want == Want::Head {
        ask.want = Want::All;
        answer = upstreams.ask(&ask).await?;
    }
    let bytes = client::collect(answer.body, media::MAX_MANIFEST, PROOF_TIMEOUT)
        .await
        .map_err(|why| other(&why))?;
    let right = match &ask.subject {
        Subject::Manifest(Reference::Digest(wanted)) => {
            Digest::of(wanted.algorithm(), &bytes) == *wanted
        }
        _ => media::is_manifest(&bytes),
    };
    if right {
        Ok(())
    } else {
        Err(other("something that is not that manifest"))
    }
}

pub(super) fn outcome(proven: &Result<(), Failure>) -> ProofOutcome {
    match proven {
        Ok(()) => ProofOutcome::Accepted,
        Err(Failure::Refused(_)) => ProofOutcome::Refused,
        Err(_) => ProofOutcome::Unanswered,
    }
}

//! Asking the origin for a right, and whether an answer is one that the origin would give.
//!
//! A portal in front of a registry says 200 to everything. So an answer proves something only if it tells the size of a
//! blob that is here, or the digest of a manifest; one that tells no digest is read and hashed.

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

/// Questions under way: of the same caller about the same thing there is one.
pub(super) type Questions =
    Coalesce<(RegistryName, Repository, Fingerprint, String), Result<(), Failure>>;

/// Whether an answer fits what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fits {
    Yes,
    No,
    /// Its bytes have to tell.
    ByBytes,
}

/// Whether a 200 or 206 is what a registry would say of `subject`, which has that `size` if it is known.
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
    /// Asks the origin whether it serves `subject`, which the repository is known to hold, to this caller, and remembers
    /// the answer. An outage is bridged for a caller that was allowed not long ago.
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

    /// The same for what the repository is not known to hold, of that size if it is known. The right to a repository is
    /// none to everything that lies in the cache, so no outage is bridged: the origin itself has to answer for this very
    /// subject.
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

    /// Asks the origin for a list that a mirror gave. A caller that may read a list may not therefore read content, nor the other
    /// way round (some registries have a right for each), so nothing is remembered of it.
    pub async fn prove_list(&self, place: &Place, list: Subject) -> Result<(), Failure> {
        let proven = self.ask_origin(place, list, false, None).await;
        self.metrics.access.proof(outcome(&proven));
        proven
    }

    /// As [`Self::prove`], where the right may be known already.
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

    /// For blobs one byte is asked for, since public ECR refuses a HEAD; lists have none at some registries. Simultaneous
    /// questions about the same thing by the same caller are one. With `optional` an origin that fails all the time is
    /// not bothered.
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

/// Whether the origin serves it.
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

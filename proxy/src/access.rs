//! May this caller read this repository?
//!
//! Asked before any tier (promise P16). A verdict is the origin's own answer to this caller's credential, or to nobody's
//! where the repository is public, and is remembered for a bounded time.
//!
//! ```text
//!  public, not long ago                ─▶ Allowed, whoever asks
//!  this credential accepted, recently  ─▶ Allowed
//!  refused a moment ago                ─▶ Refused
//!  anything else                       ─▶ Ask the origin:  accepted ─▶ Allowed, remembered
//!                                                          refused  ─▶ Refused, remembered, earlier grant void
//!                                                          no answer ─▶ Allowed if it was public once, or if this
//!                                                                       credential was accepted within the grace
//! ```
//!
//! Verdicts are never shared between credentials, never made by a stale answer, a mirror's word, or a manifest that
//! merely names a digest.

mod grants;
mod sessions;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use larder_shared::{Range, RegistryName, Repository};

pub use self::{
    grants::Grants,
    sessions::{Bearer, EXPIRES_IN, Session, Sessions},
};
use crate::{
    coalesce::Coalesce,
    config::Config,
    identity::{Fingerprint, Identity},
    metrics::{KnownVerdict, Metrics, ProofOutcome},
    store::RepositoryRecord,
    trace::Trace,
    upstream::{Answer, Ask, Failure, Subject, Upstreams, Want},
};

/// A repository, who asks for it, and what is known of it.
#[derive(Clone, Debug)]
pub struct Place {
    pub registry: RegistryName,
    pub repository: Repository,
    pub record: Arc<RepositoryRecord>,
    pub identity: Identity,
    /// Whose request it is.
    pub trace: Trace,
}

impl Place {
    /// A question about this repository by this caller.
    pub fn ask(&self, subject: Subject, want: Want) -> Ask {
        Ask::new(&self.registry, &self.repository, subject, want)
            .by(self.identity.clone())
            .traced(&self.trace)
    }
}

/// What is known before anybody is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Allowed,
    /// The origin must be asked; `bridged`: an outage would not matter.
    Ask {
        bridged: bool,
    },
    Refused,
}

impl From<Verdict> for KnownVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allowed => Self::Allowed,
            Verdict::Ask { .. } => Self::Ask,
            Verdict::Refused => Self::Refused,
        }
    }
}

/// How long a proof may take before the registry counts as unreachable.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

type Question = (RegistryName, Repository, Fingerprint, String);

/// Verdicts over repositories.
#[derive(Debug)]
pub struct Access {
    config: Arc<ArcSwap<Config>>,
    upstreams: Arc<Upstreams>,
    grants: Grants,
    proofs: Coalesce<Question, Result<(), Failure>>,
    metrics: Arc<Metrics>,
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
            proofs: Coalesce::default(),
            metrics,
        }
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
        let config = self.config.load();
        let (ttl, grace) = (config.access.ttl, config.access.grace);
        let public = place.record.public_since();
        if public.is_some_and(|age| age < ttl) {
            return Verdict::Allowed;
        }
        if place.identity.is_anonymous() {
            if place.record.refused_since().is_some_and(|age| age < ttl) {
                return Verdict::Refused;
            }
            return Verdict::Ask {
                bridged: public.is_some(),
            };
        }
        let who = place.identity.fingerprint();
        match self.grants.age(&place.registry, &place.repository, who) {
            Some(age) if age < ttl => Verdict::Allowed,
            _ if self
                .grants
                .was_refused(&place.registry, &place.repository, who) =>
            {
                Verdict::Refused
            }
            age => Verdict::Ask {
                bridged: public.is_some() || age.is_some_and(|age| age < ttl + grace),
            },
        }
    }

    /// Asks the origin whether it serves `subject`, which the repository is known to hold, to this caller, and remembers
    /// the answer. An outage is bridged for who was allowed not long ago.
    pub async fn prove(&self, place: &Place, subject: Subject) -> Result<(), Failure> {
        let bridged = matches!(self.verdict(place), Verdict::Ask { bridged: true });
        let proven = self.question(place, subject, bridged).await;
        let outcome = match &proven {
            Err(Failure::Unreachable { .. } | Failure::Limited { .. }) if bridged => {
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

    /// The same for what the repository is not known to hold. The right to a repository is none to everything that lies
    /// in the cache, so no outage is bridged: the origin itself has to answer for this very subject.
    pub async fn prove_claim(&self, place: &Place, subject: Subject) -> Result<(), Failure> {
        let proven = self.question(place, subject, false).await;
        self.metrics.access.proof(outcome(&proven));
        proven
    }

    /// Asks the origin for a list that a mirror gave. Who may read a list may not therefore read content, nor the other
    /// way round (some registries have a right for each), so nothing is remembered of it.
    pub async fn prove_list(&self, place: &Place, list: Subject) -> Result<(), Failure> {
        let proven = self.ask_origin(place, list, false).await;
        self.metrics.access.proof(outcome(&proven));
        proven
    }

    /// Credentials that are remembered as accepted, one for each repository.
    pub fn grants(&self) -> usize {
        self.grants.count()
    }

    /// Asks the origin whether it serves `subject` to this caller. Its answer is a verdict.
    async fn question(
        &self,
        place: &Place,
        subject: Subject,
        optional: bool,
    ) -> Result<(), Failure> {
        if self.verdict(place) == Verdict::Refused {
            return Err(Failure::Refused(place.registry.to_string()));
        }
        let proven = self.ask_origin(place, subject, optional).await;
        match &proven {
            Ok(()) => self.accepted(place),
            Err(failure) => self.met(place, failure),
        }
        proven
    }

    /// For blobs one byte is asked for, since public ECR refuses a HEAD; lists have none at some registries. Simultaneous
    /// questions about the same thing by the same caller are one. With `optional` an origin that fails all the time is
    /// not bothered.
    async fn ask_origin(
        &self,
        place: &Place,
        subject: Subject,
        optional: bool,
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
            Subject::Tags(_) | Subject::Referrers(..) => Want::All,
        };
        let mut ask = place.ask(subject, want).proof();
        ask.within = Some(PROOF_TIMEOUT);
        if optional {
            ask = ask.optional();
        }
        let upstreams = Arc::clone(&self.upstreams);
        let late = Failure::Unreachable {
            place: place.registry.to_string(),
            why: format!("no answer within {PROOF_TIMEOUT:?}"),
        };
        let lost = late.clone();
        let question = async move {
            let asking = async {
                match upstreams.ask(&ask).await {
                    Err(failure) if ask.want == Want::Head && failure.knows_no_head() => {
                        let ask = Ask {
                            want: Want::All,
                            ..ask
                        };
                        upstreams.ask(&ask).await
                    }
                    asked => asked,
                }
            };
            match tokio::time::timeout(PROOF_TIMEOUT, asking).await {
                Ok(Ok(_) | Err(Failure::Unsatisfiable { .. })) => Ok(()),
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(late),
            }
        };
        self.proofs
            .run(key, Box::pin(question))
            .await
            .unwrap_or(Err(lost))
    }

    /// As [`Self::prove`], where the right may be known already.
    pub async fn prove_unless_known(&self, place: &Place, subject: Subject) -> Result<(), Failure> {
        match self.verdict(place) {
            Verdict::Allowed => Ok(()),
            _ => self.prove(place, subject).await,
        }
    }

    /// An answer came for this caller. It is a proof if the origin gave it now.
    pub fn answered(&self, place: &Place, answer: &Answer) {
        if answer.proves && !answer.remembered {
            self.accepted(place);
        }
    }

    /// The origin has served this caller.
    pub fn accepted(&self, place: &Place) {
        if place.identity.is_lent() {
            return;
        }
        if place.identity.is_anonymous() {
            place.record.set_public();
        } else {
            let who = place.identity.fingerprint();
            self.grants.accept(&place.registry, &place.repository, who);
        }
    }

    /// How long ago the origin served this caller, if it did and that still counts for something.
    pub fn accepted_since(&self, place: &Place) -> Option<Duration> {
        if place.identity.is_anonymous() {
            return place.record.public_since();
        }
        let who = place.identity.fingerprint();
        self.grants.age(&place.registry, &place.repository, who)
    }

    /// How long ago it refused this caller, if that was its last word.
    pub fn refused_since(&self, place: &Place) -> Option<Duration> {
        if place.identity.is_anonymous() {
            return place.record.refused_since();
        }
        let who = place.identity.fingerprint();
        self.grants
            .refused_since(&place.registry, &place.repository, who)
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
            let who = place.identity.fingerprint();
            self.grants
                .learn(&place.registry, &place.repository, who, at);
        }
        (self.verdict(place), place.record.refused_since().is_some()) != before
    }

    /// Takes note of what this caller met. Only a refusal is a verdict.
    pub fn met(&self, place: &Place, failure: &Failure) {
        if !matches!(failure, Failure::Refused(_)) || place.identity.is_lent() {
            return;
        }
        if place.identity.is_anonymous() {
            place.record.set_not_public();
        } else {
            let who = place.identity.fingerprint();
            self.grants.refuse(&place.registry, &place.repository, who);
        }
    }
}

fn outcome(proven: &Result<(), Failure>) -> ProofOutcome {
    match proven {
        Ok(()) => ProofOutcome::Accepted,
        Err(Failure::Refused(_)) => ProofOutcome::Refused,
        Err(_) => ProofOutcome::Unanswered,
    }
}

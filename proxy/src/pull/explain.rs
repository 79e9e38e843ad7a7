//! What a pull would do, and why, without transferring the image.
//!
//! The explanation follows the steps of a runtime: it asks without a credential first, shows a secret when challenged,
//! and asks with HEAD what the tag points to. Then it looks for the manifest and the blobs. The decisions are the
//! pull's own ([`Pull::resolve_tag`], verdicts, [`placement`](crate::cluster::placement)). Nothing is fetched. The only
//! lasting effects are those that one HEAD of the runtime would have.

mod contents;
mod sources;

use larder_shared::{
    Digest, Reference, Tag,
    admin::{Expected, Explanation, PullOutcome, Step, StepName, StepOutcome},
    name::ImageName,
};

use super::{
    Platforms, Pull, PullError, judge,
    tag::{Known, Resolved},
    words,
};
use crate::{
    access::{Place, Verdict},
    config::Sharing,
    credentials::Credential,
    fill::FillError,
    runtime::State,
    tags::After,
    upstream::{Failure, Refused, Subject, Want},
};

/// The question: an image, and how the runtime would ask for it.
#[derive(Debug)]
pub struct Asked {
    pub image: ImageName,
    /// The secret that the runtime would show when challenged.
    pub credential: Option<Credential>,
    /// Picks a manifest of an index.
    pub platforms: Platforms,
}

/// The result of asking for the manifest as one caller.
struct Met {
    /// The image's digest, if known.
    digest: Option<Digest>,
    stale: bool,
    /// The endpoint that answered.
    endpoint: Option<usize>,
    /// Why upstream gave no answer, if it was asked.
    failure: Option<Failure>,
    step: Option<Step>,
}

/// The steps of a pull, and the expected result.
struct Report {
    steps: Vec<Step>,
    expected: Expected,
}

impl Report {
    fn say(&mut self, step: StepName, outcome: StepOutcome, detail: impl Into<String>) {
        self.steps.push(Step::new(step, outcome, detail));
    }

    fn comes(&mut self, outcome: PullOutcome) {
        outcome.as_str().clone_into(&mut self.expected.outcome);
    }
}

impl Pull {
    /// Walks the path of a pull and reports what each step would find.
    pub async fn explain(&self, asked: Asked) -> Explanation {
        let image = asked.image.to_string();
        let mut report = Report {
            steps: Vec::new(),
            expected: Expected::default(),
        };
        self.walk(asked, &mut report).await;
        Explanation {
            image,
            steps: report.steps,
            pull: report.expected,
        }
    }

    async fn walk(&self, asked: Asked, report: &mut Report) {
        let Asked {
            image, credential, ..
        } = asked;
        let known = self.known_place(image.registry.clone(), image.repository.clone());
        let place = match known.await {
            Ok(place) => place,
            Err(error) => {
                report.say(StepName::Name, StepOutcome::Denied, error.to_string());
                return report.comes(PullOutcome::Refused);
            }
        };
        report.say(StepName::Name, StepOutcome::Ok, self.named(&image));
        let mut place = self.shared(place).await;
        let mut own = false;
        let mut met = self.meet(&place, &image.reference).await;
        // The runtime shows the pod's secret only when it is challenged.
        if let Err(error) = &met {
            let judged = judge(error.clone(), &place, false);
            if let (PullError::Unauthorized { .. }, Some(credential)) = (&judged, credential) {
                report.say(
                    StepName::Access,
                    StepOutcome::Challenged,
                    "without credentials it is refused; the runtime is told to show the pod's secret",
                );
                place.identity = self.key.credential(credential);
                own = true;
                met = self.meet(&place, &image.reference).await;
            }
        }
        match met {
            Ok(met) => {
                report.steps.push(self.opened(&place, &met, own));
                report.steps.extend(met.step.clone());
                self.explain_upstream(&place, met.endpoint, met.failure.as_ref(), report);
                report.comes(if met.stale {
                    PullOutcome::Stale
                } else {
                    PullOutcome::Served
                });
                report.expected.digest = met.digest;
                self.explain_contents(&place, &met, &asked.platforms, report)
                    .await;
                self.explain_use(&met, report);
            }
            Err(error) => self.explain_failure(&place, &error, own, report),
        }
    }

    /// Reports whether a container of this node uses the image, if the runtime's state is known.
    fn explain_use(&self, met: &Met, report: &mut Report) {
        let (Some(digest), runtime) = (met.digest, &self.runtime) else {
            return;
        };
        if runtime.known().state == State::Off {
            return;
        }
        let unknown = runtime.unknown_for().map(|age| age.as_secs());
        let (outcome, detail) = match (runtime.is_in_use(&digest), unknown) {
            (true, None) => (
                StepOutcome::InUse,
                "a container of this node uses it: age does not evict it".to_owned(),
            ),
            (true, Some(age)) => (
                StepOutcome::LastInUse,
                format!(
                    "a container of this node used it when that was last known, {age} s ago: it counts as used until then"
                ),
            ),
            (false, None) => (
                StepOutcome::Unused,
                "no container of this node uses it".to_owned(),
            ),
            (false, Some(age)) => (
                StepOutcome::Unused,
                format!("no container of this node used it when that was last known, {age} s ago"),
            ),
        };
        report.say(StepName::Use, outcome, detail);
    }

    /// The paths under which a client can ask for the image.
    fn named(&self, image: &ImageName) -> String {
        let (registry, repository, reference) =
            (&image.registry, &image.repository, &image.reference);
        let config = self.config.load();
        let alias = config.upstream(registry.as_str()).alias;
        let prefix = alias.as_deref().unwrap_or(registry.as_str());
        let mut ways = vec![format!(
            "/v2/{repository}/manifests/{reference}?ns={registry}"
        )];
        // A registry with a port cannot be a path component (promise P2).
        if alias.is_some() || !registry.as_str().contains(':') {
            ways.push(format!("/v2/{prefix}/{repository}/manifests/{reference}"));
        }
        if config.registry.default_upstream == registry.as_str() {
            ways.push(format!("/v2/{repository}/manifests/{reference}"));
        }
        format!(
            "registry {registry}, repository {repository}, {reference}; asked for as {}",
            ways.join(" or ")
        )
    }

    /// Asks for the manifest as the runtime does, up to the point where something would be fetched.
    async fn meet(&self, place: &Place, reference: &Reference) -> Result<Met, PullError> {
        let met = self.meet_once(place, reference).await;
        // Other members may know the answer that upstream cannot give now, as in `Pull::serve`.
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        match met {
            Err(error) if self.is_outage(place, &error) && self.cluster.is_there() => {
                if self.hear(place, tag).await {
                    self.meet_once(place, reference).await
                } else {
                    Err(error)
                }
            }
            met => met,
        }
    }

    async fn meet_once(&self, place: &Place, reference: &Reference) -> Result<Met, PullError> {
        match reference {
            Reference::Tag(tag) => {
                let resolved = self.resolve_tag(place, tag, true).await?;
                self.met_by_tag(place, tag, resolved).await
            }
            Reference::Digest(digest) => self.meet_digest(place, digest).await,
        }
    }

    async fn met_by_tag(
        &self,
        place: &Place,
        tag: &Tag,
        resolved: Resolved,
    ) -> Result<Met, PullError> {
        let (outcome, detail) = words::concluded(&resolved);
        let Resolved {
            answer,
            endpoint,
            cached,
            ..
        } = resolved;
        let mut met = Met {
            digest: cached.record.map(|record| record.digest),
            stale: false,
            endpoint,
            failure: None,
            step: Some(Step::new(StepName::Tag, outcome, detail)),
        };
        match answer {
            Known::Fresh(_) => {}
            Known::Concluded(After::Serve(now)) => met.digest = Some(now.digest),
            Known::Concluded(After::Fetch) => met.digest = None,
            Known::Concluded(After::Stale { known, failure }) => {
                self.right_to_stale(place, tag, &known, &failure).await?;
                let here = self.store.length(&known.digest).await.is_some();
                if !(here || self.cluster.is_there()) {
                    return Err(failure.into());
                }
                met.stale = true;
                met.failure = Some(failure);
            }
            Known::Concluded(After::Forget(failure) | After::Fail(failure)) => {
                return Err(failure.into());
            }
        }
        Ok(met)
    }

    /// A digest needs no resolving. Whether the caller may read it, and whether it exists, may have to be asked.
    async fn meet_digest(&self, place: &Place, digest: &Digest) -> Result<Met, PullError> {
        let reference = Reference::Digest(*digest);
        let proven = self.proven(place, &reference)?;
        let subject = Subject::Manifest(reference.clone());
        let link = place.record.link(digest);
        let held = link.is_some_and(|link| link.media_type.is_some());
        let mut met = Met {
            digest: Some(*digest),
            stale: false,
            endpoint: None,
            failure: None,
            step: None,
        };
        if held && self.store.length(digest).await.is_some() {
            if !proven {
                self.access.prove(place, subject).await?;
            }
            return Ok(met);
        }
        // A pull would fetch the manifest. A HEAD tells whether that would succeed.
        let ask = place.ask(subject.clone(), Want::Head);
        match self.upstreams.ask(&ask).await {
            Ok(answer) => {
                met.endpoint = Some(answer.endpoint);
                self.access.answered(place, &subject, &answer, None);
                if !answer.proves {
                    self.access.prove_unless_known(place, subject).await?;
                }
                Ok(met)
            }
            Err(failure) => {
                self.access.met(place, &subject, &failure);
                let outage = self.access.is_outage(place, &failure);
                // In an outage, the pull needs a member or the object store that has the manifest.
                let elsewhere = self.cluster.is_there() && self.may_have_stale(place, &reference);
                if outage && elsewhere && self.is_anywhere(place, digest).await {
                    met.failure = Some(failure);
                    return Ok(met);
                }
                Err(failure.into())
            }
        }
    }

    /// Reports by which right the caller may read the repository.
    fn opened(&self, place: &Place, met: &Met, own: bool) -> Step {
        let registry = &place.registry;
        let upstream = self.config.load().upstream(registry.as_str());
        let unused = match (&upstream.credentials, upstream.access) {
            (Some(_), Sharing::PerCredential) => {
                "; the node's own credentials are not used for it ([upstreams] access = \"per-credential\")"
            }
            _ => "",
        };
        let since = self.access.accepted_since(place).unwrap_or_default();
        let ttl = self.config.load().access.ttl;
        let open = place.record.public_since().is_some_and(|age| age < ttl);
        let public = open || place.identity.is_anonymous();
        let (outcome, detail) = match (self.access.verdict(place), public) {
            (Verdict::Allowed, true) => (
                StepOutcome::Public,
                format!("{registry} serves it to anonymous clients{unused}"),
            ),
            (Verdict::Allowed, false) if own => (
                StepOutcome::OwnCredentials,
                format!(
                    "{registry} accepted the credentials that were shown, {} s ago",
                    since.as_secs()
                ),
            ),
            (Verdict::Allowed, false) => (
                StepOutcome::NodeCredentials,
                format!(
                    "{registry} accepted the node's own credentials {} s ago, and the operator shares them ([upstreams] access = \"shared\")",
                    since.as_secs()
                ),
            ),
            (Verdict::Ask { bridged: true }, _) => (
                StepOutcome::Bridged,
                "it was open a short time ago, and the registry cannot be asked now: an outage does not close it"
                    .to_owned(),
            ),
            (Verdict::Ask { bridged: false } | Verdict::Refused, _) => (
                StepOutcome::Unknown,
                match &met.failure {
                    Some(failure) => failure.to_string(),
                    None => "the registry has given no verdict".to_owned(),
                },
            ),
        };
        Step::new(StepName::Access, outcome, detail)
    }

    /// Describes a refusal that larder only remembers: the registry's answer, the caller, and the time.
    fn remembered(&self, place: &Place, failure: &Failure) -> Option<String> {
        let Failure::Refused(refusal) = failure else {
            return None;
        };
        if refusal.what != Refused::Before {
            return None;
        }
        let caller = if place.identity.is_anonymous() {
            "a request without a credential"
        } else {
            "these credentials"
        };
        // The last word on the repository is kept with its time. A refusal of a single subject is believed for seconds.
        let when = match self.access.refused_since(place) {
            Some(age) => format!("{} s ago", age.as_secs()),
            None => "a moment ago".to_owned(),
        };
        let asker = if self.cluster.is_there() {
            "this node or another member"
        } else {
            "this node"
        };
        Some(format!(
            "{} refused {caller} {when}, when {asker} asked it",
            refusal.at
        ))
    }

    /// Why a pull gets nothing.
    fn explain_failure(&self, place: &Place, error: &PullError, own: bool, report: &mut Report) {
        let judged = judge(error.clone(), place, own);
        let failure = match error {
            PullError::Upstream(failure) | PullError::Fill(FillError::Upstream(failure)) => {
                Some(failure.clone())
            }
            _ => None,
        };
        let (step, outcome, pull) = match (&judged, &failure) {
            (PullError::Unauthorized { .. }, _) if own => {
                (StepName::Access, StepOutcome::Refused, PullOutcome::Refused)
            }
            (PullError::Unauthorized { .. }, _) => (
                StepName::Access,
                StepOutcome::Challenged,
                // A runtime that has no secret comes back with an anonymous token.
                match judge(error.clone(), place, true) {
                    PullError::Unauthorized { .. } => PullOutcome::Challenged,
                    _ => PullOutcome::Failed,
                },
            ),
            (_, Some(Failure::Refused(_) | Failure::Forbidden(_))) => {
                (StepName::Access, StepOutcome::Refused, PullOutcome::Refused)
            }
            (_, Some(Failure::NotFound(_))) => {
                (StepName::Tag, StepOutcome::Missing, PullOutcome::Missing)
            }
            _ => (StepName::Tag, StepOutcome::Failed, PullOutcome::Failed),
        };
        let remembered = failure
            .as_ref()
            .and_then(|failure| self.remembered(place, failure));
        let why = remembered.unwrap_or_else(|| error.to_string());
        let detail = match outcome {
            StepOutcome::Challenged => format!(
                "{why}: the runtime is told to show the pod's secret. Say which with --username and --password-stdin or --docker-config to see what it opens"
            ),
            _ => why,
        };
        report.say(step, outcome, detail);
        report.comes(pull);
        self.explain_upstream(place, None, failure.as_ref(), report);
    }
}

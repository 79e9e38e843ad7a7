//! The endpoints of a registry: which one answered, the state of the others, and what is left of a limit.

use larder_shared::admin::{StepName, StepOutcome};

use super::Report;
use crate::{access::Place, pull::Pull, upstream::Failure};

impl Pull {
    /// One step for each endpoint, in the order in which they are asked.
    pub(super) fn explain_upstream(
        &self,
        place: &Place,
        answered: Option<usize>,
        failure: Option<&Failure>,
        report: &mut Report,
    ) {
        let endpoints = self.upstreams.fares(&place.registry);
        let last = endpoints.len().saturating_sub(1);
        for (index, endpoint) in endpoints.iter().enumerate() {
            let kind = if index == last { "origin" } else { "mirror" };
            let asked = answered.is_some_and(|at| index < at) || failure.is_some();
            let (outcome, words) = match (answered, failure) {
                (Some(at), _) if at == index => {
                    (StepOutcome::Answered, "answered just now".to_owned())
                }
                (_, Some(failure))
                    if let Some(unasked) = self.unasked(place, failure, index == last) =>
                {
                    (StepOutcome::Unasked, unasked)
                }
                // A limit is left out, since it may concern the requests of another caller.
                (_, Some(failure))
                    if index == last && !matches!(failure, Failure::Limited { .. }) =>
                {
                    (unanswered(failure), failure.to_string())
                }
                _ if endpoint.silent_for.is_some() => (StepOutcome::Silent, endpoint.words()),
                (_, Some(failure)) if index == last => (unanswered(failure), failure.to_string()),
                _ if endpoint.avoided => (StepOutcome::Avoided, endpoint.words()),
                _ if asked => (
                    StepOutcome::Unanswered,
                    "did not answer just now, or does not have it".to_owned(),
                ),
                _ => (StepOutcome::Unasked, "not asked".to_owned()),
            };
            let limit = self.limit(place);
            report.say(
                StepName::Upstream,
                outcome,
                format!("{} ({kind}): {words}{limit}", endpoint.url),
            );
        }
    }

    /// Why an endpoint was not asked, if larder already knew the answer.
    fn unasked(&self, place: &Place, failure: &Failure, origin: bool) -> Option<String> {
        match failure {
            Failure::Forbidden(why) => origin.then(|| format!("not asked: {why}")),
            failure => {
                let remembered = self.remembered(place, failure)?;
                Some(format!("not asked now: {remembered}"))
            }
        }
    }

    /// Docker Hub's last word on its limit.
    fn limit(&self, place: &Place) -> String {
        let metrics = &self.metrics.upstreams;
        let (limit, left) = (metrics.hub_limit.get(), metrics.hub_remaining.get());
        let (Some(limit), Some(left)) = (limit, left) else {
            return String::new();
        };
        if !place.registry.is_docker_hub() {
            return String::new();
        }
        format!("; {left} of {limit} pulls are left, as it last said")
    }
}

fn unanswered(failure: &Failure) -> StepOutcome {
    match failure {
        Failure::Limited { .. } => StepOutcome::Silent,
        Failure::Unreachable { .. } | Failure::Invalid { .. } => StepOutcome::Unanswered,
        // A refusal counts as an answer.
        _ => StepOutcome::Answered,
    }
}

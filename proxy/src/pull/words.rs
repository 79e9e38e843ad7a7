//! Words for what a pull found out about a tag and a right, shared by `larder explain` and listeners to requests.

use larder_shared::admin::StepOutcome;

use super::tag::{Known, Resolved};
use crate::{
    access::{Place, Verdict},
    clock::unix_age,
    tags::After,
    upstream::Failure,
};

/// Describes what was concluded about a tag.
pub fn concluded(resolved: &Resolved) -> (StepOutcome, String) {
    let known = resolved.cached.record.as_ref().map(|record| record.digest);
    let age = resolved.cached.age.as_secs();
    match (&resolved.answer, known) {
        (Known::Fresh(_), known) => {
            let digest = known.map_or_else(|| "not known".to_owned(), |digest| digest.to_string());
            (
                StepOutcome::Fresh,
                format!(
                    "{digest}, checked {age} s ago: [tags] fresh_for lets it be, and nobody is asked"
                ),
            )
        }
        (Known::Concluded(After::Serve(now)), Some(known)) if known == now.digest => {
            (StepOutcome::Unchanged, format!("{known}, asked just now"))
        }
        (Known::Concluded(After::Serve(now)), Some(known)) => (
            StepOutcome::Changed,
            format!("{}, asked just now; it was {known}", now.digest),
        ),
        (Known::Concluded(After::Serve(now)), None) => (
            StepOutcome::New,
            format!("{}, asked just now; not known before", now.digest),
        ),
        (Known::Concluded(After::Fetch), _) => (
            StepOutcome::Untold,
            "its digest is told with the manifest, which is fetched".to_owned(),
        ),
        (Known::Concluded(After::Stale { known, failure }), _) => (
            StepOutcome::Stale,
            format!(
                "{} as of {}, with a warning: {failure}",
                known.digest,
                checked(known.checked)
            ),
        ),
        (Known::Concluded(After::Forget(failure) | After::Fail(failure)), _) => (
            match failure {
                Failure::NotFound(_) => StepOutcome::Missing,
                Failure::Refused(_) | Failure::Forbidden(_) => StepOutcome::Refused,
                _ => StepOutcome::Failed,
            },
            failure.to_string(),
        ),
    }
}

/// Describes what is known of a caller's right after its request was answered.
pub fn seen(place: &Place, verdict: Verdict) -> (StepOutcome, String) {
    let who = format!("{:?}", place.identity);
    match (verdict, place.identity.is_anonymous()) {
        (Verdict::Allowed, true) => (StepOutcome::Public, who),
        (Verdict::Allowed, false) if place.record.public_since().is_some() => {
            (StepOutcome::Public, who)
        }
        (Verdict::Allowed, false) => (StepOutcome::OwnCredentials, who),
        (Verdict::Ask { bridged: true }, _) => (StepOutcome::Bridged, who),
        (Verdict::Ask { bridged: false }, _) => (StepOutcome::Unknown, who),
        (Verdict::Refused, _) => (StepOutcome::Refused, who),
    }
}

fn checked(at: u64) -> String {
    match (at, unix_age(at)) {
        (0, _) => "what another node knows".to_owned(),
        (_, Some(age)) => format!("{} s ago", age.as_secs()),
        (_, None) => "a time that this node's clock does not know".to_owned(),
    }
}

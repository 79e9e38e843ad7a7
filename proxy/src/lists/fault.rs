//! Why there is no new list: a closed set, with messages that name the fix and never a secret.

use larder_shared::warm::ListBy;

use super::answers::Malformed;
use crate::{
    metrics::ListOutcome,
    upstream::{Failure, Limit},
};

/// Why a registry gave no list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    /// One line for people.
    pub why: String,
}

/// The kind of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// The registry does not let this node list. It may let it pull.
    Refused,
    /// The registry has no such repository.
    NotFound,
    /// The registry limits requests, or asks for silence.
    Limited,
    /// The registry cannot be reached.
    Unreachable,
    /// The registry's answer is no list.
    Invalid,
    /// This node has no credentials, or none that the API accepts.
    Credentials,
}

impl FaultKind {
    /// Whether the registry itself says that this node gets no list. Any other failure is an outage.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, Self::Refused | Self::NotFound)
    }

    pub(super) fn outcome(self) -> ListOutcome {
        match self {
            Self::Refused => ListOutcome::Refused,
            Self::NotFound => ListOutcome::NotFound,
            Self::Limited => ListOutcome::Limited,
            Self::Unreachable => ListOutcome::Unreachable,
            Self::Invalid => ListOutcome::Invalid,
            Self::Credentials => ListOutcome::Credentials,
        }
    }
}

impl Fault {
    pub(super) fn new(kind: FaultKind, why: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
        }
    }

    /// The fault for a failed request to a registry, or to an API beside it.
    pub(super) fn of(failure: &Failure, by: ListBy) -> Self {
        match failure {
            Failure::NotFound(at) => Self::new(
                FaultKind::NotFound,
                format!(
                    "{at} has no such repository, or hides it from this node: is the name right?"
                ),
            ),
            Failure::Refused(refusal) => Self::new(
                FaultKind::Refused,
                format!("{} does not let this node list: {}", refusal.at, right(by)),
            ),
            Failure::Limited { why, .. } => {
                let kind = match why {
                    Limit::Quota => FaultKind::Limited,
                    Limit::Unavailable => FaultKind::Unreachable,
                };
                Self::new(kind, failure.to_string())
            }
            Failure::Unreachable { .. } | Failure::Forbidden(_) => {
                Self::new(FaultKind::Unreachable, failure.to_string())
            }
            Failure::Unsatisfiable { .. } | Failure::Invalid { .. } => {
                Self::new(FaultKind::Invalid, failure.to_string())
            }
        }
    }

    /// The fault for an answer of `at` that is not a page.
    pub(super) fn malformed(at: &str, malformed: &Malformed) -> Self {
        let why = match malformed {
            Malformed::Form(what) => format!("{at} answered with no list, but {what}"),
            Malformed::TooMany => format!(
                "{at} lists more than {} tags: name the ones that are wanted in `tags`, with list = \"off\"",
                super::gather::MOST
            ),
        };
        Self::new(FaultKind::Invalid, why)
    }
}

/// The right that listing needs. For `tags`, the right to pull suffices.
fn right(by: ListBy) -> &'static str {
    match by {
        ListBy::Gar => {
            "its identity needs roles/artifactregistry.reader on the repository (artifactregistry.dockerimages.list) and the scope cloud-platform.read-only, which list = \"auto\" does not; or name the tags in `tags`, with list = \"off\""
        }
        ListBy::Ecr => {
            "the policy of its role, or that of the other account's repository, must allow ecr:DescribeImages; list = \"auto\" needs ecr:ListImages; or name the tags in `tags`, with list = \"off\""
        }
        ListBy::Acr => {
            "its identity needs the role AcrPull, or Container Registry Repository Reader where repositories have permissions of their own; or name the tags in `tags`, with list = \"off\""
        }
        ListBy::Auto | ListBy::Off => {
            "give its credentials in [upstreams] the right to list tags, beside the one to pull; or name the tags in `tags`, with list = \"off\""
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Refusal, Refused};

    #[test]
    fn every_failure_has_its_kind_and_a_refusal_names_the_right() {
        let at = || "https://r.io".to_owned();
        let limited = |why| Failure::Limited {
            at: at(),
            retry_after: None,
            why,
        };
        for (failure, kind) in [
            (Failure::NotFound(at()), FaultKind::NotFound),
            (limited(Limit::Quota), FaultKind::Limited),
            (limited(Limit::Unavailable), FaultKind::Unreachable),
            (Failure::Forbidden(at()), FaultKind::Unreachable),
            (
                Failure::Invalid {
                    at: at(),
                    why: "x".to_owned(),
                },
                FaultKind::Invalid,
            ),
        ] {
            assert_eq!(Fault::of(&failure, ListBy::Auto).kind, kind, "{failure}");
        }
        let refused = Failure::Refused(Refusal {
            at: at(),
            what: Refused::Subject,
        });
        for (by, word) in [
            (ListBy::Auto, "`tags`"),
            (ListBy::Gar, "roles/artifactregistry.reader"),
            (ListBy::Ecr, "ecr:DescribeImages"),
            (ListBy::Acr, "AcrPull"),
        ] {
            let fault = Fault::of(&refused, by);
            assert_eq!(fault.kind, FaultKind::Refused);
            assert!(fault.why.contains(word), "{}", fault.why);
            assert!(fault.why.contains("list = \"off\""), "{}", fault.why);
        }
    }
}

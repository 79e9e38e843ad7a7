//! The two pure decisions about rights: the verdict on a caller and a subject ([`verdict`]), and the effect of an
//! answer from the origin ([`conclude`]). The table is in ARCHITECTURE.md, "Who may read what".

use std::time::Duration;

use super::pauses::Refusal;
use crate::{
    metrics::KnownVerdict,
    upstream::{self, Failure, Refused},
};

/// A caller's right, as known before a registry is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Allowed,
    /// The origin must be asked. `bridged`: in an outage, the caller is allowed anyway.
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

/// What is known of a caller, a repository, and a subject in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub anonymous: bool,
    /// How long ago an anonymous caller was served there. `None` if one was refused this very subject since.
    pub public: Option<Duration>,
    /// How long ago an anonymous caller was refused there, if that was the last word.
    pub not_public: Option<Duration>,
    /// How long ago this credential was accepted there.
    pub granted: Option<Duration>,
    /// The memory of a refusal of the repository to this caller.
    pub refusal: Refusal,
    /// A refusal of one subject is being looked into.
    pub suspended: bool,
    /// The repository is known to hold something.
    pub holds: bool,
    /// The memory of a refusal of this very subject to this caller.
    pub subject: Refusal,
}

/// The verdict that follows from what is known.
pub(super) fn verdict(known: Known, ttl: Duration, grace: Duration) -> Verdict {
    match (of_repository(known, ttl, grace), known.subject) {
        (Verdict::Refused, _) | (_, Refusal::Believed) => Verdict::Refused,
        // The right to the repository does not include this subject: the origin itself has to serve it.
        (_, Refusal::Doubted) => Verdict::Ask { bridged: false },
        (verdict, Refusal::None) => verdict,
    }
}

#[expect(clippy::match_same_arms, reason = "a row of the table each")]
fn of_repository(known: Known, ttl: Duration, grace: Duration) -> Verdict {
    let public = known.public.is_some();
    if known.public.is_some_and(|age| age < ttl) {
        return Verdict::Allowed;
    }
    if !known.anonymous {
        return match known.granted {
            Some(age) if age < ttl => Verdict::Allowed,
            _ if known.refusal == Refusal::Believed => Verdict::Refused,
            age => Verdict::Ask {
                bridged: public || age.is_some_and(|age| age < ttl + grace),
            },
        };
    }
    match (known.not_public, known.refusal) {
        (None, _) => Verdict::Ask { bridged: public },
        (Some(_), Refusal::Believed) => Verdict::Refused,
        (Some(_), Refusal::Doubted) => Verdict::Ask { bridged: false },
        // All content here came by credentials. Each pull begins with an anonymous request, which is known to fail.
        (Some(age), Refusal::None) if age < ttl && known.holds && !known.suspended => {
            Verdict::Refused
        }
        (Some(_), Refusal::None) => Verdict::Ask { bridged: false },
    }
}

/// A question to the origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// The subject that the caller wants. `others`: the repository is known to hold other content to ask for.
    Wanted { others: bool },
    /// Something else that the repository is known to hold.
    Held,
}

/// The origin's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Served,
    /// The origin refuses the subject.
    Denied,
    /// The origin's token server refuses the caller.
    Unwelcome,
    Absent,
    /// The origin is out of reach, silent, or limits requests.
    Nothing,
    /// An answer that no registry gives.
    Nonsense,
    /// An answer that does not concern a right.
    Other,
}

impl Said {
    pub(super) fn of<T>(answer: &Result<T, Failure>) -> Self {
        match answer {
            Ok(_) | Err(Failure::Unsatisfiable { .. }) => Self::Served,
            Err(Failure::Refused(upstream::Refusal { what, .. })) => match what {
                Refused::Subject => Self::Denied,
                Refused::Caller => Self::Unwelcome,
                Refused::Before => Self::Other,
            },
            Err(Failure::NotFound(_)) => Self::Absent,
            Err(Failure::Unreachable { .. } | Failure::Limited { .. }) => Self::Nothing,
            Err(Failure::Invalid { .. }) => Self::Nonsense,
            Err(Failure::Forbidden(_)) => Self::Other,
        }
    }
}

/// The effect of an answer on the caller's right to the repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Conclusion {
    /// The caller has the right, as of now. Only the subject that was refused before stays refused.
    Keep,
    /// The caller has no right.
    Void,
    /// The caller has no right until the origin serves something else, which is asked for at once.
    Suspend,
    /// The right stays as it was.
    Nothing,
}

/// Decides what an answer means for the right.
#[expect(clippy::match_same_arms, reason = "a row of the table each")]
pub(super) fn conclude(question: Question, said: Said) -> Conclusion {
    match (question, said) {
        (_, Said::Served) => Conclusion::Keep,
        (Question::Wanted { others: true }, Said::Denied) => Conclusion::Suspend,
        (_, Said::Denied | Said::Unwelcome) => Conclusion::Void,
        // A registry may say "not found" about content that this caller may not see.
        (Question::Held, Said::Absent) => Conclusion::Void,
        (Question::Wanted { .. }, Said::Absent)
        | (_, Said::Nothing | Said::Nonsense | Said::Other) => Conclusion::Nothing,
    }
}

/// Whether a failure counts as an outage of a repository. An answer that no registry gives counts only if the content
/// is known to be public. Otherwise it bridges nothing: a portal in front of a registry must not prolong a right.
pub(super) fn is_outage(failure: &Failure, public: bool) -> bool {
    match failure {
        Failure::Unreachable { .. } | Failure::Limited { .. } => true,
        Failure::Invalid { .. } => public,
        Failure::NotFound(_)
        | Failure::Refused(_)
        | Failure::Unsatisfiable { .. }
        | Failure::Forbidden(_) => false,
    }
}

#[cfg(test)]
mod tests;

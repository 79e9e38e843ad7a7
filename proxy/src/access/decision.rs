//! The two pure decisions about rights: what is known of a caller and a subject ([`verdict`]), and what an answer of the
//! origin does to that ([`conclude`]). The table is in ARCHITECTURE.md, "Who may read what".

use std::time::Duration;

use super::pauses::Refusal;
use crate::{
    metrics::KnownVerdict,
    upstream::{self, Failure, Refused},
};

/// What is known before a registry is asked.
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

/// What is known of a caller, a repository, and a subject in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub anonymous: bool,
    /// How long ago an anonymous caller was served there. Not where one was refused this very subject since.
    pub public: Option<Duration>,
    /// How long ago an anonymous caller was refused there, if that was the last word.
    pub not_public: Option<Duration>,
    /// How long ago this credential was accepted there.
    pub granted: Option<Duration>,
    /// What is remembered of a refusal of the repository to this caller.
    pub refusal: Refusal,
    /// A refusal of one subject is being looked into.
    pub suspended: bool,
    /// The repository is known to hold something.
    pub holds: bool,
    /// What is remembered of a refusal of this very subject to this caller.
    pub subject: Refusal,
}

/// What is known, in a word.
pub(super) fn verdict(known: Known, ttl: Duration, grace: Duration) -> Verdict {
    match (of_repository(known, ttl, grace), known.subject) {
        (Verdict::Refused, _) | (_, Refusal::Believed) => Verdict::Refused,
        // The right to the repository is none to this subject: the origin itself has to serve it.
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
        // What it holds came by credentials: every pull begins with an anonymous question, which is known to be in vain.
        (Some(age), Refusal::None) if age < ttl && known.holds && !known.suspended => {
            Verdict::Refused
        }
        (Some(_), Refusal::None) => Verdict::Ask { bridged: false },
    }
}

/// What was asked of the origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// What the caller wants. `others`: the repository is known to hold other things, of which one can be asked for.
    Wanted { others: bool },
    /// Something else that the repository is known to hold.
    Held,
}

/// What the origin said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Served,
    /// It refuses the subject.
    Denied,
    /// Its token server refuses the caller.
    Unwelcome,
    Absent,
    /// Out of reach, or silent.
    Nothing,
    /// What no registry says.
    Nonsense,
    /// Nothing that has to do with a right.
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

/// What that means for the caller's right to the repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Conclusion {
    /// It has it, as of now. What was refused before is refused alone.
    Keep,
    /// It has none.
    Void,
    /// It has none until the origin has served something else, which is asked for at once.
    Suspend,
    /// As before.
    Nothing,
}

/// What an answer means.
#[expect(clippy::match_same_arms, reason = "a row of the table each")]
pub(super) fn conclude(question: Question, said: Said) -> Conclusion {
    match (question, said) {
        (_, Said::Served) => Conclusion::Keep,
        (Question::Wanted { others: true }, Said::Denied) => Conclusion::Suspend,
        (_, Said::Denied | Said::Unwelcome) => Conclusion::Void,
        // A registry may say so of what this caller may not see.
        (Question::Held, Said::Absent) => Conclusion::Void,
        (Question::Wanted { .. }, Said::Absent)
        | (_, Said::Nothing | Said::Nonsense | Said::Other) => Conclusion::Nothing,
    }
}

/// Whether a failure counts as an outage of a repository. What no registry says is one for what is known to be public; for
/// everything else it is no answer, and bridges nothing: a portal in front of a registry must not prolong a right.
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

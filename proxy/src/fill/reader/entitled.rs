//! Whether a reader's headers may leave: a pure decision over the reader's right and what the fill knows.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{FillError, HELD_BACK, Phase, ReaderEntry, Right, Source, TRICKLE, Wants};
use crate::{fill::State, store::Partial, upstream::Failure};

/// The callers for which a source has answered, nearest to the reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AnsweredFor {
    Nobody,
    /// For another caller of the reader's repository.
    ItsRepository,
    /// For the reader's own source: its repository, asked with its identity.
    ItsSource,
}

/// How far the fill is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Running,
    Verified,
    Failed,
}

/// What the fill knows that matters to one reader.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and the table test names their combinations"
)]
pub(super) struct Facts {
    pub stage: Stage,
    /// Bytes of the blob, once a source has said.
    pub size: Option<u64>,
    /// The reader's own source has failed, in whatever way.
    pub source_failed: bool,
    /// The reader's own source was refused.
    pub source_refused: bool,
    /// The bytes come through what the reader has a right to; see `State::brings_for`.
    pub brings: bool,
    /// The callers for which the origin has answered.
    pub served: AnsweredFor,
    /// The callers for which another member or the object store has answered.
    pub vouched: AnsweredFor,
    /// A source has answered since the last failure.
    pub answered: bool,
    /// The first byte that the reader wants is here, or lies behind the end.
    pub begun: bool,
    /// The headers are late, and bytes still come.
    pub trickles: bool,
    /// The bytes are known not to have the digest.
    pub wrong: bool,
}

/// What a reader that waits for its headers does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    /// The headers leave, with this size.
    Opened(u64),
    /// The fill is over.
    FillFailed,
    /// The reader's own source has failed, and the reader has no right to what other sources bring.
    SourceFailed,
    /// The reader's own source was refused: other readers may go on, this one may not.
    SourceRefused,
    /// The reader waits.
    Waits,
    /// The reader waits, and the blob is so small that it is fetched and verified whole.
    WaitsForWhole,
}

/// Decides what a reader with this right does next.
pub(super) fn entitled(right: Right, facts: &Facts) -> Opening {
    if facts.stage == Stage::Failed {
        return Opening::FillFailed;
    }
    // Where the reader's source merely failed, other sources may bring what the reader has a right to.
    let holds = right == Right::Digest || facts.served == AnsweredFor::ItsSource;
    if facts.source_refused && holds {
        return Opening::SourceRefused;
    }
    if facts.source_failed && !holds {
        return Opening::SourceFailed;
    }
    let (Some(size), true, false) = (facts.size, may_read(right, facts), facts.wrong) else {
        return Opening::Waits;
    };
    let small = size <= HELD_BACK;
    let ready = match facts.stage {
        Stage::Verified => true,
        _ if small => facts.answered && facts.trickles,
        _ => facts.begun || facts.answered,
    };
    match (ready, small) {
        (true, _) => Opening::Opened(size),
        (false, true) => Opening::WaitsForWhole,
        (false, false) => Opening::Waits,
    }
}

/// Whether the bytes of this fill are for a reader with this right (promise P16).
fn may_read(right: Right, facts: &Facts) -> bool {
    let (own, repository) = (AnsweredFor::ItsSource, AnsweredFor::ItsRepository);
    match right {
        Right::Digest => true,
        Right::None => facts.served == own,
        Right::Repository => facts.brings || facts.served == own || facts.vouched == own,
        Right::Member => {
            let counts = |answered| answered == own || answered == repository;
            facts.brings || counts(facts.served) || counts(facts.vouched)
        }
    }
}

impl Facts {
    /// What `state` says for one reader. `late`: the headers are late, and the file had so many bytes when they became
    /// so.
    pub fn of(state: &State, entry: &ReaderEntry, late: Option<u64>) -> Self {
        let partial = state.partial.as_ref();
        let start = match (&entry.wants, state.size) {
            (Wants::Opening { start, .. }, Some(size)) => start.unwrap_or(size.saturating_sub(1)),
            _ => 0,
        };
        let behind = state.size.is_some_and(|size| start >= size);
        let here = |partial: &Arc<Partial>| partial.present_to(start) > start;
        let grown =
            |before| partial.is_some_and(|partial| partial.present().total() >= before + TRICKLE);
        let failed = |counts| own_failure(&state.refusals, &entry.source, counts).is_some();
        Self {
            stage: match state.phase {
                Phase::Starting | Phase::Filling => Stage::Running,
                Phase::Verified => Stage::Verified,
                Phase::Failed(_) => Stage::Failed,
            },
            size: state.size,
            source_failed: failed(|_| true),
            source_refused: failed(is_refusal),
            brings: state.brings_for(&entry.source, entry.right),
            served: answered_for(&state.served, &entry.source),
            vouched: answered_for(&state.vouched, &entry.source),
            answered: state.answered,
            begun: behind || partial.is_some_and(here),
            trickles: late.is_some_and(grown),
            wrong: state.wrong,
        }
    }
}

/// How near the nearest of `sources` is to a reader of `source`.
fn answered_for(sources: &[Source], source: &Source) -> AnsweredFor {
    let same = |other: &Source| other.repository == source.repository;
    if sources.contains(source) {
        AnsweredFor::ItsSource
    } else if sources.iter().any(same) {
        AnsweredFor::ItsRepository
    } else {
        AnsweredFor::Nobody
    }
}

pub(super) fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(_))
}

/// The first failure of a reader's own source that counts.
pub(super) fn own_failure(
    refusals: &[(Source, Failure)],
    source: &Source,
    counts: fn(&Failure) -> bool,
) -> Option<FillError> {
    let mut own = refusals.iter().filter(|(refused, _)| refused == source);
    let (_, failure) = own.find(|(_, failure)| counts(failure))?;
    Some(FillError::Upstream(failure.clone()))
}

//! Why a registry gave no answer: a closed set, and what became of sending or of a token in its terms.

use std::{fmt, time::Duration};

use http::StatusCode;

use super::token::TokenError;
use crate::client::SendError;

/// Why there is no answer; `at`: the endpoint, as `scheme://host:port`, or the registry's name where none was asked. The
/// text names places and causes, never a secret or a query.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// 404 from the origin, the last endpoint.
    #[error("{0} does not have it")]
    NotFound(String),
    /// 401 or 403 in the registry's own words: this credential (so far: none) does not open it.
    #[error("{} refused access", .0.at)]
    Refused(Refusal),
    /// 429, or 503 with `Retry-After`.
    #[error("{at} {why}{}", more(*retry_after))]
    Limited {
        at: String,
        retry_after: Option<Duration>,
        why: Limit,
    },
    /// 416; the length, where the answer has it.
    #[error("the range is not satisfiable")]
    Unsatisfiable { total: Option<u64> },
    /// Refused connections, time-outs, 5xx.
    #[error("{at} cannot be reached: {why}")]
    Unreachable { at: String, why: String },
    /// larder will not connect there.
    #[error("{0}")]
    Forbidden(String),
    /// An answer that a registry may not give. Whatever gave it, it has no say in a caller's rights.
    #[error("{at} answered with {why}")]
    Invalid { at: String, why: String },
}

/// Why a place wants to be left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// 429
    Quota,
    /// 503 with a time.
    Unavailable,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quota => "limits requests",
            Self::Unavailable => "answers 503 and asks to be left alone",
        })
    }
}

fn more(left: Option<Duration>) -> String {
    left.map_or_else(String::new, |left| {
        format!(", for {} s more", left.as_secs().max(1))
    })
}

/// A registry's own refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub at: String,
    pub what: Refused,
}

/// What was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// What was asked for, to this caller. It may have everything else of the repository.
    Subject,
    /// The caller itself, by the token server.
    Caller,
    /// No registry was asked: it was refused a moment ago.
    Before,
}

impl Failure {
    /// 400 or 406: the registry does not take such a question.
    pub fn declined(&self) -> Option<StatusCode> {
        let Self::Invalid { why, .. } = self else {
            return None;
        };
        let statuses = [StatusCode::BAD_REQUEST, StatusCode::NOT_ACCEPTABLE];
        statuses
            .into_iter()
            .find(|status| *why == status.to_string())
    }
}

pub(super) fn refused_to(at: String, what: Refused) -> Failure {
    Failure::Refused(Refusal { at, what })
}

pub(super) fn token_failure(at: &str, error: &TokenError) -> Failure {
    let at = at.to_owned();
    match error {
        TokenError::Refused(_) => refused_to(at, Refused::Caller),
        TokenError::Limited(retry_after) => Failure::Limited {
            at,
            retry_after: *retry_after,
            why: Limit::Quota,
        },
        TokenError::Unreachable(why) => Failure::Unreachable {
            at,
            why: format!("its token server: {why}"),
        },
        TokenError::Invalid(why) => Failure::Invalid {
            at,
            why: format!("a token challenge that leads nowhere: {why}"),
        },
        TokenError::Forbidden(why) => Failure::Forbidden(format!("{at}: {why}")),
    }
}

pub(super) fn send_failure(at: String, error: SendError) -> Failure {
    match error {
        SendError::Forbidden(why) => Failure::Forbidden(format!("{at}: {why}")),
        other => Failure::Unreachable {
            at,
            why: other.to_string(),
        },
    }
}

//! Why a registry gave no answer, as a closed set. Failures to send and to get a token are translated into it.

use std::{fmt, time::Duration};

use http::StatusCode;

use super::token::TokenError;
use crate::client::SendError;

/// Why there is no answer. `at` is the endpoint as `scheme://host:port`, or the registry's name if no endpoint was
/// asked. The text names places and causes, never a secret or a query.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// 404 from the origin, the last endpoint.
    #[error("{0} does not have it")]
    NotFound(String),
    /// 401 or 403 in the registry's own words: this credential, or its absence, does not open the subject.
    #[error("{} refused access", .0.at)]
    Refused(Refusal),
    /// 429, or 503 with `Retry-After`.
    #[error("{at} {why}{}", more(*retry_after))]
    Limited {
        at: String,
        retry_after: Option<Duration>,
        why: Limit,
    },
    /// 416, with the content's length if the answer states it.
    #[error("the range is not satisfiable")]
    Unsatisfiable { total: Option<u64> },
    /// Refused connections, time-outs, 5xx.
    #[error("{at} cannot be reached: {why}")]
    Unreachable { at: String, why: String },
    /// larder does not connect to this place.
    #[error("{0}")]
    Forbidden(String),
    /// An answer that a registry may not give. Its sender has no say in a caller's rights.
    #[error("{at} answered with {why}")]
    Invalid { at: String, why: String },
}

/// Why a place asks for silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// 429
    Quota,
    /// 503 with a `Retry-After`.
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

/// The scope of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The subject, to this caller. The caller may still read the rest of the repository.
    Subject,
    /// The caller itself, refused by the token server.
    Caller,
    /// A refusal of a moment ago. No registry was asked now.
    Before,
}

impl Failure {
    /// The status of a registry that does not support the question: 400 or 406.
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

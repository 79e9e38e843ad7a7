//! What can go wrong with the store, in words that hold neither a URL nor a secret.

use std::{error::Error, fmt, io, time::Duration};

use http::StatusCode;

use crate::metrics::ObjectOutcome;

/// Why the store did not do what it was asked. For a pull each of them is a miss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectFailure {
    /// The store failed repeatedly and is left alone for so much longer.
    #[error("the object store failed repeatedly and is not asked for another {} s", .0.as_secs().max(1))]
    Skipped(Duration),
    /// The store did not answer, or stopped sending.
    #[error("the object store sent nothing for {0:?}")]
    Timeout(Duration),
    /// There is no connection.
    #[error("the object store cannot be reached: {0}")]
    Unreachable(String),
    /// The store does not accept the credentials, or not for this request.
    #[error("the object store refuses: {0}")]
    Denied(ObjectAnswer),
    /// The store answered with an error.
    #[error("the object store answered {0}")]
    Answered(ObjectAnswer),
    /// An object or a file that is not what it should be.
    #[error("{0}")]
    Damaged(&'static str),
    /// A path that cannot be a record's.
    #[error("`{0}` cannot be the path of a record")]
    Path(String),
    /// Another node is writing the same object.
    #[error("another node is writing the object")]
    Busy,
    /// Anything else, as the innermost cause says it.
    #[error("the object store failed: {0}")]
    Other(String),
    /// larder is stopping.
    #[error("larder is stopping")]
    Stopping,
}

/// A status and the error code that S3 puts beside it, such as `SlowDown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectAnswer {
    pub status: StatusCode,
    pub code: Option<String>,
}

impl fmt::Display for ObjectAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status.as_str())?;
        match &self.code {
            Some(code) => write!(f, " {code}"),
            None => Ok(()),
        }
    }
}

impl Error for ObjectAnswer {}

/// What the store's client gets for a request that brought no response.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Unreachable(String),
}

impl ObjectFailure {
    /// The label that counts it.
    pub fn outcome(&self) -> ObjectOutcome {
        match self {
            Self::Skipped(_) => ObjectOutcome::Skipped,
            Self::Timeout(_) => ObjectOutcome::TimedOut,
            Self::Unreachable(_) => ObjectOutcome::Unreachable,
            Self::Denied(_) => ObjectOutcome::Denied,
            Self::Answered(_)
            | Self::Damaged(_)
            | Self::Path(_)
            | Self::Busy
            | Self::Other(_)
            | Self::Stopping => ObjectOutcome::Failed,
        }
    }

    /// Whether the store as such has failed, rather than one object.
    pub(super) fn is_the_stores(&self) -> bool {
        match self {
            Self::Answered(answer) => answer.status != StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Skipped(_) | Self::Damaged(_) | Self::Path(_) | Self::Busy | Self::Stopping => {
                false
            }
            Self::Timeout(_) | Self::Unreachable(_) | Self::Denied(_) | Self::Other(_) => true,
        }
    }
}

impl From<ObjectAnswer> for ObjectFailure {
    fn from(answer: ObjectAnswer) -> Self {
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Denied(answer),
            _ => Self::Answered(answer),
        }
    }
}

impl From<object_store::Error> for ObjectFailure {
    fn from(error: object_store::Error) -> Self {
        let bare = |status| Self::from(ObjectAnswer { status, code: None });
        match &error {
            object_store::Error::PermissionDenied { .. } => return bare(StatusCode::FORBIDDEN),
            object_store::Error::Unauthenticated { .. } => return bare(StatusCode::UNAUTHORIZED),
            object_store::Error::NotFound { .. } => return bare(StatusCode::NOT_FOUND),
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. } => {
                return bare(StatusCode::PRECONDITION_FAILED);
            }
            _ => {}
        }
        Self::of(&error)
    }
}

impl ObjectFailure {
    /// The failure that the innermost cause tells: the outer ones hold the URL.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = error;
        loop {
            if let Some(answer) = cause.downcast_ref::<ObjectAnswer>() {
                return answer.clone().into();
            }
            match cause.downcast_ref::<Unanswered>() {
                Some(Unanswered::Timeout(after)) => return Self::Timeout(*after),
                Some(Unanswered::Unreachable(why)) => return Self::Unreachable(why.clone()),
                None => {}
            }
            // An io::Error shows its inner error as itself, not as its source.
            let inner = cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
                .map(|inner| inner as &(dyn Error + 'static));
            match inner.or_else(|| cause.source()) {
                Some(deeper) => cause = deeper,
                None => return Self::Other(cause.to_string().chars().take(200).collect()),
            }
        }
    }
}

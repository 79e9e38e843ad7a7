//! Errors as the OCI distribution-spec has them ("Error Codes"): a code, a status, and the JSON body.

use http::StatusCode;

/// The `code` of an error. The specification defines all but [`Self::TagInvalid`] (Docker's registry API),
/// [`Self::RangeInvalid`] and [`Self::Unavailable`] (larder's own: this node cannot answer now, but another host may).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    BlobUnknown,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    TagInvalid,
    RangeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    Unavailable,
}

impl ErrorCode {
    /// The code as the distribution-spec writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::TagInvalid => "TAG_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
        }
    }

    /// The HTTP status that goes with the code.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::DigestInvalid | Self::ManifestInvalid | Self::NameInvalid | Self::TagInvalid => {
                StatusCode::BAD_REQUEST
            }
            Self::BlobUnknown | Self::ManifestUnknown | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// One error for a client. `message` names the thing and the fix, and holds no secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct OciError {
    pub code: ErrorCode,
    pub message: String,
}

impl OciError {
    /// An error of one code, with a message for a person.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// `{"errors":[{"code":…,"message":…}]}`
    pub fn body(&self) -> String {
        serde_json::json!({"errors": [{"code": self.code.as_str(), "message": self.message}]})
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_specifications() {
        let error = OciError::new(ErrorCode::BlobUnknown, "no \"such\" blob");
        assert_eq!(
            error.body(),
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no \"such\" blob"}]}"#
        );
        assert_eq!(error.code.status(), StatusCode::NOT_FOUND);
    }
}

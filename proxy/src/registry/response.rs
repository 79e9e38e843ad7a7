//! Turns answers and errors into responses: the one place that knows the code, status and headers of each error.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use larder_shared::{ErrorCode, OciError, Route};

use crate::{
    body::Body,
    fill::FillError,
    metrics::{Outcome, Tier},
    pull::{PullError, Pulled},
    record::RequestRecord,
    telemetry,
    upstream::Failure,
};

/// The error code of a 404 for this route.
pub(super) fn unknown(route: &Route) -> ErrorCode {
    match route {
        Route::Blob(..) => ErrorCode::BlobUnknown,
        Route::Manifest(..) => ErrorCode::ManifestUnknown,
        _ => ErrorCode::NameUnknown,
    }
}

/// The error code of a registry's 400 for a route whose 404 has the code `unknown`.
const fn invalid(unknown: ErrorCode) -> ErrorCode {
    match unknown {
        ErrorCode::BlobUnknown => ErrorCode::DigestInvalid,
        ErrorCode::ManifestUnknown => ErrorCode::ManifestInvalid,
        _ => ErrorCode::NameInvalid,
    }
}

/// The response of a request that can be answered.
pub(crate) fn ok_response(pulled: Pulled, record: &mut RequestRecord) -> Response<Body> {
    record.answered(pulled.status, pulled.tier, pulled.outcome);
    let mut response = Response::new(pulled.body);
    *response.status_mut() = pulled.status;
    *response.headers_mut() = pulled.headers;
    response
}

/// Turns an error into a response.
pub(crate) fn error_response(
    error: &PullError,
    unknown: ErrorCode,
    agent: &str,
    record: &mut RequestRecord,
) -> Response<Body> {
    let mut retry_after = None;
    let code = match error {
        PullError::Request(error) => error.code,
        PullError::NotAllowed(_) => ErrorCode::Denied,
        PullError::Unauthorized { .. } => ErrorCode::Unauthorized,
        PullError::Range(_) => ErrorCode::RangeInvalid,
        PullError::NoReferrers(_) => ErrorCode::Unsupported,
        PullError::TooLarge => ErrorCode::Unavailable,
        PullError::Upstream(failure) | PullError::Fill(FillError::Upstream(failure)) => {
            match failure {
                Failure::NotFound(_) => unknown,
                Failure::Refused(_) => ErrorCode::Unauthorized,
                Failure::Limited {
                    retry_after: after, ..
                } => {
                    retry_after = Some(after.unwrap_or(Duration::from_secs(30)));
                    ErrorCode::TooManyRequests
                }
                Failure::Unsatisfiable { .. } => ErrorCode::RangeInvalid,
                Failure::Forbidden(_) => ErrorCode::Denied,
                Failure::Invalid { .. } if failure.declined() == Some(StatusCode::BAD_REQUEST) => {
                    invalid(unknown)
                }
                Failure::Unreachable { .. } | Failure::Invalid { .. } => ErrorCode::Unavailable,
            }
        }
        PullError::Fill(FillError::Broken(_) | FillError::Digest | FillError::Disk(_)) => {
            ErrorCode::Unavailable
        }
    };
    // containerd repeats a 429 at once, 25 times a pull. After a 503 it goes on to the registry (promise P15).
    let status = match code {
        ErrorCode::TooManyRequests if agent.starts_with("containerd/") => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorCode::Unsupported if matches!(error, PullError::NoReferrers(_)) => {
            StatusCode::NOT_FOUND
        }
        code => code.status(),
    };
    let outcome = if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        complain(error, status, record);
        Outcome::Failed
    } else {
        Outcome::Refused
    };
    record.answered(status, Tier::None, outcome);
    let text = OciError::new(code, error.to_string()).body();
    let length = text.len();
    let mut response = Response::new(Body::bytes(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(after) = retry_after {
        // Rounded up: 0 would bring the client back at once.
        let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if let PullError::Range(size) = error
        && let Ok(value) = HeaderValue::try_from(format!("bytes */{size}"))
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    response
}

/// Logs what is wrong and how to fix it, once for many requests. Each request has a line of its own in any case.
fn complain(error: &PullError, status: StatusCode, record: &RequestRecord) {
    let what = match error {
        PullError::Upstream(failure) | PullError::Fill(FillError::Upstream(failure)) => {
            match failure {
                Failure::Limited { .. } => {
                    "a registry limits requests; give it credentials with a larger quota, a mirror, or `fresh_for` for tags"
                }
                Failure::Unreachable { .. } => {
                    "a registry cannot be reached; look at it, at DNS, the way out and its proxy, or give it a mirror"
                }
                _ => {
                    "a registry's answer makes no sense; look at the endpoint in the configuration"
                }
            }
        }
        PullError::Fill(FillError::Disk(_)) => {
            "the node tier failed; look at its disk: space, inodes, permissions, the kernel's log"
        }
        PullError::Fill(FillError::Digest) => {
            "every source gave wrong bytes; look at the registry or mirror, and at what is between"
        }
        _ => "a download broke off; look at the registry and the way to it",
    };
    if let Some(due) = telemetry::due(what, record.upstream_name()) {
        tracing::warn!(
            upstream.registry = record.upstream_name(),
            %error,
            status = status.as_u16(),
            request_id = record.trace().request_id(),
            unsaid = due.unsaid,
            "an error lets the client ask another host: {what}"
        );
    }
}

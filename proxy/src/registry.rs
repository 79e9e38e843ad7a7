//! The registry port's HTTP surface: a request becomes a pull, and what comes back becomes a response.
//!
//! Errors become responses here and nowhere else ([`error_response`]). What a method, a path, a digest or a range may
//! be is [`larder_shared`]'s; what to do about it is [`crate::pull`]'s.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use larder_shared::{ErrorCode, OciError, RangeHeader, Route};

use crate::{
    body::Body,
    fill::FillError,
    metrics::{Metrics, Outcome, Tier},
    pull::{self, Pull, PullError, Pulled},
    record::Record,
    sys::Regions,
    upstream::Failure,
};

/// Response headers leave within this time, whatever the sources do (promise P12): containerd waits for ever otherwise.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// Answers requests on the registry port.
#[derive(Debug)]
pub struct Surface {
    pull: Arc<Pull>,
    metrics: Arc<Metrics>,
}

impl Surface {
    pub fn new(pull: Arc<Pull>, metrics: Arc<Metrics>) -> Self {
        Self { pull, metrics }
    }

    /// Answers one request of a connection that sends the files of `regions`.
    pub async fn answer<B>(&self, request: Request<B>, regions: &Regions) -> Response<Body> {
        let text = |name: HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok());
        let agent = text(header::USER_AGENT).unwrap_or_default().to_owned();
        let mut record = Record::new(
            Arc::clone(&self.metrics),
            request.method().clone(),
            request.uri().path().to_owned(),
            agent.clone(),
        );
        let (ns, route) = match Self::read(&request) {
            Ok(route) => (named(&route), Ok(route)),
            Err(error) => (None, Err(error)),
        };
        if let Some((registry, _)) = &ns {
            record.upstream(registry);
        }
        let outcome = match route {
            Ok(route) => {
                let unknown = unknown(&route);
                let request = pull::Request {
                    head: request.method() == Method::HEAD,
                    range: RangeHeader::parse(text(header::RANGE)),
                    route,
                };
                match tokio::time::timeout(HEADERS_WITHIN, self.pull.serve(request)).await {
                    Ok(Ok(pulled)) => Ok(pulled),
                    Ok(Err(error)) => Err((error, unknown)),
                    Err(_) => Err((late(), unknown)),
                }
            }
            Err(error) => Err((PullError::Request(error), ErrorCode::NameUnknown)),
        };
        let mut response = match outcome {
            Ok(pulled) => ok_response(pulled, &mut record),
            Err((error, unknown)) => error_response(&error, unknown, &agent, &mut record),
        };
        let headers = response.headers_mut();
        // Optional in the specification, but some old clients look for it.
        headers.insert(
            HeaderName::from_static("docker-distribution-api-version"),
            HeaderValue::from_static("registry/2.0"),
        );
        if let Some(value) = ns.and_then(|(_, ns)| HeaderValue::try_from(ns?).ok()) {
            headers.insert(HeaderName::from_static("oci-namespace"), value);
        }
        let head = request.method() == Method::HEAD;
        response.map(|body| if head { Body::empty() } else { body }.serve(regions, record))
    }

    fn read<B>(request: &Request<B>) -> Result<Route, OciError> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(OciError::new(
                ErrorCode::Unsupported,
                "this is a read-only cache: push to the registry itself",
            ));
        }
        Route::parse(request.uri().path(), request.uri().query())?.ok_or_else(|| {
            OciError::new(
                ErrorCode::NameUnknown,
                "not a path of the registry API; it begins with /v2/",
            )
        })
    }
}

/// The registry as text for the access line, and `ns` as the client gave it.
fn named(route: &Route) -> Option<(String, Option<String>)> {
    let address = match route {
        Route::Ping => return None,
        Route::Manifest(address, _)
        | Route::Blob(address, _)
        | Route::Tags(address, _)
        | Route::Referrers(address, ..) => address,
    };
    let ns = address.ns().map(ToString::to_string);
    Some((ns.clone().unwrap_or_default(), ns))
}

/// What a 404 of this route is called.
fn unknown(route: &Route) -> ErrorCode {
    match route {
        Route::Blob(..) => ErrorCode::BlobUnknown,
        Route::Manifest(..) => ErrorCode::ManifestUnknown,
        _ => ErrorCode::NameUnknown,
    }
}

fn late() -> PullError {
    PullError::Upstream(Failure::Unreachable {
        place: "the registry".to_owned(),
        why: format!("no answer within {} s", HEADERS_WITHIN.as_secs()),
    })
}

fn ok_response(pulled: Pulled, record: &mut Record) -> Response<Body> {
    record.answered(pulled.status, pulled.tier, pulled.outcome);
    let mut response = Response::new(pulled.body);
    *response.status_mut() = pulled.status;
    *response.headers_mut() = pulled.headers;
    response
}

/// The one place where errors become responses.
fn error_response(
    error: &PullError,
    unknown: ErrorCode,
    agent: &str,
    record: &mut Record,
) -> Response<Body> {
    let mut retry_after = None;
    let code = match error {
        PullError::Request(error) => error.code,
        PullError::NotAllowed(_) => ErrorCode::Denied,
        PullError::Range(_) => ErrorCode::RangeInvalid,
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
                Failure::Unreachable { .. } | Failure::Invalid { .. } => ErrorCode::Unavailable,
            }
        }
        PullError::Fill(FillError::Broken(_) | FillError::Digest | FillError::Disk(_)) => {
            ErrorCode::Unavailable
        }
    };
    // containerd repeats a 429 at once, 25 times a pull; a 503 sends it on to the registry (promise P15).
    let status = match code {
        ErrorCode::TooManyRequests if agent.starts_with("containerd/") => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        code => code.status(),
    };
    let outcome = if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        tracing::warn!(%error, status = status.as_u16(), "a request could not be answered; the client is sent on");
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
    if code == ErrorCode::Unsupported {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if let PullError::Range(size) = error
        && let Ok(value) = HeaderValue::try_from(format!("bytes */{size}"))
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    response
}

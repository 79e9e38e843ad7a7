//! The store's client speaks through larder's own: one TLS stack, one set of roots, one reading of the proxy variables.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService,
    },
};

use super::failure::{ObjectAnswer, Unanswered};
use crate::client::{self, Client, Route, SendError};

/// An error's text is read up to this size, and for so long.
const ERROR_TEXT: u64 = 64 << 10;
const ERROR_TEXT_TIME: Duration = Duration::from_secs(2);

/// Makes the HTTP client through which the store's client sends its requests.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) client: Arc<Client>,
    pub(super) route: Route,
    /// How long a request may take until the head of its response.
    pub(super) patience: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        parts.headers.entry(header::USER_AGENT).or_insert(
            const { HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION"))) },
        );
        let request = Request::from_parts(parts, Full::new(body));
        let response = self
            .client
            .send(&self.route, request, self.patience)
            .await
            .map_err(unanswered)?;
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            // A body that breaks is not retried here: the reader deals with it.
            let body =
                body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, broken(&error)));
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        let text = client::collect(body, ERROR_TEXT, ERROR_TEXT_TIME)
            .await
            .unwrap_or_default();
        let code = code(&text);
        if is_answer(parts.status, code.as_deref()) {
            return Ok(HttpResponse::from_parts(parts, text.into()));
        }
        // The store's client retries errors of kind `Request`.
        let kind = match parts.status {
            StatusCode::NOT_IMPLEMENTED | StatusCode::INSUFFICIENT_STORAGE => {
                HttpErrorKind::Unknown
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => HttpErrorKind::Request,
            status if status.is_server_error() => HttpErrorKind::Request,
            _ => HttpErrorKind::Unknown,
        };
        let status = parts.status;
        Err(HttpError::new(kind, ObjectAnswer { status, code }))
    }
}

/// Whether the store's client should see this error as it came, since it decides by the status. Of all other errors
/// larder keeps the status and S3's error code.
fn is_answer(status: StatusCode, code: Option<&str>) -> bool {
    match status {
        StatusCode::NOT_MODIFIED | StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => true,
        // A bucket that is missing is not an object that is missing.
        StatusCode::NOT_FOUND => !matches!(code, Some("NoSuchBucket" | "ContainerNotFound")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => code.is_none(),
        _ => false,
    }
}

/// The error code in S3's `<Error><Code>SlowDown</Code>…`.
fn code(text: &Bytes) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let plain =
        !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| code.to_owned())
}

fn unanswered(error: SendError) -> HttpError {
    let unreachable = |why: String| (HttpErrorKind::Connect, Unanswered::Unreachable(why));
    let (kind, error) = match error {
        SendError::Timeout(after) => (HttpErrorKind::Timeout, Unanswered::Timeout(after)),
        SendError::Failed(why) | SendError::Broken(why) => unreachable(why),
        SendError::Tls(error) => unreachable(error.to_string()),
        SendError::Forbidden(error) => unreachable(error.to_string()),
    };
    HttpError::new(kind, error)
}

fn broken(error: &hyper::Error) -> Unanswered {
    Unanswered::Unreachable(format!("its answer broke off: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_an_error() {
        for (text, expected) in [
            (
                "<?xml?><Error><Code>SlowDown</Code><Message>m</Message>",
                Some("SlowDown"),
            ),
            ("<Code></Code>", None),
            ("<Code>a b</Code>", None),
            ("<Code>unfinished", None),
            ("", None),
        ] {
            assert_eq!(
                code(&Bytes::from_static(text.as_bytes())).as_deref(),
                expected
            );
        }
    }

    #[test]
    fn a_missing_bucket_is_an_error_and_a_missing_object_is_not() {
        assert!(is_answer(StatusCode::NOT_FOUND, Some("NoSuchKey")));
        assert!(is_answer(StatusCode::NOT_FOUND, None));
        assert!(!is_answer(StatusCode::NOT_FOUND, Some("NoSuchBucket")));
        assert!(!is_answer(StatusCode::FORBIDDEN, Some("AccessDenied")));
        assert!(is_answer(StatusCode::FORBIDDEN, None));
    }
}

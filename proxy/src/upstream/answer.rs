//! Answers of a registry: the meaning of a status and its headers.

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE},
};
use hyper::body::Incoming;
use larder_shared::Range;

use super::failure::{Failure, Limit, Refused, refused_to};
use crate::client::{Arrivals, retry_after};

/// A 200 or 206.
#[derive(Debug)]
pub struct Answer {
    pub partial: bool,
    /// The last hop's headers, with the digest and the rate limits of the registry's own hop, and its type if the last
    /// hop gives none.
    pub headers: HeaderMap,
    pub body: Incoming,
    /// How its bytes arrive.
    pub arrivals: Arrivals,
    /// The endpoint that answered.
    pub endpoint: usize,
    /// The endpoint is the origin, or the operator trusts it as much.
    pub proves: bool,
    /// No endpoint was asked: the answer comes from the target of a recent redirect.
    pub remembered: bool,
}

impl Answer {
    /// Bytes of the body, if stated.
    pub fn content_length(&self) -> Option<u64> {
        self.headers
            .get(CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// Bytes of the whole content, if stated: in the range of a part, or as the length of a whole body.
    pub fn whole_length(&self) -> Option<u64> {
        if self.partial {
            self.content_range().map(|(_, total)| total)
        } else {
            self.content_length()
        }
    }

    /// The range and the total in the `Content-Range` of a 206.
    pub fn content_range(&self) -> Option<(Range, u64)> {
        content_range(&self.headers)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Returns `false` for a 200 and `true` for a 206. Every other status is a failure.
pub(super) fn sort(at: &str, status: StatusCode, headers: &HeaderMap) -> Result<bool, Failure> {
    let at = at.to_owned();
    let retry_after = retry_after(headers);
    match status {
        StatusCode::OK => Ok(false),
        StatusCode::PARTIAL_CONTENT => Ok(true),
        StatusCode::NOT_FOUND => Err(Failure::NotFound(at)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused_to(at, Refused::Subject)),
        StatusCode::TOO_MANY_REQUESTS => Err(Failure::Limited {
            at,
            retry_after,
            why: Limit::Quota,
        }),
        StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => Err(Failure::Limited {
            at,
            retry_after,
            why: Limit::Unavailable,
        }),
        StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::Unsatisfiable {
            total: headers
                .get(CONTENT_RANGE)
                .and_then(|v| v.to_str().ok()?.strip_prefix("bytes */")?.parse().ok()),
        }),
        // The server is up, and does not know the method.
        StatusCode::NOT_IMPLEMENTED => Err(Failure::Invalid {
            at,
            why: status.to_string(),
        }),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Err(Failure::Unreachable {
                at,
                why: format!("it answered {status}"),
            })
        }
        status => Err(Failure::Invalid {
            at,
            why: status.to_string(),
        }),
    }
}

/// The range and the total in `Content-Range` (RFC 9110 section 14.4).
pub fn content_range(headers: &HeaderMap) -> Option<(Range, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then(|| (Range::new(first, last + 1), total))
}

//! Checks before a request is read, and headers of every answer, against browsers. Also conditions on ranges.

use http::{HeaderMap, HeaderValue, Request, Response, header};
use larder_shared::{RangeHeader, Route};

use super::Surface;
use crate::{
    body::Body,
    visitor::{self, Names, Refusal},
};

impl Surface {
    /// Fails if a web page in a browser on this node may have caused the request.
    pub(super) fn browsers<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let config = self.pull.config.load();
        let names = Names {
            own: &self.own_name,
            allowed: &config.registry.allow_hosts,
        };
        visitor::at_registry(request, names)
    }
}

/// Anyone may name the registry that content comes from. A browser must neither guess the content's type nor run it.
pub(super) fn harmless(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"),
    );
    response
}

/// The requested ranges. With an `If-Range`, they count only if the client already has a part of this very content (RFC
/// 9110 section 13.1.5), which the digest identifies.
pub(super) fn range(headers: &HeaderMap, route: &Route) -> RangeHeader {
    let same = headers.get_all(header::IF_RANGE).iter().all(|condition| {
        matches!(route, Route::Blob(_, digest) if condition.as_bytes() == format!("\"{digest}\"").as_bytes())
    });
    let value = headers.get(header::RANGE).filter(|_| same);
    RangeHeader::parse(value.and_then(|value| value.to_str().ok()))
}

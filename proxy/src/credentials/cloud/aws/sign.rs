//! Signing a request, with the object store's code.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use object_store::{aws::AwsAuthorizer, client::HttpRequestBody};

use super::{
    super::{ask::Trouble, sendable},
    keys::Keys,
};
use crate::credentials::error::{CredentialError, Fault};

/// A POST that is signed by SigV4.
pub(super) fn signed(
    request: http::request::Builder,
    body: String,
    keys: &Keys,
    service: &str,
    region: &str,
    server: &str,
) -> Result<Request<Full<Bytes>>, Trouble> {
    let bytes = Bytes::from(body);
    let request = request.body(HttpRequestBody::from(bytes.clone()));
    let mut request = sendable(request, server)?;
    AwsAuthorizer::new(&keys.credential, service, region)
        .try_authorize(&mut request, None)
        .map_err(|_| {
            CredentialError::new(Fault::Content, server, "no request to it can be signed")
        })?;
    let (mut parts, _) = request.into_parts();
    for name in [header::AUTHORIZATION.as_str(), "x-amz-security-token"] {
        if let Some(value) = parts.headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
    Ok(Request::from_parts(parts, Full::new(bytes)))
}

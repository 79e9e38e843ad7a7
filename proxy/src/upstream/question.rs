//! Questions to a registry, and their form as HTTP requests.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, RANGE, USER_AGENT},
};
use http_body_util::Full;
use larder_shared::{Digest, Range, Reference, RegistryName, Repository, media};

use super::{failure::Failure, scheme::Scope};
use crate::{client, config::Endpoint, identity::Identity, trace::Trace};

/// The name that larder gives itself to registries.
pub(super) const AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));

/// The content that a question asks for, in a repository.
#[derive(Clone, Debug)]
pub enum Subject {
    Manifest(Reference),
    Blob(Digest),
    /// `tags/list` with a query.
    Tags(String),
    /// Azure's own list of tags, which has their digests, with a query.
    AcrTags(String),
    /// `referrers/<digest>` with a query.
    Referrers(Digest, String),
}

/// The part of the subject that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// HEAD
    Head,
    /// GET
    All,
    /// GET with `Range: bytes=start-(end-1)`
    Part(Range),
}

/// How much depends on an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    Needed,
    /// The caller can do without an answer, so an endpoint whose breaker is open is not asked.
    Optional,
    /// Another source is asked too, and the first answer wins. If the caller leaves, the endpoint is not to blame.
    Beside,
}

/// One question to a registry.
#[derive(Clone, Debug)]
pub struct Ask {
    pub registry: RegistryName,
    pub repository: Repository,
    pub subject: Subject,
    pub want: Want,
    /// The endpoint to begin with. It is increased after each one that broke off, and wraps around.
    pub first: usize,
    pub need: Need,
    /// How long the caller waits, over all endpoints; `None` for the time limit of a first byte. An endpoint with
    /// others after it gets half of the time left, so that a hanging endpoint does not use up theirs.
    pub within: Option<Duration>,
    /// On whose behalf the question is asked. Only endpoints that prove access see a credential.
    pub identity: Identity,
    /// The answer must be a proof of access, so only endpoints that can prove it are asked.
    pub proof: bool,
    /// The registry itself must answer, so no remembered redirect is used.
    pub anew: bool,
    /// Bytes of the whole blob, as stated by a source.
    pub size: Option<u64>,
    /// Bytes of the whole blob, as listed in a manifest. A manifest may state anything, so this alone decides nothing.
    pub listed: Option<u64>,
    /// Only the last endpoint may answer.
    pub of_origin: bool,
    /// The request for which the question is asked.
    pub trace: Trace,
}

impl Ask {
    /// A question that needs an answer, to the endpoints in their order.
    pub fn new(
        registry: &RegistryName,
        repository: &Repository,
        subject: Subject,
        want: Want,
    ) -> Self {
        Self {
            registry: registry.clone(),
            repository: repository.clone(),
            subject,
            want,
            first: 0,
            need: Need::Needed,
            within: None,
            identity: Identity::anonymous(),
            proof: false,
            anew: false,
            size: None,
            listed: None,
            of_origin: false,
            trace: Trace::none(),
        }
    }

    /// The same question on behalf of `identity`.
    #[must_use]
    pub fn by(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// The same question for the request of `trace`.
    #[must_use]
    pub fn traced(mut self, trace: &Trace) -> Self {
        self.trace = trace.clone();
        self
    }

    /// The same question as a proof of access.
    #[must_use]
    pub fn proof(mut self) -> Self {
        self.proof = true;
        self.anew = true;
        self
    }

    /// The same question for a caller that can do without an answer.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.need = Need::Optional;
        self
    }
}

impl Subject {
    /// The tag or digest that names the subject in its repository; `None` for lists.
    pub fn reference(&self) -> Option<Reference> {
        match self {
            Self::Manifest(reference) => Some(reference.clone()),
            Self::Blob(digest) => Some(Reference::Digest(*digest)),
            Self::Tags(_) | Self::AcrTags(_) | Self::Referrers(..) => None,
        }
    }

    /// The digest that the bytes must have, if the question says so.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Blob(digest) | Self::Manifest(Reference::Digest(digest)) => Some(*digest),
            _ => None,
        }
    }

    /// The scope that a token needs for this subject.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Self::AcrTags(_) => Scope::Metadata,
            _ => Scope::Content,
        }
    }
}

/// `<endpoint>/v2/<repository>/…`, or without a second `/v2` if the endpoint's path has one, as for a project of
/// Harbor.
pub(super) fn endpoint_uri(endpoint: &Endpoint, ask: &Ask) -> Result<Uri, Failure> {
    let base = endpoint.url.to_string();
    let base = base.trim_end_matches('/');
    let v2 = if endpoint.url.path().split('/').any(|c| c == "v2") {
        ""
    } else {
        "/v2"
    };
    let repository = &ask.repository;
    let rest = match &ask.subject {
        Subject::AcrTags(query) => return acr_uri(endpoint, repository, query),
        Subject::Manifest(reference) => format!("manifests/{reference}"),
        Subject::Blob(digest) => format!("blobs/{digest}"),
        Subject::Tags(query) => with_query("tags/list".to_owned(), query),
        Subject::Referrers(digest, query) => with_query(format!("referrers/{digest}"), query),
    };
    parsed(endpoint, &format!("{base}{v2}/{repository}/{rest}"))
}

/// Azure's API lies beside `/v2`. In an endpoint's path, the part after `/v2` belongs to the repository's name.
fn acr_uri(endpoint: &Endpoint, repository: &Repository, query: &str) -> Result<Uri, Failure> {
    let path: Vec<_> = endpoint.url.path().split('/').collect();
    let path = path.split(|part| *part == "v2").collect::<Vec<_>>();
    let parts = |at: usize| path.get(at).copied().unwrap_or_default().iter().copied();
    let plain = |part: &&str| !part.is_empty();
    let repository = repository.as_str();
    let segments = parts(0).chain(["acr", "v1"]).chain(parts(1));
    let mut text = client::origin(&endpoint.url);
    for segment in segments.chain([repository, "_tags"]).filter(plain) {
        text.push('/');
        text.push_str(segment);
    }
    parsed(endpoint, &with_query(text, query))
}

fn parsed(endpoint: &Endpoint, text: &str) -> Result<Uri, Failure> {
    text.parse().map_err(|_| Failure::Invalid {
        at: client::origin(&endpoint.url),
        why: "a URL that cannot be asked".to_owned(),
    })
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

pub(super) fn request(
    ask: &Ask,
    uri: &Uri,
    authorization: Option<&HeaderValue>,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = uri.clone();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    // Content is addressed by its bytes, so nothing on the way may re-encode them.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let accept = match ask.subject {
        Subject::Manifest(_) => media::ACCEPT,
        Subject::Referrers(..) => media::OCI_INDEX,
        _ => "*/*",
    };
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    let range = match ask.want {
        Want::Head => {
            *request.method_mut() = Method::HEAD;
            return request;
        }
        Want::All => return request,
        Want::Part(range) => format!("bytes={}-{}", range.start, range.end - 1),
    };
    if let Ok(range) = HeaderValue::try_from(range) {
        request.headers_mut().insert(RANGE, range);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_azure_lies_beside_the_registry_api() {
        for (endpoint, expected) in [
            (
                "https://t.azurecr.io",
                "https://t.azurecr.io/acr/v1/a/b/_tags?n=5",
            ),
            (
                "https://t.azurecr.io/",
                "https://t.azurecr.io/acr/v1/a/b/_tags?n=5",
            ),
            (
                "https://h.io/x/v2/hub/",
                "https://h.io/x/acr/v1/hub/a/b/_tags?n=5",
            ),
            ("https://h.io/x", "https://h.io/x/acr/v1/a/b/_tags?n=5"),
        ] {
            let endpoint = Endpoint::parse(endpoint).unwrap();
            let ask = Ask::new(
                &"t.azurecr.io".parse().unwrap(),
                &"a/b".parse().unwrap(),
                Subject::AcrTags("n=5".to_owned()),
                Want::All,
            );
            assert_eq!(endpoint_uri(&endpoint, &ask).unwrap(), expected);
        }
    }
}

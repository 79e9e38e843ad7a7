//! Questions to a registry and its answers: how one is written as an HTTP request, and what a response means.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, RANGE, RETRY_AFTER,
        USER_AGENT,
    },
};
use http_body_util::Full;
use hyper::body::Incoming;
use larder_shared::{Digest, Range, Reference, RegistryName, Repository, media};

use crate::{client, config::Endpoint, identity::Identity, trace::Trace};

/// How larder names itself to registries.
pub(super) const AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));

/// What is asked of a repository.
#[derive(Clone, Debug)]
pub enum Subject {
    Manifest(Reference),
    Blob(Digest),
    /// `tags/list` with a query.
    Tags(String),
    /// `referrers/<digest>` with a query.
    Referrers(Digest, String),
}

/// The bytes that are wanted of a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// HEAD
    Head,
    /// GET
    All,
    /// GET with `Range: bytes=start-(end-1)`
    Part(Range),
}

/// What hangs on an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    Needed,
    /// The caller can do without: an endpoint whose breaker is open is not bothered.
    Optional,
    /// Somebody else is asked as well, and whoever answers first will do: leaving says nothing about the endpoint.
    Beside,
}

/// One question to a registry.
#[derive(Clone, Debug)]
pub struct Ask {
    pub registry: RegistryName,
    pub repository: Repository,
    pub subject: Subject,
    pub want: Want,
    /// Which endpoint to begin with, counted through: one more after each that broke off.
    pub first: usize,
    pub need: Need,
    /// How long the caller will wait, all endpoints together; as long as for a first byte otherwise. An endpoint that
    /// others stand behind gets half of what is left, so that one that hangs does not use up their time.
    pub within: Option<Duration>,
    /// On whose behalf. Only endpoints that prove access get to see a credential.
    pub identity: Identity,
    /// The answer is to be a proof of access: only who can prove it is asked.
    pub proof: bool,
    /// No remembered redirect will do: the registry itself must answer.
    pub anew: bool,
    /// Bytes of the whole blob, once a source has told.
    pub size: Option<u64>,
    /// Bytes of the whole blob, as a manifest lists it: anyone may push a manifest, so it decides nothing by itself.
    pub listed: Option<u64>,
    /// Only the last endpoint will do.
    pub of_origin: bool,
    /// Whose request it is for.
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

    /// The same on somebody's behalf.
    #[must_use]
    pub fn by(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// The same for a request.
    #[must_use]
    pub fn traced(mut self, trace: &Trace) -> Self {
        self.trace = trace.clone();
        self
    }

    /// The same as a proof of access.
    #[must_use]
    pub fn proof(mut self) -> Self {
        self.proof = true;
        self.anew = true;
        self
    }

    /// As above, for a caller that can do without.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.need = Need::Optional;
        self
    }
}

/// A 200 or 206.
#[derive(Debug)]
pub struct Answer {
    pub partial: bool,
    /// Of the registry's own hop for type and digest, of the last hop for length and range.
    pub headers: HeaderMap,
    pub body: Incoming,
    /// Which endpoint gave it.
    pub endpoint: usize,
    /// The endpoint is the origin, or the operator takes its word for the origin's.
    pub proves: bool,
    /// The endpoint was not asked: a place answered that it led to a short time ago.
    pub remembered: bool,
}

/// Why there is no answer. The text names places and causes, never a secret or a query.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// 404 from the origin, the last endpoint.
    #[error("{0} does not have it")]
    NotFound(String),
    /// 401 or 403 in the registry's own words: this credential (so far: none) does not open it.
    #[error("{} refused access", .0.place)]
    Refused(Refusal),
    /// 429, or 503 with `Retry-After`.
    #[error("{place} {why}{}", more(*retry_after))]
    Limited {
        place: String,
        retry_after: Option<Duration>,
        why: Limit,
    },
    /// 416; the length, where it was told.
    #[error("the range is not satisfiable")]
    Unsatisfiable { total: Option<u64> },
    /// Refused connections, time-outs, 5xx.
    #[error("{place} cannot be reached: {why}")]
    Unreachable { place: String, why: String },
    /// larder will not connect there.
    #[error("{0}")]
    Forbidden(String),
    /// An answer that a registry may not give. Whatever gave it, it has no say in who may read.
    #[error("{place} answered with {why}")]
    Invalid { place: String, why: String },
}

/// Why a place wants to be left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// 429
    Quota,
    /// 503 with a time.
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
    pub place: String,
    pub what: Refused,
}

/// What was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// What was asked for, to this caller. It may have everything else of the repository.
    Subject,
    /// The caller itself, by the token server.
    Caller,
    /// Nobody was asked: it was refused a moment ago.
    Before,
}

impl Failure {
    /// 400 or 406: the registry does not take such a question.
    pub fn declined(&self) -> Option<StatusCode> {
        let Self::Invalid { why, .. } = self else {
            return None;
        };
        let statuses = [StatusCode::BAD_REQUEST, StatusCode::NOT_ACCEPTABLE];
        statuses
            .into_iter()
            .find(|status| *why == status.to_string())
    }

    /// 405: a registry that knows no HEAD. It is asked with GET.
    pub fn knows_no_head(&self) -> bool {
        matches!(self, Self::Invalid { why, .. } if why.starts_with("405"))
    }
}

impl Subject {
    /// What names it in its repository; lists have no name of their own.
    pub fn reference(&self) -> Option<Reference> {
        match self {
            Self::Manifest(reference) => Some(reference.clone()),
            Self::Blob(digest) => Some(Reference::Digest(*digest)),
            Self::Tags(_) | Self::Referrers(..) => None,
        }
    }

    /// The digest that the bytes must have, if the question says so.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Blob(digest) | Self::Manifest(Reference::Digest(digest)) => Some(*digest),
            _ => None,
        }
    }
}

/// `<endpoint>/v2/<repository>/…`; an endpoint whose path holds `/v2` already (a project of Harbor, say) is used as it is.
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
        Subject::Manifest(reference) => format!("manifests/{reference}"),
        Subject::Blob(digest) => format!("blobs/{digest}"),
        Subject::Tags(query) => with_query("tags/list".to_owned(), query),
        Subject::Referrers(digest, query) => with_query(format!("referrers/{digest}"), query),
    };
    format!("{base}{v2}/{repository}/{rest}")
        .parse()
        .map_err(|_| Failure::Invalid {
            place: client::origin(&endpoint.url),
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
    // Content is addressed by its bytes: nothing on the way may re-encode them.
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

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let left = date.duration_since(jiff::Timestamp::now());
    Some(left.try_into().unwrap_or(Duration::ZERO))
}

/// 200 is `false`, 206 is `true`, all else is a failure.
pub(super) fn sort(place: &str, status: StatusCode, headers: &HeaderMap) -> Result<bool, Failure> {
    let place = place.to_owned();
    let retry_after = retry_after(headers);
    match status {
        StatusCode::OK => Ok(false),
        StatusCode::PARTIAL_CONTENT => Ok(true),
        StatusCode::NOT_FOUND => Err(Failure::NotFound(place)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Refused(Refusal {
            place,
            what: Refused::Subject,
        })),
        StatusCode::TOO_MANY_REQUESTS => Err(Failure::Limited {
            place,
            retry_after,
            why: Limit::Quota,
        }),
        StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => Err(Failure::Limited {
            place,
            retry_after,
            why: Limit::Unavailable,
        }),
        StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::Unsatisfiable {
            total: headers
                .get(CONTENT_RANGE)
                .and_then(|v| v.to_str().ok()?.strip_prefix("bytes */")?.parse().ok()),
        }),
        // It is there, and does not know the method.
        StatusCode::NOT_IMPLEMENTED => Err(Failure::Invalid {
            place,
            why: status.to_string(),
        }),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Err(Failure::Unreachable {
                place,
                why: format!("it answered {status}"),
            })
        }
        status => Err(Failure::Invalid {
            place,
            why: status.to_string(),
        }),
    }
}

/// The range and the total that `Content-Range` tells (RFC 9110 section 14.4).
pub fn content_range(headers: &HeaderMap) -> Option<(Range, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then(|| (Range::new(first, last + 1), total))
}

impl Answer {
    /// Bytes of the body, if told.
    pub fn content_length(&self) -> Option<u64> {
        self.headers
            .get(CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// Bytes of the whole, if told: by the range of a part, or by the length of the whole.
    pub fn whole_length(&self) -> Option<u64> {
        if self.partial {
            self.content_range().map(|(_, total)| total)
        } else {
            self.content_length()
        }
    }

    /// The range and the total that `Content-Range` of a 206 tells.
    pub fn content_range(&self) -> Option<(Range, u64)> {
        content_range(&self.headers)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

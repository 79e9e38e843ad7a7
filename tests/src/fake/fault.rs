//! How the fake misbehaves, and for which requests.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::gate::Gate;
use super::odd::Odd;
use super::request::{Kind, Request};

/// Which requests a fault is for. Starts at a kind and is narrowed. `times` bounds how often the fault applies;
/// otherwise it applies until it is lifted.
#[derive(Clone)]
pub struct Match {
    kind: Option<Kind>,
    method: Option<String>,
    repository: Option<String>,
    reference: Option<String>,
    times: u32,
    condition: Option<Condition>,
}

type Condition = Arc<dyn Fn(&Request) -> bool + Send + Sync>;

impl Match {
    /// Every request.
    pub fn any() -> Self {
        Self {
            kind: None,
            method: None,
            repository: None,
            reference: None,
            times: u32::MAX,
            condition: None,
        }
    }

    /// Requests of one kind.
    pub fn kind(kind: Kind) -> Self {
        Self {
            kind: Some(kind),
            ..Self::any()
        }
    }

    /// `/v2/<repository>/blobs/…`. For the redirect's target, see [`Match::cdn`].
    pub fn blob() -> Self {
        Self::kind(Kind::Blob)
    }

    /// `/v2/<repository>/manifests/…`
    pub fn manifest() -> Self {
        Self::kind(Kind::Manifest)
    }

    /// `/v2/<repository>/tags/list`
    pub fn tags() -> Self {
        Self::kind(Kind::Tags)
    }

    /// `/v2/<repository>/referrers/…`
    pub fn referrers() -> Self {
        Self::kind(Kind::Referrers)
    }

    /// `/token`
    pub fn token() -> Self {
        Self::kind(Kind::Token)
    }

    /// `/v2/`
    pub fn ping() -> Self {
        Self::kind(Kind::Ping)
    }

    /// Blobs on the second port, to which [`Target::Cdn`] redirects.
    pub fn cdn() -> Self {
        Self::kind(Kind::Cdn)
    }

    /// Only this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only this repository.
    #[must_use]
    pub fn repository(mut self, repository: &str) -> Self {
        self.repository = Some(repository.to_owned());
        self
    }

    /// Only this tag or digest.
    #[must_use]
    pub fn reference(mut self, reference: &str) -> Self {
        self.reference = Some(reference.to_owned());
        self
    }

    /// Only requests that carry an `Authorization`.
    #[must_use]
    pub fn with_credentials(self) -> Self {
        self.when(|request| request.header("authorization").is_some())
    }

    /// Only requests for which the condition holds; a second condition replaces the first.
    #[must_use]
    pub fn when(mut self, condition: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        self.condition = Some(Arc::new(condition));
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    fn fits(&self, request: &Request) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        self.kind.is_none_or(|kind| kind == request.kind)
            && same(&self.method, &request.method)
            && same(&self.repository, &request.repository)
            && same(&self.reference, &request.reference)
            && self.condition.as_ref().is_none_or(|holds| holds(request))
    }
}

impl fmt::Debug for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Match")
            .field("kind", &self.kind)
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// Where a redirect leads.
#[derive(Clone, Debug)]
pub enum Target {
    /// The value of `Location`, absolute or relative.
    Url(String),
    /// The same blob on the fake's second port, with a signed query. As an object store does, that port refuses a wrong
    /// signature (403) and any `Authorization` (400).
    Cdn,
}

/// One kind of misbehaviour. Several may apply to the same request.
///
/// Faults before the answer apply to any request, and come before authentication. The others apply only to an answer of
/// 2xx. Faults of the body apply only to the answer to a GET, and a HEAD does not use them up. Byte counts are of the
/// body of that one answer, except where noted.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Before the answer: wait so long.
    Delay(Duration),
    /// Before the answer: wait until the gate lets more than 0 bytes through.
    Hold(Gate),
    /// Instead of the answer.
    Status {
        /// The status code.
        code: u16,
        /// More headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Instead of the answer.
    Redirect {
        /// Where to.
        to: Target,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// Instead of the answer: 307 to the same path, for ever.
    RedirectLoop,
    /// Instead of the answer: the connection ends.
    HangUp,

    /// Headers: 200 and everything, whatever the `Range`.
    IgnoreRange,
    /// Headers: `Docker-Content-Digest` is a valid digest of something else.
    WrongDigestHeader,
    /// Headers: no `Docker-Content-Digest`.
    NoDigestHeader,
    /// Headers: no `Content-Length`; chunked.
    NoLength,
    /// Headers: a good answer in an odd form.
    Odd(Odd),
    /// Headers: `Content-Length` is off by this. The body is whole and ends by FIN.
    WrongLength(i64),

    /// Body: the byte at this offset of the *content* is flipped, in every answer that covers it.
    WrongBytes {
        /// Offset in the content, not in the answer.
        at: u64,
    },
    /// Body: wait at the gate.
    Gate(Gate),
    /// Body: so many bytes a second on each connection.
    ThrottleBytesPerSecond(u64),
    /// Body: send so many bytes, then nothing, on an open connection.
    StallAfter(u64),
    /// Body: send so many bytes, then FIN.
    TruncateAfter(u64),
    /// Body: send so many bytes, see them arrive, then RST.
    ResetAfter(u64),
}

impl Fault {
    /// A bare status with an empty body.
    pub fn status(code: u16) -> Self {
        Self::Status {
            code,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// A refusal in a registry's own words.
    pub fn denied(code: u16) -> Self {
        let body = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"blocked by policy\"}]}";
        Self::body(code, "application/json", body)
    }

    /// The page of a load balancer, a firewall or a portal in a registry's place.
    pub fn page(code: u16) -> Self {
        let body = "<html><h1>Please log in</h1></html>";
        Self::body(code, "text/html; charset=utf-8", body)
    }

    fn body(code: u16, content_type: &str, body: &'static str) -> Self {
        Self::Status {
            code,
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body: body.into(),
        }
    }

    /// A 307 to the fake's own second port.
    pub fn redirect_to_cdn() -> Self {
        Self::Redirect {
            to: Target::Cdn,
            status: 307,
        }
    }

    fn phase(&self) -> Phase {
        match self {
            Self::Delay(_) | Self::Hold(_) => Phase::Before,
            Self::Status { .. } | Self::Redirect { .. } | Self::RedirectLoop | Self::HangUp => {
                Phase::Instead
            }
            Self::IgnoreRange
            | Self::WrongDigestHeader
            | Self::NoDigestHeader
            | Self::NoLength
            | Self::Odd(_)
            | Self::WrongLength(_) => Phase::Headers,
            Self::WrongBytes { .. }
            | Self::Gate(_)
            | Self::ThrottleBytesPerSecond(_)
            | Self::StallAfter(_)
            | Self::TruncateAfter(_)
            | Self::ResetAfter(_) => Phase::Body,
        }
    }
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Before,
    Instead,
    Headers,
    Body,
}

/// A rule in force, in the test's hands.
#[derive(Clone, Debug)]
pub struct Armed {
    left: Arc<AtomicU32>,
    hits: Arc<AtomicU32>,
}

impl Armed {
    /// How often the fault has applied.
    pub fn hits(&self) -> u32 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Ends the fault for all later requests.
    pub fn lift(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    fn take_one(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

/// All rules, in the order of their creation.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<(Match, Fault, Armed)>,
}

impl Rules {
    pub(super) fn add(&mut self, which: Match, fault: Fault) -> Armed {
        let armed = Armed {
            left: Arc::new(AtomicU32::new(which.times)),
            hits: Arc::new(AtomicU32::new(0)),
        };
        self.rules.push((which, fault, armed.clone()));
        armed
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The faults of one phase that apply to this request; uses up one time of each. Of the faults that replace the
    /// answer only the first applies.
    pub(super) fn strike(&self, request: &Request, phase: Phase) -> Vec<Fault> {
        let mut struck = Vec::new();
        for (which, fault, armed) in &self.rules {
            if fault.phase() != phase || !which.fits(request) || !armed.take_one() {
                continue;
            }
            armed.hits.fetch_add(1, Ordering::Relaxed);
            struck.push(fault.clone());
            if phase == Phase::Instead {
                break;
            }
        }
        struck
    }
}

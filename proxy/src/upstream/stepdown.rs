//! Stepping down (promise P26). larder asks by ranges and with HEAD. Some registries answer those badly and a plain GET
//! well. This module decides what an answer means for the next question, and remembers that for a time.
//!
//! The decisions are pure: [`next`] for one question at one endpoint, [`says`] and [`Manner::after`] for the questions
//! that follow.
//!
//! ```text
//! HEAD ──▶ no such method, nonsense, 404 of the origin ──▶ GET
//! range ─▶ not understood, an answer that does not fit ──▶ GET, remembered for the endpoint
//! range ─▶ 403, 404 ─────────────────────────────────────▶ GET, remembered for the digest; a second one: the endpoint
//! range ─▶ 5xx or a closed connection ─▶ the other endpoints ─▶ range again ─▶ GET, remembered for the digest
//! GET ───▶ 5xx or a closed connection ─▶ the other endpoints ─▶ GET again
//! ```

mod manner;

use std::time::Instant;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use larder_shared::{Digest, Range, Reference};

pub use self::manner::Became;
pub(super) use self::manner::{Manner, Manners};
use super::{
    Upstreams,
    answer::{Answer, content_range},
    failure::Failure,
    question::{Ask, Subject, Want},
};
use crate::{
    client,
    config::{Endpoint, Upstream},
};

/// The form of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    Head,
    /// A GET with a `Range` that begins at the first byte.
    First,
    /// A GET with a `Range` that begins later.
    Later,
    Plain,
}

/// The result of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// An answer that fits the question.
    Fits,
    /// A 2xx that does not fit: another range, no range, several parts, a HEAD without a length, a web page.
    Misfits,
    /// 416, and the blob ends before the range begins.
    Beyond,
    /// Any other status.
    Status(StatusCode),
    /// The connection stood, but no readable answer came.
    Closed,
    /// A failure that another form of the question would not change: no connection, no time, a limit, no token.
    Settled,
}

/// The next step at this endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Take,
    /// Ask with GET, and without a range.
    Plain,
    /// Ask the other endpoints, then this one again in the same form.
    Again,
    Believe,
}

/// Decides the next question at the endpoint. `origin`: this is the last endpoint.
#[expect(clippy::match_same_arms, reason = "a row of the table each")]
pub(super) fn next(put: Put, seen: Seen, origin: bool) -> Step {
    let status = match seen {
        Seen::Fits => return Step::Take,
        Seen::Beyond | Seen::Settled => return Step::Believe,
        Seen::Closed => return Step::Again,
        Seen::Misfits if put == Put::Plain => return Step::Believe,
        Seen::Misfits => return Step::Plain,
        Seen::Status(status) => status,
    };
    match (put, status) {
        (_, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS) => Step::Believe,
        // `refusal::meaning` decides whether this is a refusal.
        (Put::Head, StatusCode::FORBIDDEN) => Step::Believe,
        // After a mirror, the next endpoint is asked anyway. A proxy that asks no upstream for a HEAD must not decide.
        (Put::Head, StatusCode::NOT_FOUND) if origin => Step::Plain,
        (Put::Head | Put::First, StatusCode::NOT_FOUND) => Step::Believe,
        (Put::Plain, StatusCode::NOT_IMPLEMENTED) => Step::Believe,
        (_, StatusCode::NOT_IMPLEMENTED) => Step::Plain,
        (_, status) if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Step::Again
        }
        (Put::Plain, _) => Step::Believe,
        (Put::Head | Put::First | Put::Later, _) => Step::Plain,
    }
}

/// As [`next`], for the second attempt, when no other endpoint is left to ask.
pub(super) fn next_again(put: Put, seen: Seen, origin: bool) -> Step {
    match (next(put, seen, origin), put) {
        (Step::Again, Put::First | Put::Later) => Step::Plain,
        (Step::Again, Put::Head) if seen == Seen::Closed => Step::Plain,
        (Step::Again, _) => Step::Believe,
        (step, _) => step,
    }
}

/// What it says of an endpoint that a range failed and the plain GET after it succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Says {
    /// Nothing: the failure may be over.
    Nothing,
    /// The failure may concern this blob, or the target of its redirect: a signature that has expired, a copy that was
    /// not there yet. A second digest tells.
    OfDigest,
    /// The endpoint does not support ranges.
    OfEndpoint,
}

/// What the answer `seen` to a range says of the endpoint: nothing, unless [`next`] steps down after it.
pub(super) fn says(put: Put, seen: Seen, origin: bool) -> Says {
    match seen {
        Seen::Closed => Says::Nothing,
        _ if next(put, seen, origin) != Step::Plain => Says::Nothing,
        Seen::Status(StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => Says::OfDigest,
        _ => Says::OfEndpoint,
    }
}

/// A question without a good answer, and what was seen instead.
#[derive(Debug)]
pub(super) struct Missed {
    pub(super) failure: Failure,
    pub(super) seen: Seen,
    /// The endpoint may be asked once more, after the others.
    pub(super) again: bool,
}

impl Missed {
    pub(super) fn new(failure: Failure, seen: Seen) -> Self {
        Self {
            failure,
            seen,
            again: false,
        }
    }
}

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Self {
        Self::new(failure, Seen::Settled)
    }
}

impl Upstreams {
    /// Asks one endpoint, and steps down to a plainer form if the chosen one fails. `again`: no other endpoint is left
    /// to ask.
    pub(super) async fn ask_stepping_down(
        &self,
        ask: &Ask,
        index: usize,
        endpoint: &Endpoint,
        upstream: &Upstream,
        again: bool,
    ) -> Result<Answer, Missed> {
        let at = client::origin(&endpoint.url);
        let origin = index + 1 == upstream.endpoints.len();
        let mut asked = self.in_manner(ask, &at);
        // Set if a plain GET was needed: what that says of the endpoint.
        let mut stepped = None;
        loop {
            let answered = Box::pin(self.ask_endpoint(&asked, index, endpoint, upstream)).await;
            let put = put(&asked.want);
            let seen = match &answered {
                Ok(_) => Seen::Fits,
                Err(missed) => missed.seen,
            };
            let step = if again {
                next_again(put, seen, origin)
            } else {
                next(put, seen, origin)
            };
            // After a question about a tag, a GET of its manifest follows anyway. Only a proof is asked again by GET.
            let fetched_next =
                put == Put::Head && is_of_tag(ask) && !ask.proof && !is_missing(seen);
            match (step, answered) {
                (Step::Plain, Err(missed)) if !fetched_next => {
                    tracing::debug!(upstream.endpoint = at, failure = %missed.failure, "an endpoint is asked in a plainer way");
                    if matches!(put, Put::First | Put::Later) {
                        stepped = Some(says(put, seen, origin));
                    }
                    asked.want = plainer(&asked);
                }
                (Step::Again, Err(missed)) => {
                    return Err(Missed {
                        again: true,
                        ..missed
                    });
                }
                (_, Err(missed)) => return Err(missed),
                (_, Ok(answer)) => {
                    if let (Some(says), Some(digest)) = (stepped, ask.subject.digest()) {
                        let now = Instant::now();
                        self.manners.note_stepped(&at, &digest, says, now);
                    }
                    if put == Put::Later && answer.partial {
                        self.manners.note_answered(&at);
                    }
                    return Ok(answer);
                }
            }
        }
    }

    /// The question in the form that is known to work at an endpoint.
    pub(super) fn in_manner(&self, ask: &Ask, at: &str) -> Ask {
        let mut asked = ask.clone();
        if let (Want::Part(_), Some(digest)) = (ask.want, ask.subject.digest())
            && self.manners.of(at, &digest, Instant::now()) == Manner::Plain
        {
            asked.want = Want::All;
        }
        asked
    }

    /// Records what became of the bytes of `digest` from an endpoint. Returns whether the endpoint is asked for them in
    /// another manner from now on.
    pub fn became(
        &self,
        registry: &larder_shared::RegistryName,
        endpoint: usize,
        digest: &Digest,
        became: Became,
    ) -> bool {
        let upstream = self.config.load().upstream(registry.as_str());
        upstream.endpoints.get(endpoint).is_some_and(|endpoint| {
            let at = client::origin(&endpoint.url);
            self.manners.note(&at, digest, became, Instant::now())
        })
    }
}

fn put(want: &Want) -> Put {
    match want {
        Want::Head => Put::Head,
        Want::All => Put::Plain,
        Want::Part(range) if range.start == 0 => Put::First,
        Want::Part(_) => Put::Later,
    }
}

/// The plainer form of a question. For a blob's length, that is a GET of one byte.
fn plainer(ask: &Ask) -> Want {
    match (&ask.subject, ask.want) {
        (Subject::Blob(_), Want::Head) => Want::Part(Range::new(0, 1)),
        _ => Want::All,
    }
}

/// Whether a 200 (or, if `partial`, a 206) answers the question.
pub(super) fn seen(ask: &Ask, partial: bool, headers: &HeaderMap) -> Seen {
    let told = content_length(headers);
    let fits = match (&ask.subject, ask.want) {
        (Subject::Blob(digest), Want::Head) => {
            told.is_some_and(|length| length > 0 || is_of_nothing(digest)) && !is_html(headers)
        }
        (_, Want::Part(asked)) if partial => {
            content_range(headers).is_some_and(|(range, _)| range.start == asked.start)
        }
        (_, Want::All) if partial => {
            content_range(headers).is_some_and(|(range, total)| range == Range::new(0, total))
        }
        _ => !partial,
    };
    if fits { Seen::Fits } else { Seen::Misfits }
}

/// Whether the bytes are the registry's own, despite a stated encoding. Some registries repeat the label that was
/// pushed with the content. If the bytes really were encoded, their length would differ from the one in the manifest.
pub(super) fn is_unchanged(ask: &Ask, partial: bool, headers: &HeaderMap) -> bool {
    let Some(encoding) = headers.get(CONTENT_ENCODING) else {
        return true;
    };
    // No client reads these bytes.
    let unread = ask.proof || ask.want == Want::Head;
    if unread && matches!(ask.subject, Subject::Blob(_)) {
        return true;
    }
    let is = |name: &str| encoding.as_bytes().eq_ignore_ascii_case(name.as_bytes());
    let length = if partial {
        content_range(headers).map(|(_, total)| total)
    } else {
        content_length(headers)
    };
    // Clients do not decode x-gzip, so they take the bytes as they are.
    is("") || is("identity") || is("x-gzip") || (length.is_some() && length == ask.listed)
}

/// What a 416 means.
pub(super) fn beyond(ask: &Ask, total: Option<u64>) -> Seen {
    let range = match ask.want {
        Want::Part(range) => range,
        Want::All | Want::Head => return Seen::Status(StatusCode::RANGE_NOT_SATISFIABLE),
    };
    match total {
        Some(total) if range.start >= total && ask.size.is_none_or(|size| size == total) => {
            Seen::Beyond
        }
        _ => Seen::Status(StatusCode::RANGE_NOT_SATISFIABLE),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether this is a web page, such as that of a portal or an ingress in a registry's place.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    let html = |value: &HeaderValue| value.as_bytes().starts_with(b"text/html");
    headers.get(CONTENT_TYPE).is_some_and(html)
}

fn is_of_nothing(digest: &Digest) -> bool {
    *digest == Digest::of(digest.algorithm(), b"")
}

fn is_missing(seen: Seen) -> bool {
    matches!(seen, Seen::Closed | Seen::Status(StatusCode::NOT_FOUND))
}

/// Whether the question is about a tag.
fn is_of_tag(ask: &Ask) -> bool {
    matches!(ask.subject, Subject::Manifest(Reference::Tag(_)))
}

#[cfg(test)]
mod tests;

//! The ids that tie together the work for one request, on this node and beyond.
//!
//! A request brings its trace and its id, or gets them here. Both are in its access line, and in every request that
//! larder sends for it, to members and to the registry's own endpoints. If several requests share a question or a
//! download, it carries the ids of the first.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use larder_shared::trace::{SpanId, TraceId, TraceParent, request_id, tracestate};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The ids of a request. Cheap to clone.
#[derive(Clone)]
pub struct Trace(Option<Arc<Ids>>);

struct Ids {
    request: HeaderValue,
    /// This node's own span, as it is sent to peers and registries.
    parent: TraceParent,
    state: Option<HeaderValue>,
}

impl Trace {
    /// For work that no request asked for. Nothing is sent along.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The ids that a request brings. Missing or invalid ones are replaced by new ones.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let mut parents = headers.get_all(TRACEPARENT).iter();
        // More than one `traceparent` counts as none.
        let parent: Option<TraceParent> = match (parents.next(), parents.next()) {
            (Some(parent), None) => parent.to_str().ok().and_then(|text| text.parse().ok()),
            _ => None,
        };
        let states = || {
            let values = headers.get_all(TRACESTATE).iter();
            let states: Option<Vec<&str>> = values.map(|value| value.to_str().ok()).collect();
            HeaderValue::try_from(tracestate(states?)?).ok()
        };
        let state = parent.and_then(|_| states());
        let (trace, flags) = match parent {
            Some(parent) => (parent.trace, parent.flags),
            // The flags: not sampled, because larder records no spans, and every bit of the id is random.
            None => (new_trace(), 0b10),
        };
        let request = text(&REQUEST_ID)
            .and_then(request_id)
            .and_then(|id| HeaderValue::try_from(id).ok())
            .or_else(|| HeaderValue::try_from(format!("{:016x}", fastrand::u64(..))).ok())
            .unwrap_or(HeaderValue::from_static("-"));
        let ids = Ids {
            request,
            parent: TraceParent {
                trace,
                parent: new_span(),
                flags,
            },
            state,
        };
        Self(Some(Arc::new(ids)))
    }

    /// The request's id. Empty for work that no request asked for.
    pub fn request_id(&self) -> &str {
        let ids = self.0.as_ref();
        ids.and_then(|ids| ids.request.to_str().ok())
            .unwrap_or_default()
    }

    /// The trace's id and this node's span id, for the log.
    pub fn ids(&self) -> Option<(TraceId, SpanId)> {
        let ids = self.0.as_ref()?;
        Some((ids.parent.trace, ids.parent.parent))
    }

    /// Tells the client the request's id.
    pub fn answer(&self, headers: &mut HeaderMap) {
        if let Some(ids) = &self.0 {
            headers.insert(REQUEST_ID, ids.request.clone());
        }
    }

    /// Adds the ids to a request that larder sends for the client. `tracestate` holds what clients' systems have put
    /// there, so it is passed on only if the request `stays` within the operator's own systems.
    pub fn pass_on(&self, headers: &mut HeaderMap, stays: bool) {
        let Some(ids) = &self.0 else {
            return;
        };
        headers.insert(REQUEST_ID, ids.request.clone());
        if let Ok(parent) = HeaderValue::try_from(ids.parent.to_string()) {
            headers.insert(TRACEPARENT, parent);
        }
        if let (Some(state), true) = (&ids.state, stays) {
            headers.insert(TRACESTATE, state.clone());
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({})", self.request_id())
    }
}

fn new_trace() -> TraceId {
    loop {
        if let Some(id) = TraceId::new(fastrand::u128(..)) {
            return id;
        }
    }
}

fn new_span() -> SpanId {
    loop {
        if let Some(id) = SpanId::new(fastrand::u64(..)) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(headers: &[(&'static str, &'static str)]) -> Trace {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        Trace::of(&map)
    }

    fn told(trace: &Trace, stays: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        trace.pass_on(&mut headers, stays);
        headers
    }

    #[test]
    fn a_good_trace_goes_on_under_a_span_of_our_own() {
        let trace = of(&[
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ]);
        let headers = told(&trace, true);
        let passed: TraceParent = headers["traceparent"].to_str().unwrap().parse().unwrap();
        assert_eq!(passed.trace.to_string(), PARENT[3..35]);
        assert_ne!(passed.parent.to_string(), PARENT[36..52]);
        assert_eq!(passed.flags, 1);
        assert_eq!(headers["tracestate"], "a=1,b=2");
        assert!(!told(&trace, false).contains_key("tracestate"));
    }

    #[test]
    fn what_is_not_good_is_made_anew() {
        for headers in [
            &[][..],
            &[("traceparent", "nonsense"), ("tracestate", "a=1")],
            &[("traceparent", PARENT), ("traceparent", PARENT)],
            &[("x-request-id", "two words")],
        ] {
            let (one, other) = (of(headers), of(headers));
            let headers = told(&one, true);
            let passed: TraceParent = headers["traceparent"].to_str().unwrap().parse().unwrap();
            assert_eq!(passed.flags, 2);
            assert!(!headers.contains_key("tracestate"));
            assert_eq!(one.request_id().len(), 16);
            assert_ne!(one.request_id(), other.request_id());
            assert_ne!(one.ids(), other.ids());
        }
        assert_eq!(of(&[("x-request-id", "mine-1")]).request_id(), "mine-1");
        assert!(told(&Trace::none(), true).is_empty());
    }
}

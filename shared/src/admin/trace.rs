//! Requests as they happen.

use serde::{Deserialize, Serialize};

/// `POST /trace[?ref=IMAGE]`: one line each. Empty lines mean that nothing happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum TraceEvent {
    /// A request has come. `request` tells its other events from those of others.
    Begin {
        request: u64,
        /// `X-Request-ID`, as in the access line and as it is told to members and registries.
        #[serde(default)]
        request_id: String,
        method: String,
        /// Without the query.
        path: String,
        registry: String,
        repository: String,
        agent: String,
    },
    /// Something was decided or asked on its behalf: the words are those of `larder explain`.
    Step {
        request: u64,
        step: String,
        outcome: String,
        detail: String,
        /// Milliseconds since it began.
        after_ms: f64,
    },
    /// The head of the response has left, with the tier and the outcome of the access line.
    Answered {
        request: u64,
        status: u16,
        tier: String,
        outcome: String,
        after_ms: f64,
    },
    /// The request has ended.
    End {
        request: u64,
        outcome: String,
        sent_bytes: u64,
        after_ms: f64,
    },
    /// The listener was too slow for so many events.
    Missed { events: u64 },
}

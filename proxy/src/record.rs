//! The record of one request: its metrics and its access line, both written when it is dropped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};

use larder_shared::{Digest, Role};

use crate::{
    events::Traced,
    metrics::{Answered, Metrics, Outcome, PeerServed, RoleLabel, Served, Tier, UpstreamLabel},
    trace::Trace,
};

/// The port on which the request came.
#[derive(Clone, Copy, Debug)]
enum Port {
    Registry,
    /// The peer port: a member asks, in this role.
    Peers(Role),
}

/// One request on the registry port or the peer port. Lives as long as its response body.
#[derive(Debug)]
pub struct RequestRecord {
    port: Port,
    metrics: Arc<Metrics>,
    trace: Trace,
    started: Instant,
    method: Method,
    /// Path without query.
    path: String,
    upstream: String,
    label: UpstreamLabel,
    agent: String,
    status: StatusCode,
    tier: Tier,
    outcome: Outcome,
    first_byte: Option<Duration>,
    sent: u64,
    complete: bool,
    /// The blob, and the offset from which on everything was asked for.
    piece: Option<(Digest, u64)>,
    traced: Option<Traced>,
}

impl RequestRecord {
    pub fn new(
        metrics: Arc<Metrics>,
        trace: Trace,
        method: Method,
        path: String,
        agent: String,
    ) -> Self {
        metrics.clients.in_flight.inc();
        Self {
            port: Port::Registry,
            metrics,
            trace,
            started: Instant::now(),
            method,
            path,
            upstream: String::new(),
            label: UpstreamLabel::None,
            agent,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            tier: Tier::None,
            outcome: Outcome::Abandoned,
            first_byte: None,
            sent: 0,
            complete: false,
            piece: None,
            traced: None,
        }
    }

    /// Makes it the record of a member's request.
    #[must_use]
    pub fn of_member(mut self, role: Role) -> Self {
        self.metrics.clients.in_flight.dec();
        self.port = Port::Peers(role);
        self
    }

    /// The registry that is asked for. Empty if there is none.
    pub fn upstream_name(&self) -> &str {
        &self.upstream
    }

    /// The request's ids.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Lets a listener follow this request.
    pub fn traced(&mut self, traced: Option<Traced>) {
        self.traced = traced;
    }

    /// Sets the registry that is asked for, and the label under which it is counted.
    pub fn upstream(&mut self, registry: &str, label: UpstreamLabel) {
        registry.clone_into(&mut self.upstream);
        self.label = label;
    }

    /// Everything of a blob from `start` on is asked for. A client that fetches in pieces hangs up when it has its
    /// piece.
    pub fn piece(&mut self, digest: Digest, start: u64) {
        self.metrics.clients.piece_begins(&digest, start);
        self.piece = Some((digest, start));
    }

    /// The response's head is sent.
    pub fn answered(&mut self, status: StatusCode, tier: Tier, outcome: Outcome) {
        self.status = status;
        self.tier = tier;
        self.outcome = outcome;
        self.first_byte = Some(self.started.elapsed());
        if let Some(traced) = &self.traced {
            traced.answered(status.as_u16(), tier.as_str(), outcome.as_str());
        }
    }

    /// Body bytes were handed to the connection.
    pub fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// The whole body was handed to the connection.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// The body ends before its length.
    pub fn short(&mut self) {
        self.outcome = Outcome::Short;
        self.complete = true;
    }
}

impl RequestRecord {
    fn count(&self, used: u64) {
        let metrics = &self.metrics;
        match self.port {
            Port::Registry => {
                let (tier, outcome) = (self.tier, self.outcome);
                let served = Served {
                    tier,
                    upstream: self.label.clone(),
                    outcome,
                };
                metrics.clients.served(&served, self.sent, used);
                metrics.clients.in_flight.dec();
                if let Some(first_byte) = self.first_byte {
                    let seconds = &metrics.clients.first_byte_seconds;
                    seconds
                        .get_or_create(&Answered { tier, outcome })
                        .observe(first_byte.as_secs_f64());
                }
            }
            Port::Peers(role) => {
                let served = PeerServed {
                    role: RoleLabel(role),
                    outcome: self.outcome,
                };
                metrics.peers.served(&served, self.sent);
            }
        }
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let piece = self.piece.as_ref().and_then(|(digest, start)| {
            let clients = &self.metrics.clients;
            clients.piece_used(digest, *start, self.sent, self.complete)
        });
        if !self.complete && piece.is_none() {
            self.outcome = Outcome::Abandoned;
        }
        self.count(piece.unwrap_or(self.sent));
        if let Some(traced) = &self.traced {
            traced.ended(self.outcome.as_str(), self.sent);
        }
        let port = match self.port {
            Port::Registry => "registry",
            Port::Peers(role) => role.as_str(),
        };
        let ids = self.trace.ids();
        tracing::info!(
            target: "access",
            port,
            method = %self.method,
            path = self.path,
            upstream = self.upstream,
            status = self.status.as_u16(),
            tier = self.tier.as_str(),
            outcome = self.outcome.as_str(),
            sent_bytes = self.sent,
            first_byte_ms = self.first_byte.map(milliseconds),
            duration_ms = milliseconds(self.started.elapsed()),
            agent = self.agent,
            request_id = self.trace.request_id(),
            trace_id = ids.map(|(trace, _)| tracing::field::display(trace)),
            span_id = ids.map(|(_, span)| tracing::field::display(span)),
        );
    }
}

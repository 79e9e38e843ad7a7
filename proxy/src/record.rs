//! What happened to one request: its metrics and its access line, written when it is dropped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};

use larder_shared::Role;

use crate::{
    metrics::{Metrics, Outcome, PeerServed, RoleLabel, Served, Tier},
    events::Traced,
};

/// Who asked.
#[derive(Clone, Copy, Debug)]
enum Port {
    Registry,
    /// A member, in this role.
    Peers(Role),
}

/// One request on the registry port or the peer port. Lives as long as its response body.
#[derive(Debug)]
pub struct Record {
    port: Port,
    metrics: Arc<Metrics>,
    started: Instant,
    method: Method,
    /// Path without query.
    path: String,
    upstream: String,
    agent: String,
    status: StatusCode,
    tier: Tier,
    outcome: Outcome,
    first_byte: Option<Duration>,
    sent: u64,
    complete: bool,
    traced: Option<Traced>,
}

impl Record {
    pub fn new(metrics: Arc<Metrics>, method: Method, path: String, agent: String) -> Self {
        Self {
            port: Port::Registry,
            metrics,
            started: Instant::now(),
            method,
            path,
            upstream: String::new(),
            agent,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            tier: Tier::None,
            outcome: Outcome::Abandoned,
            first_byte: None,
            sent: 0,
            complete: false,
            traced: None,
        }
    }

    /// The same for a member's request.
    #[must_use]
    pub fn of_member(mut self, role: Role) -> Self {
        self.port = Port::Peers(role);
        self
    }

    /// Somebody listens to this request.
    pub fn traced(&mut self, traced: Option<Traced>) {
        self.traced = traced;
    }

    pub fn upstream(&mut self, registry: &str) {
        registry.clone_into(&mut self.upstream);
    }

    /// The head of the response leaves.
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

    /// Everything was handed over.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// The body has to end short.
    pub fn short(&mut self) {
        self.outcome = Outcome::Short;
        self.complete = true;
    }
}

impl Record {
    fn count(&self) {
        let metrics = &self.metrics;
        match self.port {
            Port::Registry => {
                let served = Served {
                    tier: self.tier,
                    outcome: self.outcome,
                };
                metrics.requests.get_or_create(&served).inc();
                let sent = metrics.sent_bytes.get_or_create(&served);
                sent.inc_by(self.sent);
                if let Some(first_byte) = self.first_byte {
                    metrics.first_byte_seconds.observe(first_byte.as_secs_f64());
                }
            }
            Port::Peers(role) => {
                let served = PeerServed {
                    role: RoleLabel(role),
                    outcome: self.outcome,
                };
                metrics.peers.served.get_or_create(&served).inc();
                let sent = metrics.peers.sent_bytes.get_or_create(&served);
                sent.inc_by(self.sent);
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete {
            self.outcome = Outcome::Abandoned;
        }
        self.count();
        if let Some(traced) = &self.traced {
            traced.ended(self.outcome.as_str(), self.sent);
        }
        let port = match self.port {
            Port::Registry => "registry",
            Port::Peers(role) => role.as_str(),
        };
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
            first_byte_ms = self.first_byte.map(|d| d.as_secs_f64() * 1000.0),
            duration_ms = self.started.elapsed().as_secs_f64() * 1000.0,
            agent = self.agent,
        );
    }
}

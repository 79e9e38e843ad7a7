//! What happened to one request: its metrics and its access line, written when it is dropped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};

use crate::metrics::{Metrics, Outcome, Served, Tier};

/// One request on the registry port. Lives as long as its response body.
#[derive(Debug)]
pub struct Record {
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
}

impl Record {
    pub fn new(metrics: Arc<Metrics>, method: Method, path: String, agent: String) -> Self {
        Self {
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
        }
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

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete {
            self.outcome = Outcome::Abandoned;
        }
        let served = Served {
            tier: self.tier,
            outcome: self.outcome,
        };
        self.metrics.requests.get_or_create(&served).inc();
        self.metrics
            .sent_bytes
            .get_or_create(&served)
            .inc_by(self.sent);
        if let Some(first_byte) = self.first_byte {
            self.metrics
                .first_byte_seconds
                .observe(first_byte.as_secs_f64());
        }
        tracing::info!(
            target: "access",
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

//! Every metric: its name, its labels, its handle.
//!
//! Labels are closed sets, so that a hundred thousand repositories do not grow them. Whoever serves a request records
//! what happened when the request's record is dropped, so that no path can forget it.

/// The words of the logs are the words of the labels.
macro_rules! label {
    ($($name:ident),*) => {
        $(impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        })*
    };
}

mod cluster;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use larder_shared::Role;

pub use self::cluster::{
    ObjectAsked, ObjectOperation, ObjectOutcome, ObjectStoreMetrics, PeerAsked, PeerAskedOutcome,
    PeerMetrics, PeerServed, RoleLabel,
};
use crate::credentials::Fault;

/// Where the bytes of an answer came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tier {
    /// This node's memory or disk.
    Node,
    /// Other members, whose bytes were fetched while they were served.
    Cluster,
    /// Fetched while it was served.
    Upstream,
    /// Neither: an error, a ping, headers only.
    None,
}

impl Tier {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Cluster => "cluster",
            Self::Upstream => "upstream",
            Self::None => "none",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Everything was here.
    Hit,
    /// Something was fetched.
    Miss,
    /// An old answer, because the registry cannot be asked.
    Stale,
    /// The client's mistake, or something that does not exist.
    Refused,
    /// larder or its sources could not answer.
    Failed,
    /// The client left before the end.
    Abandoned,
    /// The body had to end short.
    Short,
}

impl Outcome {
    pub const ALL: [Self; 7] = [
        Self::Hit,
        Self::Miss,
        Self::Stale,
        Self::Refused,
        Self::Failed,
        Self::Abandoned,
        Self::Short,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Short => "short",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Served {
    pub tier: Tier,
    pub outcome: Outcome,
}

/// How a question to an endpoint ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Asked {
    Answered,
    NotFound,
    Refused,
    Limited,
    Unreachable,
    Forbidden,
    Invalid,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct UpstreamAsked {
    pub outcome: Asked,
}

impl Asked {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Limited => "limited",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
        }
    }
}

label!(Tier, Outcome, Asked);

/// Why the node's own credentials could not be had.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct CredentialsFailed {
    pub fault: Fault,
}

impl EncodeLabelValue for Fault {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

/// What is known of upstreams.
#[derive(Default, Debug)]
pub struct UpstreamMetrics {
    pub asked: Family<UpstreamAsked, Counter>,
    pub credentials_failed: Family<CredentialsFailed, Counter>,
    /// Bytes of blobs that were received.
    pub received: Counter,
    /// Docker Hub's `ratelimit-limit` and `ratelimit-remaining`, as of its last answer that told them.
    pub hub_limit: Gauge,
    pub hub_remaining: Gauge,
}

/// Counters of fills.
#[derive(Default, Debug)]
pub struct FillMetrics {
    pub started: Counter,
    /// Readers that joined a fill that was under way.
    pub coalesced: Counter,
    pub resumed: Counter,
    pub committed: Counter,
    pub failed: Counter,
    /// Fills whose bytes did not have the digest.
    pub mismatched: Counter,
    pub withdrawn: Counter,
}

/// All handles, made once.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub requests: Family<Served, Counter>,
    pub sent_bytes: Family<Served, Counter>,
    /// Requests from addresses that may not speak to the registry port.
    pub turned_away: Counter,
    pub first_byte_seconds: Histogram,
    pub fills: FillMetrics,
    pub upstreams: UpstreamMetrics,
    pub peers: PeerMetrics,
    pub object_store: ObjectStoreMetrics,
    pub store_bytes: Gauge,
    pub store_blobs: Gauge,
    /// 1 while the node tier cannot be written.
    pub store_failing: Gauge,
    pub store_rotten: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        // 0.1 ms to 5 s: a hit is far below a millisecond, and 5 s is when larder gives up on headers.
        let buckets = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
        let mut registry = Registry::with_prefix("larder");
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            sent_bytes: Family::default(),
            turned_away: Counter::default(),
            first_byte_seconds: Histogram::new(buckets),
            fills: FillMetrics::default(),
            upstreams: UpstreamMetrics::default(),
            peers: PeerMetrics::default(),
            object_store: ObjectStoreMetrics::default(),
            store_bytes: Gauge::default(),
            store_blobs: Gauge::default(),
            store_failing: Gauge::default(),
            store_rotten: Gauge::default(),
        };
        registry.register(
            "requests",
            "Requests on the registry port, by tier and outcome",
            metrics.requests.clone(),
        );
        registry.register(
            "sent_bytes",
            "Body bytes sent to clients, by tier and outcome",
            metrics.sent_bytes.clone(),
        );
        registry.register(
            "turned_away",
            "Requests from addresses that may not speak to the registry port",
            metrics.turned_away.clone(),
        );
        registry.register_with_unit(
            "first_byte",
            "From the request to the response's head",
            Unit::Seconds,
            metrics.first_byte_seconds.clone(),
        );
        let fills = &metrics.fills;
        for (name, text, counter) in [
            ("fills_started", "Fills that were begun", &fills.started),
            (
                "fills_coalesced",
                "Readers that joined a fill under way",
                &fills.coalesced,
            ),
            (
                "fills_resumed",
                "Fills that went on from a partial on disk",
                &fills.resumed,
            ),
            (
                "fills_committed",
                "Blobs that were verified and committed",
                &fills.committed,
            ),
            (
                "fills_failed",
                "Fills that ended without their blob",
                &fills.failed,
            ),
            (
                "fills_mismatched",
                "Fills whose bytes did not have the digest",
                &fills.mismatched,
            ),
            (
                "fills_withdrawn",
                "Fills that nobody wanted any more",
                &fills.withdrawn,
            ),
        ] {
            registry.register(name, text, counter.clone());
        }
        registry.register(
            "store_size_bytes",
            "Bytes of committed blobs in the node tier",
            metrics.store_bytes.clone(),
        );
        registry.register(
            "store_blobs",
            "Committed blobs in the node tier",
            metrics.store_blobs.clone(),
        );
        registry.register(
            "store_failing",
            "1 while the node tier cannot be written and larder is a plain proxy",
            metrics.store_failing.clone(),
        );
        registry.register(
            "store_rotten_blobs",
            "Blobs found damaged on disk since the start",
            metrics.store_rotten.clone(),
        );
        metrics.peers.register(&mut registry);
        let upstreams = &metrics.upstreams;
        registry.register(
            "upstream_requests",
            "Questions to endpoints of upstreams, by outcome",
            upstreams.asked.clone(),
        );
        registry.register(
            "credentials_failed",
            "Look-ups of the node's own credentials that failed, by fault",
            upstreams.credentials_failed.clone(),
        );
        registry.register(
            "upstream_received_bytes",
            "Bytes of blobs received from upstreams",
            upstreams.received.clone(),
        );
        registry.register(
            "dockerhub_ratelimit_limit",
            "Pulls that Docker Hub allows in its window, as it last said",
            upstreams.hub_limit.clone(),
        );
        registry.register(
            "dockerhub_ratelimit_remaining",
            "Pulls left of them, as Docker Hub last said",
            upstreams.hub_remaining.clone(),
        );
        metrics.object_store.register(&mut registry);
        metrics.registry = registry;
        metrics
    }

    /// Requests that were answered so far.
    pub fn answered(&self) -> u64 {
        let tiers = [Tier::Node, Tier::Cluster, Tier::Upstream, Tier::None];
        tiers.map(|tier| sum(&self.requests, tier)).iter().sum()
    }

    /// Requests that were answered from `tier`.
    pub fn requests_from(&self, tier: Tier) -> u64 {
        sum(&self.requests, tier)
    }

    /// Body bytes that clients were sent from `tier`.
    pub fn sent_from(&self, tier: Tier) -> u64 {
        sum(&self.sent_bytes, tier)
    }

    /// Body bytes that other members were sent.
    pub fn sent_to_members(&self) -> u64 {
        let mut sent = 0;
        for role in Role::ALL.map(RoleLabel) {
            for outcome in Outcome::ALL {
                let served = PeerServed { role, outcome };
                let counter = self.peers.sent_bytes.get(&served);
                sent += counter.map_or(0, |counter| counter.get());
            }
        }
        sent
    }

    /// All metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// The sum over all outcomes, without making up those that never were.
fn sum(family: &Family<Served, Counter>, tier: Tier) -> u64 {
    let of = |outcome| {
        family
            .get(&Served { tier, outcome })
            .map_or(0, |counter| counter.get())
    };
    Outcome::ALL.map(of).iter().sum()
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

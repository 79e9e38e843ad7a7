//! Metrics of the cluster tier: what members and the object store are asked, and what members ask here.

use larder_shared::Role;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Outcome;

label!(PeerAskedOutcome, ObjectOperation, ObjectOutcome);

/// A role as a label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RoleLabel(pub Role);

impl EncodeLabelValue for RoleLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}

/// How a question to a member ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerAskedOutcome {
    Answered,
    Miss,
    Refused,
    Unable,
    Gone,
}

impl PeerAskedOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Miss => "miss",
            Self::Refused => "refused",
            Self::Unable => "unable",
            Self::Gone => "gone",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct PeerAsked {
    pub role: RoleLabel,
    pub outcome: PeerAskedOutcome,
}

/// What a member was given.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct PeerServed {
    pub role: RoleLabel,
    pub outcome: Outcome,
}

/// What is known of the other members.
#[derive(Default, Debug)]
pub struct PeerMetrics {
    pub asked: Family<PeerAsked, Counter>,
    pub served: Family<PeerServed, Counter>,
    pub sent_bytes: Family<PeerServed, Counter>,
    /// Bytes of blobs that were received from members.
    pub received: Counter,
    /// Streams that went on with somebody else.
    pub failovers: Counter,
    /// Members found to have given wrong bytes.
    pub distrusted: Counter,
    /// Connections and requests that are no member's.
    pub turned_away: Counter,
    pub members: Gauge,
}

impl PeerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "peer_requests",
            "Questions to members, by role and outcome",
            self.asked.clone(),
        );
        registry.register(
            "peer_served",
            "Requests of members, by role and outcome",
            self.served.clone(),
        );
        registry.register(
            "peer_sent_bytes",
            "Body bytes sent to members, by role and outcome",
            self.sent_bytes.clone(),
        );
        for (name, text, counter) in [
            (
                "peer_received_bytes",
                "Bytes of blobs received from members",
                &self.received,
            ),
            (
                "peer_failovers",
                "Streams from a member that went on with somebody else",
                &self.failovers,
            ),
            (
                "peer_distrusted",
                "Members found to have given wrong bytes",
                &self.distrusted,
            ),
            (
                "peer_turned_away",
                "Connections and requests on the peer port that are no member's",
                &self.turned_away,
            ),
        ] {
            registry.register(name, text, counter.clone());
        }
        registry.register(
            "members",
            "Members of the cluster, this node included",
            self.members.clone(),
        );
    }
}

/// What the object store is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ObjectOperation {
    Get,
    Head,
    WriteBlob,
    ReadRecord,
    WriteRecord,
}

impl ObjectOperation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::WriteBlob => "write_blob",
            Self::ReadRecord => "read_record",
            Self::WriteRecord => "write_record",
        }
    }
}

/// How that ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ObjectOutcome {
    Done,
    NotFound,
    /// Nothing to write: somebody else has.
    AlreadyThere,
    /// Not asked, since it failed repeatedly.
    Skipped,
    Denied,
    TimedOut,
    Unreachable,
    Failed,
    /// Not written: the queue was full, or every attempt failed.
    Dropped,
}

impl ObjectOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotFound => "not_found",
            Self::AlreadyThere => "already_there",
            Self::Skipped => "skipped",
            Self::Denied => "denied",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ObjectAsked {
    pub operation: ObjectOperation,
    pub outcome: ObjectOutcome,
}

/// What is asked of the object store, and what waits to be written there. A clone counts into the same metrics.
#[derive(Clone, Default, Debug)]
pub struct ObjectStoreMetrics {
    pub asked: Family<ObjectAsked, Counter>,
    pub read: Counter,
    pub written: Counter,
    /// Blobs and records that wait to be written.
    pub waiting: Gauge,
    pub waiting_bytes: Gauge,
}

impl ObjectStoreMetrics {
    pub fn count(&self, operation: ObjectOperation, outcome: ObjectOutcome) {
        self.asked
            .get_or_create(&ObjectAsked { operation, outcome })
            .inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "object_store_requests",
            "What the object store was asked for, by operation and outcome",
            self.asked.clone(),
        );
        registry.register(
            "object_store_read_bytes",
            "Bytes received from the object store",
            self.read.clone(),
        );
        registry.register(
            "object_store_written_bytes",
            "Bytes written to the object store",
            self.written.clone(),
        );
        registry.register(
            "object_store_waiting",
            "Blobs and records that wait to be written to the object store",
            self.waiting.clone(),
        );
        registry.register(
            "object_store_waiting_bytes",
            "Bytes that wait to be written to the object store",
            self.waiting_bytes.clone(),
        );
    }
}

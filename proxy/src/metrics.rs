//! Every metric: its handle is here, its labels are in [`labels`], its name is in [`names`].
//!
//! Labels are closed sets, so the number of series does not grow with the number of repositories. A request's outcome
//! is recorded when its record is dropped, so that no path can forget it. A test compares `docs/metrics.md`, the table
//! for people, with this module.

mod adoption;
mod classic;
mod known;
mod labels;
mod layers;
mod lists;
mod names;
mod pieces;
#[cfg(test)]
mod tests;
mod warm;

use std::{
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Instant,
};

use larder_shared::Digest;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use self::pieces::Pieces;
pub use self::{
    adoption::AdoptionMetrics, known::Known, labels::*, layers::LayerMetrics, lists::ListMetrics,
    warm::WarmMetrics,
};
use crate::credentials::Fault;

/// Requests of clients at the registry port, and the answers.
#[derive(Debug)]
pub struct ClientMetrics {
    pub requests: Family<Served, Counter>,
    pub sent_bytes: Family<Served, Counter>,
    pub first_byte_seconds: Family<Answered, Histogram, fn() -> Histogram>,
    pub in_flight: Gauge,
    /// Requests from addresses that may not speak to the registry port.
    pub turned_away: Counter,
    /// Requests and used bytes by tier, summed over the other labels, for the status.
    totals: [Totals; Tier::ALL.len()],
    pieces: Mutex<Pieces>,
}

#[derive(Default, Debug)]
struct Totals {
    requests: Counter,
    used_bytes: Counter,
}

impl Default for ClientMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            sent_bytes: Family::default(),
            first_byte_seconds: Family::new_with_constructor(first_byte),
            in_flight: Gauge::default(),
            turned_away: Counter::default(),
            totals: Default::default(),
            pieces: Mutex::default(),
        }
    }
}

/// 0.1 ms to 5 s: a hit is far below a millisecond, and after 5 s larder answers that the registry is unreachable.
fn first_byte() -> Histogram {
    Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0])
}

impl ClientMetrics {
    /// Records the end of a request, and how many of the sent bytes the client used.
    pub fn served(&self, served: &Served, sent_bytes: u64, used_bytes: u64) {
        self.requests.get_or_create(served).inc();
        self.sent_bytes.get_or_create(served).inc_by(sent_bytes);
        let totals = &self.totals[served.tier as usize];
        totals.requests.inc();
        totals.used_bytes.inc_by(used_bytes);
    }

    /// A client asks for everything of a blob from `start` on.
    pub fn piece_begins(&self, digest: &Digest, start: u64) {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.begin(digest, start, Instant::now());
    }

    /// How many bytes of its piece the client read, if it read one (see [`Pieces::used`]).
    pub fn piece_used(&self, digest: &Digest, start: u64, sent: u64, whole: bool) -> Option<u64> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.used(digest, start, sent, whole)
    }
}

/// Access to repositories, and revalidations of tags.
#[derive(Default, Debug)]
pub struct AccessMetrics {
    pub verdicts: Family<Verdicts, Counter>,
    pub proofs: Family<Proofs, Counter>,
    pub grants: Gauge,
    pub revalidations: Family<Revalidations, Counter>,
}

impl AccessMetrics {
    pub fn known(&self, verdict: KnownVerdict) {
        self.verdicts.get_or_create(&Verdicts { verdict }).inc();
    }

    pub fn proof(&self, outcome: ProofOutcome) {
        self.proofs.get_or_create(&Proofs { outcome }).inc();
    }

    pub fn revalidated(&self, outcome: Revalidated) {
        let labels = Revalidations { outcome };
        self.revalidations.get_or_create(&labels).inc();
    }
}

/// Requests to upstreams, and their state.
#[derive(Default, Debug)]
pub struct UpstreamMetrics {
    pub asked: Family<UpstreamAsked, Counter>,
    pub endpoints: Family<Endpoints, Gauge>,
    pub tokens: Family<Tokens, Counter>,
    pub credentials_failed: Family<CredentialsFailed, Counter>,
    pub credentials_findings: Family<OfUpstream, Gauge>,
    /// Docker Hub's `ratelimit-limit` and `ratelimit-remaining`, as of its last answer that had them.
    pub hub_limit: Known,
    pub hub_remaining: Known,
}

/// Counters of fills, and of all bytes that larder received.
#[derive(Default, Debug)]
pub struct FillMetrics {
    pub started: Counter,
    /// Readers that joined a fill in flight.
    pub coalesced: Counter,
    pub resumed: Counter,
    pub committed: Counter,
    pub failed: Counter,
    /// Fills whose bytes did not match the digest.
    pub mismatched: Counter,
    pub withdrawn: Counter,
    pub in_flight: Gauge,
    pub received_bodies: Family<Received, Counter>,
    pub received_bytes: Family<Received, Counter>,
    /// Bytes from members, of all upstreams.
    from_members: Counter,
}

impl FillMetrics {
    /// Counts a body that begins to arrive from `source`.
    pub fn receiving(&self, source: Source, upstream: UpstreamLabel) -> Receiving {
        let labels = Received { source, upstream };
        self.received_bodies.get_or_create(&labels).inc();
        Receiving {
            bytes: self.received_bytes.get_or_create_owned(&labels),
            from_members: (source == Source::Member).then(|| self.from_members.clone()),
        }
    }
}

/// Counts the bytes of a body as they arrive.
#[derive(Debug)]
pub struct Receiving {
    bytes: Counter,
    from_members: Option<Counter>,
}

impl Receiving {
    pub fn add(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
        if let Some(all) = &self.from_members {
            all.inc_by(bytes);
        }
    }
}

/// The node tier. Each scrape sets the gauges.
#[derive(Default, Debug)]
pub struct StoreMetrics {
    pub bytes: Gauge,
    pub blobs: Gauge,
    pub partial_bytes: Gauge,
    pub max_bytes: Gauge,
    pub free_bytes: Gauge,
    pub min_free_bytes: Gauge,
    pub capacity_bytes: Gauge,
    pub in_use_bytes: Gauge,
    pub kept_bytes: Gauge,
    /// 1 while the node tier cannot be written.
    pub failing: Gauge,
    /// 1 while another larder holds the store.
    pub waiting: Gauge,
    pub rotten: Counter,
    pub evicted_blobs: Family<Evictions, Counter>,
    pub evicted_bytes: Family<Evictions, Counter>,
}

impl StoreMetrics {
    /// Counts blobs that were removed from the node tier.
    pub fn evicted(&self, reason: Reason, blobs: u64, bytes: u64) {
        let labels = Evictions { reason };
        self.evicted_blobs.get_or_create(&labels).inc_by(blobs);
        self.evicted_bytes.get_or_create(&labels).inc_by(bytes);
    }
}

/// What larder knows of the container runtime. Each scrape sets the gauges.
#[derive(Default, Debug)]
pub struct RuntimeMetrics {
    /// 1 for the present state of the watcher's file, 0 for the others.
    pub states: Family<InRuntimeState, Gauge>,
    /// The age of the latest good report, in seconds.
    pub report_age: Known,
}

/// Requests to and from members, and their state.
#[derive(Default, Debug)]
pub struct PeerMetrics {
    pub members: Family<InState, Gauge>,
    pub asked: Family<PeerAsked, Counter>,
    pub served: Family<PeerServed, Counter>,
    pub sent_bytes: Family<PeerServed, Counter>,
    /// Streams that continued from another source.
    pub failovers: Counter,
    /// Times that a member was distrusted because it sent wrong bytes.
    pub distrusted: Counter,
    /// Connections and requests that were refused because they came from no member.
    pub turned_away: Counter,
    /// When this node's certificates expire, in Unix seconds.
    pub certificates: Family<Certificates, Gauge>,
    sent_in_all: Counter,
}

impl PeerMetrics {
    /// Records the end of a member's request.
    pub fn served(&self, served: &PeerServed, sent_bytes: u64) {
        self.served.get_or_create(served).inc();
        self.sent_bytes.get_or_create(served).inc_by(sent_bytes);
        self.sent_in_all.inc_by(sent_bytes);
    }
}

/// Copies that members make of blobs in use. Each scrape sets the gauges.
#[derive(Default, Debug)]
pub struct CopyMetrics {
    /// Digests that lack copies, among those for which this node decides.
    pub lacking: Family<Lacking, Gauge>,
    pub known: Gauge,
    pub waiting: Gauge,
    pub held_back: Gauge,
    pub taken: Family<CopyTaken, Counter>,
    pub received: Counter,
}

/// Requests to the object store, and what waits to be written there. A clone counts into the same metrics.
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
}

/// This process: its configuration and its resources. Each scrape sets the gauges.
#[derive(Default, Debug)]
pub struct ProcessMetrics {
    pub config_ok: Gauge,
    /// When larder last read a configuration that it could use, in Unix seconds.
    pub config_read: Gauge,
    pub started: Gauge<f64, AtomicU64>,
    pub cpu_seconds: Counter<f64, AtomicU64>,
    pub resident_bytes: Gauge,
    pub open_files: Gauge,
    pub max_files: Gauge,
}

impl ProcessMetrics {
    /// Records that the configuration on disk was read at `now` (Unix seconds), and whether it could be used.
    pub fn read_config(&self, usable: bool, now: i64) {
        self.config_ok.set(i64::from(usable));
        if usable {
            self.config_read.set(now);
        }
    }
}

/// All handles, made once for the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub clients: ClientMetrics,
    pub access: AccessMetrics,
    pub fills: FillMetrics,
    pub upstreams: UpstreamMetrics,
    pub store: StoreMetrics,
    pub runtime: RuntimeMetrics,
    pub adoption: AdoptionMetrics,
    pub layers: LayerMetrics,
    pub peers: PeerMetrics,
    pub copies: CopyMetrics,
    pub warm: WarmMetrics,
    pub lists: ListMetrics,
    pub object_store: ObjectStoreMetrics,
    pub process: ProcessMetrics,
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            clients: ClientMetrics::default(),
            access: AccessMetrics::default(),
            fills: FillMetrics::default(),
            upstreams: UpstreamMetrics::default(),
            store: StoreMetrics::default(),
            runtime: RuntimeMetrics::default(),
            adoption: AdoptionMetrics::default(),
            layers: LayerMetrics::default(),
            peers: PeerMetrics::default(),
            copies: CopyMetrics::default(),
            warm: WarmMetrics::default(),
            lists: ListMetrics::default(),
            object_store: ObjectStoreMetrics::default(),
            process: ProcessMetrics::default(),
        };
        metrics.begin_at_zero();
        metrics.registry = names::register(&metrics);
        metrics
    }

    /// Creates the series with one closed label at zero, since Prometheus does not see the step from absent to one.
    fn begin_at_zero(&self) {
        for outcome in Revalidated::ALL.iter().copied() {
            let labels = Revalidations { outcome };
            drop(self.access.revalidations.get_or_create(&labels));
        }
        for verdict in KnownVerdict::ALL.iter().copied() {
            drop(self.access.verdicts.get_or_create(&Verdicts { verdict }));
        }
        for outcome in ProofOutcome::ALL.iter().copied() {
            drop(self.access.proofs.get_or_create(&Proofs { outcome }));
        }
        for outcome in TokenOutcome::ALL.iter().copied() {
            drop(self.upstreams.tokens.get_or_create(&Tokens { outcome }));
        }
        for reason in Reason::ALL.iter().copied() {
            self.store.evicted(reason, 0, 0);
        }
        for why in LackingWhy::ALL.iter().copied() {
            drop(self.copies.lacking.get_or_create(&Lacking { why }));
        }
        for outcome in CopyOutcome::ALL.iter().copied() {
            drop(self.copies.taken.get_or_create(&CopyTaken { outcome }));
        }
        for state in RuntimeState::ALL.iter().copied() {
            drop(self.runtime.states.get_or_create(&InRuntimeState { state }));
        }
        self.adoption.begin_at_zero();
        self.layers.begin_at_zero();
        self.lists.begin_at_zero();
        for fault in Fault::ALL {
            let labels = CredentialsFailed { fault };
            drop(self.upstreams.credentials_failed.get_or_create(&labels));
        }
    }

    /// Requests that were answered so far, from any tier.
    pub fn answered(&self) -> u64 {
        let totals = self.clients.totals.iter();
        totals.map(|totals| totals.requests.get()).sum()
    }

    /// Requests that were answered from `tier`.
    pub fn requests_from(&self, tier: Tier) -> u64 {
        self.clients.totals[tier as usize].requests.get()
    }

    /// Body bytes from `tier` that clients used.
    pub fn used_from(&self, tier: Tier) -> u64 {
        self.clients.totals[tier as usize].used_bytes.get()
    }

    /// Body bytes that this node sent to other members.
    pub fn sent_to_members(&self) -> u64 {
        self.peers.sent_in_all.get()
    }

    /// Body bytes that this node received from other members.
    pub fn received_from_members(&self) -> u64 {
        self.fills.from_members.get()
    }

    /// All metrics in the OpenMetrics text format, 1.0.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// The same metrics in the text format of Prometheus, 0.0.4.
    pub fn render_classic(&self) -> String {
        classic::from_openmetrics(&self.render())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

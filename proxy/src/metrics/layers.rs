//! Metrics of ready layers, of layers that stream, and of indexes.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::labels::{
    IndexMade, IndexWork, IndexesHeld, IndexesWorked, LazyImages, LazyOffer, LazyRead, LazyReads,
    ReadyCause, ReadyFiles, ReadyMade, ReadyRemovals, ReadyState, ReadyWork,
};

/// Ready files and indexes: how many there are, and how work on them ended.
#[derive(Default, Debug)]
pub struct LayerMetrics {
    pub files: Family<ReadyFiles, Gauge>,
    pub bytes: Family<ReadyFiles, Gauge>,
    pub work: Family<ReadyWork, Counter>,
    /// Images that were about to start, by how their offer ended.
    pub images: Family<LazyImages, Counter>,
    /// Reads of layers that are not whole on this node.
    pub reads: Family<LazyReads, Counter>,
    /// Layers that stream now.
    pub streaming: Gauge,
    pub removed: Family<ReadyRemovals, Counter>,
    pub removed_bytes: Family<ReadyRemovals, Counter>,
    pub indexes: Family<IndexesHeld, Gauge>,
    pub indexes_bytes: Family<IndexesHeld, Gauge>,
    pub index_work: Family<IndexesWorked, Counter>,
}

impl LayerMetrics {
    pub fn made(&self, outcome: ReadyMade) {
        self.work.get_or_create(&ReadyWork { outcome }).inc();
    }

    pub fn lazily(&self, outcome: LazyOffer) {
        self.images.get_or_create(&LazyImages { outcome }).inc();
    }

    pub fn read(&self, outcome: LazyRead) {
        self.reads.get_or_create(&LazyReads { outcome }).inc();
    }

    pub fn holds(&self, state: ReadyState, files: u64, bytes: u64) {
        let labels = ReadyFiles { state };
        self.files.get_or_create(&labels).set(files as i64);
        self.bytes.get_or_create(&labels).set(bytes as i64);
    }

    pub fn removed(&self, reason: ReadyCause, bytes: u64) {
        let labels = ReadyRemovals { reason };
        self.removed.get_or_create(&labels).inc();
        self.removed_bytes.get_or_create(&labels).inc_by(bytes);
    }

    pub fn indexed(&self, outcome: IndexWork) {
        self.index_work
            .get_or_create(&IndexesWorked { outcome })
            .inc();
    }

    pub fn holds_indexes(&self, made: IndexMade, files: u64, bytes: u64) {
        let labels = IndexesHeld { made };
        self.indexes.get_or_create(&labels).set(files as i64);
        self.indexes_bytes.get_or_create(&labels).set(bytes as i64);
    }

    /// See [`super::Metrics::begin_at_zero`].
    pub(super) fn begin_at_zero(&self) {
        for outcome in ReadyMade::ALL.iter().copied() {
            drop(self.work.get_or_create(&ReadyWork { outcome }));
        }
        for outcome in IndexWork::ALL.iter().copied() {
            drop(self.index_work.get_or_create(&IndexesWorked { outcome }));
        }
        for made in IndexMade::ALL.iter().copied() {
            self.holds_indexes(made, 0, 0);
        }
        for outcome in LazyOffer::ALL.iter().copied() {
            drop(self.images.get_or_create(&LazyImages { outcome }));
        }
        for outcome in LazyRead::ALL.iter().copied() {
            drop(self.reads.get_or_create(&LazyReads { outcome }));
        }
        for state in ReadyState::ALL.iter().copied() {
            self.holds(state, 0, 0);
        }
        for reason in ReadyCause::ALL.iter().copied() {
            let labels = ReadyRemovals { reason };
            drop(self.removed.get_or_create(&labels));
            drop(self.removed_bytes.get_or_create(&labels));
        }
    }
}

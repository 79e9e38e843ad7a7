//! What is counted of ready layers.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::labels::{ReadyCause, ReadyFiles, ReadyMade, ReadyRemovals, ReadyState, ReadyWork};

/// Ready files: how many there are, and what became of them.
#[derive(Default, Debug)]
pub struct LayerMetrics {
    pub files: Family<ReadyFiles, Gauge>,
    pub bytes: Family<ReadyFiles, Gauge>,
    pub work: Family<ReadyWork, Counter>,
    pub removed: Family<ReadyRemovals, Counter>,
    pub removed_bytes: Family<ReadyRemovals, Counter>,
}

impl LayerMetrics {
    pub fn made(&self, outcome: ReadyMade) {
        self.work.get_or_create(&ReadyWork { outcome }).inc();
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

    /// See [`super::Metrics::begin_at_zero`].
    pub(super) fn begin_at_zero(&self) {
        for outcome in ReadyMade::ALL.iter().copied() {
            drop(self.work.get_or_create(&ReadyWork { outcome }));
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

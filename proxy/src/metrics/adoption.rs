//! Metrics of adoption.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::labels::{Adopted, AdoptedState, Adoptions, Guesses, RuntimeContent, RuntimeContents};

/// Checks of the container runtime's content, and which repositories are known to hold it.
#[derive(Default, Debug)]
pub struct AdoptionMetrics {
    pub asked: Family<Adoptions, Counter>,
    pub guesses: Family<Guesses, Gauge>,
    pub blobs: Family<RuntimeContents, Gauge>,
    pub bytes: Family<RuntimeContents, Gauge>,
}

impl AdoptionMetrics {
    pub fn asked(&self, outcome: Adopted) {
        self.asked.get_or_create(&Adoptions { outcome }).inc();
    }

    pub fn guesses(&self, state: AdoptedState, count: u64) {
        let gauge = self.guesses.get_or_create(&Guesses { state });
        gauge.set(count as i64);
    }

    pub fn content(&self, state: RuntimeContent, blobs: u64, bytes: u64) {
        let labels = RuntimeContents { state };
        self.blobs.get_or_create(&labels).set(blobs as i64);
        self.bytes.get_or_create(&labels).set(bytes as i64);
    }

    /// See [`super::Metrics::begin_at_zero`].
    pub(super) fn begin_at_zero(&self) {
        for outcome in Adopted::ALL.iter().copied() {
            drop(self.asked.get_or_create(&Adoptions { outcome }));
        }
        for state in AdoptedState::ALL.iter().copied() {
            self.guesses(state, 0);
        }
        for state in RuntimeContent::ALL.iter().copied() {
            self.content(state, 0, 0);
        }
    }
}

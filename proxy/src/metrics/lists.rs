//! Metrics of lists of tags.

use prometheus_client::metrics::{counter::Counter, family::Family};

use super::labels::{ListOutcome, ListsAsked};

/// Refreshes of repositories' lists of tags, by outcome.
#[derive(Default, Debug)]
pub struct ListMetrics {
    pub asked: Family<ListsAsked, Counter>,
}

impl ListMetrics {
    /// Records the end of a refresh.
    pub fn came(&self, outcome: ListOutcome) {
        self.asked.get_or_create(&ListsAsked { outcome }).inc();
    }

    /// See [`super::Metrics::begin_at_zero`].
    pub(super) fn begin_at_zero(&self) {
        for outcome in ListOutcome::ALL.iter().copied() {
            drop(self.asked.get_or_create(&ListsAsked { outcome }));
        }
    }
}

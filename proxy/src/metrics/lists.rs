//! What is counted of lists.

use prometheus_client::metrics::{counter::Counter, family::Family};

use super::labels::{ListOutcome, ListsAsked};

/// Lists of repositories' tags, by what came of asking for one.
#[derive(Default, Debug)]
pub struct ListMetrics {
    pub asked: Family<ListsAsked, Counter>,
}

impl ListMetrics {
    /// A refresh of a list is over.
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

//! Traffic and hits per minute, for the chart of the status page.
//!
//! Owns a ring of samples: one per minute, for a day, 40 bytes each, so 58 KB when it is full. It is in memory only,
//! and begins anew with the process. Samples come from the metrics, which an operator scrapes for a longer history.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::metrics::{Metrics, Tier};

/// The length of a sample.
pub const MINUTE: Duration = Duration::from_mins(1);

/// How many samples are kept: a day.
pub const KEPT: usize = 24 * 60;

/// Traffic to clients in a period: bytes by source, and requests.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Sample {
    pub node_bytes: u64,
    pub cluster_bytes: u64,
    pub upstream_bytes: u64,
    /// Requests that this node answered from what it holds.
    pub hits: u64,
    /// Requests during which something was fetched.
    pub misses: u64,
}

impl Sample {
    /// All traffic since the start.
    pub fn total(metrics: &Metrics) -> Self {
        let fetched = [Tier::Cluster, Tier::Upstream];
        Self {
            node_bytes: metrics.used_from(Tier::Node),
            cluster_bytes: metrics.used_from(Tier::Cluster),
            upstream_bytes: metrics.used_from(Tier::Upstream),
            hits: metrics.requests_from(Tier::Node),
            misses: fetched.map(|tier| metrics.requests_from(tier)).iter().sum(),
        }
    }

    /// All bytes that were sent to clients.
    pub fn bytes(&self) -> u64 {
        self.node_bytes + self.cluster_bytes + self.upstream_bytes
    }

    /// Bytes that were not fetched from a registry for this traffic.
    pub fn saved_bytes(&self) -> u64 {
        self.node_bytes + self.cluster_bytes
    }

    /// The share of requests that were hits, from 0 to 1. `None` without requests.
    pub fn hit_ratio(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }

    fn with(self, other: Self, each: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            node_bytes: each(self.node_bytes, other.node_bytes),
            cluster_bytes: each(self.cluster_bytes, other.cluster_bytes),
            upstream_bytes: each(self.upstream_bytes, other.upstream_bytes),
            hits: each(self.hits, other.hits),
            misses: each(self.misses, other.misses),
        }
    }
}

/// The ring.
#[derive(Default, Debug)]
pub struct History {
    ring: Mutex<Ring>,
}

#[derive(Default, Debug)]
struct Ring {
    /// The newest last.
    samples: VecDeque<Sample>,
    /// The counters at the end of the newest sample.
    until: Sample,
}

impl History {
    /// Closes the current minute with the counters at `total`.
    pub fn close(&self, total: Sample) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.samples.len() == KEPT {
            ring.samples.pop_front();
        }
        let minute = total.with(ring.until, u64::saturating_sub);
        ring.samples.push_back(minute);
        ring.until = total;
    }

    /// The last `columns` columns of `minutes` minutes each, the newest last. The newest includes the current minute,
    /// in which the counters stand at `total`. Columns before the start are left out.
    pub fn columns(&self, total: Sample, columns: usize, minutes: usize) -> Vec<Sample> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let open = total.with(ring.until, u64::saturating_sub);
        let newest_first = std::iter::once(&open).chain(ring.samples.iter().rev());
        let mut out: Vec<Sample> = Vec::with_capacity(columns);
        for (index, sample) in newest_first.take(columns * minutes).enumerate() {
            match out.last_mut() {
                Some(column) if index % minutes != 0 => {
                    *column = column.with(*sample, |a, b| a + b);
                }
                _ => out.push(*sample),
            }
        }
        out.reverse();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bytes: u64) -> Sample {
        Sample {
            node_bytes: bytes,
            hits: bytes / 10,
            ..Sample::default()
        }
    }

    fn bytes(history: &History, total: u64, columns: usize, minutes: usize) -> Vec<u64> {
        let columns = history.columns(at(total), columns, minutes);
        columns.iter().map(|column| column.node_bytes).collect()
    }

    #[test]
    fn columns_are_what_came_in_their_time() {
        let history = History::default();
        assert_eq!(bytes(&history, 5, 3, 1), [5]);
        for total in [10, 30, 30, 100] {
            history.close(at(total));
        }
        assert_eq!(bytes(&history, 101, 60, 1), [10, 20, 0, 70, 1]);
        assert_eq!(bytes(&history, 101, 3, 1), [0, 70, 1]);
        // The newest column may cover fewer minutes.
        assert_eq!(bytes(&history, 101, 60, 2), [10, 20, 71]);
        assert_eq!(bytes(&history, 101, 2, 2), [20, 71]);
    }

    #[test]
    fn a_day_is_kept() {
        let history = History::default();
        for minute in 1..=2 * KEPT as u64 {
            history.close(at(minute));
        }
        let total = 2 * KEPT as u64;
        let columns = bytes(&history, total, 96, 15);
        assert_eq!(columns.len(), 96);
        // 15 minutes of one byte each. In the newest column, the current minute has none yet.
        assert_eq!((columns[0], columns[94], columns[95]), (15, 15, 14));
        assert!(std::mem::size_of::<Sample>() * KEPT < 60_000);
    }

    #[test]
    fn ratios_are_of_what_there_was() {
        assert_eq!(Sample::default().hit_ratio(), None);
        let sample = Sample {
            node_bytes: 3,
            cluster_bytes: 4,
            upstream_bytes: 5,
            hits: 3,
            misses: 1,
        };
        assert_eq!(sample.hit_ratio(), Some(0.75));
        assert_eq!((sample.saved_bytes(), sample.bytes()), (7, 12));
    }
}

//! Metrics of warm sets: a series for each set, and none for each image.

use prometheus_client::metrics::{family::Family, gauge::Gauge};

use super::labels::{OfSet, WarmImages};

/// The sets of this node, by the names that the operator chose. Each scrape sets the gauges.
#[derive(Default, Debug)]
pub struct WarmMetrics {
    pub images: Family<WarmImages, Gauge>,
    pub bytes: Family<OfSet, Gauge>,
    pub listed: Family<OfSet, Gauge>,
}

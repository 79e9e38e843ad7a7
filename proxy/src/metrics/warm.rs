//! What is shown of warm sets: by set, and never by image.

use prometheus_client::metrics::{family::Family, gauge::Gauge};

use super::labels::{OfSet, WarmImages};

/// The sets of this node. Gauges are of the last scrape. The operator names the sets.
#[derive(Default, Debug)]
pub struct WarmMetrics {
    pub images: Family<WarmImages, Gauge>,
    pub bytes: Family<OfSet, Gauge>,
    pub listed: Family<OfSet, Gauge>,
}

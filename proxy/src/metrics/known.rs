//! A gauge whose value expires.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, gauge::ConstGauge},
};

/// A gauge that is absent while its value is unknown: 0 would be wrong.
#[derive(Clone, Default, Debug)]
pub struct Known(Arc<Mutex<Option<(i64, Instant)>>>);

impl Known {
    /// `value` holds until `until`.
    pub fn set(&self, value: i64, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((value, until));
    }

    /// The value, if it is known and still holds.
    pub fn get(&self) -> Option<i64> {
        let told = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.filter(|(_, until)| Instant::now() < *until)
            .map(|(value, _)| value)
    }
}

impl EncodeMetric for Known {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let told = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ConstGauge::new(told.map_or(0, |(value, _)| value)).encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.get().is_none()
    }
}

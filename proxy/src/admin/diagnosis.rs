//! `GET /doctor`, and cached diagnoses for callers that ask often.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_shared::admin::Diagnosis;

use super::Admin;
use crate::doctor::{self, Patient};

impl Admin {
    /// What is wrong with this node. A diagnosis sends requests to registries and members, so one that is no older than
    /// `within` is given again, and simultaneous callers share one. `within` is zero for a person at a terminal, and
    /// two minutes for the status page, which may be open all day.
    pub async fn diagnosis(&self, within: Duration) -> Arc<Diagnosis> {
        let asked = Instant::now();
        let mut last = self.diagnosis.lock().await;
        if let Some((made, diagnosis)) = last.as_ref()
            && (*made >= asked || made.elapsed() < within)
        {
            return Arc::clone(diagnosis);
        }
        let misread = self.misread.load_full();
        let made = Instant::now();
        let diagnosis = doctor::diagnose(Patient {
            pull: &self.pull,
            metrics: &self.metrics,
            warm: &self.warm,
            misread: misread.as_deref().map(String::as_str),
        });
        let diagnosis = Arc::new(diagnosis.await);
        *last = Some((made, Arc::clone(&diagnosis)));
        diagnosis
    }
}

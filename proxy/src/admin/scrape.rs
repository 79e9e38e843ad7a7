//! `GET /metrics`: counters, and gauges that are read at each scrape.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{Admin, text};
use crate::{
    body::Body,
    metrics::{
        Certificate, Certificates, Endpoints, InRuntimeState, InState, MemberState, OfUpstream,
        RuntimeContent, RuntimeState, UpstreamLabel,
    },
    store::Tenure,
    sys,
};

/// The age of the runtime's report holds for one scrape.
const AGE_SHOWN: Duration = Duration::from_secs(10);

/// The text format of OpenMetrics, and the older one of Prometheus.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Admin {
    /// All metrics, in OpenMetrics if the scraper's `Accept` names it, else in the older text format.
    pub(super) async fn metrics(&self, headers: &HeaderMap) -> Response<Body> {
        // Two scrapes at once would count what happened since the last one twice, and would see half-set gauges.
        let _alone = self.scraping.lock().await;
        self.look().await;
        let accepted = headers.get_all(header::ACCEPT).iter();
        let openmetrics = accepted
            .filter_map(|value| value.to_str().ok())
            .any(asks_for_openmetrics);
        let (rendered, media_type) = if openmetrics {
            (self.metrics.render(), OPENMETRICS)
        } else {
            (self.metrics.render_classic(), CLASSIC)
        };
        let mut response = text(StatusCode::OK, &rendered);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        response
    }

    /// Reads every value that is not counted as it happens.
    async fn look(&self) {
        self.pull.copies.show();
        self.warm.show();
        let config = self.pull.config.load_full();
        let metrics = &self.metrics;
        // If the disk does not answer, the gauges keep their last values.
        if let Some(disk) = self.disk().await {
            let shown = &metrics.store;
            shown.partial_bytes.set(disk.partial_bytes as i64);
            if let Some(space) = disk.space {
                let (max, min) = (config.store.max_size, config.store.min_free);
                shown.max_bytes.set(max.of(space.total) as i64);
                shown.min_free_bytes.set(min.of(space.total) as i64);
                shown.free_bytes.set(space.free as i64);
                shown.capacity_bytes.set(space.total as i64);
            }
        }
        let content = self.pull.store.adopted_view();
        for (state, sum) in [
            (RuntimeContent::Adopted, content.sound),
            (RuntimeContent::Waiting, content.waiting),
            (RuntimeContent::Gone, content.gone),
            (RuntimeContent::Wrong, content.wrong),
            (RuntimeContent::Unreadable, content.unreadable),
        ] {
            metrics.adoption.content(state, sum.blobs, sum.bytes);
        }
        if let Ok(Ok(usage)) = tokio::task::spawn_blocking(sys::usage).await {
            let process = &metrics.process;
            let new = usage.cpu_seconds - process.cpu_seconds.get();
            process.cpu_seconds.inc_by(new.max(0.0));
            process.resident_bytes.set(usage.resident_bytes as i64);
            process.open_files.set(usage.open_files as i64);
            process.max_files.set(usage.max_files as i64);
        }
        let (store, shown) = (&self.pull.store, &metrics.store);
        let totals = store.totals();
        shown.bytes.set(totals.bytes as i64);
        shown.blobs.set(totals.blobs as i64);
        shown.failing.set(i64::from(store.trouble().is_some()));
        let waiting = store.tenure() == Tenure::Waiting && store.trouble().is_none();
        shown.waiting.set(i64::from(waiting));
        let rotten = store.rotten().saturating_sub(shown.rotten.get());
        shown.rotten.inc_by(rotten);
        shown
            .in_use_bytes
            .set(self.pull.runtime.in_use().bytes as i64);
        shown.kept_bytes.set(store.room().kept as i64);
        self.look_at_the_runtime();
        let fills = self.pull.fills.list().len();
        metrics.fills.in_flight.set(fills as i64);
        metrics.access.grants.set(self.pull.access.grants() as i64);

        let endpoints = &metrics.upstreams.endpoints;
        endpoints.clear();
        for ((upstream, state), count) in self.pull.upstreams.states() {
            let labels = Endpoints { upstream, state };
            endpoints.get_or_create(&labels).set(i64::from(count));
        }
        let findings = &metrics.upstreams.credentials_findings;
        findings.clear();
        for (registry, upstream) in &config.upstreams {
            if upstream.credentials.is_some() {
                let found = self
                    .pull
                    .credentials
                    .findings(registry, upstream)
                    .await
                    .len();
                let upstream = UpstreamLabel::of(&config, registry);
                let labels = OfUpstream { upstream };
                findings.get_or_create(&labels).set(found as i64);
            }
        }
        self.look_at_members();
    }

    fn look_at_the_runtime(&self) {
        let (known, shown) = (self.pull.runtime.known(), &self.metrics.runtime);
        for state in RuntimeState::ALL.iter().copied() {
            let is = state.as_str() == known.state.as_str();
            let gauge = shown.states.get_or_create(&InRuntimeState { state });
            gauge.set(i64::from(is));
        }
        if let Some(age) = known.age() {
            let until = Instant::now() + AGE_SHOWN;
            shown.report_age.set(age.as_secs() as i64, until);
        }
    }

    fn look_at_members(&self) {
        let (cluster, peers) = (&self.pull.cluster, &self.metrics.peers);
        for state in MemberState::ALL.iter().copied() {
            peers.members.get_or_create(&InState { state }).set(0);
        }
        for member in cluster.members.list() {
            let state = if member.own {
                MemberState::Own
            } else {
                member.state
            };
            peers.members.get_or_create(&InState { state }).inc();
        }
        peers.certificates.clear();
        let Some(tls) = cluster.peers.known_tls() else {
            return;
        };
        for (certificate, expires) in [
            (Certificate::Ca, tls.expires.ca),
            (Certificate::Member, tls.expires.member),
        ] {
            if let Some(expires) = expires {
                let labels = Certificates { certificate };
                peers.certificates.get_or_create(&labels).set(expires);
            }
        }
    }
}

/// Whether an `Accept` names OpenMetrics and does not rule it out with `q=0` (RFC 9110 section 12.5.1).
fn asks_for_openmetrics(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
        let mut weights = parts.filter_map(|part| part.strip_prefix("q="));
        let ruled_out = weights.any(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0));
        named && !ruled_out
    })
}

#[cfg(test)]
mod tests {
    use super::asks_for_openmetrics;

    #[test]
    fn openmetrics_is_for_clients_that_accept_it() {
        for (accept, asks) in [
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
                true,
            ),
            ("text/plain, Application/OpenMetrics-Text", true),
            ("application/openmetrics-text; q=0, text/plain", false),
            ("text/plain;version=0.0.4", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(asks_for_openmetrics(accept), asks, "{accept}");
        }
    }
}

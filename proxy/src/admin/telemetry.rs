//! The telemetry port: metrics and health, and the way to the status page.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};

use super::{Admin, Arrival, text};
use crate::body::Body;

impl Admin {
    /// Answers on the telemetry port.
    pub async fn telemetry<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        arrival: Arrival,
    ) -> Response<Body> {
        if arrival == Arrival::Loopback
            && let Some(response) = self.page(request).await
        {
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                let totals = self.pull.store.totals();
                self.metrics.store_bytes.set(totals.bytes as i64);
                self.metrics.store_blobs.set(totals.blobs as i64);
                let members = self.pull.cluster.members.view().addresses.len();
                self.metrics.peers.members.set(members as i64);
                self.metrics
                    .store_failing
                    .set(i64::from(self.pull.store.trouble().is_some()));
                self.metrics
                    .store_rotten
                    .set(self.pull.store.rotten() as i64);
                let mut response = text(StatusCode::OK, &self.metrics.render());
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static(
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    ),
                );
                response
            }
            // Everything is bound and built before the port answers.
            "/livez" => text(StatusCode::OK, "ok\n"),
            // A node that cannot keep still serves: ready, and the detail says what is wrong.
            "/readyz" => text(
                StatusCode::OK,
                &match self.pull.store.trouble() {
                    None => "ok\n".to_owned(),
                    Some(why) => format!("ok, as a plain proxy: the store fails: {why}\n"),
                },
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /livez and /readyz\n",
            ),
        }
    }
}

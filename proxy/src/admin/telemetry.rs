//! The telemetry port: metrics and health, and the way to the status page.

use std::sync::Arc;

use http::{Request, Response, StatusCode};

use super::{Admin, text};
use crate::{
    body::Body,
    store::Tenure,
    visitor::{self, Arrival},
};

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
        // The page is on this port, so the same host names are allowed. A health check may send no `Host`.
        if arrival == Arrival::Loopback {
            let config = self.pull.config.load();
            if let Err(refusal) = visitor::named(request, self.names(&config)) {
                return text(refusal.status(), &format!("{}\n", refusal.why()));
            }
        }
        if let Some(response) = self.warm(request, arrival).await {
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(request.headers()).await,
            // The port answers only after every listener is bound and every part is built.
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.readiness.is_withdrawn() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "larder stops\n")
            }
            // A node that cannot write to its store still serves: it is ready, and the body says what is wrong.
            "/readyz" => text(
                StatusCode::OK,
                &match (self.pull.store.tenure(), self.pull.store.trouble()) {
                    (Tenure::Held, None) => "ok\n".to_owned(),
                    (_, Some(why)) => {
                        format!("ok, as a plain proxy: the store fails: {why}\n")
                    }
                    (Tenure::Waiting, None) => {
                        "ok, as a plain proxy: another larder has the store\n".to_owned()
                    }
                },
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /livez and /readyz\n",
            ),
        }
    }
}

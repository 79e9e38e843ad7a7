//! The telemetry port: metrics and health.

use http::{Request, Response, StatusCode};

use super::{Admin, text};
use crate::{body::Body, store::Tenure};

impl Admin {
    /// Answers on the telemetry port.
    pub async fn telemetry<B>(&self, request: &Request<B>) -> Response<Body> {
        match request.uri().path() {
            "/metrics" => self.metrics(request.headers()).await,
            // Everything is bound and built before the port answers.
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.readiness.is_withdrawn() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "larder stops\n")
            }
            // A node that cannot keep still serves: ready, and the detail says what is wrong.
            "/readyz" => text(
                StatusCode::OK,
                &match (self.pull.store.tenure(), self.pull.store.trouble()) {
                    (Tenure::Held, None) => "ok\n".to_owned(),
                    (Tenure::Held, Some(why)) => {
                        format!("ok, as a plain proxy: the store fails: {why}\n")
                    }
                    (Tenure::Waiting, _) => {
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

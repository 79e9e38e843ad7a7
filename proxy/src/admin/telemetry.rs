//! The telemetry port: metrics and health.

use http::{Request, Response, StatusCode};

use super::{Admin, text};
use crate::body::Body;

impl Admin {
    /// Answers on the telemetry port.
    pub async fn telemetry<B>(&self, request: &Request<B>) -> Response<Body> {
        match request.uri().path() {
            "/metrics" => self.metrics(request.headers()).await,
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

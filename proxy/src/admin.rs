//! The admin socket and the telemetry port: what the CLI, Prometheus and the kubelet ask.
//!
//! ```text
//! admin socket      GET /status              this node at a glance
//!                   GET /explain?ref=IMAGE   what a pull would do
//! telemetry port    GET /metrics  /livez  /readyz
//! ```
//!
//! Reads snapshots; never holds a lock of the data path for longer than a copy.

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use larder_shared::{
    admin::{FillStatus, Listen, Served, Status, StoreStatus, UpstreamStatus},
    name::ImageName,
};

use crate::{
    body::Body,
    metrics::{Metrics, Tier},
    pull::Pull,
};

/// Everything that may be asked about a running larder.
#[derive(Debug)]
pub struct Admin {
    pull: Arc<Pull>,
    metrics: Arc<Metrics>,
    listen: Listen,
    started: Instant,
}

impl Admin {
    pub fn new(pull: Arc<Pull>, metrics: Arc<Metrics>, listen: Listen) -> Self {
        Self {
            pull,
            metrics,
            listen,
            started: Instant::now(),
        }
    }

    /// Answers on the admin socket.
    pub async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        if request.method() != Method::GET {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is understood here\n",
            );
        }
        match request.uri().path() {
            "/status" => json(&self.status()),
            "/explain" => {
                let query = request.uri().query().unwrap_or_default();
                let image =
                    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "ref");
                let Some((_, image)) = image else {
                    return text(
                        StatusCode::BAD_REQUEST,
                        "say which image: /explain?ref=IMAGE\n",
                    );
                };
                match image.parse::<ImageName>() {
                    Ok(image) => json(&self.pull.explain(&image).await),
                    Err(error) => text(StatusCode::BAD_REQUEST, &format!("{image}: {error}\n")),
                }
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /status and /explain?ref=IMAGE\n",
            ),
        }
    }

    /// Answers on the telemetry port.
    pub fn telemetry<B>(&self, request: &Request<B>) -> Response<Body> {
        match request.uri().path() {
            "/metrics" => {
                let totals = self.pull.store.totals();
                self.metrics.store_bytes.set(totals.bytes as i64);
                self.metrics.store_blobs.set(totals.blobs as i64);
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

    fn endpoints(&self, registry: &str) -> Vec<String> {
        let Ok(registry) = registry.parse() else {
            return Vec::new();
        };
        let view = self.pull.upstreams.endpoints(&registry);
        view.into_iter()
            .map(|e| format!("{} ({})", e.url, e.state))
            .collect()
    }

    fn status(&self) -> Status {
        let store = &self.pull.store;
        let config = self.pull.config.load();
        let totals = store.totals();
        let space = store.space();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.listen.clone(),
            store: StoreStatus {
                path: store.root().display().to_string(),
                blobs: totals.blobs,
                bytes: totals.bytes,
                max_bytes: space
                    .as_ref()
                    .map_or(0, |s| config.store.max_size.of(s.total)),
                free_bytes: space.as_ref().map_or(0, |s| s.free),
                state: store.trouble().map_or_else(
                    || "ready".to_owned(),
                    |why| format!("failing, larder is a plain proxy: {why}"),
                ),
            },
            fills: self
                .pull
                .fills
                .list()
                .into_iter()
                .map(|fill| FillStatus {
                    digest: fill.digest,
                    present_bytes: fill.present,
                    size_bytes: fill.size,
                    readers: fill.readers,
                })
                .collect(),
            upstreams: config
                .upstreams
                .keys()
                .map(|registry| UpstreamStatus {
                    registry: registry.clone(),
                    endpoints: self.endpoints(registry),
                })
                .collect(),
            served: Served {
                requests: self.metrics.answered(),
                node_bytes: self.metrics.sent_from(Tier::Node),
                upstream_bytes: self.metrics.sent_from(Tier::Upstream),
            },
        }
    }
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(body) => {
            let mut response = text(StatusCode::OK, &body);
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::bytes(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

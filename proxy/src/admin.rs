//! The admin socket and the telemetry port: what the CLI, Prometheus and the kubelet ask.
//!
//! ```text
//! admin socket      GET /status              this node at a glance
//!                   GET /explain?ref=IMAGE   what a pull would do
//!                   GET /log, POST /log?filter=FILTER
//!                   POST /pin?ref=IMAGE /unpin?ref=IMAGE /evict?ref=IMAGE /evict?upstream=NAME /gc /verify
//! telemetry port    GET /metrics  /livez  /readyz
//! ```
//!
//! Reads snapshots; never holds a lock of the data path for longer than a copy.

mod log;
mod scrape;
mod status;
mod telemetry;

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use larder_shared::{
    admin::{Acted, Listen},
    name::ImageName,
};

use crate::{body::Body, drain::Readiness, metrics::Metrics, pull::Pull, telemetry::Logs};

/// Everything that may be asked about a running larder.
#[derive(Debug)]
pub struct Admin {
    pull: Arc<Pull>,
    metrics: Arc<Metrics>,
    logs: Arc<Logs>,
    listen: Listen,
    started: Instant,
    readiness: Readiness,
    /// Whoever looks up what /metrics shows.
    scraping: tokio::sync::Mutex<()>,
}

impl Admin {
    pub fn new(
        pull: Arc<Pull>,
        metrics: Arc<Metrics>,
        logs: Arc<Logs>,
        listen: Listen,
        readiness: Readiness,
    ) -> Self {
        Self {
            pull,
            metrics,
            logs,
            listen,
            started: Instant::now(),
            readiness,
            scraping: tokio::sync::Mutex::default(),
        }
    }

    /// Answers on the admin socket.
    pub async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let path = request.uri().path();
        let query = Query(request.uri().query().unwrap_or_default());
        match (request.method(), path) {
            (&Method::GET, "/status") => json(&self.status().await),
            (method @ (&Method::GET | &Method::POST), "/log") => self.log(method, &query),
            (&Method::GET, "/explain") => match query.image() {
                Ok(image) => json(&self.pull.explain(&image).await),
                Err(why) => text(StatusCode::BAD_REQUEST, &why),
            },
            (&Method::POST, "/pin" | "/unpin") => match query.image() {
                Ok(image) => done(self.pull.pin(&image, path == "/pin").await),
                Err(why) => text(StatusCode::BAD_REQUEST, &why),
            },
            (&Method::POST, "/evict") => match (query.get("upstream"), query.image()) {
                (Some(name), _) => done(self.pull.evict_upstream(&name).await),
                (None, Ok(image)) => done(self.pull.evict(&image).await),
                (None, Err(why)) => text(StatusCode::BAD_REQUEST, &why),
            },
            (&Method::POST, "/gc") => {
                let kept = self.pull.keep_within_bounds().await;
                done(
                    kept.map_err(|error| error.to_string())
                        .map(|evicted| Acted {
                            blobs: evicted.blobs,
                            bytes: evicted.bytes,
                        }),
                )
            }
            (&Method::POST, "/verify") => done(self.pull.verify().await),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are GET /status, /explain and /log, and POST /pin, /unpin, /evict, /gc, /verify and /log\n",
            ),
        }
    }
}

/// The parameters of an admin request.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.0.as_bytes());
        pairs
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    fn image(&self) -> Result<ImageName, String> {
        let image = self.get("ref").ok_or("say which image: ?ref=IMAGE\n")?;
        image.parse().map_err(|error| format!("{image}: {error}\n"))
    }
}

fn done(outcome: Result<impl serde::Serialize, String>) -> Response<Body> {
    match outcome {
        Ok(value) => json(&value),
        Err(why) => text(StatusCode::CONFLICT, &format!("{why}\n")),
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

//! The admin socket and the telemetry port: what the CLI, Prometheus and the kubelet ask.
//!
//! ```text
//! admin socket      GET /status              this node at a glance
//!                   GET /images  /blobs      what the node tier holds
//!                   GET /upstreams           the registries behind it, and how they fare; ?name=NAME, ?check
//!                   GET /explain?ref=IMAGE   what a pull would do
//!                   GET /doctor              what is wrong with this node, and how to mend it
//!                   POST /pin?ref=IMAGE /unpin?ref=IMAGE /evict?ref=IMAGE /evict?upstream=NAME
//!                   POST /pull?ref=IMAGE /gc /verify   told line by line
//! telemetry port    GET /metrics  /livez  /readyz
//!                   GET /                    the status page, for who comes by loopback
//! ```
//!
//! Reads snapshots; never holds a lock of the data path for longer than a copy.

mod diagnosis;
mod kept;
mod page;
mod status;
mod telemetry;
mod upstreams;
mod visitor;
mod work;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use larder_shared::{
    admin::{Diagnosis, Listen, VERSION_HEADER},
    name::ImageName,
};

use self::page::Sights;
pub use self::visitor::Arrival;
use crate::{body::Body, metrics::Metrics, pull::Pull};

/// Everything that may be asked about a running larder.
#[derive(Debug)]
pub struct Admin {
    pull: Arc<Pull>,
    metrics: Arc<Metrics>,
    listen: Listen,
    started: Instant,
    /// The name of this machine or pod.
    host: String,
    sights: Sights,
    /// Why the configuration file on disk is not in force, if it is not.
    misread: Arc<ArcSwapOption<String>>,
    diagnosis: tokio::sync::Mutex<Option<(Instant, Arc<Diagnosis>)>>,
}

impl Admin {
    /// `misread` says why the configuration file on disk is not in force, while it is not.
    pub fn new(
        pull: Arc<Pull>,
        metrics: Arc<Metrics>,
        listen: Listen,
        misread: Arc<ArcSwapOption<String>>,
    ) -> Self {
        Self {
            misread,
            diagnosis: tokio::sync::Mutex::default(),
            pull,
            metrics,
            listen,
            started: Instant::now(),
            host: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "this node".to_owned(), |name| name.trim().to_owned()),
            sights: Sights::default(),
        }
    }

    /// Answers on the admin socket, and says of which version the answer is.
    pub async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let mut response = self.route(request).await;
        let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
        response.headers_mut().insert(VERSION_HEADER, version);
        response
    }

    async fn route<B>(&self, request: &Request<B>) -> Response<Body> {
        let path = request.uri().path();
        let query = Query(request.uri().query().unwrap_or_default());
        match (request.method(), path) {
            (&Method::GET, "/status") => json(&self.status().await),
            (&Method::GET, "/images") => json(&self.pull.images().await),
            (&Method::GET, "/blobs") => json(&self.pull.blobs().await),
            (&Method::GET, "/upstreams") => self.upstreams(&query).await,
            (&Method::GET, "/doctor") => json(&*self.diagnosis(Duration::ZERO).await),
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
            (&Method::POST, "/gc") => self.gc(),
            (&Method::POST, "/verify") => self.verify(),
            (&Method::POST, "/pull") => self.pull(&query, request.headers()),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are GET /status, /images, /blobs, /upstreams, /explain and /doctor, and POST /pull, /pin, /unpin, /evict, /gc and /verify\n",
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

    fn all(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.0.as_bytes());
        pairs
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .collect()
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

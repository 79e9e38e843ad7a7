//! The admin socket and the telemetry port: what the CLI, Prometheus and the kubelet ask.
//!
//! ```text
//! admin socket      GET /status              this node at a glance
//!                   GET /images  /blobs      what the node tier holds
//!                   GET /layers              the ready files of layers, and what is not offered
//!                   GET /index?registry=NAME&repository=NAME&layer=DIGEST&size=BYTES   the index of a layer, as a start gets it
//!                   GET /upstreams           the registries behind it, and their state; ?name=NAME, ?check
//!                   GET /explain?ref=IMAGE[&platform=OS/ARCH]   what a pull would do; a pod's secret in Authorization
//!                   GET /doctor              what is wrong with this node, and how to fix it
//!                   POST /pin?ref=IMAGE /unpin?ref=IMAGE /evict?ref=IMAGE /evict?upstream=NAME
//!                   GET /warm[?set=NAME]     the warm sets; POST /warm asks their registries now
//!                   POST /pull?ref=IMAGE /gc /verify   reported line by line
//!                   GET /log, POST /log?filter=FILTER
//!                   POST /trace[?ref=IMAGE]  requests as they happen, line by line
//! telemetry port    GET /metrics  /livez  /readyz
//!                   GET /                    the status page, for callers by loopback
//!                   GET PATH/…               the warm sets: see [`warm`]
//! ```
//!
//! Reads snapshots; never holds a lock of the data path for longer than a copy.

mod cached;
mod diagnosis;
mod disk;
mod follow;
mod layers;
mod log;
mod page;
mod scrape;
mod status;
mod telemetry;
mod upstreams;
mod warm;
mod work;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use larder_shared::{
    admin::{Diagnosis, Listen, VERSION_HEADER},
    name::ImageName,
};
use tokio::sync::mpsc;

use self::page::Sights;
use crate::{
    body::{Body, Content},
    credentials::Credential,
    drain::Readiness,
    metrics::Metrics,
    pull::{Platforms, Pull, explain::Asked},
    sys,
    telemetry::Logs,
    warm::Warm,
};

/// Answers every question that a client may ask about a running larder.
#[derive(Debug)]
pub struct Admin {
    pull: Arc<Pull>,
    warm: Arc<Warm>,
    metrics: Arc<Metrics>,
    logs: Arc<Logs>,
    listen: Listen,
    started: Instant,
    readiness: Readiness,
    /// The name of this machine or pod.
    host: String,
    sights: Sights,
    /// Why the configuration file on disk is not in force; `None` while it is.
    misread: Arc<ArcSwapOption<String>>,
    diagnosis: tokio::sync::Mutex<Option<(Instant, Arc<Diagnosis>)>>,
    disk: disk::Looks,
    /// Held during a scrape of /metrics.
    scraping: tokio::sync::Mutex<()>,
}

impl Admin {
    /// `misread` holds the reason for as long as the configuration file on disk is not in force.
    pub fn new(
        pull: Arc<Pull>,
        warm: Arc<Warm>,
        metrics: Arc<Metrics>,
        logs: Arc<Logs>,
        listen: Listen,
        readiness: Readiness,
        misread: Arc<ArcSwapOption<String>>,
    ) -> Self {
        Self {
            misread,
            diagnosis: tokio::sync::Mutex::default(),
            pull,
            warm,
            metrics,
            logs,
            listen,
            started: Instant::now(),
            readiness,
            disk: disk::Looks::default(),
            scraping: tokio::sync::Mutex::default(),
            host: match sys::net::own_name() {
                name if name.is_empty() => "this node".to_owned(),
                name => name,
            },
            sights: Sights::default(),
        }
    }

    /// Answers a request on the admin socket, and names larder's version in a header.
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
            (method @ (&Method::GET | &Method::POST), "/log") => self.log(method, &query),
            (&Method::GET, "/images") => long_json(self.pull.images().await).await,
            (&Method::GET, "/blobs") => long_json(self.pull.blobs().await).await,
            (&Method::GET, "/layers") => json(&self.layers()),
            (&Method::GET, "/index") => self.index(&query).await,
            (&Method::GET, "/upstreams") => self.upstreams(&query).await,
            (&Method::GET, "/doctor") => json(&*self.diagnosis(Duration::ZERO).await),
            (&Method::GET, "/explain") => match asked(&query, request.headers()) {
                Ok(asked) => json(&self.pull.explain(asked).await),
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
            (&Method::GET, "/warm") => self.warm_sets(&query).await,
            (&Method::POST, "/warm") => {
                self.warm.refresh().await;
                self.warm_sets(&query).await
            }
            (&Method::POST, "/gc") => self.gc(),
            (&Method::POST, "/verify") => self.verify(),
            (&Method::POST, "/trace") => self.follow(&query),
            (&Method::POST, "/pull") => self.pull(&query, request.headers()),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are GET /status, /images, /blobs, /layers, /index, /upstreams, /warm, /explain, /doctor and /log, and POST /pull, /warm, /trace, /pin, /unpin, /evict, /gc, /verify and /log\n",
            ),
        }
    }
}

/// The image to explain. A pod's secret is in `Authorization`, as the container runtime would send it.
fn asked(query: &Query<'_>, headers: &HeaderMap) -> Result<Asked, String> {
    let shown = headers.get(header::AUTHORIZATION);
    let credential = match shown.map(|value| value.to_str().ok()?.strip_prefix("Basic ")) {
        None => None,
        Some(pair) => Some(
            pair.and_then(Credential::from_basic)
                .ok_or("the Authorization is not HTTP Basic\n")?,
        ),
    };
    Ok(Asked {
        image: query.image()?,
        credential,
        platforms: match query.get("platform") {
            Some(platform) => Platforms::These(vec![platform]),
            None => Platforms::own(),
        },
    })
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

/// As [`json`], on a blocking thread: a list of 100,000 blobs would hold up a thread that serves pulls.
async fn long_json(value: impl serde::Serialize + Send + 'static) -> Response<Body> {
    let written = tokio::task::spawn_blocking(move || json(&value)).await;
    written.unwrap_or_else(|panic| text(StatusCode::INTERNAL_SERVER_ERROR, &panic.to_string()))
}

/// JSON lines, each sent as it comes, until the sender of `told` is dropped.
fn lines(told: mpsc::Receiver<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Content::Produced(told), []));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    response
}

/// One line of JSON.
fn line(said: &impl serde::Serialize) -> Bytes {
    // Serializing these types to memory cannot fail.
    let mut line = serde_json::to_vec(said).unwrap_or_default();
    line.push(b'\n');
    line.into()
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

//! The admin socket and the telemetry port: what the CLI, Prometheus and the kubelet ask.
//!
//! ```text
//! admin socket      GET /status              this node at a glance
//!                   GET /explain?ref=IMAGE   what a pull would do
//!                   POST /pin?ref=IMAGE /unpin?ref=IMAGE /evict?ref=IMAGE /evict?upstream=NAME /gc /verify
//! telemetry port    GET /metrics  /livez  /readyz
//! ```
//!
//! Reads snapshots; never holds a lock of the data path for longer than a copy.

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use larder_shared::{
    admin::{
        Acted, ClusterStatus, FillStatus, Listen, MemberStatus, ObjectStoreStatus, Served, Status,
        StoreStatus, UpstreamStatus,
    },
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
        let path = request.uri().path();
        let query = Query(request.uri().query().unwrap_or_default());
        match (request.method(), path) {
            (&Method::GET, "/status") => json(&self.status().await),
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
                "there are GET /status and /explain, and POST /pin, /unpin, /evict, /gc and /verify\n",
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

    fn endpoints(&self, registry: &str) -> Vec<String> {
        let Ok(registry) = registry.parse() else {
            return Vec::new();
        };
        let view = self.pull.upstreams.endpoints(&registry);
        view.into_iter()
            .map(|e| format!("{} ({})", e.url, e.state))
            .collect()
    }

    async fn status(&self) -> Status {
        let store = &self.pull.store;
        let config = self.pull.config.load_full();
        let mut upstreams = Vec::new();
        for (registry, upstream) in &config.upstreams {
            let findings = match &upstream.credentials {
                Some(source) => self.pull.credentials.findings(source).await,
                None => Vec::new(),
            };
            upstreams.push(UpstreamStatus {
                registry: registry.clone(),
                endpoints: self.endpoints(registry),
                findings,
            });
        }
        let totals = store.totals();
        let looked = Arc::clone(store);
        let partials = tokio::task::spawn_blocking(move || looked.partial_bytes());
        let partial_bytes = partials.await.unwrap_or(0);
        let space = store.space();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.listen.clone(),
            store: StoreStatus {
                path: store.root().display().to_string(),
                blobs: totals.blobs,
                bytes: totals.bytes,
                partial_bytes,
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
            upstreams,
            served: Served {
                requests: self.metrics.answered(),
                node_bytes: self.metrics.sent_from(Tier::Node),
                cluster_bytes: self.metrics.sent_from(Tier::Cluster),
                upstream_bytes: self.metrics.sent_from(Tier::Upstream),
            },
            cluster: config.cluster.peers.is_some().then(|| self.cluster()),
            object_store: config.cluster.object_store.as_ref().and_then(|named| {
                let view = self.pull.cluster.store.as_ref()?.view();
                Some(ObjectStoreStatus {
                    url: named.url.clone(),
                    waiting: view.queue as u64,
                    waiting_bytes: view.waiting_bytes,
                    written: view.written,
                    already_there: view.already_there,
                    dropped: view.dropped,
                    last_error: view.last_error,
                })
            }),
        }
    }

    fn cluster(&self) -> ClusterStatus {
        let peers = &self.metrics.peers;
        let members = self.pull.cluster.members.list().into_iter();
        ClusterStatus {
            members: members
                .map(|member| MemberStatus {
                    address: member.address.to_string(),
                    own: member.own,
                    state: member.state.to_owned(),
                })
                .collect(),
            received_bytes: peers.received.get(),
            sent_bytes: self.metrics.sent_to_members(),
            distrusted: peers.distrusted.get(),
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

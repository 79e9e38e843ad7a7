//! The status page on the telemetry port: gathers what [`crate::page`] shows, as seldom as it can.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use larder_shared::{
    RegistryName,
    admin::{Diagnosis, Status, Upstream},
    warm::SetStatus,
};
use tokio::{sync::Mutex, task::JoinHandle};
use url::form_urlencoded;

use super::{
    Admin,
    cached::{Cached, Patience},
    text,
};
use crate::{
    body::Body,
    clock::unix_now,
    config::Config,
    history::{History, MINUTE, Sample},
    page::{self, Checked, Known, Listing, Query, View},
    visitor::{self, Refusal},
};

/// The data of the page, each part cached with what it cost to compute.
#[derive(Debug, Default)]
pub(super) struct Sights {
    history: History,
    status: Cached<Status>,
    images: Cached<Listing>,
    registries: Cached<BTreeMap<RegistryName, u64>>,
    upstreams: Cached<Vec<Upstream>>,
    sets: Cached<Vec<SetStatus>>,
    /// The last diagnosis, and when it was made.
    diagnosis: ArcSwapOption<(Instant, Arc<Diagnosis>)>,
    looking: Mutex<Option<JoinHandle<()>>>,
}

/// Short: visitors who look at the same time share an answer.
const STATUS: Patience = Patience {
    changed: Duration::from_millis(500),
    same: Duration::from_millis(500),
};

/// A request may change the images, and the stamp shows it. The stamp does not show changes of pins and verdicts.
const IMAGES: Patience = Patience {
    changed: Duration::from_secs(2),
    same: Duration::from_mins(1),
};

/// Doctor asks registries and members, so the page starts it no more often than this. A page that is being loaded waits
/// for the diagnosis for [`DIAGNOSIS_WITHIN`].
const DIAGNOSIS: Duration = Duration::from_mins(2);
const DIAGNOSIS_WITHIN: Duration = Duration::from_secs(1);

/// Cached data that no browser has asked for is dropped after this time.
const UNSEEN: Duration = Duration::from_mins(2);

/// Sent with every answer of the page. The page holds no inline script or style, loads from this port alone, and no
/// other page may frame it. A browser stores no answer on disk.
const HEADERS: [(HeaderName, HeaderValue); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

impl Admin {
    /// Answers a request for a path of the page; `None` for another path.
    pub(super) async fn page<B>(self: &Arc<Self>, request: &Request<B>) -> Option<Response<Body>> {
        let path = request.uri().path();
        let is_page = [
            "/",
            page::LIVE_PATH,
            page::STYLE_PATH,
            page::SCRIPT_PATH,
            page::ICON_PATH,
        ];
        if !is_page.contains(&path) {
            return None;
        }
        let mut response = if !matches!(*request.method(), Method::GET | Method::HEAD) {
            text(
                StatusCode::METHOD_NOT_ALLOWED,
                "the status page is read-only\n",
            )
        } else if let Err(refusal) = self.welcomes(request) {
            text(refusal.status(), &format!("{}\n", refusal.why()))
        } else {
            self.shown(path, request.uri().query().unwrap_or_default())
                .await
        };
        let fixed: HeaderMap = HEADERS.into_iter().collect();
        response.headers_mut().extend(fixed);
        Some(response)
    }

    fn welcomes<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let config = self.pull.config.load();
        visitor::at_page(request, self.names(&config))
    }

    /// The names by which a visitor may address this node.
    pub(super) fn names<'a>(&'a self, config: &'a Config) -> visitor::Names<'a> {
        visitor::Names {
            own: &self.host,
            allowed: &config.registry.allow_hosts,
        }
    }

    async fn shown(self: &Arc<Self>, path: &str, query: &str) -> Response<Body> {
        match path {
            page::STYLE_PATH => typed("text/css; charset=utf-8", page::STYLE.to_owned()),
            page::SCRIPT_PATH => typed("text/javascript; charset=utf-8", page::SCRIPT.to_owned()),
            page::ICON_PATH => typed("image/svg+xml", page::ICON.to_owned()),
            page::LIVE_PATH => {
                let mut pairs = form_urlencoded::parse(query.as_bytes());
                let known = pairs.find(|(name, _)| name == "known");
                let known = known
                    .map(|(_, value)| Known::parse(&value))
                    .unwrap_or_default();
                html(page::live(&self.view(query, Duration::ZERO).await, &known))
            }
            _ => html(page::document(&self.view(query, DIAGNOSIS_WITHIN).await)),
        }
    }

    async fn view(self: &Arc<Self>, query: &str, patience: Duration) -> View {
        let query = Query::parse(query);
        let sights = &self.sights;
        let diagnosis = self.checked(patience).await;
        let upstreams = sights.upstreams.get(0, STATUS, || self.behind()).await;
        let sets = sights
            .sets
            .get(0, STATUS, || async { self.warm.all_in_short() });
        let sets = sets.await;
        let status = sights.status.get(0, STATUS, || self.status()).await;
        let images = sights
            .images
            .get(self.stamp(), IMAGES, || self.listing())
            .await;
        let (columns, minutes) = query.span.columns();
        let total = Sample::total(&self.metrics);
        View {
            host: self.host.clone(),
            status,
            images,
            upstreams,
            sets,
            diagnosis,
            total,
            columns: sights.history.columns(total, columns, minutes),
            now: unix_now(),
            query,
        }
    }

    /// The registries behind this node, with their state. The list of names is cached for as long as images are; the
    /// state is not.
    async fn behind(&self) -> Vec<Upstream> {
        let known = self
            .sights
            .registries
            .get(self.stamp(), IMAGES, || self.known_registries());
        let mut upstreams = Vec::new();
        for (registry, repositories) in known.await.iter() {
            upstreams.push(self.upstream(registry, *repositories).await);
        }
        upstreams
    }

    /// The last diagnosis. Starts a new one if the last is old, and waits for it for `patience` at most.
    async fn checked(self: &Arc<Self>, patience: Duration) -> Checked {
        let sights = &self.sights;
        let old = sights.diagnosis.load_full();
        let fresh = old.as_ref().is_some_and(|old| old.0.elapsed() < DIAGNOSIS);
        if !fresh {
            let mut looking = sights.looking.lock().await;
            if looking.as_ref().is_none_or(JoinHandle::is_finished) {
                *looking = Some(tokio::spawn(Arc::clone(self).examine()));
            }
            if let Some(looking) = looking.as_mut() {
                // The diagnosis continues after the time-out.
                let _ = tokio::time::timeout(patience, looking).await;
            }
        }
        match sights.diagnosis.load_full() {
            None => Checked::Looking,
            Some(found) => Checked::Found {
                diagnosis: Arc::clone(&found.1),
                seconds: found.0.elapsed().as_secs(),
            },
        }
    }

    async fn examine(self: Arc<Self>) {
        let found = self.diagnosis(DIAGNOSIS).await;
        let found = Arc::new((Instant::now(), found));
        self.sights.diagnosis.store(Some(found));
    }

    /// Changes when a blob was committed, evicted or used, or a layer was made ready.
    fn stamp(&self) -> u64 {
        let (totals, ready) = (self.pull.store.totals(), self.pull.store.ready_totals());
        let parts = [
            totals.blobs,
            totals.bytes,
            ready.files,
            ready.bytes,
            self.metrics.answered(),
        ];
        parts
            .iter()
            .fold(0, |all, part| all.wrapping_mul(0x0100_0000_01b3) ^ part)
    }

    async fn listing(&self) -> Listing {
        Listing {
            images: self.pull.images().await,
            revision: fastrand::u64(..),
        }
    }

    /// Ends a minute of the history each minute, and drops data that no browser asks for, until the process ends.
    pub async fn keep_history(self: Arc<Self>) {
        let mut minutes = tokio::time::interval(MINUTE);
        minutes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is immediate.
        minutes.tick().await;
        loop {
            minutes.tick().await;
            self.sights.history.close(Sample::total(&self.metrics));
            self.sights.images.let_go(UNSEEN);
            self.sights.status.let_go(UNSEEN);
            self.sights.registries.let_go(UNSEEN);
            self.sights.upstreams.let_go(UNSEEN);
            self.sights.sets.let_go(UNSEEN);
        }
    }
}

fn html(page: String) -> Response<Body> {
    typed("text/html; charset=utf-8", page)
}

fn typed(media_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::bytes(body));
    let media_type = HeaderValue::from_static(media_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

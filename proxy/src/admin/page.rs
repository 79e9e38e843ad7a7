//! The status page on the telemetry port: gathers what [`crate::page`] shows, no more often than it has to.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use larder_shared::admin::Status;
use url::form_urlencoded;

use super::{
    Admin,
    kept::{Kept, Patience},
    text, visitor,
};
use crate::{
    body::Body,
    history::{History, MINUTE, Sample},
    page::{self, Known, Listing, Query, View},
};

/// What the page is made of, and what it cost to find out.
#[derive(Debug, Default)]
pub(super) struct Sights {
    history: History,
    status: Kept<Status>,
    images: Kept<Listing>,
}

/// Several visitors share an answer.
const STATUS: Patience = Patience {
    changed: Duration::from_millis(500),
    same: Duration::from_millis(500),
};

/// Images change when something was asked for. Pins and verdicts change without that.
const IMAGES: Patience = Patience {
    changed: Duration::from_secs(2),
    same: Duration::from_mins(1),
};

/// What nobody looks at is let go.
const UNSEEN: Duration = Duration::from_mins(2);

/// Sent with everything of the page. It holds no inline script or style, loads from this port alone, and is nobody's
/// part; no answer may outlive the visit on the visitor's disk.
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
    /// Answers a path of the page; nothing if there is no such path.
    pub(super) async fn page<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
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
                "the status page only shows\n",
            )
        } else if let Err(refusal) = visitor::check(request.headers()) {
            text(refusal.status(), refusal.why())
        } else {
            self.shown(path, request.uri().query().unwrap_or_default())
                .await
        };
        let fixed: HeaderMap = HEADERS.into_iter().collect();
        response.headers_mut().extend(fixed);
        Some(response)
    }

    async fn shown(&self, path: &str, query: &str) -> Response<Body> {
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
                html(page::live(&self.view(query).await, &known))
            }
            _ => html(page::document(&self.view(query).await)),
        }
    }

    async fn view(&self, query: &str) -> View {
        let query = Query::parse(query);
        let sights = &self.sights;
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
            diagnosis: None,
            total,
            columns: sights.history.columns(total, columns, minutes),
            now: now(),
            query,
        }
    }

    /// Changes when something was committed, evicted or used.
    fn stamp(&self) -> u64 {
        let totals = self.pull.store.totals();
        let parts = [totals.blobs, totals.bytes, self.metrics.answered()];
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

    /// Closes a minute of the history each minute, and lets go what nobody looks at, for as long as the process lives.
    pub async fn keep_history(self: Arc<Self>) {
        let mut minutes = tokio::time::interval(MINUTE);
        minutes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is at once.
        minutes.tick().await;
        loop {
            minutes.tick().await;
            self.sights.history.close(Sample::total(&self.metrics));
            self.sights.images.let_go(UNSEEN);
            self.sights.status.let_go(UNSEEN);
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
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

//! The warm sets, on the telemetry port and on the admin socket.
//!
//! ```text
//! GET PATH/                  the names of the sets
//! GET PATH/NAME              a set: Cachemachine's keys, and larder's own
//! GET PATH/NAME/available    the images that all nodes hold, and all that are listed
//! GET PATH/NAME/desired      the images of the set, and all that are listed
//! GET PATH/NAME/ready        200 once every image of the set is on this node, else 503
//! ```
//!
//! PATH is `[warm] path`. A caller by loopback sees everything. On `expose` a caller sees nothing, or what is known to
//! be public if `[warm] expose` allows it.

use http::{Method, Request, Response, StatusCode, header};
use larder_shared::warm::{SetImages, SetStatus};

use super::{Admin, Query, json, text};
use crate::{
    body::Body,
    visitor::{self, Arrival},
};

impl Admin {
    /// `GET /warm[?set=NAME][&here]` on the admin socket.
    pub(super) async fn warm_sets(&self, query: &Query<'_>) -> Response<Body> {
        let names = query.get("set").map(|name| vec![name]);
        let one = names.is_some();
        let mut sets = Vec::new();
        for name in names.unwrap_or_else(|| self.warm.names()) {
            let status = if query.get("here").is_some() {
                self.warm.status(&name)
            } else {
                self.warm.cluster_status(&name).await
            };
            match status {
                Some(status) if one => return json(&status),
                Some(mut status) => {
                    // Left out of the list of all sets: a source may have thousands of tags.
                    status.all_images.clear();
                    for source in &mut status.sources {
                        source.tags.clear();
                    }
                    sets.push(status);
                }
                None if one => return unknown(&name),
                None => {}
            }
        }
        json(&sets)
    }

    /// Answers a request below `[warm] path`; `None` for another path, and where the sets are not shown.
    pub(super) async fn warm<B>(
        &self,
        request: &Request<B>,
        arrival: Arrival,
    ) -> Option<Response<Body>> {
        let config = self.pull.config.load_full();
        let rest = request
            .uri()
            .path()
            .strip_prefix(config.warm.path.as_str())?;
        let exposed = arrival == Arrival::Exposed;
        let other = !rest.is_empty() && !rest.starts_with('/');
        if other || config.warm.sets.is_empty() || (exposed && !config.warm.expose) {
            return None;
        }
        if !exposed && let Err(refusal) = visitor::at_page(request, self.names(&config)) {
            return Some(text(refusal.status(), &format!("{}\n", refusal.why())));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let why = "sets are configured in [warm.sets], and can only be read here\n";
            return Some(text(StatusCode::METHOD_NOT_ALLOWED, why));
        }
        let mut parts = rest.trim_matches('/').splitn(2, '/');
        let (name, what) = (parts.next().unwrap_or_default(), parts.next());
        if name.is_empty() {
            return Some(json(&self.warm.names()));
        }
        // The number of missing images is no secret, not even of private ones, and needs no question to other nodes.
        if what == Some("ready") {
            let status = self.warm.status(name);
            return Some(status.map_or_else(|| unknown(name), |status| ready(&status)));
        }
        let status = if exposed {
            self.warm.public_status(name).await
        } else {
            self.warm.cluster_status(name).await
        };
        let Some(status) = status else {
            return Some(unknown(name));
        };
        Some(match what {
            None => json(&status),
            Some("available") => json(&SetImages {
                images: status.available_images,
                all: status.all_images,
            }),
            Some("desired") => json(&SetImages {
                images: status.desired_images,
                all: status.all_images,
            }),
            Some(_) => said(
                StatusCode::NOT_FOUND,
                "there are /available, /desired and /ready",
            ),
        })
    }
}

/// 200 once this node has every image of the set. A node outside of the set lacks nothing.
fn ready(status: &SetStatus) -> Response<Body> {
    let missing = status.images_to_cache.len();
    if !status.matches && status.error.is_none() {
        return said(StatusCode::OK, "the set does not select this node");
    }
    if missing > 0 {
        let why = format!("{missing} of {} images are missing", status.images.len());
        return said(StatusCode::SERVICE_UNAVAILABLE, &why);
    }
    match &status.error {
        Some(_) if status.images.is_empty() => said(
            StatusCode::SERVICE_UNAVAILABLE,
            "it is not known yet which images belong to the set",
        ),
        _ => said(StatusCode::OK, "every image of the set is here"),
    }
}

fn unknown(name: &str) -> Response<Body> {
    let why = format!("there is no set {name:?} in [warm.sets]");
    said(StatusCode::NOT_FOUND, &why)
}

/// A message as JSON in the form that clients of Cachemachine read.
fn said(status: StatusCode, detail: &str) -> Response<Body> {
    let mut response = json(&serde_json::json!({ "detail": detail }));
    *response.status_mut() = status;
    let no_store = http::HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

//! `GET /log`, `POST /log?filter=FILTER`: what the running larder logs.

use http::{Method, Response, StatusCode};
use larder_shared::admin::LogFilter;

use super::{Admin, Query, json, text};
use crate::body::Body;

impl Admin {
    /// Shows the filter in force; for a POST, puts another in force first. It holds until the next one, a change of
    /// `[telemetry] log`, or the end of the process.
    pub(super) fn log(&self, method: &Method, query: &Query<'_>) -> Response<Body> {
        if *method == Method::POST {
            let filter = query.get("filter").unwrap_or_default();
            if let Err(why) = self.logs.set(&filter) {
                return text(StatusCode::BAD_REQUEST, &format!("{why}\n"));
            }
            tracing::info!(filter, "the log filter was changed over the admin socket");
        }
        json(&LogFilter {
            filter: self.logs.filter(),
        })
    }
}

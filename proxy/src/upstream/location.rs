//! Targets of a registry's redirects for blobs. Further ranges of the same blob are requested there directly.

use std::time::Duration;

use http::Uri;
use larder_shared::{Digest, RegistryName, Repository};
use moka::future::Cache;

use super::{
    HEAD_WITHIN, Upstreams,
    answer::{Answer, sort},
    bounded,
    question::{Ask, Subject, Want, request},
    stepdown::{self, Seen},
};
use crate::{
    client::{self, Arrivals, Route},
    identity::Fingerprint,
};

/// A redirect's target is reused for this long: signatures live for minutes.
const LOCATION_TTL: Duration = Duration::from_mins(1);

/// Bytes of all kept locations, and of the longest one. Without a location, the registry is asked for each range.
const MOST: u64 = 16 << 20;
const LONGEST: usize = 16 << 10;

pub(super) type LocationKey = (RegistryName, Repository, Digest, Fingerprint);

/// The target of a redirect.
#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) uri: Uri,
    pub(super) route: Route,
    pub(super) endpoint: usize,
    /// `scheme://host:port` of the endpoint that redirected.
    pub(super) origin: String,
    pub(super) proves: bool,
}

/// An empty cache of locations.
pub(super) fn locations() -> Cache<LocationKey, Location> {
    bounded::cache(MOST, |key: &LocationKey, location: &Location| {
        let names = key.0.as_str().len() + key.1.as_str().len();
        names + length(&location.uri) + location.origin.len()
    })
    .time_to_live(LOCATION_TTL)
    .build()
}

/// Approximate bytes of a location.
fn length(uri: &Uri) -> usize {
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

impl Upstreams {
    /// Keeps the target of a redirect, unless it is too long.
    pub(super) async fn keep_location(&self, key: LocationKey, location: Location) {
        if length(&location.uri) <= LONGEST {
            self.locations.insert(key, location).await;
        }
    }

    /// Asks a known location directly for a blob. After any failure, `None` leads the caller back to the registry.
    pub(super) async fn ask_location(&self, ask: &Ask, wanted: usize) -> Option<Answer> {
        let key = location_key(ask)?;
        let Location {
            uri,
            route,
            endpoint,
            origin,
            proves,
        } = self.locations.get(&key).await?;
        // If an endpoint gave wrong bytes, the target of its redirect is not asked again.
        if self.corrupt.get(&(origin.clone(), key.2)).await.is_some() {
            return None;
        }
        if endpoint != wanted || ask.anew {
            return None;
        }
        let asked = self.in_manner(ask, &origin);
        let request = request(&asked, &uri, None);
        // If the location is gone, the registry needs its turn within the client's time.
        let within = ask.within.unwrap_or(HEAD_WITHIN).min(HEAD_WITHIN) / 2;
        if let Ok(response) = self.client.send(&route, request, within).await {
            let (parts, body) = response.into_parts();
            if let Ok(partial) = sort(&client::origin(&uri), parts.status, &parts.headers)
                && stepdown::seen(&asked, partial, &parts.headers) == Seen::Fits
                && stepdown::is_unchanged(&asked, partial, &parts.headers)
            {
                if partial && matches!(asked.want, Want::Part(range) if range.start > 0) {
                    self.manners.note_answered(&origin);
                }
                return Some(Answer {
                    partial: partial && matches!(asked.want, Want::Part(_)),
                    headers: parts.headers,
                    body,
                    arrivals: Arrivals::of(&parts.extensions),
                    endpoint,
                    proves,
                    remembered: true,
                });
            }
        }
        self.locations.invalidate(&key).await;
        None
    }
}

pub(super) fn location_key(ask: &Ask) -> Option<LocationKey> {
    match (&ask.subject, ask.want) {
        (Subject::Blob(_), Want::Head) => None,
        (Subject::Blob(digest), _) => Some((
            ask.registry.clone(),
            ask.repository.clone(),
            *digest,
            ask.identity.fingerprint(),
        )),
        _ => None,
    }
}

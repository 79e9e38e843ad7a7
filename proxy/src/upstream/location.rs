//! Where a registry led to for a blob: its other ranges are asked for there at once.

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
    client::{self, Route},
    identity::Fingerprint,
};

/// A redirect's target is used again for other ranges of the same blob this long: signatures live for minutes.
const LOCATION_TTL: Duration = Duration::from_mins(1);

/// Bytes of all locations that are kept, and of the longest: without one the registry is asked for each range.
const MOST: u64 = 16 << 20;
const LONGEST: usize = 16 << 10;

pub(super) type LocationKey = (RegistryName, Repository, Digest, Fingerprint);

/// Where a redirect led.
#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) uri: Uri,
    pub(super) route: Route,
    pub(super) endpoint: usize,
    /// `scheme://host:port` of that endpoint.
    pub(super) origin: String,
    pub(super) proves: bool,
}

/// What is known of locations: nothing yet.
pub(super) fn locations() -> Cache<LocationKey, Location> {
    bounded::cache(MOST, |key: &LocationKey, location: &Location| {
        let names = key.0.as_str().len() + key.1.as_str().len();
        names + length(&location.uri) + location.origin.len()
    })
    .time_to_live(LOCATION_TTL)
    .build()
}

/// Bytes of a location, about.
fn length(uri: &Uri) -> usize {
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

impl Upstreams {
    /// Takes note of where a registry led to, unless that is too long.
    pub(super) async fn keep_location(&self, key: LocationKey, location: Location) {
        if length(&location.uri) <= LONGEST {
            self.locations.insert(key, location).await;
        }
    }

    /// A blob whose redirect is known is asked for there at once. Whatever goes wrong, the registry is asked again.
    pub(super) async fn ask_location(&self, ask: &Ask, wanted: usize) -> Option<Answer> {
        let key = location_key(ask)?;
        let Location {
            uri,
            route,
            endpoint,
            origin,
            proves,
        } = self.locations.get(&key).await?;
        // An endpoint that gave wrong bytes is not asked again where it led to.
        if self.corrupt.get(&(origin.clone(), key.2)).await.is_some() {
            return None;
        }
        if endpoint != wanted || ask.anew {
            return None;
        }
        let asked = self.in_manner(ask, &origin);
        let request = request(&asked, &uri, None);
        // The registry must have its turn within the client's time, should the place be gone.
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

//! The health of a registry's endpoints, for people.

use std::{
    collections::HashMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use larder_shared::RegistryName;

use super::Upstreams;
use crate::client;

/// One endpoint, over all callers: the worst state that any of them met.
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    pub url: String,
    /// The time until its silence ends.
    pub silent_for: Option<Duration>,
    /// Its breaker is open.
    pub avoided: bool,
    /// The limits that it last stated: whether a credential was shown, then how many requests are allowed and left.
    pub quotas: Vec<(bool, Quota)>,
}

/// The quota that a registry states: `ratelimit-limit` and `ratelimit-remaining`, in Docker Hub's form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Quota {
    pub limit: u64,
    pub remaining: u64,
}

impl Quota {
    /// Reads values such as `100;w=21600`: a number of requests, and the seconds of their window. The window also
    /// limits how long the statement counts.
    pub(super) fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<(Self, Duration)> {
        let number = |name| header(name)?.split(';').next()?.trim().parse().ok();
        let quota = Self {
            limit: number("ratelimit-limit")?,
            remaining: number("ratelimit-remaining")?,
        };
        let mut said = header("ratelimit-remaining")?.split(';');
        let window = said.find_map(|part| part.trim().strip_prefix("w=")?.parse().ok());
        let window = window.map_or(WINDOW, Duration::from_secs);
        Some((quota, window.min(WINDOW_MAX)))
    }
}

/// The window if none is named, as Docker Hub's is, and the longest window that is believed.
const WINDOW: Duration = Duration::from_hours(6);
const WINDOW_MAX: Duration = Duration::from_hours(24);

impl EndpointHealth {
    fn untried(url: String) -> Self {
        Self {
            url,
            silent_for: None,
            avoided: false,
            quotas: Vec::new(),
        }
    }

    /// `ok`, `avoided after failures`, `left alone for 12 s more`
    pub fn words(&self) -> String {
        match (self.silent_for, self.avoided) {
            (Some(left), _) => format!("left alone for {} s more", left.as_secs().max(1)),
            (None, true) => "avoided after failures".to_owned(),
            (None, false) => "ok".to_owned(),
        }
    }

    pub fn is_well(&self) -> bool {
        self.silent_for.is_none() && !self.avoided
    }
}

impl Upstreams {
    /// Every endpoint that was asked, by its `scheme://host:port`.
    pub(super) fn all_fares(&self) -> HashMap<String, EndpointHealth> {
        let now = Instant::now();
        let mut found = HashMap::new();
        let all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, health) in all.iter() {
            // After the address stands the fingerprint of the credential that was shown.
            let (at, credential) = match key.split_once(' ') {
                Some((at, _)) => (at, true),
                None => (key.as_str(), false),
            };
            let fares = found
                .entry(at.to_owned())
                .or_insert_with(|| EndpointHealth::untried(at.to_owned()));
            fares.silent_for = fares
                .silent_for
                .max(health.silent(now).map(|silent| silent.left));
            fares.avoided |= health.is_open(now);
            let quota = health.quota.filter(|(_, until)| now < *until);
            fares
                .quotas
                .extend(quota.map(|(quota, _)| (credential, quota)));
        }
        drop(all);
        for fares in found.values_mut() {
            fares.quotas.sort_unstable();
        }
        found
    }

    /// The endpoints of a registry, origin last.
    pub fn fares(&self, registry: &RegistryName) -> Vec<EndpointHealth> {
        let upstream = self.config.load().upstream(registry.as_str());
        let all = self.all_fares();
        let endpoints = upstream.endpoints.iter().map(|endpoint| {
            let url = endpoint.url.to_string();
            match all.get(&client::origin(&endpoint.url)) {
                Some(fares) => EndpointHealth {
                    url,
                    ..fares.clone()
                },
                None => EndpointHealth::untried(url),
            }
        });
        endpoints.collect()
    }

    /// How long background work should leave a registry's origin alone: the origin requested silence, whatever
    /// credential was shown, or its breaker is open.
    pub fn origin_rests(&self, registry: &RegistryName) -> Option<Duration> {
        let now = Instant::now();
        let upstream = self.config.load().upstream(registry.as_str());
        let origin = client::origin(&upstream.endpoints.last()?.url);
        let all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let of_origin = all.iter().filter(|(key, _)| {
            let shown = key.strip_prefix(&origin);
            shown.is_some_and(|shown| shown.is_empty() || shown.starts_with(' '))
        });
        let rests = of_origin.filter_map(|(_, health)| {
            let silent = health.silent(now).map(|silent| silent.left);
            silent.max(health.open_for(now))
        });
        rests.max()
    }

    /// All endpoints that were asked and are avoided or silent now, for any caller.
    pub fn unwell(&self) -> Vec<EndpointHealth> {
        let all = self.all_fares().into_values();
        let mut unwell: Vec<_> = all.filter(|fares| !fares.is_well()).collect();
        unwell.sort_by(|a, b| a.url.cmp(&b.url));
        unwell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_holds_for_the_window_that_it_came_with() {
        let read = |limit, remaining| {
            Quota::read(|name| match name {
                "ratelimit-limit" => limit,
                "ratelimit-remaining" => remaining,
                _ => None,
            })
        };
        let quota = Quota {
            limit: 100,
            remaining: 7,
        };
        for (limit, remaining, window) in [
            ("100;w=21600", "7;w=21600", Duration::from_hours(6)),
            ("100;w=60", "7; w=60", Duration::from_mins(1)),
            ("100", "7", WINDOW),
            ("100;w=x", "7;w=x", WINDOW),
            ("100", "7;w=99999999999", WINDOW_MAX),
        ] {
            assert_eq!(read(Some(limit), Some(remaining)), Some((quota, window)));
        }
        assert_eq!(read(Some("100"), None), None);
    }
}

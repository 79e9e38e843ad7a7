//! How a registry's endpoints fare, for people.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use larder_shared::RegistryName;

use super::{Upstreams, health::Health};
use crate::client;

/// One endpoint, whoever was answered there. The worst that befell anybody counts.
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    pub url: String,
    /// It asked to be left alone for so long.
    pub silent_for: Option<Duration>,
    /// Its breaker is open.
    pub avoided: bool,
    /// What it last said of its limits: whether a credential was shown, then how many requests are allowed and left.
    pub quotas: Vec<(bool, Quota)>,
}

/// What a registry says of the requests that it allows: `ratelimit-limit` and `ratelimit-remaining`, as Docker Hub has
/// them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Quota {
    pub limit: u64,
    pub remaining: u64,
}

impl Quota {
    /// `100;w=21600` each.
    pub(super) fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let number = |name| header(name)?.split(';').next()?.trim().parse().ok();
        Some(Self {
            limit: number("ratelimit-limit")?,
            remaining: number("ratelimit-remaining")?,
        })
    }
}

impl Upstreams {
    /// The endpoints of a registry, origin last.
    pub fn fares(&self, registry: &RegistryName) -> Vec<EndpointHealth> {
        let upstream = self.config.load().upstream(registry.as_str());
        let now = Instant::now();
        let all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoints = upstream.endpoints.iter().map(|endpoint| {
            let place = client::origin(&endpoint.url);
            // Behind the place stands on whose behalf it was asked.
            let of: Vec<(bool, &Health)> = all
                .iter()
                .filter_map(|(key, health)| {
                    let rest = key.strip_prefix(&place)?;
                    (rest.is_empty() || rest.starts_with(' ')).then_some((!rest.is_empty(), health))
                })
                .collect();
            let mut quotas: Vec<_> = of
                .iter()
                .filter_map(|(credential, health)| Some((*credential, health.quota?)))
                .collect();
            quotas.sort_unstable();
            EndpointHealth {
                url: endpoint.url.to_string(),
                silent_for: of.iter().filter_map(|(_, h)| h.silent_for(now)).max(),
                avoided: of.iter().any(|(_, health)| health.is_open()),
                quotas,
            }
        });
        endpoints.collect()
    }
}

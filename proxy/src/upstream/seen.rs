//! Metrics of upstreams: how questions ended, and the state of endpoints.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use larder_shared::RegistryName;

use super::{
    Upstreams,
    answer::Answer,
    failure::Failure,
    question::Ask,
    view::{EndpointHealth, Quota},
};
use crate::{
    client,
    metrics::{Asked, EndpointState, Receiving, Source, UpstreamAsked, UpstreamLabel},
};

impl Upstreams {
    /// Counts a question to an endpoint.
    pub(super) fn count_asked(&self, ask: &Ask, asked: &Result<Answer, Failure>) {
        let outcome = match asked {
            Ok(_) | Err(Failure::Unsatisfiable { .. }) => Asked::Answered,
            Err(Failure::NotFound(_)) => Asked::NotFound,
            Err(Failure::Refused(_)) => Asked::Refused,
            Err(Failure::Limited { .. }) => Asked::Limited,
            Err(Failure::Unreachable { .. }) => Asked::Unreachable,
            Err(Failure::Forbidden(_)) => Asked::Forbidden,
            Err(Failure::Invalid { .. }) => Asked::Invalid,
        };
        let metrics = &self.metrics.upstreams;
        let upstream = self.label(&ask.registry);
        let labels = UpstreamAsked { upstream, outcome };
        metrics.asked.get_or_create(&labels).inc();
        if let Ok(answer) = asked
            && ask.registry.is_docker_hub()
            && let Some((quota, window)) = Quota::read(|name| answer.header(name))
        {
            let until = Instant::now() + window;
            metrics.hub_limit.set(quota.limit as i64, until);
            metrics.hub_remaining.set(quota.remaining as i64, until);
        }
    }

    /// The label of a registry in metrics.
    fn label(&self, registry: &RegistryName) -> UpstreamLabel {
        UpstreamLabel::of(&self.config.load(), registry.as_str())
    }

    /// Starts to count the bytes of a body of this registry's content that comes from `source`.
    pub fn receiving(&self, registry: &RegistryName, source: Source) -> Receiving {
        let upstream = self.label(registry);
        self.metrics.fills.receiving(source, upstream)
    }

    /// How many endpoints are in each state. Each configured registry has its own label; all others that were asked
    /// share one.
    pub fn states(&self) -> HashMap<(UpstreamLabel, EndpointState), u32> {
        let state = |fares: &EndpointHealth| match (fares.silent_for, fares.avoided) {
            (Some(_), _) => EndpointState::Silent,
            (None, true) => EndpointState::Avoided,
            (None, false) => EndpointState::Ok,
        };
        let found = self.all_fares();
        let config = self.config.load();
        let mut names: Vec<&str> = config.upstreams.keys().map(String::as_str).collect();
        names.push(&config.registry.default_upstream);
        names.sort_unstable();
        names.dedup();
        let mut counted = HashMap::new();
        let mut count = |upstream: UpstreamLabel, state: Option<EndpointState>| {
            for each in EndpointState::ALL {
                let counter = counted.entry((upstream.clone(), *each)).or_insert(0);
                *counter += u32::from(state == Some(*each));
            }
        };
        let mut named = HashSet::new();
        for name in names {
            for endpoint in config.upstream(name).endpoints {
                let at = client::origin(&endpoint.url);
                let state = found.get(&at).map_or(EndpointState::Ok, state);
                count(UpstreamLabel::of(&config, name), Some(state));
                named.insert(at);
            }
        }
        count(UpstreamLabel::Other, None);
        for (at, fares) in &found {
            if !named.contains(at) {
                count(UpstreamLabel::Other, Some(state(fares)));
            }
        }
        counted
    }
}

//! `GET /upstreams`: the registries behind this node, and their state.

use std::collections::BTreeMap;

use http::{Response, StatusCode};
use larder_shared::{
    RegistryName,
    admin::{Endpoint, RateLimit, Upstream, Upstreams},
};

use super::{Admin, Query, json, text};
use crate::{body::Body, doctor, store::Store, upstream::EndpointHealth};

impl Admin {
    pub(super) async fn upstreams(&self, query: &Query<'_>) -> Response<Body> {
        let mut known = self.known_registries().await;
        if let Some(name) = query.get("name") {
            let registry: RegistryName = match name.parse() {
                Ok(registry) => registry,
                Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{name}: {error}\n")),
            };
            let repositories = known.get(&registry).copied().unwrap_or(0);
            known = BTreeMap::from([(registry, repositories)]);
        }
        let mut upstreams = Vec::new();
        for (registry, repositories) in known {
            upstreams.push(self.upstream(&registry, repositories).await);
        }
        if query.get("check").is_some() {
            let checks =
                upstreams.iter().map(
                    async |upstream: &Upstream| match upstream.registry.parse() {
                        Ok(registry) => doctor::connect(&self.pull, &registry).await,
                        Err(_) => Vec::new(),
                    },
                );
            let checks = futures_util::future::join_all(checks).await;
            for (upstream, checks) in upstreams.iter_mut().zip(checks) {
                upstream.checks = checks;
            }
        }
        json(&Upstreams { upstreams })
    }

    /// Every registry that is configured or that the store knows, with the number of its repositories.
    pub(super) async fn known_registries(&self) -> BTreeMap<RegistryName, u64> {
        let count = |store: &Store| {
            let mut known: BTreeMap<RegistryName, u64> = BTreeMap::new();
            store.repositories().each(|holding| {
                *known.entry(holding.registry).or_default() += 1;
            });
            known
        };
        let counted = self.pull.store.survey(count).await;
        let mut known = counted.unwrap_or_default();
        let config = self.pull.config.load();
        for name in config.upstreams.keys() {
            if let Ok(registry) = name.parse() {
                known.entry(registry).or_default();
            }
        }
        known
    }

    pub(super) async fn upstream(&self, registry: &RegistryName, repositories: u64) -> Upstream {
        let config = self.pull.config.load().upstream(registry.as_str());
        let credentials = &self.pull.credentials;
        let findings = credentials.findings(registry.as_str(), &config).await;
        let identity = credentials.cloud(registry.as_str(), &config);
        let fares = self.pull.upstreams.fares(registry);
        Upstream {
            registry: registry.to_string(),
            configured: config.configured,
            repositories,
            access: config.access.as_str().to_owned(),
            endpoints: fares.into_iter().map(endpoint).collect(),
            findings,
            identity: identity.map(|view| view.to_string()),
            checks: Vec::new(),
        }
    }
}

fn endpoint(fares: EndpointHealth) -> Endpoint {
    let state = match (fares.silent_for, fares.avoided) {
        (Some(_), _) => "silent",
        (None, true) => "avoided",
        (None, false) => "ok",
    };
    let limit = |(credential, quota): (bool, crate::upstream::Quota)| RateLimit {
        credential,
        limit: quota.limit,
        remaining: quota.remaining,
    };
    Endpoint {
        url: fares.url,
        state: state.to_owned(),
        silent_seconds: fares.silent_for.map(|left| left.as_secs().max(1)),
        rate_limits: fares.quotas.into_iter().map(limit).collect(),
    }
}

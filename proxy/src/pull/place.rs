//! The place that a request is about: its registry, its repository, and the caller for whom the registry is asked.

use std::time::Duration;

use larder_shared::{
    RegistryName, Repository,
    route::{Address, Registries},
};

use super::{Caller, Pull, PullError};
use crate::{
    access::{Place, Verdict},
    config::{Config, Sharing},
    credentials::Fault,
    identity::Identity,
    metrics::CredentialsFailed,
    telemetry,
    trace::Trace,
};

/// Looking up the node's own credentials may run a program. A pull waits for it this long.
const CREDENTIALS_WITHIN: Duration = Duration::from_secs(2);

impl Pull {
    /// The registry and the repository that an address stands for under this configuration.
    pub fn resolve(&self, address: &Address) -> Result<(RegistryName, Repository), PullError> {
        Ok(address.resolve(&Names(&self.config.load()))?)
    }

    /// The repository of an address, if its registry may be used, and the identity with which it will be asked.
    pub(super) async fn place(
        &self,
        address: &Address,
        caller: &Caller,
    ) -> Result<Place, PullError> {
        let (registry, repository) = self.resolve(address)?;
        let place = Place {
            trace: caller.trace.clone(),
            ..self.known_place(registry, repository).await?
        };
        let shown_here = caller
            .registry
            .as_ref()
            .is_none_or(|r| *r == place.registry);
        if shown_here && !caller.identity.is_anonymous() {
            return Ok(Place {
                identity: caller.identity.clone(),
                ..place
            });
        }
        Ok(self.shared(place).await)
    }

    /// Gives a caller without a credential the node's own identity, where the operator shares what that identity opens.
    pub(super) async fn shared(&self, place: Place) -> Place {
        let upstream = self.config.load().upstream(place.registry.as_str());
        if upstream.access != Sharing::Shared || upstream.credentials.is_none() {
            return place;
        }
        let found = tokio::time::timeout(
            CREDENTIALS_WITHIN,
            self.credentials
                .lookup(&place.registry, &place.repository, &upstream),
        );
        let key = (place.registry.clone(), place.repository.clone());
        match found.await {
            Ok(Ok(credentials)) => match credentials.into_iter().next() {
                Some(found) => {
                    let identity = self.key.found(found);
                    self.shared.insert(key, identity.lost()).await;
                    return Place { identity, ..place };
                }
                None => return place,
            },
            Ok(Err(error)) => {
                self.credentials_failed(error.fault());
                if let Some(due) = telemetry::due("credentials", place.registry.as_str()) {
                    tracing::warn!(upstream.registry = %place.registry, %error, unsaid = due.unsaid, "the node's credentials cannot be had, what is public or cached is served; fix what the error names, then see `larder status`");
                }
            }
            Err(_) => {
                self.credentials_failed(Fault::Timeout);
                if let Some(due) = telemetry::due("credentials", place.registry.as_str()) {
                    tracing::warn!(upstream.registry = %place.registry, unsaid = due.unsaid, "the node's credentials are late, what is public or cached is served; look at the helper or plugin, and at what it asks");
                }
            }
        }
        // The node's identity cannot be had now, but repositories that it opened stay open as in an outage. A cloud's
        // identity is known without a token, so this includes repositories that it opened before a restart.
        let identity = match self.credentials.known_as(&upstream) {
            Some(known_as) => Some(self.key.known(&known_as)),
            None => self.shared.get(&key).await,
        };
        let Some(identity) = identity else {
            return place;
        };
        let before = Place {
            identity,
            ..place.clone()
        };
        match self.access.verdict(&before) {
            Verdict::Allowed | Verdict::Ask { bridged: true }
                if place.record.public_since().is_none() =>
            {
                before
            }
            _ => place,
        }
    }

    fn credentials_failed(&self, fault: Fault) {
        let failed = &self.metrics.upstreams.credentials_failed;
        failed.get_or_create(&CredentialsFailed { fault }).inc();
    }

    /// The place of an anonymous caller in this repository, if its registry may be used.
    pub async fn known_place(
        &self,
        registry: RegistryName,
        repository: Repository,
    ) -> Result<Place, PullError> {
        if !self.config.load().registry.allows(registry.as_str()) {
            return Err(PullError::NotAllowed(registry));
        }
        let record = self.store.record(&registry, &repository).await;
        Ok(Place {
            registry,
            repository,
            record,
            identity: Identity::anonymous(),
            trace: Trace::none(),
            patience: None,
        })
    }
}

/// The names that the configuration gives to registries.
struct Names<'a>(&'a Config);

impl Registries for Names<'_> {
    fn alias(&self, component: &str) -> Option<RegistryName> {
        self.0.alias(component)?.parse().ok()
    }

    fn default_upstream(&self) -> RegistryName {
        // The configuration has checked the name; an empty name means Docker Hub.
        self.0
            .registry
            .default_upstream
            .parse()
            .or_else(|_| larder_shared::name::DOCKER_HUB.parse())
            .expect("docker.io is a registry name")
    }
}

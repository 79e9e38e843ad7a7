//! The node's own credentials (promise P18): larder finds them in the configured source, for the image in the request.
//!
//! Owns the kinds of source, and each kind's rules for the images that it serves: Docker's config.json (also as a
//! mounted Secret), a username and a password in two files, Docker's credential helpers, the kubelet's credential
//! provider plugins, and a cloud's identity. Files are read at every lookup, so a Secret that rotates needs no restart.
//! The answers of programs are used again for a bounded time, a cloud's token until shortly before its end. A missing
//! or broken source is an error that names it, never an old answer.
//!
//! Leaves to others: what a credential opens, and which clients may be served with it. No secret of this module can be
//! printed.

mod cloud;
mod docker;
mod error;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod helper;
mod keyring;
mod kubelet;
mod pair;
mod plugin;
mod run;
mod secret;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use larder_shared::{RegistryName, Repository};
use tokio::sync::Semaphore;

use self::{
    cloud::{Asked, Clouds},
    docker::DockerConfig,
    file::{Content, Readings, Understood},
    helper::Helpers,
    keyring::Image,
    kubelet::Providers,
    plugin::Plugins,
};
pub use self::{
    cloud::{CloudView, EcrSigner, KnownAs, Surroundings},
    error::{CredentialError, Fault},
    secret::{Credential, LARGEST, Secret},
};
use crate::{
    client::Client,
    config::{self, Config, Upstream},
};

/// This many helpers and plugins run at once; further ones wait for their turn.
const PROGRAMS: usize = 16;

/// How helpers and plugins are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory of `docker-credential-NAME`; `None` looks on the PATH.
    pub helper_dir: Option<PathBuf>,
    /// How long a helper may take.
    pub helper_time: Duration,
    /// How long a plugin may take; the kubelet gives it a minute.
    pub plugin_time: Duration,
    /// What a cloud's webhook has put into the pod's environment.
    pub surroundings: Surroundings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            helper_dir: None,
            helper_time: Duration::from_secs(10),
            plugin_time: Duration::from_mins(1),
            surroundings: Surroundings::default(),
        }
    }
}

/// Every source of the node, with what larder keeps of each.
pub struct Credentials {
    helpers: Helpers,
    plugins: Plugins,
    docker_files: Readings<Arc<Content>>,
    pairs: Readings<Credential>,
    provider_files: Readings<Arc<Vec<Content>>>,
    docker_configs: Understood<DockerConfig>,
    providers: Understood<Providers>,
    clouds: Clouds,
}

/// A credential of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub credential: Credential,
    /// The identity behind the credential, if it stays the same while the credential changes.
    pub known_as: Option<KnownAs>,
}

impl From<Credential> for Found {
    fn from(credential: Credential) -> Self {
        Self {
            credential,
            known_as: None,
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Sources; `client` asks the clouds' servers.
    pub fn new(settings: Settings, client: &Arc<Client>) -> Self {
        let running = Arc::new(Semaphore::new(PROGRAMS));
        let room = file::room();
        Self {
            helpers: Helpers::new(
                settings.helper_dir,
                settings.helper_time,
                Arc::clone(&running),
            ),
            plugins: Plugins::new(settings.plugin_time, running),
            docker_files: Readings::new(&room),
            pairs: Readings::new(&room),
            provider_files: Readings::new(&room),
            docker_configs: Understood::default(),
            providers: Understood::default(),
            clouds: Clouds::new(Arc::clone(client), settings.surroundings, &room),
        }
    }

    /// The credentials that the source of `upstream` has for `repository` of `registry`, in the order in which to try
    /// them. Empty if there is no source, or if it has none for that image, which is no error.
    ///
    /// A caller that stops waiting stops no program: the next caller gets its answer.
    ///
    /// # Errors
    /// A file or program is missing, broken or late.
    pub async fn lookup(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        upstream: &Upstream,
    ) -> Result<Vec<Found>, CredentialError> {
        let Some(source) = &upstream.credentials else {
            return Ok(Vec::new());
        };
        if let Some(asked) = self.asked(registry.as_str(), upstream) {
            // Boxed: it is rare, and every request's future has room for it.
            let found = Box::pin(self.clouds.credential(&asked));
            let (credential, known_as) = found.await?;
            let known_as = Some(known_as);
            return Ok(vec![Found {
                credential,
                known_as,
            }]);
        }
        let found = self.in_source(registry, repository, source).await?;
        Ok(found.into_iter().map(Found::from).collect())
    }

    async fn in_source(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        source: &config::Credentials,
    ) -> Result<Vec<Credential>, CredentialError> {
        let image = Image {
            registry: registry.clone(),
            repository: repository.clone(),
        };
        match source {
            config::Credentials::DockerConfig { path } => self.in_docker_config(path, &image).await,
            config::Credentials::Files { username, password } => {
                Ok(vec![self.pair(username, password).await?])
            }
            config::Credentials::Helper { name } => Ok(self
                .helpers
                .ask(name, registry)
                .await?
                .into_iter()
                .collect()),
            config::Credentials::Kubelet { config, bin_dir } => {
                let providers = self.providers(config).await?;
                self.plugins
                    .credentials(&providers.usable, bin_dir, &image)
                    .await
            }
            config::Credentials::Cloud(_) => Ok(Vec::new()),
        }
    }

    /// The signer of requests to the API of a registry of AWS; `None` for the public registry, which needs no
    /// signature.
    ///
    /// # Errors
    /// The upstream has no identity of AWS, or larder cannot get its keys.
    pub async fn ecr(
        &self,
        registry: &str,
        upstream: &Upstream,
    ) -> Result<Option<EcrSigner>, CredentialError> {
        if cloud::is_public_ecr(registry) {
            return Ok(None);
        }
        let of_aws = |asked: &Asked<'_>| asked.is_of(config::Cloud::Aws);
        match self.asked(registry, upstream).filter(of_aws) {
            Some(asked) => Box::pin(self.clouds.ecr(&asked)).await.map(Some),
            None => Err(CredentialError::new(
                Fault::Content,
                registry,
                "its API takes requests that an identity of AWS has signed: set credentials = { identity = \"aws\" } in its [upstreams], or list = \"auto\"",
            )),
        }
    }

    /// The identity of an upstream's credentials, whether or not larder can get them now.
    pub fn known_as(&self, upstream: &Upstream) -> Option<KnownAs> {
        match &upstream.credentials {
            Some(config::Credentials::Cloud(identity)) => Some(self.clouds.known_as(identity)),
            _ => None,
        }
    }

    /// The cloud's identity that an upstream has, if it has one. Asks no server.
    pub fn cloud(&self, registry: &str, upstream: &Upstream) -> Option<CloudView> {
        Some(self.clouds.view(&self.asked(registry, upstream)?))
    }

    /// Called when a person asks: a source that failed a moment ago is asked again at once.
    pub fn hurry(&self, registry: &str, upstream: &Upstream) {
        if let Some(asked) = self.asked(registry, upstream) {
            self.clouds.hurry(&asked);
        }
    }

    /// Renews the tokens of all configured identities before they end. To be called every few seconds.
    pub fn tend(&self, config: &Config) {
        let upstreams = config.upstreams.iter();
        let asked = upstreams.filter_map(|(registry, upstream)| self.asked(registry, upstream));
        self.clouds.tend(asked);
    }

    /// The identity with which larder asks an upstream's origin, if a cloud gives it.
    fn asked<'a>(&self, registry: &'a str, upstream: &'a Upstream) -> Option<Asked<'a>> {
        let Some(config::Credentials::Cloud(identity)) = &upstream.credentials else {
            return None;
        };
        let origin = upstream.endpoints.last()?;
        Some(self.clouds.asked(identity, registry, origin))
    }

    /// The faults of an upstream's source, for `larder doctor`: a line each, with the fix. Runs no program, and asks no
    /// server.
    pub async fn findings(&self, registry: &str, upstream: &Upstream) -> Vec<String> {
        if let Some(view) = self.cloud(registry, upstream) {
            return view.trouble.into_iter().collect();
        }
        match &upstream.credentials {
            Some(source) => self.findings_of(source).await,
            None => Vec::new(),
        }
    }

    async fn findings_of(&self, source: &config::Credentials) -> Vec<String> {
        let found = match source {
            config::Credentials::DockerConfig { path } => {
                self.docker_config(path).await.map(|_| Vec::new())
            }
            config::Credentials::Files { username, password } => {
                self.pair(username, password).await.map(|_| Vec::new())
            }
            config::Credentials::Helper { .. } | config::Credentials::Cloud(_) => Ok(Vec::new()),
            config::Credentials::Kubelet { config, bin_dir } => {
                self.providers(config).await.map(|providers| {
                    let mut findings = providers.findings.clone();
                    let programs = providers.usable.iter().map(|p| bin_dir.join(&p.name));
                    for program in programs.filter(|program| !program.is_file()) {
                        let place = program.display();
                        findings.push(format!("{place}: does not exist: put the plugin there"));
                    }
                    findings
                })
            }
        };
        found.unwrap_or_else(|error| vec![error.to_string()])
    }

    /// As in Docker, the helper for this very registry goes first. The helper for all others is asked last, since it
    /// has nothing for most images, and each question costs a process.
    async fn in_docker_config(
        &self,
        path: &Path,
        image: &Image,
    ) -> Result<Vec<Credential>, CredentialError> {
        let config = self.docker_config(path).await?;
        let mut found = Vec::new();
        if let Some(helper) = config.helper(&image.registry) {
            found.extend(self.helpers.ask(helper, &image.registry).await?);
        }
        found.extend(config.credentials(image)?);
        if found.is_empty()
            && let Some(helper) = config.store()
        {
            found.extend(self.helpers.ask(helper, &image.registry).await?);
        }
        Ok(found)
    }

    async fn pair(&self, username: &Path, password: &Path) -> Result<Credential, CredentialError> {
        let read = |[username, password]: [&Path; 2]| pair::read(username, password);
        self.pairs.of([username, password], read).await
    }

    async fn docker_config(&self, path: &Path) -> Result<Arc<DockerConfig>, CredentialError> {
        let content = self
            .docker_files
            .of([path], |[path]| docker::read(path).map(Arc::new))
            .await
            .inspect_err(|_| self.docker_configs.forget(path))?;
        let content = std::slice::from_ref(&*content);
        self.docker_configs
            .of(path, content, |files| DockerConfig::parse(&files[0]))
    }

    async fn providers(&self, path: &Path) -> Result<Arc<Providers>, CredentialError> {
        let contents = self
            .provider_files
            .of([path], |[path]| kubelet::read(path).map(Arc::new))
            .await
            .inspect_err(|_| self.providers.forget(path))?;
        self.providers.of(path, &contents, Providers::parse)
    }
}

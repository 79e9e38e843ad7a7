//! The node's own credentials (promise P18): found where the configuration says, for the image that is asked for.
//!
//! Owns the four kinds of source, with the rules by which each says what is for which image: Docker's config.json (also
//! as a mounted Secret), a username and a password in two files, Docker's credential helpers, and the kubelet's
//! credential provider plugins. Files are read at every lookup, so a Secret that rotates needs no restart; what programs
//! answer is used again for a bounded time. A source that is missing or broken is an error that names it, never an old
//! answer.
//!
//! Leaves to others: what a credential opens, and to whom that may be served. No secret of this module can be printed.

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
    docker::DockerConfig,
    file::{Content, Readings, Understood},
    helper::Helpers,
    keyring::Image,
    kubelet::Providers,
    plugin::Plugins,
};
pub use self::{
    error::{CredentialError, Fault},
    secret::{Credential, LARGEST, Secret},
};
use crate::config;

/// So many helpers and plugins run at once; others wait for their turn.
const PROGRAMS: usize = 16;

/// How helpers and plugins are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where `docker-credential-NAME` lies; `None` looks on the PATH.
    pub helper_dir: Option<PathBuf>,
    /// How long a helper may take.
    pub helper_time: Duration,
    /// How long a plugin may take; the kubelet gives it a minute.
    pub plugin_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            helper_dir: None,
            helper_time: Duration::from_secs(10),
            plugin_time: Duration::from_mins(1),
        }
    }
}

/// Every source of the node, and what is known of each.
pub struct Credentials {
    helpers: Helpers,
    plugins: Plugins,
    docker_files: Readings<Arc<Content>>,
    pairs: Readings<Credential>,
    provider_files: Readings<Arc<Vec<Content>>>,
    docker_configs: Understood<DockerConfig>,
    providers: Understood<Providers>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    pub fn new(settings: Settings) -> Self {
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
        }
    }

    /// What `source` has for `repository` of `registry`, in the order in which it should be tried. Empty if it has
    /// nothing for that image, which is no error.
    ///
    /// A caller that stops waiting stops no program: the answer is there for the next caller.
    ///
    /// # Errors
    /// A file or program that is missing, broken or late.
    pub async fn lookup(
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
        }
    }

    /// What is wrong with `source`, for `larder doctor`: a line each, with the fix. Runs no program.
    pub async fn findings(&self, source: &config::Credentials) -> Vec<String> {
        let found = match source {
            config::Credentials::DockerConfig { path } => {
                self.docker_config(path).await.map(|_| Vec::new())
            }
            config::Credentials::Files { username, password } => {
                self.pair(username, password).await.map(|_| Vec::new())
            }
            config::Credentials::Helper { .. } => Ok(Vec::new()),
            config::Credentials::Kubelet { config, bin_dir } => {
                self.providers(config).await.map(|providers| {
                    let mut findings = providers.findings.clone();
                    let programs = providers.usable.iter().map(|p| bin_dir.join(&p.name));
                    for program in programs.filter(|program| !program.is_file()) {
                        let place = program.display();
                        findings.push(format!("{place}: is not there: put the plugin there"));
                    }
                    findings
                })
            }
        };
        found.unwrap_or_else(|error| vec![error.to_string()])
    }

    /// A helper for the very registry goes first, as with Docker; the helper for all others is asked last, since most
    /// images are not its business and asking costs a process.
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

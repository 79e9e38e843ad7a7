//! Running the kubelet's credential provider plugins, and keeping each answer for the time that the plugin gives.
//!
//! The protocol is credentialprovider.kubelet.k8s.io: a CredentialProviderRequest goes in, a CredentialProviderResponse
//! comes out.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    error::{CredentialError, Fault, not_json},
    keyring::{Image, Keyring},
    kubelet::{GoDuration, Provider, go_duration},
    run::run,
    secret::{Credential, Secret},
};
use crate::coalesce::Coalesce;

/// The longest time for which an answer is used, whatever its own `cacheDuration`.
const LONGEST: Duration = Duration::from_hours(24 * 30);

/// Credentials, by the patterns under which a plugin gave them.
type Auth = Arc<Vec<(String, Credential)>>;

/// The images that an answer is for: the plugin's `cacheKeyType`, with the image or registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    Image(String),
    Registry(String),
    Global,
}

/// A plugin as it is run. The configuration is part of the key, so a changed one means that the plugin is asked anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Plugin {
    program: PathBuf,
    provider: Arc<Provider>,
}

type Key = (Plugin, Scope);

#[derive(Clone)]
struct PluginAnswer {
    auth: Auth,
    scope: Scope,
    /// Zero: the answer is only for the requests that wait for it now.
    lasts: Duration,
}

struct AsLongAsItLasts;

impl Expiry<Key, PluginAnswer> for AsLongAsItLasts {
    fn expire_after_create(&self, _: &Key, answer: &PluginAnswer, _: Instant) -> Option<Duration> {
        Some(answer.lasts)
    }
}

/// The plugins of the node.
pub(super) struct Plugins {
    time: Duration,
    running: Arc<Semaphore>,
    answers: Cache<Key, PluginAnswer>,
    asking: Coalesce<Key, Result<PluginAnswer, CredentialError>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    kind: Option<String>,
    api_version: Option<String>,
    cache_key_type: Option<String>,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, SaidAuth>>,
}

#[derive(Deserialize)]
struct SaidAuth {
    username: Option<String>,
    password: Option<Secret>,
}

impl Plugins {
    /// Plugins, each of which may take `time`.
    pub(super) fn new(time: Duration, running: Arc<Semaphore>) -> Self {
        Self {
            time,
            running,
            answers: Cache::builder()
                .max_capacity(10_000)
                .expire_after(AsLongAsItLasts)
                .build(),
            asking: Coalesce::default(),
        }
    }

    /// The credentials for `image`, from those of `providers` that are for it. Their programs are in the directory
    /// `programs`.
    ///
    /// A plugin's failure is an error only if no other plugin has a credential: the kubelet too goes on without it.
    pub(super) async fn credentials(
        &self,
        providers: &[Arc<Provider>],
        programs: &Path,
        image: &Image,
    ) -> Result<Vec<Credential>, CredentialError> {
        let asked = providers
            .iter()
            .filter(|provider| provider.is_for(image))
            .map(|provider| {
                let program = programs.join(&provider.name);
                let provider = Arc::clone(provider);
                self.auth(Plugin { program, provider }, image)
            });
        let (mut auths, mut errors) = (Vec::new(), Vec::new());
        for answer in futures_util::future::join_all(asked).await {
            match answer {
                Ok(auth) => auths.push(auth),
                Err(error) => errors.push(error),
            }
        }
        let entries = auths.iter().flat_map(|auth| auth.iter().cloned());
        let keyring = Keyring::new(entries);
        let found: Vec<Credential> = keyring.lookup(image).into_iter().cloned().collect();
        let mut errors = errors.into_iter();
        if found.is_empty()
            && let Some(error) = errors.next()
        {
            return Err(error);
        }
        for error in errors {
            tracing::warn!(%error, "a credential provider failed, others had credentials; run what the error names by hand, or take it out");
        }
        Ok(found)
    }

    /// What `plugin` answers about `image`.
    async fn auth(&self, plugin: Plugin, image: &Image) -> Result<Auth, CredentialError> {
        // Most answers are for a whole registry, so requests for several of its images wait for the same run. If the
        // answer does not cover a request's image, that request asks again, about this very image.
        for scope in [registry(image), only(image)] {
            let answer = self.asked(&plugin, scope, image).await?;
            if scopes(image).contains(&answer.scope) {
                return Ok(answer.auth);
            }
        }
        Err(CredentialError::new(
            Fault::Answer,
            plugin.program.display(),
            "answered about another image",
        ))
    }

    async fn asked(
        &self,
        plugin: &Plugin,
        scope: Scope,
        image: &Image,
    ) -> Result<PluginAnswer, CredentialError> {
        if let Some(answer) = kept(&self.answers, plugin, image).await {
            return Ok(answer);
        }
        let (answers, running, time) = (self.answers.clone(), Arc::clone(&self.running), self.time);
        let (to_run, about) = (plugin.clone(), image.clone());
        let asking = async move {
            if let Some(answer) = kept(&answers, &to_run, &about).await {
                return Ok(answer);
            }
            let _turn = running.acquire().await;
            let answer = execute(&to_run, &about, time).await?;
            if !answer.lasts.is_zero() {
                answers
                    .insert((to_run, answer.scope.clone()), answer.clone())
                    .await;
            }
            Ok(answer)
        };
        let lost = || CredentialError::new(Fault::Program, plugin.program.display(), "was cut off");
        self.asking
            .run((plugin.clone(), scope), asking)
            .await
            .unwrap_or_else(|| Err(lost()))
    }
}

/// An earlier answer that covers `image`.
async fn kept(
    answers: &Cache<Key, PluginAnswer>,
    plugin: &Plugin,
    image: &Image,
) -> Option<PluginAnswer> {
    for scope in scopes(image) {
        if let Some(answer) = answers.get(&(plugin.clone(), scope)).await {
            return Some(answer);
        }
    }
    None
}

fn only(image: &Image) -> Scope {
    Scope::Image(image.to_string())
}

fn registry(image: &Image) -> Scope {
    Scope::Registry(image.registry.to_string())
}

/// The scopes under which an answer for `image` can be kept, in the kubelet's order.
fn scopes(image: &Image) -> [Scope; 3] {
    [only(image), registry(image), Scope::Global]
}

async fn execute(
    plugin: &Plugin,
    image: &Image,
    time: Duration,
) -> Result<PluginAnswer, CredentialError> {
    let Plugin { program, provider } = plugin;
    let request = serde_json::json!({
        "kind": "CredentialProviderRequest",
        "apiVersion": provider.api_version,
        "image": image.to_string(),
    });
    let request = request.to_string().into_bytes();
    let ran = run(program, &provider.args, &provider.env, request, time).await?;
    if !ran.status.success() {
        return Err(ran.failure(program));
    }
    understood(&ran.answer, provider, image)
        .map_err(|what| CredentialError::new(Fault::Answer, program.display(), what))
}

fn understood(bytes: &[u8], provider: &Provider, image: &Image) -> Result<PluginAnswer, String> {
    let said: Said = serde_json::from_slice(bytes).map_err(|error| {
        format!(
            "did not answer in the plugins' format: {}: is it the right program?",
            not_json(&error)
        )
    })?;
    if said.kind.as_deref() != Some("CredentialProviderResponse") {
        return Err("its answer's `kind` is not CredentialProviderResponse".to_owned());
    }
    if said.api_version.as_ref() != Some(&provider.api_version) {
        let asked = &provider.api_version;
        return Err(format!(
            "its answer's `apiVersion` is not {asked}: configure the one that it speaks"
        ));
    }
    let scope = match said.cache_key_type.as_deref() {
        Some("Image") => only(image),
        Some("Registry") => registry(image),
        Some("Global") => Scope::Global,
        _ => return Err("its answer's `cacheKeyType` is not Image, Registry or Global".to_owned()),
    };
    let lasts = match said.cache_duration.as_deref() {
        None => provider.default_cache,
        Some(text) => go_duration(text)
            .ok_or("its answer's `cacheDuration` is not a time such as \"12h\"")
            // A negative time counts as zero: the answer is not kept.
            .map(|duration| GoDuration::positive(duration).unwrap_or_default())?,
    };
    let auth = said.auth.unwrap_or_default().into_iter();
    let auth = auth.filter_map(|(pattern, said)| {
        let username = said.username.unwrap_or_default();
        let password = said.password.unwrap_or_default();
        let empty = username.is_empty() && password.is_empty();
        (!empty).then_some((pattern, Credential::Basic { username, password }))
    });
    Ok(PluginAnswer {
        auth: Arc::new(auth.collect()),
        scope,
        lasts: lasts.min(LONGEST),
    })
}

//! The kubelet's CredentialProviderConfig: which plugin is for which images, and how it is run.
//!
//! The kinds and fields are those of kubelet.config.k8s.io/v1; v1beta1 and v1alpha1 have the same. larder refuses what
//! the kubelet refuses, except fields that larder does not know: a newer kubelet may have them.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::IgnoredAny};

use super::{
    error::{CredentialError, Fault, not_json},
    file::{self, Content},
    keyring::{Image, ImagePattern},
};

const KIND: &str = "CredentialProviderConfig";
const VERSIONS: [&str; 3] = [
    "kubelet.config.k8s.io/v1",
    "kubelet.config.k8s.io/v1beta1",
    "kubelet.config.k8s.io/v1alpha1",
];
const PLUGIN_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

/// One plugin, as configured.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Provider {
    /// The executable's name within the directory of the plugins.
    pub name: String,
    pub api_version: String,
    match_images: Vec<String>,
    pub default_cache: Duration,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

impl fmt::Debug for Provider {
    /// Arguments and environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("name", &self.name)
            .field("match_images", &self.match_images)
            .finish_non_exhaustive()
    }
}

impl Provider {
    pub(super) fn is_for(&self, image: &Image) -> bool {
        self.match_images
            .iter()
            .filter_map(|glob| ImagePattern::parse(glob))
            .any(|pattern| pattern.matches(image))
    }
}

/// The plugins that larder can run, and the findings about the others.
#[derive(Debug)]
pub(super) struct Providers {
    pub usable: Vec<std::sync::Arc<Provider>>,
    pub findings: Vec<String>,
}

#[derive(Deserialize)]
struct Said {
    kind: Option<String>,
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    providers: Option<Vec<SaidProvider>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SaidProvider {
    name: String,
    match_images: Option<Vec<String>>,
    default_cache_duration: Option<String>,
    api_version: Option<String>,
    args: Option<Vec<String>>,
    env: Option<Vec<SaidVariable>>,
    token_attributes: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct SaidVariable {
    name: String,
    value: Option<String>,
}

/// Reads the file at `path`, or a directory's `*.json`, `*.yaml` and `*.yml` in the order of their names. May block.
pub(super) fn read(path: &Path) -> Result<Vec<Content>, CredentialError> {
    if !path.is_dir() {
        return Ok(vec![file::read(path)?]);
    }
    let mut paths: Vec<PathBuf> = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(|error| file::unreadable(path, &error))?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("json" | "yaml" | "yml")) && !path.is_dir()
    });
    paths.sort();
    if paths.is_empty() {
        return Err(CredentialError::new(
            Fault::File,
            path.display(),
            "holds no *.json, *.yaml or *.yml: name the kubelet's --image-credential-provider-config",
        ));
    }
    paths.iter().map(|path| file::read(path)).collect()
}

impl Providers {
    pub(super) fn parse(files: &[Content]) -> Result<Self, CredentialError> {
        let mut all = Self {
            usable: Vec::new(),
            findings: Vec::new(),
        };
        let mut names = Vec::new();
        for file in files {
            all.add(file, &mut names)
                .map_err(|what| CredentialError::new(Fault::Content, file.path.display(), what))?;
        }
        for finding in &all.findings {
            tracing::warn!("{finding}");
        }
        Ok(all)
    }

    fn add(&mut self, file: &Content, names: &mut Vec<String>) -> Result<(), String> {
        let said = said(&file.bytes)?;
        if said.kind.as_deref() != Some(KIND) {
            return Err(format!("`kind` must be {KIND}: is this the right file?"));
        }
        if !known(said.api_version.as_deref(), &VERSIONS) {
            return Err(format!("`apiVersion` must be {}", VERSIONS.join(" or ")));
        }
        for provider in said.providers.unwrap_or_default() {
            let name = provider.name.clone();
            if name.is_empty()
                || matches!(name.as_str(), "." | "..")
                || name.contains(['/', ' ', '\0'])
            {
                return Err(
                    "a provider's `name` must be the name of an executable, without directory and spaces"
                        .to_owned(),
                );
            }
            if names.contains(&name) {
                return Err(format!("two providers are called {name:?}: rename one"));
            }
            names.push(name.clone());
            if provider.token_attributes.is_some() {
                self.findings.push(format!(
                    "{}: the provider {name:?} is skipped: its `tokenAttributes` want a service account token of the pod, which larder does not have; let pods bring their own pull secrets, or configure it without",
                    file.path.display()
                ));
                continue;
            }
            let provider =
                meant(provider).map_err(|what| format!("the provider {name:?}: {what}"))?;
            self.usable.push(std::sync::Arc::new(provider));
        }
        Ok(())
    }
}

fn meant(said: SaidProvider) -> Result<Provider, String> {
    let match_images = said.match_images.unwrap_or_default();
    if match_images.is_empty() {
        return Err("`matchImages` must name at least one image".to_owned());
    }
    if !known(said.api_version.as_deref(), &PLUGIN_VERSIONS) {
        return Err(format!(
            "`apiVersion` must be {}",
            PLUGIN_VERSIONS.join(" or ")
        ));
    }
    let default_cache = said
        .default_cache_duration
        .as_deref()
        .and_then(go_duration)
        .and_then(GoDuration::positive)
        .ok_or("`defaultCacheDuration` must be a time such as \"12h\" or \"0s\"")?;
    let variable = |variable: SaidVariable| (variable.name, variable.value.unwrap_or_default());
    Ok(Provider {
        name: said.name,
        api_version: said.api_version.unwrap_or_default(),
        match_images,
        default_cache,
        args: said.args.unwrap_or_default(),
        env: said
            .env
            .unwrap_or_default()
            .into_iter()
            .map(variable)
            .collect(),
    })
}

fn known(version: Option<&str>, versions: &[&str]) -> bool {
    version.is_some_and(|version| versions.contains(&version))
}

fn said(bytes: &[u8]) -> Result<Said, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8: save it as UTF-8 text")?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| format!("{}: fix it there", not_json(&error)));
    }
    serde_saphyr::from_str(text).map_err(|error| {
        // The parser's own message quotes the file, where `env` may hold secrets.
        let place = error.location().map_or_else(
            || "fix it".to_owned(),
            |at| format!("fix it at line {}, column {}", at.line(), at.column()),
        );
        format!("not YAML of a {KIND}: {place}")
    })
}

/// A time as Go writes it, which may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GoDuration {
    negative: bool,
    size: Duration,
}

impl GoDuration {
    /// The time, unless it is negative. Zero is zero, whatever its sign.
    pub(super) fn positive(self) -> Option<Duration> {
        (!self.negative || self.size.is_zero()).then_some(self.size)
    }
}

/// Parses like Go's `time.ParseDuration`: an optional sign, then numbers with a unit each, possibly with fractions; or
/// `0`.
pub(super) fn go_duration(text: &str) -> Option<GoDuration> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut size = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        rest = "";
    }
    while !rest.is_empty() {
        let number = |c: char| c.is_ascii_digit() || c == '.';
        let (value, after) = rest.split_at(rest.find(|c| !number(c))?);
        let end = after.find(number).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let part = value.parse::<f64>().ok()? * seconds;
        size = size.checked_add(Duration::try_from_secs_f64(part).ok()?)?;
        rest = after;
    }
    Some(GoDuration { negative, size })
}

#[cfg(test)]
mod tests;

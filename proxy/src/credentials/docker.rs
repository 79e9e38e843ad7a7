//! Docker's config.json: its own entries, before any helper is asked.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use data_encoding::{Encoding, Specification};
use larder_shared::RegistryName;
use serde::Deserialize;

use super::{
    error::{CredentialError, Fault, not_json},
    file::{self, Content},
    keyring::{Image, Keyring, key},
    secret::{Credential, Secret},
};

/// The names of the file in a mounted directory. The key of a Secret comes first.
const NAMES: [&str; 2] = [".dockerconfigjson", "config.json"];

/// Base64 without padding, as Go reads it: the trailing bits are ignored.
static BASE64: LazyLock<Encoding> = LazyLock::new(|| {
    let mut base64 = Specification::new();
    base64
        .symbols
        .push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    base64.check_trailing_bits = false;
    base64.ignore.push_str("\r\n");
    base64.encoding().expect("the alphabet has 64 symbols")
});

/// A config.json. An entry that cannot be used is an error only for the images that it is for.
#[derive(Debug)]
pub(super) struct DockerConfig {
    path: PathBuf,
    auths: Keyring<Result<Credential, String>>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<Secret>,
    auth: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// Reads the file at `path`, or the file in the directory where a Secret is mounted. May block.
pub(super) fn read(path: &Path) -> Result<Content, CredentialError> {
    if !path.is_dir() {
        return file::read(path);
    }
    match NAMES.iter().find(|name| path.join(name).exists()) {
        Some(name) => file::read(&path.join(name)),
        None => Err(CredentialError::new(
            Fault::File,
            path.display(),
            "holds neither `.dockerconfigjson` nor `config.json`: mount a Secret of type kubernetes.io/dockerconfigjson there",
        )),
    }
}

impl DockerConfig {
    pub(super) fn parse(file: &Content) -> Result<Self, CredentialError> {
        let wrong = |what: String| CredentialError::new(Fault::Content, file.path.display(), what);
        let said: Said = serde_json::from_slice(&file.bytes)
            .map_err(|error| wrong(format!("{}: fix it there", not_json(&error))))?;
        let auths = said.auths.unwrap_or_default().into_iter();
        let auths = auths.filter_map(|(key, entry)| Some((key, credential(entry?)?)));
        let helpers = said.helpers.unwrap_or_default();
        let store = said.store.filter(|name| !name.is_empty());
        if !helpers.values().chain(&store).all(|name| is_helper(name)) {
            return Err(wrong(
                "`credHelpers` and `credsStore` name helpers by what follows `docker-credential-`, without a path"
                    .to_owned(),
            ));
        }
        let helpers = helpers
            .into_iter()
            .filter_map(|(said, name)| Some((key(&said)?, name)));
        Ok(Self {
            path: file.path.clone(),
            auths: Keyring::new(auths),
            helpers: helpers.collect(),
            store,
        })
    }

    /// The entries of `auths` for `image`, in the kubelet's order.
    pub(super) fn credentials(&self, image: &Image) -> Result<Vec<Credential>, CredentialError> {
        self.auths
            .lookup(image)
            .into_iter()
            .map(|entry| {
                entry.clone().map_err(|what| {
                    CredentialError::new(
                        Fault::Content,
                        self.path.display(),
                        format!("the entry of `auths` for {}: {what}", image.registry),
                    )
                })
            })
            .collect()
    }

    /// The helper that `credHelpers` names for this very registry.
    pub(super) fn helper(&self, registry: &RegistryName) -> Option<&str> {
        let hub = ["index.docker.io", "registry-1.docker.io"];
        let others = hub.iter().filter(|_| registry.is_docker_hub());
        std::iter::once(&registry.as_str())
            .chain(others)
            .find_map(|name| self.helpers.get(*name))
            .map(String::as_str)
    }

    /// The helper for every other registry.
    pub(super) fn store(&self) -> Option<&str> {
        self.store.as_deref()
    }
}

/// The credential of an entry; `None` for an empty one, which Docker leaves when a helper keeps the secret.
fn credential(entry: Entry) -> Option<Result<Credential, String>> {
    let said = |secret: &Secret| !secret.is_empty();
    if let Some(token) = entry.identitytoken.filter(said) {
        return Some(Ok(Credential::IdentityToken(token)));
    }
    if let Some(auth) = entry.auth.filter(said) {
        return Some(from_auth(&auth));
    }
    let username = entry.username.unwrap_or_default();
    let password = entry.password.unwrap_or_default();
    (!username.is_empty() || said(&password))
        .then_some(Ok(Credential::Basic { username, password }))
}

/// `auth` is base64 of `username:password`, with or without padding; the password may hold colons.
fn from_auth(auth: &Secret) -> Result<Credential, String> {
    let fix = "its `auth` must be base64 of USERNAME:PASSWORD";
    let text = auth.expose().trim().trim_end_matches('=');
    let decoded = BASE64.decode(text.as_bytes()).map_err(|_| fix)?;
    let decoded = Secret::new(String::from_utf8(decoded).map_err(|_| fix)?);
    let (username, password) = decoded.expose().split_once(':').ok_or(fix)?;
    Ok(Credential::Basic {
        username: username.to_owned(),
        password: Secret::new(password),
    })
}

fn is_helper(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.bytes().all(plain)
}

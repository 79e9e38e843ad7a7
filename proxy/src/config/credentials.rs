//! Where a node's own credentials for an upstream come from, and which clients they serve.

use std::path::PathBuf;

use super::cloud::{self, CloudIdentity};
use super::error::ConfigError;
use super::said::Section;
use super::value;

/// One source of credentials: the table `credentials` of an upstream. Every path is absolute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// A Docker `config.json`, or the content of a Secret of type kubernetes.io/dockerconfigjson.
    DockerConfig {
        /// The file, or the directory into which such a Secret is mounted; key `docker_config`.
        path: PathBuf,
    },
    /// Two files, such as a mounted Opaque Secret with the keys `username` and `password`.
    Files {
        /// Key `username_file`.
        username: PathBuf,
        /// Key `password_file`.
        password: PathBuf,
    },
    /// A Docker credential helper.
    Helper {
        /// The part of the executable's name after `docker-credential-`; key `helper`.
        name: String,
    },
    /// The kubelet's credential provider plugins.
    Kubelet {
        /// The kubelet's `--image-credential-provider-config`; key `kubelet_config`.
        config: PathBuf,
        /// The kubelet's `--image-credential-provider-bin-dir`.
        bin_dir: PathBuf,
    },
    /// The identity that a cloud gives; key `identity`.
    Cloud(Box<CloudIdentity>),
}

/// The choice in an upstream's `access`: which clients may have content that the node's credentials open (promise P18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// The node's credentials give no client access: each needs its own right.
    #[default]
    PerCredential,
    /// Every client of this node.
    Shared,
}

/// Each key, and the key without which it is refused.
const KEYS: [(&str, Option<&str>); 6] = [
    ("docker_config", None),
    ("username_file", Some("password_file")),
    ("password_file", Some("username_file")),
    ("helper", None),
    ("kubelet_config", Some("bin_dir")),
    ("bin_dir", Some("kubelet_config")),
];

/// Reads a path. The error does not repeat the value, since a person may have written the secret itself there.
fn unrepeated_path(
    said: &mut Section<'_, '_>,
    key: &'static str,
) -> Result<Option<PathBuf>, ConfigError> {
    let text = said.text(key, |text| Ok(text.to_owned()))?;
    text.map(|text| value::absolute_path(&text))
        .transpose()
        .map_err(|fix| said.wrong(key, format!("it names a file: {fix}")))
}

/// Reads the table, which must name exactly one source, and all keys of it.
pub(super) fn credentials(mut said: Section<'_, '_>) -> Result<Credentials, ConfigError> {
    let docker_config = said.text("docker_config", value::absolute_path)?;
    let username = unrepeated_path(&mut said, "username_file")?;
    let password = unrepeated_path(&mut said, "password_file")?;
    let helper = said.text("helper", value::helper_name)?;
    let kubelet_config = said.text("kubelet_config", value::absolute_path)?;
    let bin_dir = said.text("bin_dir", value::absolute_path)?;

    if let Some(identity) = cloud::identity(&mut said)? {
        if let Some((key, _)) = KEYS.iter().find(|(key, _)| said.says(key)) {
            return Err(said.wrong(key, "`identity` names another source: keep one of the two"));
        }
        said.finish()?;
        return Ok(Credentials::Cloud(Box::new(identity)));
    }

    let given: Vec<_> = KEYS.iter().filter(|(key, _)| said.says(key)).collect();
    let missing = given.iter().find_map(|(key, partner)| {
        let partner = (*partner)?;
        (!said.says(partner)).then_some((*key, partner))
    });
    let several = given
        .iter()
        .find(|(key, partner)| *key != given[0].0 && *partner != Some(given[0].0));
    if let Some((second, _)) = several {
        let first = given[0].0;
        return Err(said.wrong(
            second,
            format!("`{first}` names another source: keep one of the two"),
        ));
    }
    if let Some((key, partner)) = missing {
        return Err(said.wrong(key, format!("it goes with `{partner}`: add that key")));
    }
    let credentials = if let Some(path) = docker_config {
        Some(Credentials::DockerConfig { path })
    } else if let (Some(username), Some(password)) = (username, password) {
        Some(Credentials::Files { username, password })
    } else if let Some(name) = helper {
        Some(Credentials::Helper { name })
    } else if let (Some(config), Some(bin_dir)) = (kubelet_config, bin_dir) {
        Some(Credentials::Kubelet { config, bin_dir })
    } else {
        None
    };
    let nothing = said.misnamed(
        "no source: add `docker_config`, `username_file` and `password_file`, `helper`, `kubelet_config` and `bin_dir`, or `identity`",
    );
    said.finish()?;
    credentials.ok_or(nothing)
}

//! Names of registries: which names are valid, and which mean the same registry.

use std::borrow::Cow;

use larder_shared::{RegistryName, name::canonical_host};

/// The canonical name of Docker Hub.
pub const DOCKER_HUB: &str = "docker.io";

/// The host that serves Docker Hub's registry API.
pub(super) const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The canonical spelling of a registry's name (see [`RegistryName`]). An invalid name stays as it is.
pub fn canonical(registry: &str) -> Cow<'_, str> {
    match registry.parse::<RegistryName>() {
        Ok(name) if name.as_str() == registry => Cow::Borrowed(registry),
        Ok(name) => Cow::Owned(name.to_string()),
        Err(_) => Cow::Borrowed(registry),
    }
}

/// The same for a pattern, in which `*` stands for any characters.
pub(super) fn canonical_pattern(pattern: &str) -> String {
    if let Ok(name) = pattern.parse::<RegistryName>() {
        return name.to_string();
    }
    let pattern = pattern.to_ascii_lowercase();
    let (host, port) = match pattern.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            (host, port.trim_start_matches('0'))
        }
        _ => (pattern.as_str(), ""),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    match port {
        "" | "443" => host.to_owned(),
        port => format!("{host}:{port}"),
    }
}

/// Checks that `name` is `HOST` or `HOST:PORT`, as it stands in front of an image's path, and gives its
/// canonical spelling.
///
/// # Errors
/// How to write it instead; the text does not repeat `name`.
pub fn registry_name(name: &str) -> Result<String, String> {
    if name.contains("://") {
        return Err("leave out the scheme, as in an image reference: \"ghcr.io\"".to_owned());
    }
    if name.contains('/') {
        return Err("leave out the path, the registry's name is enough: \"ghcr.io\"".to_owned());
    }
    let port = name.rsplit(':').next().unwrap_or_default();
    let number = name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit());
    if number && port.len() > 4 && port.parse::<u16>().is_err() {
        return Err("ports end at 65535".to_owned());
    }
    let name: RegistryName = name.parse().map_err(|_| {
        "a registry is HOST or HOST:PORT, such as \"ghcr.io\" or \"127.0.0.1:5000\"".to_owned()
    })?;
    Ok(name.to_string())
}

/// Checks that `name` is a host name as it stands in `Host` before any port, and gives its canonical spelling.
///
/// # Errors
/// How to write it instead.
pub fn host_name(name: &str) -> Result<String, String> {
    let host = canonical_host(name).filter(|host| !host.is_empty());
    host.ok_or_else(|| {
        "a host is a name such as \"registry.example.com\", without scheme, port and `*`; any port is fine".to_owned()
    })
}

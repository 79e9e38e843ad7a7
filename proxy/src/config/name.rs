//! Names of registries: which are well formed, and which mean the same registry.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The one name under which Docker Hub is known here.
pub const DOCKER_HUB: &str = "docker.io";

/// The host that serves Docker Hub's registry API.
pub(super) const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The one spelling of a registry's name: lower case, and `docker.io` for each of Docker Hub's hosts.
///
/// Host names do not distinguish case, and clients name Docker Hub by any of its three hosts.
pub fn canonical(registry: &str) -> Cow<'_, str> {
    for hub in [DOCKER_HUB, "index.docker.io", DOCKER_HUB_HOST] {
        if registry.eq_ignore_ascii_case(hub) {
            return Cow::Borrowed(DOCKER_HUB);
        }
    }
    if registry.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(registry.to_ascii_lowercase())
    } else {
        Cow::Borrowed(registry)
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
    let malformed = || "a registry is HOST or HOST:PORT, such as \"ghcr.io\" or \"127.0.0.1:5000\"";
    let (host, port) = match name.rsplit_once(':') {
        // The colons of an IPv6 address end at its bracket.
        Some((_, after)) if after.contains(']') => (name, None),
        Some((host, port)) => (host, Some(port)),
        None => (name, None),
    };
    if let Some(port) = port {
        let number = port.bytes().all(|byte| byte.is_ascii_digit());
        if !number || port.parse::<u16>().is_ok_and(|port| port == 0) || port.is_empty() {
            return Err(malformed().to_owned());
        }
        if port.parse::<u16>().is_err() {
            return Err("ports end at 65535".to_owned());
        }
    }
    let ipv6 = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    if !ipv6 && (host.len() > 253 || !host.split('.').all(is_label)) {
        return Err(malformed().to_owned());
    }
    Ok(canonical(name).into_owned())
}

/// One part of a host name, as image references allow it.
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

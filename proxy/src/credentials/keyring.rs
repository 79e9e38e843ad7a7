//! The kubelet's rules for which entry is for which image.
//!
//! They are those of `URLsMatchStr` and `BasicDockerKeyring` in Kubernetes' pkg/credentialprovider/keyring.go, with one
//! difference: case, the dot that ends a full name, port 443 and zeros before a port make no difference, as in larder's
//! registry names.

use larder_shared::{RegistryName, Repository};

use crate::config::Pattern;

/// The key that is used for Docker Hub when no key matches by itself.
const DOCKER_HUB_KEY: &str = "index.docker.io";

/// An image without tag and digest, as the kubelet names it: `docker.io/library/nginx`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Image {
    pub registry: RegistryName,
    pub repository: Repository,
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

/// `HOST[:PORT][/PATH]`: every label of the host is a glob, the port is equal, the path is a plain prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImagePattern {
    host: Host,
    port: String,
    path: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Labels(Vec<Pattern>),
    Ipv6(String),
}

impl ImagePattern {
    /// Reads an entry of `matchImages`. A pattern with a scheme matches nothing, as in the kubelet. `None` if the text
    /// is no pattern.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (authority, path) = split_path(text);
        let (host, port) = split_port(authority)?;
        let host = if host.starts_with('[') {
            Host::Ipv6(host.to_ascii_lowercase())
        } else {
            let label = |label: &str| Pattern::new(label.to_ascii_lowercase());
            Host::Labels(host.split('.').map(label).collect())
        };
        Some(Self {
            host,
            port: port.to_owned(),
            path: path.to_owned(),
        })
    }

    pub(super) fn matches(&self, image: &Image) -> bool {
        let Some((host, port)) = split_port(image.registry.as_str()) else {
            return false;
        };
        let host_fits = match &self.host {
            Host::Ipv6(own) => own == host,
            Host::Labels(labels) => {
                labels.len() == host.split('.').count()
                    && labels
                        .iter()
                        .zip(host.split('.'))
                        .all(|(glob, label)| glob.matches(label))
            }
        };
        // The image's path begins with a slash, and so does the pattern's unless it is empty.
        let path_fits = match self.path.strip_prefix('/') {
            None => true,
            Some(prefix) => image.repository.as_str().starts_with(prefix),
        };
        host_fits && self.port == port && path_fits
    }
}

/// Entries in the order in which the kubelet tries them.
#[derive(Debug)]
pub(super) struct Keyring<T> {
    entries: Vec<(String, ImagePattern, T)>,
}

impl<T> Keyring<T> {
    /// Takes entries under the keys that they have in an `auths` table. A key that cannot be read matches nothing.
    pub(super) fn new(entries: impl IntoIterator<Item = (String, T)>) -> Self {
        let mut entries: Vec<_> = entries
            .into_iter()
            .filter_map(|(said, entry)| {
                let key = key(&said)?;
                let pattern = ImagePattern::parse(&key)?;
                Some((key, pattern, entry))
            })
            .collect();
        // In descending order of the keys' text: of one host, a longer path comes before a shorter one, and a name
        // before a wildcard.
        entries.sort_by(|(a, ..), (b, ..)| b.cmp(a));
        Self { entries }
    }

    /// Every entry that is for `image`, in the order in which to try them.
    pub(super) fn lookup(&self, image: &Image) -> Vec<&T> {
        let those = |fits: &dyn Fn(&str, &ImagePattern) -> bool| -> Vec<&T> {
            self.entries
                .iter()
                .filter(|(key, pattern, _)| fits(key, pattern))
                .map(|(.., entry)| entry)
                .collect()
        };
        let found = those(&|_, pattern| pattern.matches(image));
        if found.is_empty() && image.registry.is_docker_hub() {
            return those(&|key, _| key == DOCKER_HUB_KEY);
        }
        found
    }
}

/// A key of an `auths` table in its short form: no scheme, no user, no `/v1/` or `/v2/` in front of the path.
pub(super) fn key(said: &str) -> Option<String> {
    let rest = said
        .strip_prefix("https://")
        .or_else(|| said.strip_prefix("http://"))
        .unwrap_or(said);
    let (authority, path) = split_path(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let path = if path.starts_with("/v1/") || path.starts_with("/v2/") {
        &path[3..]
    } else {
        path
    };
    let path = if path == "/" { "" } else { path };
    let (host, port) = split_port(host)?;
    let colon = if port.is_empty() { "" } else { ":" };
    Some(format!("{}{colon}{port}{path}", host.to_ascii_lowercase()))
}

/// The authority, and the path with its slash but without query and fragment.
fn split_path(text: &str) -> (&str, &str) {
    let text = text.split(['?', '#']).next().unwrap_or(text);
    text.split_at(text.find('/').unwrap_or(text.len()))
}

/// The host and the port, which is empty if it is implied. `None` if no URL can have this authority.
fn split_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = match authority.rfind(']') {
        Some(end) if authority.starts_with('[') => authority.split_at(end + 1),
        Some(_) => return None,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port,
        None if port.is_empty() => port,
        None => return None,
    };
    let in_host = |byte: u8| byte.is_ascii_graphic() && !b"\\^`{|}%/@".contains(&byte);
    let host = host.strip_suffix('.').unwrap_or(host);
    let fits = !host.is_empty() && host.bytes().all(in_host);
    let number = port.trim_start_matches('0');
    let number = if number == "443" { "" } else { number };
    (fits && port.bytes().all(|b| b.is_ascii_digit())).then_some((host, number))
}

#[cfg(test)]
mod tests;

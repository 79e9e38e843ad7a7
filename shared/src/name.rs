//! Names: registries, repositories, tags, references.
//!
//! The grammars are those of the OCI distribution-spec ("Pulling manifests", `<name>` and `<reference>`). A value of
//! one of these types has passed its grammar, so it may become a path component or a URL without further checks.

use std::{borrow::Borrow, fmt, str::FromStr};

use crate::digest::{Digest, DigestError};

/// Why a text is not a name, a tag or a registry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "a repository name is lower-case letters, digits and separators (`.`, `_`, `__`, `-`) in components joined by `/`"
    )]
    Repository,
    #[error("a repository name takes at most 255 characters")]
    TooLong,
    #[error(
        "a tag is up to 128 letters, digits, `_`, `.` and `-`, and does not begin with `.` or `-`"
    )]
    Tag,
    #[error("a registry is `host` or `host:port`, without scheme, path or user")]
    Registry,
    #[error(transparent)]
    Digest(#[from] DigestError),
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A registry as containerd's `ns` has it: host in lower case, port if it is not implied.
///
/// `docker.io`, `index.docker.io` and `registry-1.docker.io` are one registry (promise P2) and all become `docker.io`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName(String);
text_type!(RegistryName);

/// The key that Docker Hub's three names share.
pub const DOCKER_HUB: &str = "docker.io";

impl FromStr for RegistryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.to_ascii_lowercase();
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (inner, tail) = rest.split_once(']').ok_or(NameError::Registry)?;
            inner
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| NameError::Registry)?;
            (None, tail)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (Some(host), &text[text.len() - port.len() - 1..]),
                None => (Some(text.as_str()), ""),
            }
        };
        if let Some(host) = host {
            let label = |l: &str| {
                !l.is_empty()
                    && l.bytes().all(|b| {
                        b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'
                    })
                    && !l.starts_with('-')
                    && !l.ends_with('-')
            };
            if host.len() > 253 || !host.split('.').all(label) {
                return Err(NameError::Registry);
            }
        }
        if !port.is_empty() {
            let digits = port.strip_prefix(':').ok_or(NameError::Registry)?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            if !plain || !digits.parse::<u16>().is_ok_and(|p| p > 0) {
                return Err(NameError::Registry);
            }
        }
        Ok(Self(match text.as_str() {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
            _ => text,
        }))
    }
}

impl RegistryName {
    pub fn is_docker_hub(&self) -> bool {
        self.0 == DOCKER_HUB
    }

    /// Whether the first component of an image reference names a registry rather than a repository
    /// (containers/image and containerd's rule: it has a dot or a port, or is `localhost`).
    pub fn is_plausible(component: &str) -> bool {
        component == "localhost" || component.contains(['.', ':'])
    }
}

/// A repository within a registry: the `<name>` of the distribution-spec.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(String);
text_type!(Repository);

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > 255 {
            return Err(NameError::TooLong);
        }
        if text.split('/').all(is_component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Repository)
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !word(first) || !word(last) {
        return false;
    }
    // What stands between two words is one separator.
    bytes
        .split(word)
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);
text_type!(Tag);

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(word);
        if first && text.len() <= 128 && bytes.all(|b| word(b) || b == b'.' || b == b'-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Tag)
        }
    }
}

/// What a manifest is asked by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;

    /// A tag cannot hold a colon, so a colon means a digest.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// An image as a person writes it: `[registry/]repository[:tag][@digest]`, read by Docker's rules
/// (no registry is docker.io, one component there is `library/…`, no tag is `latest`, the digest wins over the tag).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageName {
    pub registry: RegistryName,
    pub repository: Repository,
    pub reference: Reference,
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if RegistryName::is_plausible(first) => (first.parse()?, path),
            _ => (RegistryName(DOCKER_HUB.to_owned()), rest),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag.parse::<Tag>()?)),
            None => (path, None),
        };
        let repository = in_registry(&registry, path)?;
        let reference = match (digest, tag) {
            (Some(digest), _) => Reference::Digest(digest),
            (None, Some(tag)) => Reference::Tag(tag),
            (None, None) => Reference::Tag(Tag("latest".to_owned())),
        };
        Ok(Self {
            registry,
            repository,
            reference,
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(
            f,
            "{}/{}{mark}{}",
            self.registry, self.repository, self.reference
        )
    }
}

/// The repository that `path` means within `registry`: Docker Hub's official images live under `library/`.
pub fn in_registry(registry: &RegistryName, path: &str) -> Result<Repository, NameError> {
    if registry.is_docker_hub() && !path.contains('/') {
        format!("library/{path}").parse()
    } else {
        path.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repositories() {
        for good in [
            "a",
            "library/nginx",
            "a/b/c/d",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "0/1",
        ] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a___b", "a._b", "-a", "a-", ".", "..", "a/../b",
            "a%2fb", "a b", "a:b", "ä",
        ] {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
        assert!("a".repeat(255).parse::<Repository>().is_ok());
        assert_eq!(
            "a".repeat(256).parse::<Repository>(),
            Err(NameError::TooLong)
        );
    }

    #[test]
    fn registries() {
        for (given, means) in [
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("GHCR.io", "ghcr.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(given.parse::<RegistryName>().unwrap().as_str(), means);
        }
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "-a.io",
            "a/b",
            "a:b",
            "a:0",
            "a:99999",
            "a:+1",
            "a:",
            "u@a.io",
            "https://a.io",
            "[::1",
            "[x]",
            "[::1]x",
            "a b",
            "a\0b",
            "a%00",
        ] {
            assert!(bad.parse::<RegistryName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn images() {
        let hex = "a".repeat(64);
        for (given, means) in [
            (
                "nginx".to_owned(),
                "docker.io/library/nginx:latest".to_owned(),
            ),
            ("nginx:1".into(), "docker.io/library/nginx:1".into()),
            (
                "bitnami/redis".into(),
                "docker.io/bitnami/redis:latest".into(),
            ),
            ("ghcr.io/a/b:v1".into(), "ghcr.io/a/b:v1".into()),
            ("localhost:5000/a".into(), "localhost:5000/a:latest".into()),
            (
                format!("ghcr.io/a:v@sha256:{hex}"),
                format!("ghcr.io/a@sha256:{hex}"),
            ),
        ] {
            assert_eq!(given.parse::<ImageName>().unwrap().to_string(), means);
        }
        for bad in ["", "A", "ghcr.io/", "a@b", "a:b:c", "nginx@sha256:1"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = text.parse::<RegistryName>();
            let _ = text.parse::<Repository>();
            let _ = text.parse::<Reference>();
            let _ = text.parse::<ImageName>();
        }

        #[test]
        fn what_parses_is_safe_as_a_path(text in "[a-zA-Z0-9._/:%\\[\\]-]{0,40}") {
            if let Ok(repository) = text.parse::<Repository>() {
                prop_assert!(repository.as_str().split('/').all(|c| !c.is_empty() && !c.starts_with(['.', '_'])));
            }
            if let Ok(registry) = text.parse::<RegistryName>() {
                prop_assert!(!registry.as_str().contains('/') && registry.as_str() != "." && registry.as_str() != "..");
            }
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert!(!tag.as_str().contains('/') && !tag.as_str().starts_with('.'));
            }
        }

        #[test]
        fn an_image_name_means_itself(text in "([a-z0-9]{1,5}\\.io/)?[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,2}(:[a-z0-9]{1,5})?") {
            let once = text.parse::<ImageName>().unwrap();
            prop_assert_eq!(once.to_string().parse::<ImageName>().unwrap(), once);
        }
    }
}

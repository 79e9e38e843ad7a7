//! Names: registries, repositories, tags, references.
//!
//! The grammars are those of the OCI distribution-spec ("Pulling manifests", `<name>` and `<reference>`). A value of
//! one of these types has passed its grammar, so it may become a path component or a URL without further checks.

use std::{
    borrow::Borrow,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

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

/// A registry as containerd's `ns` has it, in one spelling: what reaches the same place is the same name.
///
/// The host is in lower case, without the dot that ends a full name; an address is written as the standard library
/// writes it, and IPv4 in IPv6 as IPv4. The port has no leading zeros, and 443, which is implied, is left out.
/// `docker.io`, `index.docker.io` and `registry-1.docker.io` are one registry (promise P2) and all become `docker.io`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName(String);
text_type!(RegistryName);

/// The key that Docker Hub's three names share.
pub const DOCKER_HUB: &str = "docker.io";

/// The port that a registry's name implies.
const IMPLIED_PORT: u16 = 443;

impl FromStr for RegistryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // The colons of an IPv6 address end at its bracket.
        let host_end = text.rfind(']').map_or(0, |end| end + 1);
        let (host, port) = match text[host_end..].find(':') {
            Some(at) => text.split_at(host_end + at),
            None => (text, ""),
        };
        let host = canonical_host(host).ok_or(NameError::Registry)?;
        let port = match port.strip_prefix(':') {
            None => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                let port: u16 = digits.parse().map_err(|_| NameError::Registry)?;
                if port == 0 {
                    return Err(NameError::Registry);
                }
                Some(port)
            }
            Some(_) => return Err(NameError::Registry),
        };
        Ok(Self(match port {
            Some(port) if port != IMPLIED_PORT => format!("{host}:{port}"),
            _ if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") => {
                DOCKER_HUB.to_owned()
            }
            _ => host,
        }))
    }
}

/// The one spelling of a host: a name, an IPv4 address, or an IPv6 address in brackets. `None` for what is no host.
pub fn canonical_host(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        let v6: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(match v6.to_ipv4_mapped() {
            Some(v4) => v4.to_string(),
            None => format!("[{v6}]"),
        });
    }
    let text = text.to_ascii_lowercase();
    let name = text.strip_suffix('.').unwrap_or(&text);
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return None;
    }
    Some(legacy_v4(name).map_or_else(|| name.to_owned(), |v4| v4.to_string()))
}

/// An IPv4 address in any of the spellings that resolvers read (inet_aton): up to four numbers, in decimal, octal or
/// hexadecimal, of which the last stands for all bytes that are left.
fn legacy_v4(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| -> Option<u64> {
        let (digits, radix) = match (part.strip_prefix("0x"), part.strip_prefix('0')) {
            (Some(hex), _) => (hex, 16),
            (None, Some(octal)) if !octal.is_empty() => (octal, 8),
            _ => (part, 10),
        };
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        (plain && digits.len() <= 16).then(|| u64::from_str_radix(digits, radix).ok())?
    };
    let parts: Option<Vec<u64>> = text.split('.').map(number).collect();
    let parts = parts.filter(|parts| parts.len() <= 4)?;
    let (last, before) = parts.split_last()?;
    let mut address = 0_u64;
    for part in before {
        if *part > 255 {
            return None;
        }
        address = address << 8 | part;
    }
    let bits = 8 * (4 - before.len() as u32);
    if last >> bits != 0 {
        return None;
    }
    u32::try_from(address << bits | last)
        .ok()
        .map(Ipv4Addr::from)
}

impl RegistryName {
    pub fn is_docker_hub(&self) -> bool {
        self.0 == DOCKER_HUB
    }

    /// Whether the first component of an image reference names a registry rather than a repository
    /// (containers/image and containerd's rule: it has a dot or a port, or is `localhost`).
    pub fn is_plausible(component: &str) -> bool {
        component.eq_ignore_ascii_case("localhost") || component.contains(['.', ':'])
    }

    /// The registry that the first component of an image reference or of a path names, if it does.
    pub fn in_front(component: &str) -> Option<Self> {
        Self::is_plausible(component).then(|| component.parse().ok())?
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
        // Without a dot or a port it would read as a part of the repository's name.
        let port = if RegistryName::is_plausible(self.registry.as_str()) {
            ""
        } else {
            ":443"
        };
        write!(
            f,
            "{}{port}/{}{mark}{}",
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
            ("LocalHost.", "localhost"),
            ("ghcr.io:443", "ghcr.io"),
            ("ghcr.io:00443", "ghcr.io"),
            ("GHCR.io.:443", "ghcr.io"),
            ("ghcr.io:80", "ghcr.io:80"),
            ("ghcr.io:05000", "ghcr.io:5000"),
            ("Index.Docker.io.:443", "docker.io"),
            ("docker.io:5000", "docker.io:5000"),
            ("index.docker.io:5000", "index.docker.io:5000"),
            ("127.1:5000", "127.0.0.1:5000"),
            ("0x7f.1", "127.0.0.1"),
            ("017700000001", "127.0.0.1"),
            ("2130706433:443", "127.0.0.1"),
            ("0", "0.0.0.0"),
            ("1.2.3", "1.2.0.3"),
            ("256.1", "256.1"),
            ("1.2.3.256", "1.2.3.256"),
            ("4294967296", "4294967296"),
            ("08.1", "08.1"),
            ("v1.2", "v1.2"),
            ("[0:0:0::1]:5000", "[::1]:5000"),
            ("[FD00::A]", "[fd00::a]"),
            ("[::ffff:127.0.0.1]:5000", "127.0.0.1:5000"),
            ("[::FFFF:7f00:1]:443", "127.0.0.1"),
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
            "a:000",
            "a:1:2",
            "a..",
            "a.io:443:443",
            "[::1]:",
            "[fe80::1%eth0]",
            "a]:1",
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
        fn a_registry_is_spelled_in_one_way(text in "[a-zA-Z0-9.\\[\\]:_-]{0,20}|[0-9x.]{1,12}(:0{0,3}[0-9]{1,4})?|\\[[0-9a-fA-F:.]{0,20}\\](:[0-9]{1,5})?") {
            if let Ok(once) = text.parse::<RegistryName>() {
                prop_assert_eq!(once.as_str().parse::<RegistryName>().unwrap(), once);
            }
        }

        #[test]
        fn what_reaches_the_same_place_is_the_same_name(
            host in "[a-z]{1,6}(\\.[a-z0-9]{1,5}[a-z]){0,2}",
            v4 in any::<Option<u32>>(),
            port in prop_oneof![Just(443_u16), 1_u16..],
            zeros in "0{0,3}",
            upper in any::<bool>(),
            spelling in 0_usize..6,
        ) {
            let (host, other) = match v4.map(std::net::Ipv4Addr::from) {
                None => (host.clone(), format!("{host}.")),
                Some(v4) => {
                    let [a, b, c, d] = v4.octets();
                    let other = match spelling {
                        0 => u32::from(v4).to_string(),
                        1 => format!("{:#x}", u32::from(v4)),
                        2 => format!("{a}.{:#o}", u32::from(v4) & 0xff_ffff).replace("0o", "0"),
                        3 => format!("[{}]", v4.to_ipv6_mapped()),
                        4 => format!("[::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}]"),
                        _ => format!("{a}.{b}.{}", u32::from(v4) & 0xffff),
                    };
                    (v4.to_string(), other)
                }
            };
            let other = if upper { other.to_ascii_uppercase() } else { other };
            let plain = if port == 443 { host } else { format!("{host}:{port}") };
            let same: RegistryName = format!("{other}:{zeros}{port}").parse().unwrap();
            prop_assert_eq!(&same, &plain.parse::<RegistryName>().unwrap());
            prop_assert_eq!(same.as_str(), plain);
        }

        #[test]
        fn an_image_name_means_itself(text in "([a-z0-9]{1,5}\\.io/)?[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,2}(:[a-z0-9]{1,5})?") {
            let once = text.parse::<ImageName>().unwrap();
            prop_assert_eq!(once.to_string().parse::<ImageName>().unwrap(), once);
        }
    }
}

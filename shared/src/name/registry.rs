//! Registries: one spelling for all names that reach the same registry.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::NameError;

/// The name of a registry, as in containerd's `ns`, in one spelling: names that reach the same registry are equal.
///
/// The host is in lower case, without the dot that ends a full name. An address is written as the standard library
/// writes it, and IPv4 in IPv6 as IPv4. The port has no leading zeros; the implied port 443 is left out. `docker.io`,
/// `index.docker.io` and `registry-1.docker.io` are one registry (promise P2), and all become `docker.io`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName(String);
super::text_type!(RegistryName);

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

/// The one spelling of a host: a name, an IPv4 address, or an IPv6 address in brackets. `None` if the text is no host.
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

/// An IPv4 address in any spelling that resolvers accept (inet_aton): up to four numbers, in decimal, octal or
/// hexadecimal. The last number stands for all remaining bytes.
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
    pub(super) fn docker_hub() -> Self {
        Self(DOCKER_HUB.to_owned())
    }

    /// Whether this is Docker Hub, under any of its names.
    pub fn is_docker_hub(&self) -> bool {
        self.0 == DOCKER_HUB
    }

    /// Whether the first component of an image reference names a registry rather than a repository. The rule is that of
    /// containers/image and containerd: it has a dot or a port, or is `localhost`.
    pub fn is_plausible(component: &str) -> bool {
        component.eq_ignore_ascii_case("localhost") || component.contains(['.', ':'])
    }

    /// The registry that the first component of an image reference or path names, if it names one.
    pub fn in_front(component: &str) -> Option<Self> {
        Self::is_plausible(component).then(|| component.parse().ok())?
    }
}

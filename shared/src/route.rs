//! The pull endpoints of the distribution-spec as one enum, and the two ways in which a request names its registry.
//!
//! A request comes as `/v2/<repository>/…?ns=<registry>` (containerd) or `/v2/<registry>/<repository>/…` (CRI-O,
//! podman, skopeo, rewritten pods). [`Route::parse`] reads the endpoint; [`Address::resolve`] decides the registry.

use std::borrow::Cow;

use crate::{
    digest::Digest,
    error::{ErrorCode, OciError},
    name::{NameError, Reference, RegistryName, Repository, in_registry},
};

/// The endpoint that a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// `/v2/`
    Ping,
    Manifest(Address, Reference),
    Blob(Address, Digest),
    /// `tags/list`, with the query to pass on (`n`, `last`).
    Tags(Address, String),
    /// `referrers/<digest>`, with the query to pass on (`artifactType`).
    Referrers(Address, Digest, String),
}

/// The name part of a path, before it is known which registry is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// The `ns` parameter.
    ns: Option<RegistryName>,
    /// All components between `/v2/` and the endpoint.
    path: String,
}

impl Route {
    /// The name part, for routes that have one.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Ping => None,
            Self::Manifest(address, _)
            | Self::Blob(address, _)
            | Self::Tags(address, _)
            | Self::Referrers(address, ..) => Some(address),
        }
    }

    /// Drops `ns` if `is_own` says that it names the mirror itself. Then the path names the registry.
    pub fn forget_ns(&mut self, is_own: impl Fn(&RegistryName) -> bool) {
        let (Self::Manifest(address, _)
        | Self::Blob(address, _)
        | Self::Tags(address, _)
        | Self::Referrers(address, ..)) = self
        else {
            return;
        };
        if address.ns.as_ref().is_some_and(is_own) {
            address.ns = None;
        }
    }

    /// Reads path and query of a request. `Ok(None)` means that the path is not part of the API.
    ///
    /// # Errors
    /// 400 with the code of the part that the specification does not allow.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Option<Self>, OciError> {
        let Some(rest) = path.strip_prefix("/v2") else {
            return Ok(None);
        };
        if rest.is_empty() || rest == "/" {
            return Ok(Some(Self::Ping));
        }
        let Some(rest) = rest.strip_prefix('/') else {
            return Ok(None);
        };
        // Only a digest's colon and the like are ever encoded; names contain nothing to encode. A text that does not
        // fit the grammar after decoding is refused below.
        let rest = percent_encoding::percent_decode_str(rest)
            .decode_utf8()
            .map_err(|_| OciError::new(ErrorCode::NameInvalid, "the path is not UTF-8"))?;
        let (ns, passed_on) = split_query(query)?;
        let Some((before, last)) = rest.rsplit_once('/') else {
            return Ok(None);
        };
        let Some((path, kind)) = before.rsplit_once('/') else {
            return Ok(None);
        };
        let address = |path: &str| -> Result<Address, OciError> {
            let shape = path
                .split('/')
                .all(|c| !c.is_empty() && c != "." && c != "..");
            if !shape || path.len() > 512 {
                return Err(invalid_name(path, &NameError::Repository));
            }
            Ok(Address {
                ns: ns.clone(),
                path: path.to_owned(),
            })
        };
        Ok(Some(match (kind, last) {
            ("manifests", reference) => Self::Manifest(address(path)?, parse_reference(reference)?),
            ("blobs", digest) => Self::Blob(address(path)?, parse_digest(digest)?),
            ("referrers", digest) => {
                Self::Referrers(address(path)?, parse_digest(digest)?, passed_on)
            }
            ("tags", "list") => Self::Tags(address(path)?, passed_on),
            _ => return Ok(None),
        }))
    }
}

/// What [`Address::resolve`] needs from the configuration.
pub trait Registries {
    /// The registry that an alias stands for.
    fn alias(&self, component: &str) -> Option<RegistryName>;
    /// The registry for a path that names none.
    fn default_upstream(&self) -> RegistryName;
}

impl Address {
    /// The address of a repository in containerd's form.
    pub fn of(registry: &RegistryName, repository: &Repository) -> Self {
        // `resolve` drops a first component that names the registry, so such a repository gets another one in front.
        let first = repository.as_str().split('/').next();
        let named = first.and_then(RegistryName::in_front).as_ref() == Some(registry);
        let prefix = if named {
            format!("{registry}/")
        } else {
            String::new()
        };
        Self {
            ns: Some(registry.clone()),
            path: format!("{prefix}{repository}"),
        }
    }

    /// The registry and the repository within it.
    ///
    /// With `ns`, the first component is dropped only if it names the same registry: BuildKit, and hosts.toml with a
    /// path, send both. An alias there is part of the repository's name. Without `ns`, the first component decides if
    /// it looks like a host or is an alias; otherwise the default upstream is meant.
    ///
    /// # Errors
    /// 400 `NAME_INVALID`
    pub fn resolve(
        &self,
        registries: &impl Registries,
    ) -> Result<(RegistryName, Repository), OciError> {
        let named = |component: &str| {
            let alias = registries.alias(component);
            alias.or_else(|| RegistryName::in_front(component))
        };
        let (registry, path) = match (&self.ns, self.path.split_once('/')) {
            (Some(ns), Some((component, rest)))
                if RegistryName::in_front(component).as_ref() == Some(ns) =>
            {
                (ns.clone(), rest)
            }
            (Some(ns), _) => (ns.clone(), self.path.as_str()),
            (None, Some((component, rest))) => match named(component) {
                Some(registry) => (registry, rest),
                None => (registries.default_upstream(), self.path.as_str()),
            },
            (None, None) => (registries.default_upstream(), self.path.as_str()),
        };
        let repository = in_registry(&registry, path).map_err(|e| invalid_name(path, &e))?;
        Ok((registry, repository))
    }

    /// The path and query of a list's next page (`tags/list`, `referrers/…`), for the client that asked for this page.
    /// `query` comes from the registry.
    ///
    /// The path is absolute, because containers/image, oras-py and dxf do not resolve a bare `?…`. Its name part and
    /// `ns` are those that the client sent.
    pub fn next_page(&self, list: &str, query: &str) -> String {
        // The characters that a URL's path may contain, with the colon of a port or digest unencoded (RFC 3986 section
        // 3.3).
        const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~')
            .remove(b'/')
            .remove(b':');
        let path = percent_encoding::utf8_percent_encode(&self.path, KEPT);
        // If the registry is a larder too, it repeats its own `ns`.
        let query = without_ns(query).collect::<Vec<_>>().join("&");
        // Some clients cut a `Link` at its first `;`.
        let query = query.replace(';', "%3B");
        let ns = match &self.ns {
            Some(ns) => {
                let encoded = form_urlencoded::byte_serialize(ns.as_str().as_bytes());
                format!("&ns={}", encoded.collect::<String>())
            }
            None => String::new(),
        };
        format!("/v2/{path}/{list}?{query}{ns}")
    }

    /// The registry in the client's `ns`, which the answer repeats in `OCI-Namespace`.
    pub fn ns(&self) -> Option<&RegistryName> {
        self.ns.as_ref()
    }
}

fn invalid_name(name: &str, error: &NameError) -> OciError {
    OciError::new(
        ErrorCode::NameInvalid,
        format!("{}: {error}", printable(name)),
    )
}

fn parse_reference(text: &str) -> Result<Reference, OciError> {
    text.parse().map_err(|error| {
        let code = match error {
            NameError::Digest(_) => ErrorCode::DigestInvalid,
            _ => ErrorCode::TagInvalid,
        };
        OciError::new(code, format!("{}: {error}", printable(text)))
    })
}

fn parse_digest(text: &str) -> Result<Digest, OciError> {
    text.parse().map_err(|error| {
        OciError::new(
            ErrorCode::DigestInvalid,
            format!("{}: {error}", printable(text)),
        )
    })
}

/// A client's text, shortened and made safe for a message.
fn printable(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_graphic();
    if text.len() <= 80 && text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .take(80)
            .map(|c| if plain(c) { c } else { '?' })
            .collect(),
    )
}

/// Takes `ns` out of the query. The rest goes upstream unchanged.
fn split_query(query: Option<&str>) -> Result<(Option<RegistryName>, String), OciError> {
    let query = query.unwrap_or_default();
    let mut ns = None;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if key == "ns" && !value.is_empty() {
            let name: RegistryName = value.parse().map_err(|e: NameError| {
                OciError::new(
                    ErrorCode::NameInvalid,
                    format!("ns={}: {e}", printable(&value)),
                )
            })?;
            if ns.replace(name).is_some() {
                return Err(OciError::new(
                    ErrorCode::NameInvalid,
                    "ns is given more than once",
                ));
            }
        }
    }
    Ok((ns, without_ns(query).collect::<Vec<_>>().join("&")))
}

/// The parts of a query other than `ns`, unchanged: a registry's cursor may have any form.
fn without_ns(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|part| {
        let key = form_urlencoded::parse(part.as_bytes()).next();
        key.is_some_and(|(key, _)| key != "ns")
    })
}

#[cfg(test)]
mod tests;

//! The pull endpoints of the distribution-spec as one enum, and the two ways a request names its registry.
//!
//! A request comes as `/v2/<repository>/…?ns=<registry>` (containerd) or `/v2/<registry>/<repository>/…` (CRI-O,
//! podman, skopeo, rewritten pods). [`Route::parse`] reads the endpoint; [`Address::resolve`] decides the registry.

use std::borrow::Cow;

use crate::{
    digest::Digest,
    error::{ErrorCode, OciError},
    name::{NameError, Reference, RegistryName, Repository, in_registry},
};

/// What is asked for.
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
    /// The name part, of all routes that have one.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Ping => None,
            Self::Manifest(address, _)
            | Self::Blob(address, _)
            | Self::Tags(address, _)
            | Self::Referrers(address, ..) => Some(address),
        }
    }

    /// Reads path and query of a request. `Ok(None)` is a path that is none of the API's.
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
        // Only a digest's colon and the like are ever encoded; names have nothing to encode. What decodes to
        // something else than the grammar is refused below.
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

/// What [`Address::resolve`] needs to know of the configuration.
pub trait Registries {
    /// The registry that an alias stands for.
    fn alias(&self, component: &str) -> Option<RegistryName>;
    /// Who is meant when nothing names a registry.
    fn default_upstream(&self) -> RegistryName;
}

impl Address {
    /// The address of a repository, as containerd has it.
    pub fn of(registry: &RegistryName, repository: &Repository) -> Self {
        // A first component that names the registry is taken off: then it needs another one.
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
    /// With `ns`, the first component is taken off only when it names that same registry (BuildKit, and hosts.toml
    /// with a path, send both); an alias there is a part of the repository's name. Without, the first component decides
    /// if it looks like a host or is an alias; else the default upstream is meant.
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

    /// The path and query at which larder gives the next page of a list (`tags/list`, `referrers/…`) to the client that
    /// asked for this one. `query` is the registry's own.
    ///
    /// The path is absolute: containers/image, oras-py and dxf do not resolve a bare `?…`. Its name part, and `ns`, are
    /// the client's own.
    pub fn next_page(&self, list: &str, query: &str) -> String {
        // What a URL's path may hold, and the registry's port and a digest's colon as they are (RFC 3986 section 3.3).
        const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~')
            .remove(b'/')
            .remove(b':');
        let path = percent_encoding::utf8_percent_encode(&self.path, KEPT);
        // A registry that is larder too repeats its own `ns`.
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

    /// The registry of `ns`, as the client named it: `OCI-Namespace` repeats it.
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

/// What a client sent, cut and made safe for a message.
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

/// Takes `ns` out of the query; the rest goes upstream as it was written.
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

/// The parts of a query but for `ns`. A registry's cursor is its own business, so they stay as they are written.
fn without_ns(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|part| {
        let key = form_urlencoded::parse(part.as_bytes()).next();
        key.is_some_and(|(key, _)| key != "ns")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Fixed;
    impl Registries for Fixed {
        fn alias(&self, component: &str) -> Option<RegistryName> {
            (component == "hub").then(|| "docker.io".parse().unwrap())
        }
        fn default_upstream(&self) -> RegistryName {
            "docker.io".parse().unwrap()
        }
    }

    fn meaning(path: &str, query: Option<&str>) -> String {
        match Route::parse(path, query) {
            Ok(Some(Route::Manifest(a, r))) => match a.resolve(&Fixed) {
                Ok((registry, repository)) => format!("{registry} {repository} {r}"),
                Err(e) => e.code.as_str().to_owned(),
            },
            Ok(other) => format!("{other:?}"),
            Err(e) => e.code.as_str().to_owned(),
        }
    }

    #[test]
    fn both_addressings() {
        for (path, query, expected) in [
            (
                "/v2/library/nginx/manifests/1",
                Some("ns=docker.io"),
                "docker.io library/nginx 1",
            ),
            (
                "/v2/nginx/manifests/1",
                Some("ns=docker.io"),
                "docker.io library/nginx 1",
            ),
            ("/v2/nginx/manifests/1", None, "docker.io library/nginx 1"),
            ("/v2/a/b/manifests/1", None, "docker.io a/b 1"),
            (
                "/v2/a/b/c/d/manifests/1",
                Some("ns=ghcr.io"),
                "ghcr.io a/b/c/d 1",
            ),
            ("/v2/ghcr.io/a/b/manifests/1", None, "ghcr.io a/b 1"),
            (
                "/v2/ghcr.io/a/b/manifests/1",
                Some("ns=ghcr.io"),
                "ghcr.io a/b 1",
            ),
            (
                "/v2/ghcr.io/a/b/manifests/1",
                Some("ns=quay.io"),
                "quay.io ghcr.io/a/b 1",
            ),
            (
                "/v2/docker.io/nginx/manifests/1",
                None,
                "docker.io library/nginx 1",
            ),
            (
                "/v2/registry-1.docker.io/nginx/manifests/1",
                Some("ns=docker.io"),
                "docker.io library/nginx 1",
            ),
            (
                "/v2/hub/nginx/manifests/1",
                None,
                "docker.io library/nginx 1",
            ),
            (
                "/v2/hub/nginx/manifests/1",
                Some("ns=docker.io"),
                "docker.io hub/nginx 1",
            ),
            (
                "/v2/GHCR.io:443/a/b/manifests/1",
                Some("ns=ghcr.io."),
                "ghcr.io a/b 1",
            ),
            ("/v2/127.1:05000/a/manifests/1", None, "127.0.0.1:5000 a 1"),
            (
                "/v2/hub/nginx/manifests/1",
                Some("ns=ghcr.io"),
                "ghcr.io hub/nginx 1",
            ),
            (
                "/v2/a/manifests/1",
                Some("ns=127.0.0.1%3A5000"),
                "127.0.0.1:5000 a 1",
            ),
            (
                "/v2/127.0.0.1:5000/a/manifests/1",
                None,
                "127.0.0.1:5000 a 1",
            ),
            ("/v2/localhost/a/manifests/1", None, "localhost a 1"),
            (
                "/v2/x/manifests/manifests/1",
                Some("ns=q.io"),
                "q.io x/manifests 1",
            ),
            (
                "/v2/ghcr.io/manifests/1",
                None,
                "docker.io library/ghcr.io 1",
            ),
            ("/v2/a/manifests/.x", None, "TAG_INVALID"),
            ("/v2/a/manifests/sha256:12", None, "DIGEST_INVALID"),
            ("/v2/a/manifests/sha256%3A12", None, "DIGEST_INVALID"),
            ("/v2/A/manifests/1", None, "NAME_INVALID"),
            ("/v2/a/../b/manifests/1", None, "NAME_INVALID"),
            ("/v2/a%2f..%2fb/manifests/1", None, "NAME_INVALID"),
            ("/v2//manifests/1", None, "NAME_INVALID"),
            ("/v2/a/manifests/1", Some("ns=https://x"), "NAME_INVALID"),
            ("/v2/a/manifests/1", Some("ns=a.io&ns=b.io"), "NAME_INVALID"),
            ("/v2/%ff/manifests/1", None, "NAME_INVALID"),
            ("/v2", None, "Some(Ping)"),
            ("/v2/", None, "Some(Ping)"),
            ("/v1/", None, "None"),
            ("/v2x", None, "None"),
            ("/v2/a/b/c", None, "None"),
            ("/v2/_catalog", None, "None"),
        ] {
            assert_eq!(meaning(path, query), expected, "{path} {query:?}");
        }
    }

    #[test]
    fn the_query_is_passed_on_without_ns() {
        let Ok(Some(Route::Tags(_, query))) =
            Route::parse("/v2/a/tags/list", Some("n=2&ns=a.io&last=x%20y"))
        else {
            panic!("not a tags route")
        };
        assert_eq!(query, "n=2&last=x%20y");
    }

    #[test]
    fn the_next_page_is_asked_here_by_an_absolute_path() {
        for (asked, query, expected) in [
            (
                "/v2/a/b/tags/list?n=5&ns=r.io:5000",
                "n=5&last=x",
                "/v2/a/b/tags/list?n=5&last=x&ns=r.io%3A5000",
            ),
            (
                "/v2/a/b/tags/list?ns=R.io",
                "last=x%2By+z%3D",
                "/v2/a/b/tags/list?last=x%2By+z%3D&ns=r.io",
            ),
            (
                "/v2/r.io:5000/a/tags/list",
                "last=x",
                "/v2/r.io:5000/a/tags/list?last=x",
            ),
            (
                "/v2/%5B::1%5D:5000/a/tags/list",
                "last=x",
                "/v2/%5B::1%5D:5000/a/tags/list?last=x",
            ),
            (
                "/v2/r.io/a/tags/list?ns=r.io",
                "cursor",
                "/v2/r.io/a/tags/list?cursor&ns=r.io",
            ),
            // What larder behind larder says, and what would end a link too soon.
            (
                "/v2/a/tags/list?ns=r.io",
                "n=1&ns=other.io&last=x",
                "/v2/a/tags/list?n=1&last=x&ns=r.io",
            ),
            ("/v2/a/tags/list", "last=x;y", "/v2/a/tags/list?last=x%3By"),
        ] {
            let (path, written) = asked.split_once('?').unwrap_or((asked, ""));
            let Ok(Some(Route::Tags(address, _))) = Route::parse(path, Some(written)) else {
                panic!("not a tags route: {asked}")
            };
            let next = address.next_page("tags/list", query);
            assert_eq!(next, expected, "{asked}");
            let (path, query) = next.split_once('?').expect("a query");
            let Ok(Some(Route::Tags(again, _))) = Route::parse(path, Some(query)) else {
                panic!("not a tags route: {next}")
            };
            assert_eq!(again, address, "{next}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(path in "/v2/\\PC*", query in prop::option::of("\\PC*")) {
            if let Ok(Some(Route::Manifest(address, _) | Route::Blob(address, _) | Route::Tags(address, _))) =
                Route::parse(&path, query.as_deref())
            {
                let _ = address.resolve(&Fixed);
            }
        }

        #[test]
        fn what_was_written_is_read(registry in "[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{1,3})?", repository in "[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,3}", tag in "[a-z0-9]{1,5}") {
            let by_ns = meaning(&format!("/v2/{repository}/manifests/{tag}"), Some(&format!("ns={}", registry.replace(':', "%3A"))));
            let by_prefix = meaning(&format!("/v2/{registry}/{repository}/manifests/{tag}"), None);
            prop_assert_eq!(&by_ns, &format!("{registry} {repository} {tag}"));
            prop_assert_eq!(by_ns, by_prefix);
        }
    }
}

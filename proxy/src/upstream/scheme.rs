//! How an endpoint wants a credential to be shown: read from a challenge, and remembered.

use http::{HeaderMap, Uri, header::WWW_AUTHENTICATE};
use larder_shared::Repository;
use moka::future::Cache;

use super::{Upstreams, bounded, challenge::Challenge};

/// Bytes of the longest parameter of a challenge. Challenges are kept, and a client may name any registry.
pub(super) const MAX_PARAMETER: usize = 4 << 10;

/// Bytes of all kept schemes.
const SCHEMES: u64 = 8 << 20;

/// `scheme://host:port` of an endpoint, the repository, and the scope of a token.
pub(super) type SchemeKey = (String, Repository, Scope);

/// What a token allows. Some registries distinguish the two, so each has its own challenge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Scope {
    /// Manifests, blobs, and the lists of the registry API.
    Content,
    /// Azure's API for a repository.
    Metadata,
}

/// An empty cache of schemes.
pub(super) fn schemes() -> Cache<SchemeKey, Scheme> {
    bounded::cache(SCHEMES, |key: &SchemeKey, scheme: &Scheme| {
        let told = match scheme {
            Scheme::Bearer(challenge) => challenge.size(),
            Scheme::Basic => 0,
        };
        key.0.len() + key.1.as_str().len() + told
    })
    .build()
}

/// How an endpoint wants a credential to be shown.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    Bearer(Challenge),
    Basic,
}

impl Scheme {
    /// Adds a scope if the registry names none: the scope that pulling from `uri` needs, as clients do.
    #[must_use]
    pub(super) fn for_pulling(mut self, uri: &Uri) -> Self {
        if let Self::Bearer(challenge) = &mut self
            && challenge.scope.as_deref().is_none_or(str::is_empty)
            && let Some((name, action)) = wanted_of(uri.path())
        {
            challenge.scope = Some(format!("repository:{name}:{action}"));
        }
        self
    }
}

impl Upstreams {
    /// Remembers how an endpoint wants a credential to be shown for a repository. A challenge that is too long to be
    /// answered is not kept.
    pub(super) async fn keep_scheme(&self, key: SchemeKey, scheme: Scheme) {
        if matches!(&scheme, Scheme::Bearer(challenge) if challenge.longest() > MAX_PARAMETER) {
            return;
        }
        self.schemes.insert(key, scheme).await;
    }
}

/// The repository in a path, and the action that needs to be allowed there.
fn wanted_of(path: &str) -> Option<(&str, &'static str)> {
    let of_acr = path.split_once("/acr/v1/");
    if let Some(name) = of_acr.and_then(|(_, rest)| rest.strip_suffix("/_tags")) {
        return Some((name, "metadata_read"));
    }
    Some((repository_of(path)?, "pull"))
}

/// The repository in a path of the registry API, by the registry's own name for it.
fn repository_of(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once("/v2/")?;
    ["/manifests/", "/blobs/", "/referrers/", "/tags/list"]
        .iter()
        .filter_map(|part| rest.rfind(part))
        .max()
        .map(|end| &rest[..end])
        .filter(|name| !name.is_empty())
}

/// The scheme that a challenge asks for. Bearer is preferred to Basic.
pub(super) fn scheme(headers: &HeaderMap) -> Option<Scheme> {
    let values = || {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok())
    };
    if let Some(challenge) = Challenge::bearer(values()) {
        return Some(Scheme::Bearer(challenge));
    }
    let basic = |v: &str| {
        v.trim_start()
            .get(..5)
            .is_some_and(|s| s.eq_ignore_ascii_case("basic"))
    };
    values().any(basic).then_some(Scheme::Basic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_without_a_scope_is_for_pulling_what_is_asked_for() {
        for (uri, told, expected) in [
            (
                "https://r.io/v2/a/b/manifests/v1",
                None,
                Some("repository:a/b:pull"),
            ),
            (
                "https://r.io/v2/a/blobs/sha256:0",
                Some(""),
                Some("repository:a:pull"),
            ),
            (
                "https://r.io/v2/hub/a/tags/list",
                None,
                Some("repository:hub/a:pull"),
            ),
            (
                "https://r.io/x/v2/a/referrers/sha256:0",
                None,
                Some("repository:a:pull"),
            ),
            (
                "https://r.io/v2/blobs/blobs/blobs/sha256:0",
                None,
                Some("repository:blobs/blobs:pull"),
            ),
            ("https://r.io/v2/a/manifests/v1", Some("aws"), Some("aws")),
            (
                "https://r.io/acr/v1/a/b/_tags",
                None,
                Some("repository:a/b:metadata_read"),
            ),
            ("https://r.io/v2/", None, None),
        ] {
            let challenge = Challenge {
                realm: "https://r.io/token".into(),
                service: None,
                scope: told.map(str::to_owned),
                error: None,
            };
            let scheme = Scheme::Bearer(challenge).for_pulling(&uri.parse().unwrap());
            let Scheme::Bearer(challenge) = scheme else {
                panic!("it is still a Bearer challenge");
            };
            assert_eq!(challenge.scope.as_deref(), expected, "{uri} {told:?}");
        }
    }
}

//! Decides what may be lent to another member, so that it can ask a registry on a caller's behalf.

use http::HeaderValue;
use larder_shared::{RegistryName, Repository};

use super::{
    Upstreams,
    route::route_of,
    scheme::{Scheme, Scope},
};
use crate::{
    client,
    credentials::Credential,
    identity::{Identity, Proof},
};

/// What may be lent to another member.
#[derive(Clone, Debug)]
pub enum Lend {
    /// Nothing is needed: the caller is anonymous.
    Nothing,
    /// An `Authorization` with a Bearer token that is valid for pulling from the repository and for nothing else.
    Token(HeaderValue),
    /// Only a secret would help, and secrets never leave this node.
    Cannot,
}

impl Upstreams {
    /// Decides what may be lent for requests to `repository` on behalf of `identity`.
    pub async fn lend(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        identity: &Identity,
    ) -> Lend {
        if identity.is_anonymous() {
            return Lend::Nothing;
        }
        // A token that the client brought may be valid for more than this repository.
        if !matches!(identity.proof(), Proof::Credential(_)) {
            return Lend::Cannot;
        }
        let upstream = self.config.load().upstream(registry.as_str());
        let Some(origin) = upstream.endpoints.last() else {
            return Lend::Cannot;
        };
        let at = client::origin(&origin.url);
        let key = (at.clone(), repository.clone(), Scope::Content);
        let scheme = self.schemes.get(&key).await;
        let Some(scheme @ Scheme::Bearer(challenge)) = &scheme else {
            return Lend::Cannot;
        };
        let scope = challenge.scope.as_deref();
        if !scope.is_some_and(|scope| is_pull_of(scope, repository.as_str())) {
            return Lend::Cannot;
        }
        let route = route_of(&upstream, origin);
        match self.authorization(scheme, identity, &at, &route).await {
            Ok(Some(token)) if !holds_secret(&token, identity) => Lend::Token(token),
            _ => Lend::Cannot,
        }
    }
}

/// Whether a scope is for pulling from this repository and nothing more. Under a mirror's path, the name in the scope
/// is longer.
fn is_pull_of(scope: &str, repository: &str) -> bool {
    let name = scope
        .strip_prefix("repository:")
        .and_then(|rest| rest.strip_suffix(":pull"));
    name.is_some_and(|name| {
        let plain = !name.contains([' ', ',', ':']);
        let own = name.strip_suffix(repository);
        plain && own.is_some_and(|path| path.is_empty() || path.ends_with('/'))
    })
}

/// Whether a token contains the secret itself, as the tokens of some registries do.
fn holds_secret(token: &HeaderValue, identity: &Identity) -> bool {
    let Proof::Credential(credential) = identity.proof() else {
        return true;
    };
    let secret = match &**credential {
        Credential::Basic { password, .. } => password.expose(),
        Credential::IdentityToken(token) => token.expose(),
    };
    let text = token.to_str().unwrap_or_default();
    let text = text.strip_prefix("Bearer ").unwrap_or(text);
    let decoded = [
        data_encoding::BASE64.decode(text.as_bytes()),
        data_encoding::BASE64_NOPAD.decode(text.as_bytes()),
        data_encoding::BASE64URL.decode(text.as_bytes()),
        data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()),
    ];
    let inside = decoded.into_iter().flatten().any(|bytes| {
        bytes
            .windows(secret.len().max(1))
            .any(|part| part == secret.as_bytes())
    });
    inside || text.contains(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{credentials::Secret, identity::Key};

    #[test]
    fn only_a_token_for_pulling_from_this_repository_is_lent() {
        for (scope, is) in [
            ("repository:a/b:pull", true),
            ("repository:hub/a/b:pull", true),
            ("repository:xa/b:pull", false),
            ("repository:a/c:pull", false),
            ("repository:a/b:pull,push", false),
            ("repository:a/b:pull repository:c:pull", false),
            ("registry:catalog:*", false),
            ("", false),
        ] {
            assert_eq!(is_pull_of(scope, "a/b"), is, "{scope}");
        }
    }

    #[test]
    fn a_token_that_is_the_secret_is_not_lent() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::load(&dir.path().join("key")).unwrap();
        let identity = key.credential(Credential::Basic {
            username: "u".into(),
            password: Secret::new("hunter2-hunter2"),
        });
        let encoded = data_encoding::BASE64.encode(b"hunter2-hunter2");
        let pair = data_encoding::BASE64.encode(b"u:hunter2-hunter2");
        for (token, holds) in [
            ("hunter2-hunter2".to_owned(), true),
            (encoded, true),
            (pair, true),
            ("eyJhbGciOiJ.something.else".to_owned(), false),
        ] {
            let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            assert_eq!(holds_secret(&value, &identity), holds, "{token}");
        }
    }
}

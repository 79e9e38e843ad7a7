//! What is asked for, and what may be lent.

use super::*;
use crate::{credentials::Secret, identity::Key};

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

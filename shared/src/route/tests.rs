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
        // What a larder behind larder answers, and characters that would end a link too soon.
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
    fn what_was_written_is_read(registry in "[a-z]{1,8}\\.[a-z]{2,3}(:443|:[1-9][0-9]{1,3})?", repository in "[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,3}", tag in "[a-z0-9]{1,5}") {
        // Docker Hub has its own names and its own namespace.
        prop_assume!(!registry.starts_with("docker.io"));
        let by_ns = meaning(&format!("/v2/{repository}/manifests/{tag}"), Some(&format!("ns={}", registry.replace(':', "%3A"))));
        let by_prefix = meaning(&format!("/v2/{registry}/{repository}/manifests/{tag}"), None);
        let registry = registry.strip_suffix(":443").unwrap_or(&registry);
        prop_assert_eq!(&by_ns, &format!("{registry} {repository} {tag}"));
        prop_assert_eq!(by_ns, by_prefix);
    }
}

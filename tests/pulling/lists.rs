//! Lists are passed on and not kept: tags, page by page, and referrers (promise P3).

use larder_tests::fake::{FakeRegistry, Fault, Kind, Match};
use larder_tests::http;
use larder_tests::image::{self, LayerSpec, OCI_INDEX, OCI_MANIFEST, build_artifact};
use larder_tests::mirrors::Mirrors;
use larder_tests::node::Node;
use larder_tests::scene::Scene;

/// The next page's path as containers/image, oras-py and dxf read it: all before the first `;`, taken as a path on the
/// same host. They resolve no relative links.
fn next_path(link: &str) -> &str {
    let (target, rest) = link.split_once(';').expect("a link with parameters");
    assert_eq!(rest, " rel=\"next\"", "{link}");
    let path = target.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
    path.filter(|path| path.starts_with("/v2/"))
        .unwrap_or_else(|| panic!("no absolute path: {link}"))
}

/// Reads all pages of a list of tags from `first` on, as clients do.
async fn pages(node: &Node, first: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(path) = next.take() {
        assert!(pages.len() < 20, "no end of pages at {path}");
        let answer = http::get(&format!("{}{path}", node.url()), &[]).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let page = serde_json::from_value(answer.json()["tags"].clone());
        pages.push(page.expect("a list of tags"));
        next = answer.header("link").map(|link| next_path(link).to_owned());
    }
    pages
}

/// Puts tags, one letter each.
fn put_tags(fake: &FakeRegistry, repository: &str, tags: &str) {
    for tag in tags.chars() {
        fake.put_manifest(repository, Some(&tag.to_string()), OCI_MANIFEST, "{}");
    }
}

#[tokio::test]
async fn tags_page_by_page_in_both_addressings() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    put_tags(&fake, "team/app", "abcde");
    let (larder, host) = (node.url(), fake.host());
    for (first, expected) in [
        (format!("/v2/team/app/tags/list?ns={host}"), vec![5]),
        (format!("/v2/{host}/team/app/tags/list"), vec![5]),
        (
            format!("/v2/team/app/tags/list?n=2&ns={host}"),
            vec![2, 2, 1],
        ),
        (format!("/v2/{host}/team/app/tags/list?n=2"), vec![2, 2, 1]),
        (format!("/v2/team/app/tags/list?ns={host}&last=b"), vec![3]),
        (
            format!("/v2/{host}/team/app/tags/list?n=1&last=c"),
            vec![1, 1],
        ),
    ] {
        let pages = pages(&node, &first).await;
        let lengths: Vec<_> = pages.iter().map(Vec::len).collect();
        assert_eq!(lengths, expected, "{first}");
        let tags = pages.concat();
        let all = ["a", "b", "c", "d", "e"];
        assert_eq!(tags, all[all.len() - tags.len()..], "{first}");
    }
    // The client's `ns` does not reach the registry.
    assert_eq!(
        fake.count(|seen| seen.query.as_deref().is_some_and(|q| q.contains("ns="))),
        0
    );
    // A list is never stale: it has a tag that was just created.
    fake.put_manifest("team/app", Some("f"), OCI_MANIFEST, "{}");
    let answer = http::get(&format!("{larder}/v2/{host}/team/app/tags/list"), &[]).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["tags"].as_array().map(Vec::len), Some(6));
}

/// Links in every form that registries write, with every kind of cursor.
#[tokio::test]
async fn every_way_to_name_the_next_page() {
    let scene = Scene::new().await;
    let (fake, host) = (&scene.fake, scene.fake.host());
    put_tags(fake, "a/b", "abc");
    let elsewhere = format!("<https://{host}/v2/a/b/tags/list?last=a>; rel=\"next\"");
    for (links, cursor) in [
        (&["<?last=a>; rel=next"][..], "last=a"),
        (&["</v2/a/b/tags/list?last=a>;rel=\"next\""], "last=a"),
        (
            &["</other/path?last=a&n=9>; title=\"x, y; z\"; REL=\"last NEXT\""],
            "last=a&n=9",
        ),
        (
            &["</v2/a/b/tags/list>; rel=first, <?last=a>; rel=next, <?last=z>; rel=last"],
            "last=a",
        ),
        (
            &["<?last=z>; rel=last", "<?last=a>; type=x; rel=next"],
            "last=a",
        ),
        (&[elsewhere.as_str()], "last=a"),
        (
            &["<?last=a&cursor=x%2By+z/=~&ns=other.example>; rel=next"],
            "last=a&cursor=x%2By+z/=~",
        ),
    ] {
        fake.clear_faults();
        fake.reset_counts();
        let header = |link: &&str| ("link".to_owned(), (*link).to_owned());
        let first = Fault::Status {
            code: 200,
            headers: links.iter().map(header).collect(),
            body: "{\"tags\":[\"a\"]}".into(),
        };
        let is_first = Match::tags().when(|request| request.query.is_none());
        fake.fault(is_first, first);
        for path in [
            format!("/v2/a/b/tags/list?ns={host}"),
            format!("/v2/{host}/a/b/tags/list"),
        ] {
            let pages = pages(&scene.node, &path).await;
            assert_eq!(pages, [vec!["a"], vec!["b", "c"]], "{links:?} {path}");
        }
        let asked = fake.requests();
        let asked: Vec<_> = asked
            .iter()
            .filter_map(|seen| seen.query.as_deref())
            .collect();
        assert_eq!(asked, [cursor, cursor], "{links:?}");
    }
    for link in [
        "<?last=a>; rel=prev",
        "<?last=a>",
        "?last=a; rel=next",
        "</v2/a/b/tags/list>; rel=next",
    ] {
        fake.clear_faults();
        let headers = vec![("link".to_owned(), link.to_owned())];
        let body = "{\"tags\":[\"a\"]}".into();
        fake.fault(
            Match::tags(),
            Fault::Status {
                code: 200,
                headers,
                body,
            },
        );
        let answer = http::get(&scene.path("a/b/tags/list"), &[]).await;
        assert_eq!(answer.expect("an answer").header("link"), None, "{link}");
    }
}

#[tokio::test]
async fn larder_behind_larder_pages_too() {
    let inner = Scene::new().await;
    let host = inner.fake.host();
    put_tags(&inner.fake, "team/app", "abcde");
    let endpoint = format!("{}/v2/{host}", inner.node.url());
    let outer = Node::builder().upstream_at("registry.test", &endpoint);
    let outer = outer.start().await;
    for path in [
        "/v2/team/app/tags/list?ns=registry.test&n=2",
        "/v2/registry.test/team/app/tags/list?n=2",
        "/v2/registry.test/team/app/tags/list?n=2&ns=registry.test",
    ] {
        let pages = pages(&outer, path).await;
        assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]], "{path}");
    }
}

/// After a 404 clients try the tag scheme; oras does not if the error says that the repository is unknown.
#[tokio::test]
async fn a_registry_without_the_referrers_api_is_a_plain_404() {
    let mirrors = Mirrors::new().await;
    let (mirror, origin) = (&mirrors.first, &mirrors.second);
    for fake in [mirror, origin] {
        put_tags(fake, "a/b", "a");
    }
    let digest = format!("sha256:{}", "ab".repeat(32));
    let url = format!(
        "{}/v2/a/b/referrers/{digest}?ns={}",
        mirrors.node.url(),
        larder_tests::mirrors::REGISTRY
    );
    let unknown = "{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"no\"}]}";
    for (code, body) in [
        (404, ""),
        (404, unknown),
        (404, "<html>"),
        (400, ""),
        (406, "x"),
    ] {
        let none = Fault::Status {
            code,
            headers: Vec::new(),
            body: body.into(),
        };
        mirror.clear_faults();
        origin.clear_faults();
        mirror.fault(Match::referrers(), none.clone());
        // A mirror's 404 is not final where the origin has the list.
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(answer.status, 200, "{code}: {}", answer.text());
        origin.fault(Match::referrers(), none);
        for answer in [http::get(&url, &[]).await, http::head(&url, &[]).await] {
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 404, "{code}: {}", answer.text());
            assert!(!answer.text().contains("NAME_UNKNOWN"), "{}", answer.text());
            assert_eq!(answer.header("allow"), None);
        }
    }
    // An outage is not a missing API.
    for code in [500, 503] {
        origin.clear_faults();
        origin.fault(Match::referrers(), Fault::status(code));
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(answer.status, 503, "{code}");
    }
}

#[tokio::test]
async fn a_question_that_the_registry_does_not_take_is_the_clients_fault() {
    let scene = Scene::new().await;
    scene.fake.fault(Match::any(), Fault::status(400));
    let digest = format!("sha256:{}", "ab".repeat(32));
    for (path, code) in [
        ("a/b/tags/list".to_owned(), "NAME_INVALID"),
        ("a/b/manifests/v1".to_owned(), "MANIFEST_INVALID"),
        (format!("a/b/manifests/{digest}"), "MANIFEST_INVALID"),
    ] {
        let answer = http::get(&scene.path(&path), &[]).await.expect("an answer");
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert_eq!(answer.json()["errors"][0]["code"], code, "{path}");
    }
}

#[tokio::test]
async fn referrers_with_their_filter() {
    let scene = Scene::new().await;
    let image = image::build(&scene.fake, "a/b", "v1", &[LayerSpec::new(1, 100)]);
    let sbom = build_artifact(&scene.fake, "a/b", &image, "application/x.sbom", "1");
    let signature = build_artifact(&scene.fake, "a/b", &image, "application/x.sig", "2");
    let url = scene.path(&format!("a/b/referrers/{}", image.manifest_digest));
    let digests = |answer: &http::Response| {
        let list = answer.json()["manifests"].clone();
        let mut digests: Vec<_> = list
            .as_array()
            .expect("a list")
            .iter()
            .map(|m| m["digest"].as_str().unwrap_or_default().to_owned())
            .collect();
        digests.sort();
        digests
    };
    let answer = http::get(&url, &[]).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some(OCI_INDEX));
    assert_eq!(answer.header("oci-filters-applied"), None);
    let mut both = vec![sbom.clone(), signature];
    both.sort();
    assert_eq!(digests(&answer), both);

    let filtered = format!("{url}&artifactType=application%2Fx.sbom");
    let answer = http::get(&filtered, &[]).await.expect("an answer");
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(digests(&answer), [sbom]);
    let asked = scene.fake.requests();
    let asked = asked.iter().find(|seen| seen.query.is_some());
    let asked = asked.expect("a request with a query");
    assert_eq!(
        (asked.kind, asked.query.as_deref()),
        (Kind::Referrers, Some("artifactType=application%2Fx.sbom"))
    );

    let nobody = format!("sha256:{}", "ab".repeat(32));
    let url = scene.path(&format!("a/b/referrers/{nobody}"));
    let answer = http::get(&url, &[]).await.expect("an answer");
    assert_eq!((answer.status, digests(&answer).len()), (200, 0));
}

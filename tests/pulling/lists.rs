//! Lists, which are passed on and not kept: tags, page by page, and referrers (promise P3).

use larder_tests::fake::{FakeRegistry, Kind};
use larder_tests::http;
use larder_tests::image::{self, LayerSpec, OCI_INDEX, OCI_MANIFEST, build_artifact};
use larder_tests::node::Node;
use larder_tests::scene::Scene;

/// Where a reference in a `Link` leads from `base` (RFC 3986 section 5.2, as far as it is needed).
fn resolved(base: &str, reference: &str) -> String {
    let path_at = base.find("/v2/").expect("a path");
    let query_at = base.find('?').unwrap_or(base.len());
    if reference.starts_with('?') {
        format!("{}{reference}", &base[..query_at])
    } else if reference.starts_with('/') {
        format!("{}{reference}", &base[..path_at])
    } else {
        reference.to_owned()
    }
}

/// Reads all pages from `first` on, as clients do.
async fn pages(first: String) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut url = Some(first);
    while let Some(at) = url.take() {
        assert!(pages.len() < 20, "no end of pages at {at}");
        let answer = http::get(&at, &[]).await.expect("an answer");
        assert_eq!(answer.status, 200, "{at}: {}", answer.text());
        let page = serde_json::from_value(answer.json()["tags"].clone());
        pages.push(page.expect("a list of tags"));
        if let Some(link) = answer.header("link") {
            let (target, rest) = link.split_once('>').expect("a link");
            assert!(rest.contains("rel=\"next\""), "{link}");
            url = Some(resolved(&at, target.trim_start_matches('<')));
        }
    }
    pages
}

#[tokio::test]
async fn tags_page_by_page_in_both_addressings() {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).start().await;
    for tag in ["a", "b", "c", "d", "e"] {
        fake.put_manifest("team/app", Some(tag), OCI_MANIFEST, "{}");
    }
    let (larder, host) = (node.url(), fake.host());
    for (first, expected) in [
        (format!("{larder}/v2/team/app/tags/list?ns={host}"), vec![5]),
        (format!("{larder}/v2/{host}/team/app/tags/list"), vec![5]),
        (
            format!("{larder}/v2/team/app/tags/list?n=2&ns={host}"),
            vec![2, 2, 1],
        ),
        (
            format!("{larder}/v2/{host}/team/app/tags/list?n=2"),
            vec![2, 2, 1],
        ),
        (
            format!("{larder}/v2/team/app/tags/list?ns={host}&last=b"),
            vec![3],
        ),
        (
            format!("{larder}/v2/{host}/team/app/tags/list?n=1&last=c"),
            vec![1, 1],
        ),
    ] {
        let pages = pages(first.clone()).await;
        let lengths: Vec<_> = pages.iter().map(Vec::len).collect();
        assert_eq!(lengths, expected, "{first}");
        let tags = pages.concat();
        let all = ["a", "b", "c", "d", "e"];
        assert_eq!(tags, all[all.len() - tags.len()..], "{first}");
    }
    // `ns` is between the client and larder.
    assert_eq!(
        fake.count(|seen| seen.query.as_deref().is_some_and(|q| q.contains("ns="))),
        0
    );
    // A list is never old: a tag that has just been made is there.
    fake.put_manifest("team/app", Some("f"), OCI_MANIFEST, "{}");
    let answer = http::get(&format!("{larder}/v2/{host}/team/app/tags/list"), &[]).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["tags"].as_array().map(Vec::len), Some(6));
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

//! A browser without scripts gets all of the page.

use larder_tests::fake::Match;
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::scene::Scene;

use crate::pull;

async fn page(scene: &Scene, query: &str) -> String {
    let url = format!("http://{}/{query}", scene.node.telemetry());
    let page = http::get(&url, &[]).await.expect("an answer");
    assert_eq!(page.status, 200);
    page.text()
}

#[tokio::test]
async fn the_page_is_whole_without_a_script() {
    let scene = Scene::new().await;
    let layers = [LayerSpec::new(1, 100_000), LayerSpec::new(2, 2_000_000)];
    let image = image::build(&scene.fake, "team/app", "v1", &layers);
    image::build(&scene.fake, "team/base", "v2", &layers[..1]);
    for (repository, tag) in [("team/app", "v1"), ("team/base", "v2")] {
        pull(&scene, repository, tag).await;
    }
    pull(&scene, "team/app", "v1").await;
    // larder makes the list anew at most every two seconds; this is its first one.
    let text = page(&scene, "").await;
    let hex = image.manifest_digest.trim_start_matches("sha256:");
    for words in [
        "Held on this node",
        "Hit ratio",
        &format!("{}/", scene.fake.host()),
        "team/app",
        "team/base",
        "v1",
        &hex[..12],
        &scene.fake.url(),
        "Findings",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let filtered = page(&scene, "?filter=base").await;
    assert!(
        filtered.contains("team/base") && !filtered.contains("team/app<"),
        "{filtered}"
    );
    let position = |text: &str, name: &str| text.find(&format!("{name}<")).expect("a name");
    let up = page(&scene, "?sort=name").await;
    assert!(position(&up, "team/app") < position(&up, "team/base"));
    let down = page(&scene, "?sort=name&order=down").await;
    assert!(position(&down, "team/app") > position(&down, "team/base"));
}

/// A page that has not changed is not sent again; a changed one is.
#[tokio::test]
async fn only_what_changed_is_sent_again() {
    let scene = Scene::new().await;
    let live = async |known: &str| {
        let url = format!("http://{}/live?known={known}", scene.node.telemetry());
        http::get(&url, &[]).await.expect("an answer").text()
    };
    let revisions = |text: &str| {
        let ids = text.split("<div id=\"").skip(1);
        let pairs = ids.filter_map(|rest| {
            let (id, rest) = rest.split_once('"')?;
            let rest = rest.strip_prefix(" data-revision=\"")?;
            Some(format!("{id}-{}", rest.split_once('"')?.0))
        });
        pairs.collect::<Vec<_>>().join(",")
    };
    let first = live("").await;
    let known = revisions(&first);
    for id in [
        "state",
        "glance",
        "findings",
        "fills",
        "history",
        "upstreams",
        "images",
    ] {
        assert!(known.contains(&format!("{id}-")), "{id} in {known}");
    }
    assert!(!first.contains("data-kept"));
    let second = live(&known).await;
    assert!(second.contains("id=\"history\" data-kept"), "{second}");
    assert!(second.contains("id=\"fills\" data-kept"), "{second}");
    let digest = scene.fake.put_blob_of("a/b", 1, 10_000_000);
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let mut stream = http::open(&scene.blob("a/b", &digest), &[])
        .await
        .expect("an answer");
    stream.read_exactly(1_000_000).await.expect("the first MB");
    // Requests within half a second share the state of the node.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let third = live(&known).await;
        if third.contains(&digest) {
            assert!(
                third.contains("value=\"1000000\"") && third.contains("data-every=\"1\""),
                "{third}"
            );
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{third}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    gate.open();
    assert!(stream.rest().await.complete);
}

/// The page shows a client's input as text, or not at all.
#[tokio::test]
async fn what_was_said_is_text() {
    let scene = Scene::new().await;
    let evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>";
    let agent = [("user-agent", evil)];
    let path = "team/%3Cscript%3Ealert(1)%3C%2Fscript%3E/manifests/v1";
    let refused = http::get(&scene.path(path), &agent)
        .await
        .expect("an answer");
    assert_eq!(refused.status, 400);
    let encoded: Vec<String> = evil.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let encoded = encoded.concat();
    let text = page(
        &scene,
        &format!("?filter={encoded}&sort={encoded}&span={encoded}"),
    )
    .await;
    assert!(text.contains("&lt;script&gt;alert(1)"), "{text}");
    for raw in ["<script>alert", "<img src=x"] {
        assert!(!text.contains(raw), "{raw} in {text}");
    }
}

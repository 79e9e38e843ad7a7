//! Only a registry's own answer counts as a verdict (promises P14, P16, P17): captive portals in front of a registry,
//! and refusals without a registry's error body.

use larder_tests::fake::{FakeRegistry, Fault, Match, Target};

use crate::private::{Who, refused};
use crate::two_images::TwoImages;

/// Answers that come from no registry, in place of each of its answers.
fn no_answers(portal: &FakeRegistry) -> Vec<Fault> {
    let redirect = || Fault::Redirect {
        to: Target::Url(format!("{}/v2/login/manifests/now", portal.url())),
        status: 302,
    };
    vec![
        Fault::page(403),
        Fault::page(401),
        Fault::status(403),
        Fault::status(401),
        Fault::page(200),
        redirect(),
    ]
}

/// A portal to which every request may be redirected.
async fn portal(says: Fault) -> FakeRegistry {
    let portal = FakeRegistry::start().await;
    portal.fault(Match::any(), says);
    portal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_registry_says_closes_nothing_that_is_public() {
    let portal = portal(Fault::page(200)).await;
    for (ttl, fault) in no_answers(&portal)
        .into_iter()
        .flat_map(|fault| [("10m", fault.clone()), ("0s", fault)])
    {
        let toml = format!("[access]\nttl = \"{ttl}\"\ngrace = \"0s\"\n");
        let mut images = TwoImages::beside(&[&portal], Who::Nobody, &toml).await;
        let armed = images.fake.fault(Match::any(), fault.clone());
        for _ in 0..2 {
            images.pulls("first", &images.first).await;
        }
        let answer = images.get("manifests/first").await;
        assert!(answer.header("warning").is_some(), "{fault:?}");
        assert!(armed.hits() > 0, "{fault:?}");
        // An outage follows, and a restart in it.
        images.fake.stop().await;
        images.pulls("first", &images.first).await;
        images.scene.node.restart().await;
        images.pulls("first", &images.first).await;
        armed.lift();
        images.fake.start_again().await;
        let answer = images.get("manifests/first").await;
        assert_eq!((answer.status, answer.header("warning")), (200, None));
        images.end().await;
    }
}

/// A right that was proven a moment ago stands. A portal's page prolongs no older right, while an outage does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portals_answer_neither_prolongs_nor_ends_a_right() {
    let mut portals = vec![
        portal(Fault::page(200)).await,
        portal(Fault::page(403)).await,
    ];
    portals.push(portal(Fault::denied(403)).await);
    let toml = "[access]\nttl = \"2s\"\ngrace = \"1h\"\n";
    let all: Vec<&FakeRegistry> = portals.iter().collect();
    let redirects = |portal| no_answers(portal).pop();
    let mut faults = no_answers(&portals[0]);
    faults.extend(portals[1..].iter().filter_map(redirects));
    for fault in faults {
        let images = TwoImages::beside(&all, Who::new("owner"), toml).await;
        let paths = TwoImages::paths("first", &images.first);
        // The last acceptance lies behind: from here on, only age ends the right.
        let armed = images.fake.fault(Match::any(), fault.clone());
        images.until(&paths[2], 503).await;
        for path in &paths {
            let answer = images.get(path).await;
            assert!(
                matches!(answer.status, 401 | 503),
                "{fault:?} {path}: {}",
                answer.status
            );
            refused(&format!("{fault:?}"), &answer, b"schemaVersion");
        }
        assert!(armed.hits() > 0, "{fault:?}");
        // The page was no refusal: larder bridges an outage as it would have before.
        images.fake.stop().await;
        images.pulls("first", &images.first).await;
        armed.lift();
        images.fake.start_again().await;
        images.until(&paths[0], 200).await;
        images.pulls("first", &images.first).await;
        images.end().await;
    }
}

/// Registries that refuse HEAD without an error body, or always, and serve GET.
#[tokio::test]
async fn a_refusal_without_a_body_is_asked_once_more_by_get() {
    for code in [401, 403] {
        for images in TwoImages::each("[access]\nttl = \"0s\"\n").await {
            let head = Match::any().method("HEAD");
            let armed = images.fake.fault(head, Fault::status(code));
            images.pulls("first", &images.first).await;
            let answer = images.get("manifests/first").await;
            assert_eq!((answer.status, answer.header("warning")), (200, None));
            assert!(armed.hits() > 0);
            // The answer to GET counts.
            images.fake.fault(Match::any(), Fault::denied(403));
            images.until("manifests/first", 401).await;
            images.end().await;
        }
    }
}

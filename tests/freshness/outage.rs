//! While the registry does not answer, or refuses: P14, row by row.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::{Fault, Gate, Match};
use larder_tests::image::OCI_MANIFEST;

use super::{NEW, OLD, REPOSITORY, Tagged, is_stale};

/// What happens to the registry after the tag was pulled.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    Changed,
    Deleted,
    /// Refuses connections.
    Gone,
    /// Accepts requests and never answers.
    Hangs,
    Says(u16),
    /// Refuses with a registry's error body.
    Refuses(u16),
    /// Answers with a web page.
    ShowsPage(u16),
    /// Answers with `Retry-After`.
    SaysLater(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Old,
    New,
    /// The old digest, with a warning.
    Stale,
    Status(u16),
}

const SERVE: &str = "";
const FAIL: &str = "when_unreachable = \"fail\"";
const FORGET: &str = "when_deleted = \"forget\"";
const TIMEOUT: Duration = Duration::from_millis(600);
/// All headers leave within 5 s; the rest is for a machine that is busy.
const HEADERS_WITHIN: Duration = Duration::from_millis(5700);

/// The registry's state, the operator's setting, the client's answer.
const ROWS: [(Then, &str, Answer); 36] = [
    (Then::Nothing, SERVE, Answer::Old),
    (Then::Nothing, FAIL, Answer::Old),
    (Then::Changed, SERVE, Answer::New),
    (Then::Changed, FAIL, Answer::New),
    (Then::Gone, SERVE, Answer::Stale),
    (Then::Gone, FORGET, Answer::Stale),
    (Then::Gone, FAIL, Answer::Status(503)),
    (Then::Hangs, SERVE, Answer::Stale),
    (Then::Hangs, FAIL, Answer::Status(503)),
    (Then::Says(500), SERVE, Answer::Stale),
    (Then::Says(500), FAIL, Answer::Status(503)),
    (Then::Says(502), SERVE, Answer::Stale),
    (Then::Says(503), SERVE, Answer::Stale),
    (Then::Says(503), FAIL, Answer::Status(503)),
    (Then::Says(504), SERVE, Answer::Stale),
    (Then::Says(429), SERVE, Answer::Stale),
    (Then::Says(429), FAIL, Answer::Status(429)),
    (Then::SaysLater(429), SERVE, Answer::Stale),
    (Then::SaysLater(429), FAIL, Answer::Status(429)),
    (Then::SaysLater(503), SERVE, Answer::Stale),
    (Then::SaysLater(503), FAIL, Answer::Status(429)),
    (Then::Deleted, SERVE, Answer::Stale),
    (Then::Deleted, FAIL, Answer::Stale),
    (Then::Deleted, FORGET, Answer::Status(404)),
    (Then::Refuses(401), SERVE, Answer::Status(401)),
    (Then::Refuses(403), SERVE, Answer::Status(401)),
    (Then::Refuses(401), FORGET, Answer::Status(401)),
    (Then::Refuses(403), FAIL, Answer::Status(401)),
    // An answer that comes from no registry is an outage.
    (Then::Says(401), SERVE, Answer::Stale),
    (Then::Says(403), SERVE, Answer::Stale),
    (Then::Says(403), FAIL, Answer::Status(503)),
    (Then::ShowsPage(200), SERVE, Answer::Stale),
    (Then::ShowsPage(200), FAIL, Answer::Status(503)),
    (Then::ShowsPage(401), FORGET, Answer::Stale),
    (Then::ShowsPage(403), SERVE, Answer::Stale),
    (Then::ShowsPage(403), FAIL, Answer::Status(503)),
];

async fn check(then: Then, choice: &str, wanted: Answer) {
    let row = format!("{then:?} {choice}");
    let timeout = TIMEOUT.as_millis();
    let tagged = Tagged::new(&format!("[tags]\ntimeout = \"{timeout}ms\"\n{choice}")).await;
    let says = |code, headers| Fault::Status {
        code,
        headers,
        body: "".into(),
    };
    match then {
        Then::Nothing => {}
        Then::Changed => {
            tagged
                .fake
                .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, NEW);
        }
        Then::Deleted => tagged.fake.delete_tag(REPOSITORY, "v1"),
        Then::Gone => tagged.fake.stop().await,
        Then::Hangs => {
            tagged.fake.fault(Match::any(), Fault::Hold(Gate::new(0)));
        }
        Then::Says(code) => {
            tagged.fake.fault(Match::any(), says(code, Vec::new()));
        }
        Then::Refuses(code) => {
            tagged.fake.fault(Match::any(), Fault::denied(code));
        }
        Then::ShowsPage(code) => {
            tagged.fake.fault(Match::any(), Fault::page(code));
        }
        Then::SaysLater(code) => {
            let headers = vec![("Retry-After".to_owned(), "60".to_owned())];
            tagged.fake.fault(Match::any(), says(code, headers));
        }
    }
    // By either method, and more than once: the answer stays the same while nothing else changes.
    for method in ["HEAD", "GET", "HEAD", "GET"] {
        let begun = Instant::now();
        let answer = if method == "GET" {
            tagged.get("v1").await
        } else {
            tagged.head("v1").await
        };
        let took = begun.elapsed();
        // Where no old answer may stand in, larder waits for the registry as long as a client may wait for its headers.
        let bridged = choice != FAIL;
        let within = if bridged { TIMEOUT * 2 } else { HEADERS_WITHIN };
        assert!(took < within, "{row}: {method} took {took:?}");
        let told = match (
            answer.status,
            is_stale(&answer),
            answer.header("docker-content-digest"),
        ) {
            (200, true, Some(digest)) if digest == tagged.old => Answer::Stale,
            (200, false, Some(digest)) if digest == tagged.old => Answer::Old,
            (200, false, Some(_)) => Answer::New,
            (status, false, None) => Answer::Status(status),
            other => panic!("{row}: {method} gave {other:?}"),
        };
        assert_eq!(told, wanted, "{row}: {method} gave {answer:?}");
        let text = if wanted == Answer::New { NEW } else { OLD };
        if method == "GET" && answer.status == 200 {
            assert_eq!(answer.text(), text, "{row}");
        }
    }
    // An answer by digest is never stale. A refusal counts for every request.
    let answer = tagged.get(&tagged.old).await;
    match then {
        Then::Refuses(_) => assert_eq!(answer.status, 401, "{row}"),
        _ => assert_eq!(
            (answer.text(), is_stale(&answer)),
            (OLD.to_owned(), false),
            "{row}"
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_is_told() {
    for rows in ROWS.chunks(7) {
        join_all(
            rows.iter()
                .map(|(then, choice, wanted)| check(*then, choice, *wanted)),
        )
        .await;
    }
}

/// A stale answer gives no right: after a refusal, an outage opens nothing.
#[tokio::test]
async fn a_refusal_outlasts_the_outage_that_follows() {
    let mut tagged = Tagged::new("[access]\nttl = \"2s\"").await;
    let armed = tagged.fake.fault(Match::any(), Fault::denied(403));
    assert_eq!(tagged.get("v1").await.status, 401);
    tagged.fake.stop().await;
    for _ in 0..2 {
        for reference in ["v1", &tagged.old] {
            let answer = tagged.get(reference).await;
            assert!(
                matches!(answer.status, 401 | 503),
                "{reference}: {answer:?}"
            );
            assert!(!is_stale(&answer));
        }
        tagged.node.restart().await;
    }
    armed.lift();
    tagged.fake.start_again().await;
    // larder remembers a refusal as long as a grant.
    tagged
        .until("it is public again", |answer| {
            answer.status == 200 && !is_stale(answer)
        })
        .await;
}

#[tokio::test]
async fn a_forgotten_tag_stays_forgotten() {
    let mut tagged = Tagged::new("[tags]\nwhen_deleted = \"forget\"").await;
    tagged.fake.delete_tag(REPOSITORY, "v1");
    let answer = tagged.get("v1").await;
    assert_eq!(
        (answer.status, &answer.json()["errors"][0]["code"]),
        (404, &"MANIFEST_UNKNOWN".into())
    );
    tagged.fake.stop().await;
    for _ in 0..2 {
        assert_eq!(tagged.get("v1").await.status, 503);
        tagged.node.restart().await;
    }
    tagged.fake.start_again().await;
    tagged.fake.retag(REPOSITORY, "v1", &tagged.old);
    tagged
        .until("the tag is back", |answer| {
            answer.status == 200 && !is_stale(answer)
        })
        .await;
}

/// The answers of a node that was started during an outage.
#[tokio::test]
async fn a_node_that_starts_in_an_outage_serves_what_it_has() {
    let mut tagged = Tagged::new("").await;
    tagged.until_kept().await;
    tagged.fake.stop().await;
    for _ in 0..2 {
        tagged.node.kill9().await;
        tagged.node.restart().await;
        let answer = tagged.get("v1").await;
        assert_eq!(
            (answer.status, answer.text(), is_stale(&answer)),
            (200, OLD.to_owned(), true)
        );
        let answer = tagged.get(&tagged.old).await;
        assert_eq!(
            (answer.status, answer.text(), is_stale(&answer)),
            (200, OLD.to_owned(), false)
        );
        assert_eq!(tagged.get("v2").await.status, 503);
    }
    tagged.fake.start_again().await;
    tagged
        .until("it is asked again", |answer| !is_stale(answer))
        .await;
}

/// A captive portal, an ingress or a login proxy answers 200 to everything.
#[tokio::test]
async fn a_page_in_the_registrys_place_is_no_manifest() {
    for media_type in ["text/html; charset=utf-8", "application/json"] {
        let tagged = Tagged::new("").await;
        let page = || Fault::Status {
            code: 200,
            headers: vec![("Content-Type".to_owned(), media_type.to_owned())],
            body: "<p>Please log in</p>".into(),
        };
        let armed = tagged.fake.fault(Match::any(), page());
        for _ in 0..2 {
            for answer in [tagged.head("v1").await, tagged.get("v1").await] {
                assert_eq!(answer.status, 200, "{media_type}");
                assert!(is_stale(&answer), "{media_type}");
                assert_eq!(answer.header("docker-content-digest"), Some(&*tagged.old));
            }
        }
        assert_eq!(tagged.get("v2").await.status, 503, "{media_type}");
        armed.lift();
        assert!(!is_stale(&tagged.get("v1").await));
    }
}

/// larder serves a deleted tag to a caller that may read the repository. A 404 may also hide from this caller what
/// others may read. So beyond the ttl a 404 opens nothing, by tag or by digest: no pull begins that could not end.
#[tokio::test]
async fn what_is_not_found_any_more_is_served_under_a_live_verdict_alone() {
    let ttl = Duration::from_secs(2);
    let tagged = Tagged::new("[access]\nttl = \"2s\"\n").await;
    tagged.until_kept().await;
    tagged.fake.delete_tag(REPOSITORY, "v1");
    tokio::time::sleep(ttl).await;
    let head = tagged.head("v1").await;
    assert_eq!((head.status, is_stale(&head)), (200, true), "only the tag");
    assert_eq!(tagged.get(&tagged.old).await.status, 200);
    // Its manifest is deleted as well: a hidden repository looks like that.
    tagged.fake.delete_manifest(REPOSITORY, &tagged.old);
    tokio::time::sleep(ttl).await;
    for reference in ["v1", &tagged.old, "v1"] {
        assert_eq!(tagged.head(reference).await.status, 404, "{reference}");
        assert_eq!(tagged.get(reference).await.status, 404, "{reference}");
    }
    // larder forgot nothing: once pushed again, the tag resolves, also in the outage that follows.
    let again = tagged
        .fake
        .put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, OLD);
    assert_eq!(again, tagged.old);
    assert!(!is_stale(&tagged.get("v1").await));
    tagged.fake.stop().await;
    tokio::time::sleep(ttl).await;
    assert!(is_stale(&tagged.get("v1").await));
    assert_eq!(tagged.get(&tagged.old).await.status, 200);
}

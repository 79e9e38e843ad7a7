//! larder sends no requests to a registry that limits them, for as long as the registry says (P15).

use std::time::{Duration, Instant};

use larder_tests::fake::{Armed, FakeRegistry, Fault, Match, Target};
use larder_tests::http::Call;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;

use super::{OLD, REPOSITORY, Tagged, answer, is_stale};

fn limit(fake: &FakeRegistry, code: u16, seconds: u64) -> Armed {
    let fault = Fault::Status {
        code,
        headers: vec![("Retry-After".to_owned(), seconds.to_string())],
        body: "".into(),
    };
    fake.fault(Match::any(), fault)
}

#[tokio::test]
async fn a_limit_is_kept_and_told_in_the_clients_words() {
    for code in [429, 503] {
        let tagged = Tagged::new("").await;
        let blob = tagged.fake.put_blob(REPOSITORY, "a blob");
        let blob = tagged
            .url("v1")
            .replace("manifests/v1", &format!("blobs/{blob}"));
        let armed = limit(&tagged.fake, code, 3);
        let begun = Instant::now();
        // larder serves what is here; for anything else, its answer lets the client use its next host.
        assert!(is_stale(&tagged.get("v1").await));
        for url in [&tagged.url("v2"), &blob] {
            for (agent, status) in [("containerd/1.7.22", 503), ("containers/5.29.2", 429)] {
                let call = Call::get(url.as_str()).header("user-agent", agent);
                // The limit may apply only to clients without a secret.
                let challenged = call.clone().send().await.expect("an answer");
                assert_eq!(challenged.status, 401, "{agent} {url}");
                let answer = answer(call).await;
                assert_eq!(answer.status, status, "{agent} {url}");
                assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
                let after = answer.header("retry-after").expect("a Retry-After");
                let after: u64 = after.parse().expect("seconds");
                assert!((1..=3).contains(&after), "{after}");
            }
        }
        assert!(is_stale(&tagged.head("v1").await));
        if begun.elapsed() < Duration::from_secs(3) {
            assert_eq!(tagged.fake.requests().len(), 1, "it is left alone");
        }
        // larder asks again after that time, and not before.
        armed.lift();
        tagged
            .until("it is asked again", |answer| !is_stale(answer))
            .await;
        assert!(begun.elapsed() >= Duration::from_secs(3), "asked too early");
        assert_eq!(tagged.fake.requests().len(), 2);
        assert_eq!(answer(Call::get(blob.as_str())).await.text(), "a blob");
    }
}

/// `Retry-After` may be a date as well as a number of seconds (RFC 9110, 10.2.3).
#[tokio::test]
async fn a_limit_until_a_date_is_kept() {
    let tagged = Tagged::new("").await;
    let fault = Fault::Status {
        code: 429,
        headers: vec![(
            "Retry-After".to_owned(),
            "Fri, 31 Dec 2100 23:59:59 GMT".to_owned(),
        )],
        body: "".into(),
    };
    tagged.fake.fault(Match::any(), fault);
    let begun = Instant::now();
    // Longer than the silence after a limit without a time.
    while begun.elapsed() < Duration::from_millis(2500) {
        let answer = tagged.get("v1").await;
        assert_eq!((answer.text(), is_stale(&answer)), (OLD.to_owned(), true));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(tagged.fake.requests().len(), 1);
}

#[tokio::test]
async fn a_limit_without_a_time_is_answered_by_longer_and_longer_silence() {
    let tagged = Tagged::new("").await;
    let armed = tagged.fake.fault(Match::any(), Fault::status(429));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(4500) {
        assert!(is_stale(&tagged.get("v1").await));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // larder asks at 0, 1, 3 and 7 s.
    let asked = armed.hits();
    assert!((2..=3).contains(&asked), "{asked}");
    armed.lift();
    tagged
        .until("it is asked again", |answer| !is_stale(answer))
        .await;
}

/// A limit at a redirect's target does not silence the registry.
#[tokio::test]
async fn another_places_limit_is_not_the_registrys() {
    for code in [429, 503] {
        let (fake, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
        fake.put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, OLD);
        let blob = fake.put_blob(REPOSITORY, "a blob");
        limit(&second, code, 60);
        let redirect = || Fault::Redirect {
            to: Target::Url(format!("{}/elsewhere", second.url())),
            status: 307,
        };
        fake.fault(Match::blob(), redirect());
        fake.fault(Match::referrers(), redirect());
        let node = Node::builder().upstream(&fake).upstream(&second);
        let node = node.start().await;
        let get = async |path: &str| {
            let url = format!("{}/v2/{REPOSITORY}/{path}?ns={}", node.url(), fake.host());
            answer(Call::get(url)).await
        };
        for path in [format!("blobs/{blob}"), format!("referrers/{blob}")] {
            let led = get(&path).await;
            assert_ne!(led.status, 200, "{path}");
            assert!(second.count(|seen| seen.status == code) > 0, "{path}");
            let manifest = get("manifests/v1").await;
            assert_eq!((manifest.status, manifest.text()), (200, OLD.to_owned()));
            assert!(!is_stale(&manifest), "{path}");
            second.reset_counts();
        }
    }
}

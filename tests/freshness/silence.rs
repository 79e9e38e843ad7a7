//! A registry that fails again and again is no longer waited for (P14): the circuit breaker, seen from outside.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::fake::{Fault, Gate, Match};

use super::{REPOSITORY, Tagged, is_stale};

/// Failures in a row after which an endpoint is avoided.
const FAILURES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_failures_a_cached_tag_is_served_without_waiting() {
    const TIMEOUT: Duration = Duration::from_millis(1500);
    let tagged = Tagged::new("[tags]\ntimeout = \"1500ms\"").await;
    let tags: Vec<String> = (0..FAILURES).map(|i| format!("t{i}")).collect();
    for tag in &tags {
        tagged.fake.retag(REPOSITORY, tag, &tagged.old);
        assert_eq!(tagged.get(tag).await.status, 200);
    }
    tagged.fake.reset_counts();
    let gate = Gate::new(0);
    let armed = tagged.fake.fault(Match::any(), Fault::Hold(gate.clone()));
    let begun = Instant::now();
    for answer in join_all(tags.iter().map(|tag| tagged.get(tag))).await {
        assert!(is_stale(&answer));
    }
    assert!(begun.elapsed() >= TIMEOUT, "they waited");
    assert_eq!(tagged.asked("HEAD"), FAILURES);
    // Now it is known.
    let begun = Instant::now();
    assert!(is_stale(&tagged.get("v1").await));
    let took = begun.elapsed();
    assert!(took < TIMEOUT / 3, "{took:?}");
    assert_eq!(tagged.asked("HEAD"), FAILURES);
    // What is not here goes through: nothing else can answer.
    let probe = tokio::spawn({
        let url = tagged.url("v2");
        async move { larder_tests::http::get(&url, &[]).await.expect("an answer") }
    });
    gate.reached(1).await;
    armed.lift();
    gate.open();
    assert_eq!(probe.await.expect("no panic").status, 404);
    // That was an answer: it is asked as before.
    assert!(!is_stale(&tagged.get("v1").await));
}

#[tokio::test]
async fn a_registry_that_is_back_is_found_out() {
    let tagged = Tagged::new("").await;
    tagged.fake.stop().await;
    for _ in 0..FAILURES * 4 {
        assert!(is_stale(&tagged.get("v1").await));
    }
    tagged.fake.start_again().await;
    let begun = Instant::now();
    tagged
        .until("it is asked again", |answer| !is_stale(answer))
        .await;
    // The first pause is about a second, and the second one twice that.
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn while_it_is_avoided_few_questions_reach_it() {
    let tagged = Tagged::new("").await;
    tagged.fake.fault(Match::any(), Fault::status(500));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(is_stale(&tagged.get("v1").await));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The failures that open the breaker, and a probe after each pause of about 1, 2, 4 … s.
    let asked = tagged.asked("HEAD");
    assert!((FAILURES + 1..=FAILURES + 4).contains(&asked), "{asked}");
}

//! Content that the node's container runtime already holds (promises P16, P29). larder serves it without a second copy,
//! to callers that may read it, from repositories whose origin has proven that it holds it.

mod containerd;
mod files;
mod outage;
mod provenance;
mod seeing;

use std::time::{Duration, Instant};

use larder_tests::node::Node;
use larder_tests::scene::files as files_below;

/// How long work in the background may take.
const SOON: Duration = Duration::from_mins(1);

/// How many guesses are in this state.
async fn guesses(node: &Node, state: &str) -> u64 {
    let sample = format!("larder_adoption_guesses{{state=\"{state}\"}}");
    node.metric(&sample).await.unwrap_or_default() as u64
}

/// How many questions about guesses ended with this outcome.
async fn answers(node: &Node, outcome: &str) -> u64 {
    let sample = format!("larder_adoption_questions_total{{outcome=\"{outcome}\"}}");
    node.metric(&sample).await.unwrap_or_default() as u64
}

/// How many blobs of the runtime are in this state.
async fn held(node: &Node, state: &str) -> u64 {
    let sample = format!("larder_runtime_content_blobs{{state=\"{state}\"}}");
    node.metric(&sample).await.unwrap_or_default() as u64
}

/// Waits until `count` gives at least this.
async fn until<F>(what: &str, wanted: u64, mut count: impl FnMut() -> F)
where
    F: Future<Output = u64>,
{
    let deadline = Instant::now() + SOON;
    loop {
        let found = count().await;
        if found >= wanted {
            return;
        }
        let late = Instant::now() > deadline;
        assert!(!late, "{what}: {found} of {wanted} after {SOON:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until so many guesses are proven.
async fn until_proven(node: &Node, wanted: u64) {
    until("proven", wanted, || guesses(node, "proven")).await;
}

/// larder's own store holds no blob, and no part of one.
fn copied_nothing(node: &Node) {
    for dir in ["blobs", "partial"] {
        let found = files_below(&node.store().join(dir));
        assert!(found.is_empty(), "copies: {found:?}");
    }
}

/// Retries until it works, at most so long: members tell each other some things a moment later.
async fn retried<T, F>(limit: Duration, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "not within {limit:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

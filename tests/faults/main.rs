//! Sources that fail in every way and at every moment, and how much of that the client notices (promises P7, P9, P10).

mod failover;
mod lies;
mod parallel;
mod stepdown;
mod storm;

use larder_tests::fake::Content;
use larder_tests::http;
use larder_tests::scene::{Compared, compare};

const MB: u64 = 1_000_000;

/// GETs a blob and compares it with its right content.
async fn pull(url: &str, content: &Content) -> (u16, Compared) {
    let mut stream = http::open(url, &[]).await.expect("an answer");
    let compared = compare(&mut stream, content, 0..content.len()).await;
    (stream.status, compared)
}

/// The result of [`pull`] when nothing went wrong.
fn whole(content: &Content) -> (u16, Compared) {
    (200, Compared::whole(content.len()))
}

//! What members pay for bytes that come slowly: a member passes them on in batches, as it writes and hashes them.
//!
//! The test counts turns of threads. The machine's speed does not matter: on a busy machine more bytes come together, and
//! there are fewer turns.

use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::members::Cluster;
use larder_tests::node::Node;

use super::REPOSITORY;

const MB: u64 = 1_000_000;

/// Turns of all members for each megabyte.
const MOST: u64 = 240;

#[tokio::test]
async fn members_pass_a_slow_source_on_with_few_turns_of_threads() {
    let fake = FakeRegistry::start().await;
    let size = 48 * MB;
    let digest = fake.put_blob_of(REPOSITORY, 1, size);
    // 40 kB, fifty times a second, on each stream.
    fake.fault(Match::blob(), Fault::ThrottleBytesPerSecond(2 * MB));
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let turns = || cluster.nodes().iter().map(Node::turns).sum::<u64>();
    let before = turns();
    let got = cluster.door(0, &fake, REPOSITORY).blob(&digest).await;
    let got = got.unwrap_or_else(|error| panic!("{error}"));
    let turns = turns() - before;
    assert_eq!(got.bytes, size);
    let passed_on: u64 = cluster.all_sent().await.iter().sum();
    assert!(passed_on > size / 2, "{passed_on} bytes passed members");
    let each = turns / (size / MB);
    eprintln!("{each} turns for each MB");
    assert!(each <= MOST, "{turns} turns of threads, {each} for each MB");
}

//! What members pay for bytes that come slowly: a member passes them on in batches, as it writes and hashes them.
//!
//! The test counts turns of threads. The machine's speed does not matter: on a busy machine more bytes come together, and
//! there are fewer turns. The links are shaped, since bytes must come packet by packet.

use larder_tests::fake::FakeRegistry;
use larder_tests::hosts::{Net, Shape};
use larder_tests::members::Cluster;
use larder_tests::node::Node;

use super::REPOSITORY;

const MB: u64 = 1_000_000;
const MEMBERS: usize = 4;

/// Mbit/s of each link.
const LINK: u32 = 100;

/// Turns of all members for each megabyte: about 145. Without batches in the kernel it would be 240, and 390 without those
/// of a relay.
const MOST: u64 = 205;

#[tokio::test]
async fn members_pass_a_slow_source_on_with_few_turns_of_threads() {
    let net = Net::new(MEMBERS);
    let shape = Shape::mbit(LINK);
    net.upstream().shape(shape);
    (0..MEMBERS).for_each(|number| net.host(number).shape(shape));
    let fake = FakeRegistry::start_in(net.upstream()).await;
    let size = 48 * MB;
    let digest = fake.put_blob_of(REPOSITORY, 1, size);
    let cluster = Cluster::in_hosts(&net).upstream(&fake).start().await;
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

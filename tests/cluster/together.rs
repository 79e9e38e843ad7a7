//! All nodes want the same content at once, and the upstream sends it once (promises P5, P6).

use futures_util::future::join_all;
use larder_tests::fake::{Algorithm, Content, FakeRegistry, Kind, Seen};
use larder_tests::image::build;
use larder_tests::members::{Cluster, upstream_bytes};

use super::{MIB, REPOSITORY, all_get, beside, doors, layers, put, until_all_have};

/// All nodes pull one cold image at once. `seed` makes an image whose runs are spread fairly over this test's
/// addresses: the simulator measures how even chance is with few runs.
async fn at_once(count: usize, seed: u64, sizes: &[u64]) {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let image = build(&fake, REPOSITORY, "v1", &layers(seed, sizes));
    let cluster = Cluster::of(count).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    let pulls = doors.iter().map(|door| door.pull("v1", &image));
    for (number, got) in join_all(pulls).await.into_iter().enumerate() {
        let got = got.unwrap_or_else(|error| panic!("node {number}: {error}"));
        assert_eq!(got.bytes, image.size());
    }
    let upstream = upstream_bytes(&fake, &image);
    let ratio = upstream as f64 / image.size() as f64;
    // All nodes share this machine's processors. A member without processor time may be taken for dead, and its part is
    // asked of the upstream. Behind links, in `shaped`, the bound is 1.05.
    assert!(
        ratio <= 1.25,
        "{count} nodes took {ratio:.3} images from the upstream"
    );
    // Its root fetches the manifest. A member that asks between the answer and its commit causes a second fetch.
    let is_manifest = |seen: &Seen| seen.kind == Kind::Manifest && seen.method == "GET";
    let manifests = fake.count(is_manifest);
    assert!(manifests <= 2, "{manifests} manifests from the upstream");
    let digests: Vec<_> = image.layers.iter().map(|layer| &layer.digest).collect();
    until_all_have(&cluster, &digests).await;
    let sent = cluster.all_sent().await;
    let sent: Vec<_> = sent
        .iter()
        .map(|sent| *sent as f64 / image.size() as f64)
        .collect();
    let most = sent.iter().copied().fold(0.0, f64::max);
    assert!(most <= 1.5, "sent to peers, in images: {sent:.2?}");
    let all: f64 = sent.iter().sum();
    assert!(
        all >= 0.9 * (count - 1) as f64,
        "all nodes but one got it from peers: {sent:.2?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_at_once_take_an_image_from_the_upstream_once() {
    at_once(4, 100, &[5, 12, 24, 40]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_nodes_at_once_take_an_image_from_the_upstream_once() {
    at_once(8, 900, &[5, 9, 17, 29, 40, 40]).await;
}

/// Around every size at which the behaviour changes: empty, verified before it is sent, one span, one run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_of_every_size_are_taken_once() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    let sizes = [
        0,
        1,
        1000,
        64 << 10,
        (64 << 10) + 1,
        MIB - 1,
        MIB,
        MIB + 1,
        4 * MIB - 1,
        4 * MIB,
        4 * MIB + 1,
        8 * MIB,
        9 * MIB + 12345,
    ];
    let (mut wanted, mut ratios) = (0, Vec::new());
    // A member without processor time may be taken for dead, and its run is fetched twice: then the test pulls again,
    // with other bytes.
    while ratios.len() < 3 && ratios.last().is_none_or(|ratio| *ratio > 1.05) {
        let (mut upstream, before) = (0, wanted);
        for (seed, size) in (100 * (1 + ratios.len() as u64)..).zip(sizes) {
            let (digest, _) = put(&fake, seed, size);
            all_get(&doors, &digest).await;
            let sent = fake.blob_bytes_sent(&digest);
            assert!(sent <= size * 2, "{sent} for a blob of {size}");
            upstream += sent;
            wanted += size;
        }
        ratios.push(upstream as f64 / (wanted - before) as f64);
    }
    let best = ratios.iter().copied().fold(f64::MAX, f64::min);
    assert!(best <= 1.05, "{ratios:.3?} times from the upstream");
    let sent: u64 = cluster.all_sent().await.iter().sum();
    assert!(sent >= wanted * 5 / 2, "{sent} of {wanted} from peers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_with_a_sha512_digest_is_taken_once() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    let content = Content::synthetic(7, 21 * MIB + 5);
    let digest = fake.put_content_as(REPOSITORY, Algorithm::Sha512, &content);
    all_get(&doors, &digest).await;
    let sent = fake.blob_bytes_sent(&digest);
    assert!(
        sent <= content.len() * 105 / 100,
        "{sent} of {}",
        content.len()
    );
    until_all_have(&cluster, &[&digest]).await;
}

/// Ranges of a blob that no node has, through different nodes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_a_cold_blob_come_through_the_cluster() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    let size = 40 * MIB + 77;
    let (digest, content) = put(&fake, 1, size);
    let cases = [
        (0, "bytes=0-0".to_owned(), 0..1),
        (1, "bytes=5000000-5000099".to_owned(), 5_000_000..5_000_100),
        // Over the border of two runs.
        (
            2,
            format!("bytes={}-{}", 8 * MIB - 10, 8 * MIB + 9),
            8 * MIB - 10..8 * MIB + 10,
        ),
        (3, format!("bytes={}-", 33 * MIB + 1), 33 * MIB + 1..size),
        (0, "bytes=-3000".to_owned(), size - 3000..size),
        (1, format!("bytes={}-", size - 1), size - 1..size),
        // Over four runs, by two nodes.
        (
            2,
            format!("bytes={}-{}", 14 * MIB, 27 * MIB),
            14 * MIB..27 * MIB + 1,
        ),
        (
            0,
            format!("bytes={}-{}", 14 * MIB, 27 * MIB),
            14 * MIB..27 * MIB + 1,
        ),
    ];
    let parts = cases.iter().map(|(number, range, wanted)| {
        doors[*number].part(&digest, &content, range, wanted.clone())
    });
    for got in join_all(parts).await {
        got.expect("the right part");
    }
    // A reader of the whole blob afterwards fetches only the missing bytes.
    all_get(&doors, &digest).await;
    let sent = fake.blob_bytes_sent(&digest);
    assert!(sent <= size * 105 / 100, "{sent} of {size}");
}

/// A few bytes of a large blob do not cost the whole of it, whichever node is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_range_through_any_node_costs_little() {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(4).upstream(&fake).start().await;
    let doors = doors(&cluster, &fake, REPOSITORY);
    let (digest, content) = put(&fake, 3, 64 * MIB);
    for door in &doors {
        let range = door.part(
            &digest,
            &content,
            "bytes=30000000-30049999",
            30_000_000..30_050_000,
        );
        range.await.expect("the right part");
    }
    let sent = fake.blob_bytes_sent(&digest);
    // The span that holds these bytes is fetched once, not once for each node.
    assert!(sent <= 2 * MIB, "{sent} for 50,000 bytes");
}

//! Every byte that a client received is in the metrics and in the access lines, exactly.
//!
//! larder counts a byte when it hands the byte to the connection. For a client that reads to the end, bytes counted and
//! bytes received are equal. A client that leaves early has received at most as many as were counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use larder_tests::fake::Match;
use larder_tests::http::{self, Call, Response};
use larder_tests::image::{self, LayerSpec};
use larder_tests::node::Node;
use larder_tests::scene::{Scene, eventually};
use serde_json::Value;

/// Pieces of a file that hyper holds.
const IN_HAND: u64 = 2 << 20;

/// How much one connection may hold that its client never received: hyper's pieces, and at most what the kernel keeps
/// in the buffers of both sockets.
fn undelivered() -> u64 {
    let most = |name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let text = text.expect("the kernel's limits");
        let last = text.split_whitespace().last().expect("three numbers");
        last.parse().expect("bytes")
    };
    IN_HAND + most("tcp_wmem") + most("tcp_rmem")
}

/// By tier, upstream and outcome: requests and bytes.
pub type Books = BTreeMap<(String, String, String), (u64, u64)>;

pub async fn scene() -> Scene {
    Scene::with(|node| {
        node.log_level("info")
            .config("[telemetry]\nlog_format = \"json\"\n")
    })
    .await
}

/// The books as the metrics have them.
async fn counted(node: &Node) -> Books {
    let mut books = Books::new();
    for line in node.metrics().await.lines() {
        let Some((sample, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Some((name, rest)) = sample.split_once("{tier=\"") else {
            continue;
        };
        let words: Vec<&str> = rest.split('"').collect();
        let &[tier, _, upstream, _, outcome, _] = &words[..] else {
            continue;
        };
        let key = (tier.to_owned(), upstream.to_owned(), outcome.to_owned());
        let value: u64 = value.parse().expect("a whole number");
        let entry = books.entry(key).or_default();
        match name {
            "larder_requests_total" => entry.0 = value,
            "larder_sent_bytes_total" => entry.1 = value,
            other => panic!("{other} has these labels, too?"),
        }
    }
    books
}

/// The books as the access lines have them. A registry that the configuration does not name counts as `other`.
fn told(node: &Node, named: &str) -> Books {
    let mut books = Books::new();
    for line in access_lines(node) {
        let word = |name: &str| line[name].as_str().expect("a word").to_owned();
        let upstream = match &*word("upstream") {
            "" => "none".to_owned(),
            name if name == named => name.to_owned(),
            _ => "other".to_owned(),
        };
        let entry = books
            .entry((word("tier"), upstream, word("outcome")))
            .or_default();
        entry.0 += 1;
        entry.1 += line["sent_bytes"].as_u64().expect("bytes");
    }
    books
}

pub fn access_lines(node: &Node) -> Vec<Value> {
    let log = node.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line["target"] == "access")
        .collect()
}

/// Waits until every request is over and has its line. Gives the books, after checking that metrics and lines agree.
pub async fn closed(scene: &Scene) -> Books {
    let deadline = Instant::now() + Duration::from_secs(20);
    let node = &scene.node;
    loop {
        let under_way = node.metric("larder_requests_in_flight").await;
        let requests = node.metric_sum("larder_requests_total").await as usize;
        if under_way == Some(0.0) && access_lines(node).len() == requests {
            break;
        }
        let late = Instant::now() > deadline;
        assert!(!late, "{under_way:?} of {requests} requests are under way");
    }
    let books = counted(node).await;
    assert_eq!(books, told(node, &scene.fake.host()));
    books
}

pub fn sum(books: &Books, which: impl Fn(&str) -> bool) -> (u64, u64) {
    let of = books.iter().filter(|((_, _, outcome), _)| which(outcome));
    of.fold((0, 0), |sum, (_, entry)| (sum.0 + entry.0, sum.1 + entry.1))
}

/// Every kind of answer, to a client that reads to the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_received_is_what_was_counted() {
    let scene = scene().await;
    let layers = [LayerSpec::new(1, 100_000), LayerSpec::new(2, 20_000_000)];
    let image = image::build(&scene.fake, "team/app", "v1", &layers);
    let large = scene.blob("team/app", &image.layers[1].digest);
    let small = scene.blob("team/app", &image.layers[0].digest);
    let manifest = scene.manifest("team/app", "v1");
    let missing = scene.blob("team/app", &format!("sha256:{}", "0".repeat(64)));
    let tags = scene.path("team/app/tags/list");
    let other = format!("{}/v2/a/b/manifests/v1?ns=127.0.0.1:1", scene.node.url());
    let bad = format!("{}/v2/UPPER/manifests/v1", scene.node.url());
    let ping = format!("{}/v2/", scene.node.url());
    let token = format!("{}/token/{}", scene.node.url(), scene.fake.host());

    let mut received = 0;
    let mut requests = 0;
    // Cold and warm.
    for _ in 0..2 {
        let gets: [(&str, &[(&str, &str)]); 14] = [
            (&manifest, &[]),
            (&large, &[("range", "bytes=5000000-5999999")]),
            (&large, &[("range", "bytes=-1000")]),
            (&large, &[("range", "bytes=19000000-")]),
            (&large, &[("range", "bytes=0-9,100-109,-5")]),
            (&large, &[("range", "bytes=99999999-")]),
            (&large, &[]),
            (&small, &[]),
            (&missing, &[]),
            (&tags, &[]),
            (&other, &[]),
            (&bad, &[]),
            (&ping, &[]),
            (&token, &[]),
        ];
        for (url, headers) in gets {
            let answer = http::get(url, headers).await.expect("an answer");
            assert!(answer.complete, "{url} {headers:?}: {:?}", answer.error);
            received += answer.body.len() as u64;
            requests += 1;
        }
        for url in [&manifest, &large, &missing] {
            let answer = http::head(url, &[]).await.expect("an answer");
            assert_eq!(answer.body.len(), 0);
            requests += 1;
        }
        let pushed = Call::new("PUT", &*large).body("x").send().await;
        received += pushed.expect("an answer").body.len() as u64;
        requests += 1;
        let together = (0..6).map(|_| http::get_digest(&large, &[]));
        for answer in futures_util::future::join_all(together).await {
            let answer = answer.expect("an answer");
            assert_eq!(answer.digest, image.layers[1].digest);
            received += answer.len;
            requests += 1;
        }
        scene.until_committed(&image.layers[1].digest).await;
    }
    let books = closed(&scene).await;
    assert_eq!(sum(&books, |_| true), (requests, received), "{books:#?}");
    // No request is in a wrong column.
    let outcomes = ["hit", "miss", "refused", "failed"];
    assert_eq!(
        sum(&books, |o| outcomes.contains(&o)).0,
        requests,
        "{books:#?}"
    );
    assert!(books.keys().any(|(_, upstream, _)| upstream == "other"));

    // Received bytes are in the books as well: each blob once, each manifest once.
    let host = scene.fake.host();
    let from = format!("larder_received_bytes_total{{source=\"upstream\",upstream=\"{host}\"}}");
    let came = scene.node.metric(&from).await.expect("bytes") as u64;
    let size = 20_000_000 + 100_000;
    let (least, most) = (size, size + 2_000_000 + image.size());
    assert!((least..most).contains(&came), "{came}");
}

/// A client that leaves has received at most the bytes that were counted, and the difference is at most what
/// connections hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_counts_with_the_bytes_on_their_way() {
    let scene = scene().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 60_000_000);
    let url = scene.blob("a/b", &digest);
    let mut received = 0;
    let mut left = 0;
    for read in [1, 100_000, 3_000_000, 30_000_000] {
        for _ in 0..2 {
            let mut stream = http::open(&url, &[]).await.expect("an answer");
            received += stream.read_exactly(read).await.expect("bytes").len() as u64;
            stream.close();
            left += 1;
        }
    }
    let books = closed(&scene).await;
    let (requests, bytes) = sum(&books, |outcome| outcome == "abandoned");
    assert_eq!(requests, left, "{books:#?}");
    let most = received + left * undelivered();
    assert!(
        (received..=most).contains(&bytes),
        "{received} {bytes} {most}"
    );
}

/// A client joins a download that is far ahead: its count does not include all the bytes that are there already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_joins_late_and_leaves_counts_with_what_it_got() {
    let scene = scene().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 60_000_000);
    let url = scene.blob("a/b", &digest);
    let from = |range: &str| {
        range
            .strip_prefix("bytes=")?
            .split_once('-')?
            .0
            .parse()
            .ok()
    };
    let late = move |start: u64| start >= 40_000_000;
    let rest = Match::blob().when(move |request| {
        let range = request.header("range").and_then(from);
        range.is_some_and(late)
    });
    let gate = scene.fake.gate(rest, 0);
    let mut first = http::open(&url, &[]).await.expect("an answer");
    first.read_exactly(36_000_000).await.expect("most of it");
    let mut second = http::open(&url, &[]).await.expect("an answer");
    second.read_exactly(1000).await.expect("a little of it");
    second.close();
    let deadline = Instant::now() + Duration::from_secs(20);
    let bytes = loop {
        let books = counted(&scene.node).await;
        let (requests, bytes) = sum(&books, |outcome| outcome == "abandoned");
        if requests == 1 {
            break bytes;
        }
        assert!(Instant::now() < deadline, "{books:#?}");
    };
    // A client that has hardly read gets no large buffers: its count is far from the 36 MB that were there.
    assert!((1000..=12 << 20).contains(&bytes), "{bytes}");
    gate.open();
    assert!(first.rest().await.complete);
    closed(&scene).await;
}

/// A body that ends short counts as far as it went.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_short_is_counted_as_far_as_it_went() {
    let scene = scene().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 12_000_000);
    let url = scene.blob("a/b", &digest);
    let _gate = scene.fake.gate(Match::blob(), 2_345_678);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = http::open(&url, &[]).await.expect("an answer");
        stream.read_exactly(1_000_000).await.expect("a part");
        streams.push(stream);
    }
    scene.fake.stop().await;
    let rests = futures_util::future::join_all(streams.into_iter().map(http::Stream::rest));
    let rests: Vec<Response> = rests.await;
    assert!(rests.iter().all(|rest| !rest.complete));
    let received: u64 = rests.iter().map(|r| r.body.len() as u64 + 1_000_000).sum();
    let books = closed(&scene).await;
    assert_eq!(
        sum(&books, |outcome| outcome == "short"),
        (3, received),
        "{books:#?}"
    );
}

/// A request's line has its times, its ids and its outcome.
#[tokio::test]
async fn lines_are_whole() {
    let scene = scene().await;
    let digest = scene.fake.put_blob_of("a/b", 1, 100_000);
    let answer = http::get(&scene.blob("a/b", &digest), &[("user-agent", "me/1")]).await;
    assert!(answer.expect("an answer").complete);
    eventually("its line", || access_lines(&scene.node).len() == 1).await;
    let line = access_lines(&scene.node).remove(0);
    let first = line["first_byte_ms"].as_f64().expect("a time");
    let whole = line["duration_ms"].as_f64().expect("a time");
    assert!(0.0 < first && first <= whole, "{line}");
    let path = format!("/v2/a/b/blobs/{digest}");
    for (name, value) in [
        ("port", Value::from("registry")),
        ("method", "GET".into()),
        ("path", path.into()),
        ("upstream", scene.fake.host().into()),
        ("status", 200.into()),
        ("tier", "upstream".into()),
        ("outcome", "miss".into()),
        ("sent_bytes", 100_000.into()),
        ("agent", "me/1".into()),
    ] {
        assert_eq!(line[name], value, "{line}");
    }
    for id in ["request_id", "trace_id", "span_id"] {
        assert!(line[id].as_str().is_some_and(|id| id.len() >= 16), "{line}");
    }
}

/// Bytes of a blob from all tiers, and requests, as the status and the page show them.
async fn used(node: &Node) -> u64 {
    let served = node.admin("/status").await["served"].clone();
    let bytes = |tier: &str| served[tier].as_u64().expect("bytes");
    bytes("node_bytes") + bytes("cluster_bytes") + bytes("upstream_bytes")
}

/// containerd's parallel fetch asks for each piece up to the blob's end, and leaves when it has the piece. The status
/// counts the bytes that it used, and no client that gave up.
#[tokio::test]
async fn a_pull_in_pieces_is_as_large_as_the_blob() {
    const PIECE: u64 = 3 << 20;
    const SIZE: u64 = 20 << 20;
    for at_once in [2, 3, 5] {
        let scene = scene().await;
        let digest = scene.fake.put_blob_of("a/b", 3, SIZE);
        let url = scene.blob("a/b", &digest);
        for round in 1..=2 {
            let mut reading = std::collections::VecDeque::new();
            let mut starts = (0..SIZE).step_by(PIECE as usize);
            loop {
                // The next pieces are asked for before the first of them is whole.
                while reading.len() < at_once
                    && let Some(start) = starts.next()
                {
                    let range = format!("bytes={start}-");
                    let stream = http::open(&url, &[("range", &range)]).await;
                    reading.push_back((start, stream.expect("an answer")));
                }
                let Some((start, mut stream)) = reading.pop_front() else {
                    break;
                };
                assert_eq!(stream.status, 206);
                let length = PIECE.min(SIZE - start);
                let bytes = stream.read_exactly(length as usize).await;
                assert!(bytes.is_ok(), "{start}: {bytes:?}");
                if start + length == SIZE {
                    let rest = stream.rest().await;
                    assert_eq!((rest.error, rest.body.len()), (None, 0));
                } else {
                    stream.close();
                }
            }
            scene.until_committed(&digest).await;
            let requests = round * SIZE.div_ceil(PIECE);
            let books = settled(&scene.node, requests).await;
            let abandoned = books
                .keys()
                .filter(|(_, _, outcome)| outcome == "abandoned");
            assert_eq!(abandoned.count(), 0, "{at_once} {round}: {books:?}");
            assert_eq!(used(&scene.node).await, round * SIZE, "{at_once} {round}");
        }
    }
}

/// A client that gives up has read no piece. The bytes sent to it still count as sent.
#[tokio::test]
async fn a_client_that_does_not_come_back_has_given_up() {
    let scene = scene().await;
    let digest = scene.fake.put_blob_of("a/b", 4, 20 << 20);
    let url = scene.blob("a/b", &digest);
    let mut stream = http::open(&url, &[("range", "bytes=0-")])
        .await
        .expect("an answer");
    assert!(stream.read_exactly(3 << 20).await.is_ok());
    stream.close();
    let books = settled(&scene.node, 1).await;
    let mut outcomes = books.keys().map(|(_, _, outcome)| outcome);
    assert!(outcomes.all(|outcome| outcome == "abandoned"), "{books:?}");
    assert!(used(&scene.node).await >= 3 << 20);
}

/// The books when so many requests are over.
async fn settled(node: &Node, requests: u64) -> Books {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let books = counted(node).await;
        let over: u64 = books.values().map(|(requests, _)| requests).sum();
        if over >= requests {
            assert_eq!(over, requests, "{books:?}");
            return books;
        }
        assert!(Instant::now() < deadline, "{requests} requests: {books:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

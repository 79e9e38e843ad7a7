//! The answer to a range does not depend on the cache's state (promise P6): one table, in every state.

use std::collections::BTreeMap;

use larder_tests::fake::{Content, FakeRegistry, Fault, Match};
use larder_tests::http::{self, Response, Stream};
use larder_tests::members::Cluster;
use larder_tests::scene::Scene;

const SIZE: u64 = 6_000_000;

/// The meaning of a range, worked out by hand.
#[derive(Clone, Debug)]
enum Meaning {
    Whole,
    One(u64, u64),
    Many(Vec<(u64, u64)>),
    Never,
}
use Meaning::{Many, Never, One, Whole};

/// A `Range`, its meaning for a blob of this size, and whether it can be answered whole while the bytes from 1 MB to 4
/// MB are missing.
fn table() -> Vec<(String, Meaning, bool)> {
    let many = |range: &str, parts: &[(u64, u64)]| (range.to_owned(), Many(parts.to_vec()), true);
    let row = |range: &str, meaning: Meaning, soon: bool| (range.to_owned(), meaning, soon);
    let two_thousand: Vec<_> = (0..2000).map(|i| format!("{0}-{0}", i * 2)).collect();
    vec![
        row("", Whole, false),
        // Bounded
        row("bytes=0-0", One(0, 0), true),
        row("bytes=0-499", One(0, 499), true),
        row("bytes=499990-500010", One(499_990, 500_010), true),
        row("bytes=5000000-5100000", One(5_000_000, 5_100_000), true),
        row("bytes=5999999-5999999", One(5_999_999, 5_999_999), true),
        row("bytes=5999000-7000000", One(5_999_000, 5_999_999), true),
        row("bytes=900000-4500000", One(900_000, 4_500_000), false),
        row("bytes=0-5999999", One(0, 5_999_999), false),
        row("Bytes=10-19", One(10, 19), true),
        row("bytes= 10-19 ,", One(10, 19), true),
        // Open
        row("bytes=0-", One(0, 5_999_999), false),
        row("bytes=500000-", One(500_000, 5_999_999), false),
        row("bytes=5000000-", One(5_000_000, 5_999_999), false),
        row("bytes=5999999-", One(5_999_999, 5_999_999), false),
        // Suffix
        row("bytes=-1", One(5_999_999, 5_999_999), true),
        row("bytes=-1000", One(5_999_000, 5_999_999), true),
        row("bytes=-7000000", One(0, 5_999_999), false),
        // Several
        many(
            "bytes=0-9,5000000-5000009",
            &[(0, 9), (5_000_000, 5_000_009)],
        ),
        many(
            "bytes=5000000-5000009, 0-9",
            &[(5_000_000, 5_000_009), (0, 9)],
        ),
        many("bytes=0-9,-10", &[(0, 9), (5_999_990, 5_999_999)]),
        many("bytes=0-99,50-149", &[(0, 99), (50, 149)]),
        many("bytes=5-5,4-4,3-3", &[(5, 5), (4, 4), (3, 3)]),
        many(
            "bytes=7000000-,0-9,5900000-",
            &[(0, 9), (5_900_000, 5_999_999)],
        ),
        row("bytes=0-9,7000000-", One(0, 9), true),
        row("bytes=0-5999999,0-5999999", Whole, false),
        // Beyond the end, reversed
        row("bytes=6000000-", Never, true),
        row("bytes=6000000-6000009", Never, true),
        row("bytes=6000000-,7000000-", Never, true),
        row("bytes=-0", Never, true),
        row("bytes=500-0", Never, true),
        row("bytes=500-0,0-9", Never, true),
        // Absurd
        row("bytes=99999999999999999999999-", Never, true),
        row(
            "bytes=18446744073709551615-18446744073709551615",
            Never,
            true,
        ),
        row("bytes=18446744073709551614-", Never, true),
        row("bytes=0-99999999999999999999999", One(0, 5_999_999), false),
        row("bytes=-99999999999999999999999", One(0, 5_999_999), false),
        row(&format!("bytes={}", two_thousand.join(",")), Never, true),
        row("lines=0-9", Whole, false),
        row("bytes", Whole, false),
        row("bytes=", Whole, false),
        row("bytes=-", Whole, false),
        row("bytes=,,", Whole, false),
        row("bytes=abc", Whole, false),
        row("bytes=0x1-0x2", Whole, false),
        row("bytes=+1-2", Whole, false),
        row("bytes=1-2-3", Whole, false),
        row("bytes=1.5-2", Whole, false),
        row("0-9", Whole, false),
    ]
}

/// A blob at larder, with its content.
struct Target {
    url: String,
    digest: String,
    content: Content,
}

impl Target {
    fn new(scene: &Scene, repository: &str, seed: u64) -> Self {
        let content = Content::synthetic(seed, SIZE);
        let digest = scene.fake.put_content(repository, &content);
        let url = scene.blob(repository, &digest);
        Self {
            url,
            digest,
            content,
        }
    }

    async fn open(&self, range: &str) -> Stream {
        let range = (!range.is_empty()).then_some(("range", range));
        let stream = http::open(&self.url, range.as_slice()).await;
        stream.expect("an answer")
    }

    async fn check(&self, state: &str, range: &str, meaning: &Meaning) {
        let answer = self.open(range).await.rest().await;
        self.assert_means(state, range, meaning, &answer);
    }

    /// The answer is exactly this: status, all headers, all bytes.
    fn assert_means(&self, state: &str, range: &str, meaning: &Meaning, answer: &Response) {
        let range = &range[..range.len().min(60)];
        let case = format!("{state} {range}");
        let headers: BTreeMap<&str, &str> = answer
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            // Headers that belong to this one request, whatever it asks for.
            .filter(|(name, _)| *name != "date" && *name != "x-request-id")
            .collect();
        assert_eq!(answer.error, None, "{case}");
        let length = answer.body.len().to_string();
        let ns = self.url.rsplit_once("ns=").expect("ns").1;
        let mut expected = BTreeMap::from([
            ("docker-distribution-api-version", "registry/2.0"),
            ("oci-namespace", ns),
            ("content-length", &length),
            ("docker-content-digest", &self.digest),
            ("accept-ranges", "bytes"),
            ("content-type", "application/octet-stream"),
            ("x-content-type-options", "nosniff"),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'; sandbox",
            ),
        ]);
        let content_range = |(first, last): &(u64, u64)| format!("bytes {first}-{last}/{SIZE}");
        let bytes = |(first, last): &(u64, u64)| self.content.read(*first..last + 1);
        match meaning {
            Whole => {
                assert_eq!(headers, expected, "{case}");
                assert!(
                    answer.status == 200 && answer.body == bytes(&(0, SIZE - 1)),
                    "{case}"
                );
            }
            One(first, last) => {
                let of = content_range(&(*first, *last));
                expected.insert("content-range", &of);
                assert_eq!(headers, expected, "{case}");
                assert!(
                    answer.status == 206 && answer.body == bytes(&(*first, *last)),
                    "{case}"
                );
            }
            Many(parts) => {
                let kind = headers["content-type"];
                expected.insert("content-type", kind);
                assert_eq!(headers, expected, "{case}");
                assert_eq!(answer.status, 206, "{case}");
                let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
                let found = parse_multipart(&answer.body, boundary.expect("a boundary"));
                let wanted = parts.iter().map(|part| (content_range(part), bytes(part)));
                assert!(found == wanted.collect::<Vec<_>>(), "{case}");
            }
            Never => {
                let of = format!("bytes */{SIZE}");
                assert_eq!(
                    (answer.status, headers.get("content-range")),
                    (416, Some(&&*of)),
                    "{case}"
                );
                assert_eq!(
                    answer.json()["errors"][0]["code"],
                    "RANGE_INVALID",
                    "{case}"
                );
            }
        }
    }
}

/// The `Content-Range` and the bytes of every part (RFC 2046 section 5.1, RFC 9110 section 14.6).
fn parse_multipart(mut body: &[u8], boundary: &str) -> Vec<(String, Vec<u8>)> {
    let find = |text: &[u8], what: &str| {
        let at = text.windows(what.len()).position(|w| w == what.as_bytes());
        at.unwrap_or_else(|| panic!("no {what:?}"))
    };
    let mut parts = Vec::new();
    let first = format!("--{boundary}\r\n");
    body = body
        .strip_prefix(first.as_bytes())
        .expect("a first boundary");
    loop {
        let head_end = find(body, "\r\n\r\n");
        let head = std::str::from_utf8(&body[..head_end]).expect("a head");
        let mut lines: Vec<_> = head.split("\r\n").collect();
        lines.sort_unstable();
        let [range, kind] = lines[..] else {
            panic!("{lines:?}")
        };
        assert_eq!(kind, "Content-Type: application/octet-stream");
        let range = range.strip_prefix("Content-Range: ").expect("a range");
        body = &body[head_end + 4..];
        let end = find(body, &format!("\r\n--{boundary}"));
        parts.push((range.to_owned(), body[..end].to_vec()));
        body = &body[end + boundary.len() + 4..];
        if body == b"--\r\n" {
            return parts;
        }
        body = body.strip_prefix(b"\r\n").expect("another part");
    }
}

#[tokio::test]
async fn on_a_cold_blob() {
    let scene = Scene::new().await;
    for (i, (range, meaning, _)) in table().into_iter().enumerate() {
        let target = Target::new(&scene, "a/b", 100 + i as u64);
        target.check("cold", &range, &meaning).await;
        // Small parts cost small fetches: a span of 1 MiB each, and the first byte for the length.
        let parts = match &meaning {
            One(first, last) if last - first < 200_000 && !range.ends_with('-') => 1,
            Many(parts) if !range.ends_with('-') => parts.len() as u64,
            Never => 1,
            _ => continue,
        };
        let sent = scene.fake.blob_bytes_sent(&target.digest);
        assert!(sent <= (parts + 1) * (1 << 20), "{range}: {sent}");
    }
}

#[tokio::test]
async fn on_a_growing_blob_and_then_a_committed_one() {
    let scene = Scene::new().await;
    let target = Target::new(&scene, "a/b", 1);
    // Any request below 2 MB stops after 1 MB: from there on the blob has a hole.
    let low = |request: &larder_tests::fake::Request| {
        let range = request
            .header("range")
            .and_then(|range| range.strip_prefix("bytes="));
        let start = range.and_then(|range| range.split('-').next());
        start.is_none_or(|start| start.parse::<u64>().is_ok_and(|start| start < 2_000_000))
    };
    let gate = scene.fake.gate(Match::blob().when(low), 1_000_000);
    let mut whole = target.open("").await;
    let first = whole.read_exactly(1_000_000).await.expect("the first MB");
    assert!(first == target.content.read(0..1_000_000));
    gate.reached(1).await;
    let mut later = Vec::new();
    for (range, meaning, soon) in table() {
        if soon {
            target.check("growing", &range, &meaning).await;
        } else {
            // The head comes at once, the body when the hole is filled.
            let stream = target.open(&range).await;
            later.push((range, meaning, stream));
        }
    }
    assert!(!scene.committed(&target.digest));
    gate.open();
    for (range, meaning, stream) in later {
        target.assert_means("grown", &range, &meaning, &stream.rest().await);
    }
    let rest = whole.rest().await;
    assert!(rest.complete && rest.body == target.content.read(1_000_000..SIZE));
    scene.until_committed(&target.digest).await;
    let sent = scene.fake.blob_bytes_sent(&target.digest);
    // The first stream was cut short where another began. Bytes that the registry was sending beyond that may have left
    // it.
    let lost = SIZE - 4 * 1024 * 1024;
    assert!(sent <= SIZE + lost, "{sent}");
    for (range, meaning, _) in table() {
        target.check("committed", &range, &meaning).await;
    }
    assert_eq!(scene.fake.blob_bytes_sent(&target.digest), sent);
}

/// larder splits the first request for a blob among members, wherever its range begins. That must not hinder the next
/// request either.
#[tokio::test]
async fn on_a_cold_blob_of_a_node_that_has_another_member() {
    let fake = FakeRegistry::start().await;
    let cluster = Cluster::of(2).upstream(&fake).start().await;
    for (i, (range, meaning, _)) in table().into_iter().enumerate() {
        let content = Content::synthetic(100 + i as u64, SIZE);
        let digest = fake.put_content("a/b", &content);
        let (node, ns) = (cluster.node(0).url(), fake.host());
        let target = Target {
            url: format!("{node}/v2/a/b/blobs/{digest}?ns={ns}"),
            digest,
            content,
        };
        target.check("cold", &range, &meaning).await;
        target.check("cold, then whole", "", &Whole).await;
    }
}

#[tokio::test]
async fn from_an_upstream_that_knows_no_ranges() {
    let scene = Scene::new().await;
    scene.fake.fault(Match::blob(), Fault::IgnoreRange);
    for (i, (range, meaning, _)) in table().into_iter().enumerate() {
        let target = Target::new(&scene, "a/b", 100 + i as u64);
        target.check("ignored", &range, &meaning).await;
        target.check("ignored, again", &range, &meaning).await;
    }
}

/// Small blobs are verified first, and an empty blob has no first byte to ask for.
#[tokio::test]
async fn on_small_and_empty_blobs() {
    let scene = Scene::new().await;
    let mut seed = 0;
    for (size, range, status, content_range, body) in [
        (1000, "bytes=0-", 206, Some("bytes 0-999/1000"), 0..1000),
        (1000, "bytes=10-19", 206, Some("bytes 10-19/1000"), 10..20),
        (1000, "bytes=-5", 206, Some("bytes 995-999/1000"), 995..1000),
        (
            1000,
            "bytes=999-",
            206,
            Some("bytes 999-999/1000"),
            999..1000,
        ),
        (1000, "bytes=1000-", 416, Some("bytes */1000"), 0..0),
        (1000, "bytes=5-2", 416, Some("bytes */1000"), 0..0),
        (1000, "lines=1-2", 200, None, 0..1000),
        (0, "", 200, None, 0..0),
        (0, "bytes=0-", 416, Some("bytes */0"), 0..0),
        (0, "bytes=0-0", 416, Some("bytes */0"), 0..0),
        (0, "bytes=-1", 416, Some("bytes */0"), 0..0),
    ] {
        seed += 1;
        let content = Content::synthetic(seed, size);
        // There is only one empty blob, so each case has its own repository.
        let repository = format!("a/b{seed}");
        let digest = scene.fake.put_content(&repository, &content);
        let url = scene.blob(&repository, &digest);
        let header = (!range.is_empty()).then_some(("range", range));
        for state in ["cold", "warm"] {
            let answer = http::get(&url, header.as_slice()).await.expect("an answer");
            let case = format!("{state} {size} {range}");
            assert_eq!((answer.status, &answer.error), (status, &None), "{case}");
            assert_eq!(answer.header("content-range"), content_range, "{case}");
            if status != 416 {
                assert!(answer.body == content.read(body.clone()), "{case}");
            }
        }
    }
}

/// A client can use a part only if its other parts are of the same content. The only validator of that content is its
/// digest (RFC 9110 section 13.1.5).
#[tokio::test]
async fn an_if_range_that_does_not_match_is_answered_whole() {
    let scene = Scene::new().await;
    let content = Content::synthetic(9, 200_000);
    let digest = scene.fake.put_content("a/b", &content);
    let url = scene.blob("a/b", &digest);
    let other = format!("\"sha256:{}\"", "ab".repeat(32));
    let (own, weak) = (format!("\"{digest}\""), format!("W/\"{digest}\""));
    for round in ["cold", "warm"] {
        for (condition, partial) in [
            (own.as_str(), true),
            (weak.as_str(), false),
            (other.as_str(), false),
            (digest.as_str(), false),
            ("\"x\"", false),
            ("Sat, 29 Oct 1994 19:43:31 GMT", false),
            ("", false),
        ] {
            let headers = [("range", "bytes=10-19"), ("if-range", condition)];
            let answer = http::get(&url, &headers).await.expect("an answer");
            let (status, body) = if partial {
                (206, content.read(10..20))
            } else {
                (200, content.read(0..content.len()))
            };
            assert_eq!(
                (answer.status, &answer.error),
                (status, &None),
                "{round} {condition}"
            );
            assert!(answer.body == body, "{round} {condition}");
            assert_eq!(
                answer.header("content-range").is_some(),
                partial,
                "{round} {condition}"
            );
        }
        scene.until_committed(&digest).await;
    }
}

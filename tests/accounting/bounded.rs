//! No client's request adds series to the metrics.

use std::collections::BTreeSet;

use larder_tests::node::Node;
use larder_tests::scene::Scene;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The names of all series, without the labels that take one of a fixed set of words: a slow machine may meet another
/// of those words.
async fn series(node: &Node) -> BTreeSet<String> {
    let page = node.metrics().await;
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let names = samples.filter_map(|line| line.rsplit_once(' '));
    names.map(|(name, _)| without_words(name)).collect()
}

/// Turns `name{tier="node",upstream="a",outcome="hit"}` into `name{upstream="a"}`.
fn without_words(series: &str) -> String {
    let Some((name, labels)) = series.split_once('{') else {
        return series.to_owned();
    };
    let open = |label: &&str| {
        let words = ["outcome=", "state=", "tier="];
        !words.iter().any(|word| label.starts_with(word))
    };
    let labels = labels.trim_end_matches('}').split(',').filter(open);
    format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(","))
}

/// Sends a HEAD for each of these paths on one connection, pipelined, and waits for all answers.
async fn head(node: &Node, paths: impl Iterator<Item = String>) {
    let mut stream = TcpStream::connect(node.addr()).await.expect("a connection");
    let (mut asked, mut text) = (0, String::new());
    for path in paths {
        text.extend(["HEAD ", &path, " HTTP/1.1\r\nhost: larder\r\n\r\n"]);
        asked += 1;
    }
    stream.write_all(text.as_bytes()).await.expect("a request");
    let (mut answered, mut answers) = (0, Vec::new());
    while answered < asked {
        let read = stream.read_buf(&mut answers).await.expect("an answer");
        assert!(read > 0, "{answered} of {asked} answers");
        answered = answers.windows(4).filter(|end| end == b"\r\n\r\n").count();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_repositories_and_registries_are_no_new_series() {
    let scene = Scene::with(|node| node.log_level("warn")).await;
    let host = scene.fake.host();
    // Some paths of a configured registry, some of others, which larder does not reach.
    let path = |number: usize| match number % 4 {
        0 => format!("/v2/r{number}/app/manifests/v{number}?ns={host}"),
        1 => format!("/v2/r{number}/blobs/sha256:{number:064x}?ns={host}"),
        2 => format!("/v2/r{number}/manifests/v1?ns=127.0.0.2:{}", 1024 + number),
        _ => format!("/v2/127.0.0.2:{}/r{number}/manifests/v1", 1024 + number),
    };
    head(&scene.node, (0..100).map(path)).await;
    let before = series(&scene.node).await;
    let batches = (100..10_000).step_by(100);
    for batch in batches {
        head(&scene.node, (batch..batch + 100).map(path)).await;
    }
    let after = series(&scene.node).await;
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:#?}");
    let page = scene.node.metrics().await;
    assert!(page.len() < 64 << 10, "{} bytes", page.len());
    for name in ["r100", "127.0.0.2", "v100"] {
        assert!(!page.contains(name), "{name} in {page}");
    }
    let requests = scene.node.metric_sum("larder_requests_total").await;
    assert!(requests >= 10_000.0, "{requests}");
    let other = page
        .lines()
        .filter(|line| line.contains("upstream=\"other\""));
    assert!(other.count() > 0);
}

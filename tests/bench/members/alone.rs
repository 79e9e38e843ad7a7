//! What one larder alone pays: for connections that send half a request, and for a client that reads a blob in chunks.

use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use larder_tests::fake::{FakeRegistry, Fault, Kind, Match};
use larder_tests::http;
use larder_tests::node::Node;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{REPOSITORY, Version, later};
use crate::bench::Bench;
use crate::memory::resident;
use crate::report::{Bound, Section};

/// Connections that send half a request each.
const STRANGERS: usize = 2000;

/// Bytes of the blob that a client reads in chunks, and of a chunk.
const CHUNKED: u64 = 600 << 20;
const CHUNK: u64 = 8 << 20;

/// Measures both for each version.
pub fn measure(bench: &Bench, versions: &[Version], section: &mut Section) -> Result<()> {
    for (at, version) in versions.iter().enumerate() {
        let (peak, later) = bench.runtime.block_on(strangers(bench, version))?;
        let blank = String::new;
        section.row([
            format!("{STRANGERS} connections with half a request"),
            version.name.to_owned(),
            blank(),
            blank(),
            blank(),
            blank(),
            format!("{peak:.1}"),
            format!("{later:.1}"),
        ]);
        if at == 0 {
            let what = format!("{STRANGERS} connections with half a request: RSS later");
            section.verdict(what, Bound::AtMost(24.0), later, "MiB");
        }
    }
    for (at, version) in versions.iter().enumerate() {
        let (requests, images, seconds) = bench.runtime.block_on(chunked(version))?;
        section.row([
            format!("{} MiB in chunks of 8 MiB, three at a time", CHUNKED >> 20),
            version.name.to_owned(),
            String::new(),
            format!("{seconds:.1}"),
            format!("{images:.3}"),
            requests.to_string(),
            String::new(),
            String::new(),
        ]);
        if at == 0 {
            let chunks = (CHUNKED / CHUNK) as f64;
            section.verdict(
                "read in chunks: requests upstream beside chunks",
                Bound::AtMost(1.1),
                requests as f64 / chunks,
                "x",
            );
        }
    }
    Ok(())
}

async fn strangers(bench: &Bench, version: &Version) -> Result<(f64, f64)> {
    let fake = FakeRegistry::start().await;
    let node = Node::builder().upstream(&fake).log_level("info");
    let node = node.program(&version.program).start().await;
    let head = format!("GET /v2/ HTTP/1.1\r\nhost: {}\r\n", "x".repeat(4096));
    let connect = async || {
        let mut tcp = TcpStream::connect(node.addr()).await?;
        tcp.write_all(head.as_bytes()).await?;
        anyhow::Ok(tcp)
    };
    let held = join_all((0..STRANGERS).map(|_| connect())).await;
    let held: Vec<TcpStream> = held.into_iter().flatten().collect();
    ensure!(held.len() > STRANGERS / 2, "only {} connected", held.len());
    // Until all heads have been read.
    node.admin("/status").await;
    drop(held);
    tokio::time::sleep(later(bench)).await;
    let pid = node.pid();
    Ok((resident(pid, "VmHWM")?, resident(pid, "VmRSS")?))
}

/// Requests upstream for a blob that is read as containerd's parallel fetch reads it, images sent, and seconds. The
/// registry gives each connection 20 MB/s.
async fn chunked(version: &Version) -> Result<(usize, f64, f64)> {
    let fake = FakeRegistry::start().await;
    let digest = fake.put_blob_of(REPOSITORY, 5, CHUNKED);
    fake.fault(Match::blob(), Fault::ThrottleBytesPerSecond(20_000_000));
    let node = Node::builder().upstream(&fake).log_level("info");
    let node = node.program(&version.program).start().await;
    let url = format!(
        "{}/v2/{REPOSITORY}/blobs/{digest}?ns={}",
        node.url(),
        fake.host()
    );
    let begun = Instant::now();
    let reads = futures_util::stream::iter(0..CHUNKED / CHUNK).map(|at| {
        let url = &url;
        async move {
            let range = format!("bytes={}-", at * CHUNK);
            let answer = http::open(url, &[("range", &range)]).await;
            let mut stream = answer.map_err(|error| anyhow!("{error:?}"))?;
            ensure!(stream.status == 206, "{range}: {}", stream.status);
            stream
                .read_exactly(CHUNK as usize)
                .await
                .ok()
                .context("a short chunk")?;
            stream.close();
            anyhow::Ok(())
        }
    });
    let mut reads = reads.buffer_unordered(3);
    while let Some(read) = reads.next().await {
        read?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let requests = fake.count(|seen| seen.kind == Kind::Blob);
    let images = fake.blob_bytes_sent(&digest) as f64 / CHUNKED as f64;
    Ok((requests, images, seconds))
}

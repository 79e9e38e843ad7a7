//! How long a node with a full store takes from its start to its first answer.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use larder_tests::fake::digest_of;
use larder_tests::node::Node;

use crate::bench::{Bench, Pace, REGISTRY};
use crate::client::{Get, Sink};
use crate::report::{Bound, Section};
use crate::server::settle;
use crate::stats::spread;

pub fn measure(bench: &Bench) -> Result<Section> {
    let mut node = full_node(bench)?;
    let (mut ready, mut served) = (Vec::new(), Vec::new());
    for _ in 0..bench.plan.rounds {
        bench.runtime.block_on(node.restart());
        let start = Instant::now();
        get(&node, &format!("/v2/bench/manifests/{}", bench.manifest))?.run()?;
        get(&node, &format!("/v2/first/blobs/{}", first(bench)?))?.run()?;
        let until_ready = node.ready_after().as_secs_f64() * 1e3;
        ready.push(until_ready);
        served.push(until_ready + start.elapsed().as_secs_f64() * 1e3);
    }
    let columns = ["until", "ms"];
    let mut section = Section::new(
        format!("Restart over {} stored blobs", bench.plan.stored),
        &columns,
    );
    section.about("From starting the process; the store's directories are in the kernel's caches.");
    section.row(["the admin socket answers".to_owned(), spread(&ready, 0)]);
    section.row([
        "a manifest and a blob of 1 MiB have come from the store".to_owned(),
        spread(&served, 0),
    ]);
    section.verdict(
        format!("restart over {} blobs: serving after", bench.plan.stored),
        Bound::AtMost(200.0),
        crate::stats::median(&served),
        "ms",
    );
    Ok(section)
}

/// A running node that has pulled the large blob, a manifest and a blob of 1 MiB, and whose store
/// holds as many small blobs more as the plan says.
pub fn full_node(bench: &Bench) -> Result<Node> {
    let store = bench.dir.path().join("store");
    let mut node = bench.node(Pace::Open, "info", Some(&store));
    let first = first(bench)?;
    for path in [
        bench.blob_path(),
        format!("/v2/bench/manifests/{}", bench.manifest),
        format!("/v2/first/blobs/{first}"),
    ] {
        get(&node, &path)?.run()?;
    }
    settle(&bench.runtime, &node)?;
    fill(&store, bench.plan.stored)?;
    bench.runtime.block_on(node.restart());
    Ok(node)
}

/// A request to the node as containerd makes it.
pub fn get(node: &Node, path: &str) -> Result<Get> {
    Ok(Get {
        at: node.addr().parse()?,
        target: format!("{path}?ns={REGISTRY}"),
        sink: Sink::Copy,
        range: None,
    })
}

fn first(bench: &Bench) -> Result<String> {
    bench.origin.put_sparse("first", 0, 1 << 20)
}

/// Puts small blobs where larder's layout has them, unless they are there already.
fn fill(store: &Path, count: usize) -> Result<()> {
    let blobs = store.join("blobs/sha256");
    for shard in 0..=255 {
        fs::create_dir_all(blobs.join(format!("{shard:02x}")))?;
    }
    for number in 0..count {
        let bytes = format!("stored blob {number}\n");
        let digest = digest_of(bytes.as_bytes());
        let hex = digest.trim_start_matches("sha256:");
        let path = blobs.join(&hex[..2]).join(hex);
        if number == 0 && path.exists() {
            return Ok(());
        }
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

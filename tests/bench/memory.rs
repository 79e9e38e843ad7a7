//! Resident memory: idle, over a full store, and while many slow clients read.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::node::Node;

use crate::bench::{Bench, Pace};
use crate::report::{Bound, Section};
use crate::restart::{full_node, get};
use crate::server::until_status;

const STREAMS: usize = 256;
/// Bytes that each client reads every [`EVERY`]: 0.8 MB/s.
const SIP: usize = 16 << 10;
const EVERY: Duration = Duration::from_millis(20);

pub fn measure(bench: &Bench) -> Result<Section> {
    let columns = ["larder", "RSS MiB", "of it anonymous"];
    let mut section = Section::new("Memory", &columns);
    section.about(format!(
        "{STREAMS} clients read the large blob, 0.8 MB/s each, for {} s; the highest RSS counts.",
        bench.plan.watch.as_secs()
    ));
    let idle = bench.node(Pace::Open, "info", None);
    let (empty, anonymous) = both(&idle)?;
    drop(idle);
    section.row(["idle, empty store".to_owned(), mib(empty), mib(anonymous)]);
    let node = full_node(bench)?;
    let stored = bench.plan.stored;
    until_status(
        &bench.runtime,
        &node,
        "the store is not scanned",
        |status| status["store"]["blobs"].as_u64() >= Some(stored as u64),
    )?;
    let (full, anonymous) = both(&node)?;
    section.row([
        format!("idle, {stored} blobs stored"),
        mib(full),
        mib(anonymous),
    ]);
    let (streaming, anonymous) = stream(bench, &node)?;
    section.row([
        format!("{STREAMS} slow streams, {stored} blobs stored"),
        mib(streaming),
        mib(anonymous),
    ]);
    section.verdict(
        "idle memory, empty store",
        Bound::AtMost(16.0),
        empty,
        "MiB",
    );
    section.verdict(
        format!("memory, {STREAMS} streams over {stored} blobs"),
        Bound::AtMost(64.0),
        streaming,
        "MiB",
    );
    Ok(section)
}

/// MiB of a process, by the name of a line in `/proc/PID/status`.
pub fn resident(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.with_context(|| format!("no {name}"))?.parse::<f64>()? / 1024.0)
}

fn both(node: &Node) -> Result<(f64, f64)> {
    Ok((
        resident(node.pid(), "VmRSS")?,
        resident(node.pid(), "RssAnon")?,
    ))
}

fn mib(value: f64) -> String {
    format!("{value:.1}")
}

/// The highest RSS while all streams run, and how much of it was anonymous.
fn stream(bench: &Bench, node: &Node) -> Result<(f64, f64)> {
    let ask = get(node, &bench.blob_path())?;
    let mut streams = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let tcp = ask.ask()?;
        tcp.set_nonblocking(true)?;
        streams.push((tcp, 0));
    }
    let mut highest = (0.0, 0.0);
    let mut buffer = vec![0; SIP];
    let end = Instant::now() + bench.plan.watch;
    while Instant::now() < end {
        let next = Instant::now() + EVERY;
        for (tcp, taken) in &mut streams {
            *taken += sip(tcp, &mut buffer)?;
        }
        let now = both(node)?;
        if now.0 > highest.0 {
            highest = now;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let least = streams.iter().map(|(_, taken)| *taken).min();
    ensure!(least > Some(SIP), "a stream got {least:?} bytes");
    Ok(highest)
}

fn sip(tcp: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    match tcp.read(buffer) {
        Ok(0) => Err(anyhow::anyhow!("a slow stream was cut off")),
        Ok(read) => Ok(read),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error).context("a slow stream broke"),
    }
}

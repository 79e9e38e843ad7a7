//! What a cold blob costs over a link of a real node, where bytes come a few kilobytes at a time.
//!
//! The upstream, and the node with its client, are network namespaces with a shaped link between them. nginx as a
//! cache, which verifies nothing, is measured beside larder. The figures are processor time, and how often threads had
//! to wait for bytes. Afterwards the memory that larder has kept is measured again.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use larder_tests::hosts::{Net, Shape};
use larder_tests::node::Node;

use crate::bench::{Bench, REGISTRY};
use crate::client::{Got, Sink};
use crate::memory::resident;
use crate::nginx::{Nginx, ORIGIN_ALONE, cache};
use crate::report::{Bound, Section};
use crate::server::Server;
use crate::stats::{median, paired, spread};

/// Bytes of the blob: 4 s at 200 Mbit/s.
const BLOB: u64 = 100_000_000;

/// Links, in Mbit/s.
const LINKS: [u32; 3] = [100, 200, 1000];

/// How long after the last byte memory is measured again.
const LATER: Duration = Duration::from_mins(1);

#[derive(Default)]
struct Series {
    name: &'static str,
    seconds: Vec<f64>,
    cpu: Vec<f64>,
    turns: Vec<f64>,
    first_ms: Vec<f64>,
}

pub fn measure(bench: &Bench) -> Result<Section> {
    let columns = [
        "link",
        "through",
        "CPU s per GB",
        "turns of threads per MB",
        "seconds",
        "first byte ms",
    ];
    let title = format!(
        "Cold blob of {} MB over shaped links, one copying client",
        BLOB / 1_000_000
    );
    let mut section = Section::new(title, &columns);
    section.about("What a node pays for bytes that come slowly. A new process and an empty directory each time.");
    section.about("A turn: a thread that waited goes on (voluntary context switches). nginx verifies nothing.");
    if !nix::unistd::geteuid().is_root() {
        section.about("Left out: shaped links take root.");
        return Ok(section);
    }
    let digest = bench.origin.put_synthetic("bench", 77, BLOB)?;
    let path = format!("/v2/bench/blobs/{digest}");
    let net = Net::new(1);
    let dir = bench.dir.path().join("slow");
    let upstream = Nginx::start_in(net.upstream(), &dir, ORIGIN_ALONE, bench.origin.dir())?;
    let links: &[u32] = if bench.plan.quick {
        &LINKS[1..2]
    } else {
        &LINKS
    };
    for &link in links {
        net.upstream().shape(Shape::mbit(link));
        let mut all: [Series; 2] = Default::default();
        for round in 0..bench.plan.rounds {
            for turn in 0..2 {
                let at = (turn + round) % 2;
                let server = if at == 0 {
                    larder(bench, &net, &upstream)?
                } else {
                    let dir = bench.dir.path().join("cache");
                    let config = cache(upstream.addr(0));
                    let nginx = Nginx::start_in(net.host(0), &dir, &config, bench.origin.dir())?;
                    Server::nginx(&bench.accounting, "nginx proxy_cache", nginx)?
                };
                pull(bench, &net, &server, &path, &mut all[at])?;
            }
        }
        for series in &all {
            section.row([
                format!("{link} Mbit/s"),
                series.name.to_owned(),
                spread(&series.cpu, 2),
                format!("{:.0}", median(&series.turns)),
                spread(&series.seconds, 2),
                format!("{:.1}", median(&series.first_ms)),
            ]);
        }
        if link == 200 {
            section.verdict(
                "cold over 200 Mbit/s: CPU-s per GB beside nginx proxy_cache",
                Bound::AtMost(1.0),
                paired(&all[0].cpu, &all[1].cpu),
                "x",
            );
        }
    }
    memory(bench, &net, &upstream, &path, &mut section)?;
    Ok(section)
}

fn larder(bench: &Bench, net: &Net, upstream: &Nginx) -> Result<Server> {
    let endpoint = format!("http://{}", upstream.addr(0));
    let node = Node::builder()
        .upstream_at(REGISTRY, &endpoint)
        .host(net.host(0))
        .log_level("info");
    Server::larder(&bench.accounting, bench.runtime.block_on(node.start()))
}

/// Four clients at once, and the memory of the process a minute later.
fn memory(
    bench: &Bench,
    net: &Net,
    upstream: &Nginx,
    path: &str,
    section: &mut Section,
) -> Result<()> {
    net.upstream().shape(Shape::mbit(1000));
    let server = larder(bench, net, upstream)?;
    let node = server.node().context("not larder")?;
    let before = resident(node.pid(), "VmRSS")?;
    let gets = [(); 4].map(|()| server.get(path, Sink::Copy));
    let pulls = async move {
        let pulls = gets.map(|get| tokio::task::spawn_blocking(move || get.run()));
        futures_util::future::try_join_all(pulls).await
    };
    for got in bench.runtime.block_on(net.host(0).run(pulls))? {
        got?;
    }
    let peak = resident(node.pid(), "VmHWM")?;
    std::thread::sleep(if bench.plan.quick { LATER / 3 } else { LATER });
    let after = resident(node.pid(), "VmRSS")?;
    section.about(format!(
        "RSS before, at its peak, and a minute after such a pull: {before:.1}, {peak:.1}, {after:.1} MiB."
    ));
    section.verdict(
        "RSS a minute after a cold pull",
        Bound::AtMost(24.0),
        after,
        "MiB",
    );
    Ok(())
}

fn pull(bench: &Bench, net: &Net, server: &Server, path: &str, series: &mut Series) -> Result<()> {
    let pids = server.pids()?;
    let (cpu, turns) = (server.cpu()?, turns_of(&pids));
    let get = server.get(path, Sink::Copy);
    let host = net.host(0).clone();
    let got: Result<Got> = bench.runtime.block_on(host.run(async move { get.run() }));
    let got = got?;
    ensure!(got.bytes == BLOB, "{}: too few bytes", server.name);
    series.name = server.name;
    series.seconds.push(got.took.as_secs_f64());
    series.first_ms.push(got.first_byte.as_secs_f64() * 1e3);
    series.cpu.push((server.cpu()? - cpu) * 1e9 / BLOB as f64);
    let turns = turns_of(&pids).saturating_sub(turns);
    series.turns.push(turns as f64 * 1e6 / BLOB as f64);
    Ok(())
}

/// How often threads of these processes have given up the processor because they had no work.
fn turns_of(pids: &[u32]) -> u64 {
    let tasks = |pid: &u32| {
        fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
    };
    let of = |task: fs::DirEntry| -> Option<u64> {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    pids.iter().flat_map(tasks).flatten().filter_map(of).sum()
}

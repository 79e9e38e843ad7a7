//! The large blob, in the page cache and in every cache: bytes and processor time.
//!
//! A copying client shows what a pull gets; a discarding one shows what the server could give.
//! Rounds are interleaved, and the order of the servers turns from round to round.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::bench::{Bench, Pace};
use crate::client::{Sink, together};
use crate::machine::sysctl;
use crate::report::{Bound, Section};
use crate::server::Server;
use crate::stats::{paired, spread};

const CONGESTION: &str = "net/ipv4/tcp_congestion_control";

/// What one server did in one setting, a value for each round.
#[derive(Default)]
struct Series {
    mb_per_s: Vec<f64>,
    cpu_s_per_gb: Vec<f64>,
}

pub fn measure(bench: &Bench) -> Result<Section> {
    compare(bench, &sysctl(CONGESTION), true)
}

/// The same with bbr, which some distributions set for all sockets: its pacing costs timers, even on
/// loopback. The targets are not held against it.
pub fn measure_bbr(bench: &Bench) -> Result<Section> {
    let before = sysctl(CONGESTION);
    if before == "bbr" || fs::write(format!("/proc/sys/{CONGESTION}"), "bbr").is_err() {
        let mut section = Section::new("Warm blob with congestion control bbr", &["not done"]);
        section.row(["bbr is the run's own, or may not be set here"]);
        return Ok(section);
    }
    let section = compare(bench, "bbr", false);
    fs::write(format!("/proc/sys/{CONGESTION}"), before).context("setting it back")?;
    section
}

/// A socket takes the congestion control that was set when its listener was made.
fn compare(bench: &Bench, congestion: &str, judge: bool) -> Result<Section> {
    let plan = &bench.plan;
    // nginx static first: the ratios are to it.
    let servers = [
        bench.nginx_static()?,
        bench.larder(Pace::Open, "info")?,
        bench.nginx_cache(Pace::Open)?,
        bench.registry()?,
    ];
    for server in &servers {
        // At its second request a server may check content again before it serves it; at the third it does not.
        for _ in 0..3 {
            fetch(bench, server, 1, Sink::Copy)?;
            server.settle(&bench.runtime)?;
        }
    }
    settle(&servers)?;
    let settings = [1, 8].map(|clients| [Sink::Copy, Sink::Discard].map(|sink| (clients, sink)));
    let settings = settings.concat();
    let mut all: Vec<Vec<Series>> = Vec::new();
    all.resize_with(settings.len(), || {
        servers.iter().map(|_| Series::default()).collect()
    });
    for round in 0..plan.rounds {
        for (&(clients, sink), series) in settings.iter().zip(&mut all) {
            for turn in 0..servers.len() {
                let at = (turn + round) % servers.len();
                let (mb_per_s, cpu_s_per_gb) = sample(bench, &servers[at], clients, sink)?;
                series[at].mb_per_s.push(mb_per_s);
                series[at].cpu_s_per_gb.push(cpu_s_per_gb);
            }
        }
    }
    let mut section = section(bench, &servers, &settings, &all, congestion);
    if !judge {
        section.verdicts.clear();
    }
    Ok(section)
}

/// One figure: all clients at once, or one client several times.
fn sample(bench: &Bench, server: &Server, clients: usize, sink: Sink) -> Result<(f64, f64)> {
    let passes = if clients == 1 { bench.plan.passes } else { 1 };
    let (mut bytes, mut seconds) = (0, 0.0);
    let before = server.cpu()?;
    for _ in 0..passes {
        let (got, took) = fetch(bench, server, clients, sink)?;
        bytes += got;
        seconds += took;
    }
    let cpu = server.cpu()? - before;
    Ok((bytes as f64 / 1e6 / seconds, cpu / (bytes as f64 / 1e9)))
}

fn fetch(bench: &Bench, server: &Server, clients: usize, sink: Sink) -> Result<(u64, f64)> {
    let get = server.get(&bench.blob_path(), sink);
    let (got, took) = together(clients, |_| get.run())?;
    let bytes: u64 = got.iter().map(|one| one.bytes).sum();
    ensure!(
        bytes == bench.plan.blob * clients as u64,
        "{}: {bytes} bytes came",
        server.name
    );
    Ok((bytes, took.as_secs_f64()))
}

/// Waits until no server works any more, for example to write what it has just fetched.
fn settle(servers: &[Server]) -> Result<()> {
    nix::unistd::sync();
    let total = || servers.iter().map(Server::cpu).sum::<Result<f64>>();
    let mut before = total()?;
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = total()?;
        if now - before < 0.001 {
            break;
        }
        before = now;
    }
    Ok(())
}

fn section(
    bench: &Bench,
    servers: &[Server],
    settings: &[(usize, Sink)],
    all: &[Vec<Series>],
    congestion: &str,
) -> Section {
    let mb = bench.plan.blob / 1_000_000;
    let title = format!("Warm blob of {mb} MB, congestion control {congestion}");
    let columns = [
        "client",
        "clients",
        "server",
        "MB/s",
        "x nginx",
        "server CPU-s/GB",
        "x nginx",
    ];
    let mut section = Section::new(title, &columns);
    section.about("Plain HTTP over loopback, everything in the page cache; x nginx is the median of the rounds' ratios.");
    section.about(format!(
        "nginx: 2 workers, sendfile on, no access log; one client's figure is the mean of {} downloads.",
        bench.plan.passes
    ));
    for (&(clients, sink), series) in settings.iter().zip(all) {
        let nginx = &series[0];
        for (server, one) in servers.iter().zip(series) {
            let faster = paired(&one.mb_per_s, &nginx.mb_per_s);
            let dearer = paired(&one.cpu_s_per_gb, &nginx.cpu_s_per_gb);
            section.row([
                sink.as_str().to_owned(),
                clients.to_string(),
                server.name.to_owned(),
                spread(&one.mb_per_s, 0),
                format!("{faster:.2}"),
                spread(&one.cpu_s_per_gb, 3),
                format!("{dearer:.2}"),
            ]);
            if server.name == "larder" {
                let (speed, cpu) = if clients == 1 {
                    (1.2, 1.1)
                } else {
                    (1.15, 0.75)
                };
                let who = format!("warm blob, {clients} {} client(s)", sink.as_str());
                section.verdict(
                    format!("{who}: throughput beside nginx static"),
                    Bound::AtLeast(speed),
                    faster,
                    "x",
                );
                section.verdict(
                    format!("{who}: CPU-s/GB beside nginx static"),
                    Bound::AtMost(cpu),
                    dearer,
                    "x",
                );
            }
        }
    }
    section
}

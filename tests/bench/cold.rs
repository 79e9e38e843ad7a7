//! The large blob through an empty cache, beside the same download straight from the upstream.
//!
//! Each round begins with a new process and an empty directory. The upstream is nginx, first unlimited, and then
//! limited to 50 MB/s on each connection, as object stores and CDNs do.
//!
//! In the same rounds, one core hashes the blob from memory. A sha256 cannot be spread over cores, and the last bytes
//! of a verified download wait for it. So this is the least time that larder, or any cache that verifies, can take.

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use larder_shared::{Algorithm, Hasher};

use crate::bench::{Bench, Pace};
use crate::client::Sink;
use crate::report::{Bound, Section};
use crate::server::Server;
use crate::stats::{median, paired, spread};

#[derive(Default)]
struct Series {
    name: &'static str,
    seconds: Vec<f64>,
    first_ms: Vec<f64>,
    cpu: Vec<f64>,
}

pub fn measure(bench: &Bench) -> Result<Section> {
    let plan = &bench.plan;
    let columns = [
        "upstream",
        "through",
        "seconds",
        "x direct",
        "first byte ms",
        "server CPU s",
    ];
    let title = format!(
        "Cold blob of {} MB, one copying client",
        plan.blob / 1_000_000
    );
    let mut section = Section::new(title, &columns);
    section.about("A new process and an empty directory each time; x direct is the median of the rounds' ratios of time.");
    section.about("Nothing that verifies can be faster than sha256 alone, one core from memory, in the same rounds.");
    let mut hashed = Vec::new();
    let open = rounds(bench, Pace::Open, plan.rounds, &mut hashed)?;
    rows(&mut section, "unlimited", &open);
    section.row([
        "-".to_owned(),
        "sha256 alone".to_owned(),
        spread(&hashed, 2),
        format!("{:.2}", paired(&hashed, &open[0].seconds)),
        String::new(),
        format!("{:.2}", median(&hashed)),
    ]);
    let beside = paired(&open[2].seconds, &open[1].seconds);
    section.verdict(
        "cold, unlimited upstream: throughput beside nginx proxy_cache",
        Bound::AtLeast(0.9),
        beside,
        "x",
    );
    section.about(format!(
        "Beside nginx proxy_cache that would be {:.2}x; larder reaches {:.2} of it.",
        paired(&open[2].seconds, &hashed),
        paired(&hashed, &open[1].seconds),
    ));
    let limited = rounds(bench, Pace::Limited, plan.limited_rounds, &mut Vec::new())?;
    rows(&mut section, "50 MB/s per connection", &limited);
    section.verdict(
        "cold, 50 MB/s per connection: time beside a direct pull",
        Bound::AtMost(0.35),
        paired(&limited[1].seconds, &limited[0].seconds),
        "x",
    );
    Ok(section)
}

/// Direct, larder, and nginx's cache. nginx's cache is measured once where it can at best equal a direct pull.
fn rounds(bench: &Bench, pace: Pace, rounds: usize, hashed: &mut Vec<f64>) -> Result<[Series; 3]> {
    let mut all: [Series; 3] = Default::default();
    for round in 0..rounds {
        for turn in 0..3 {
            let at = (turn + round) % 3;
            if at == 2 && pace == Pace::Limited && round > 0 {
                continue;
            }
            let server = match at {
                0 => bench.direct(pace),
                1 => bench.larder(pace, "info")?,
                _ => bench.nginx_cache(pace)?,
            };
            pull(bench, &server, &mut all[at])?;
            drop(server);
            // Dirty pages that one round has written must not slow down the next.
            nix::unistd::sync();
        }
        hashed.push(hash(bench)?.as_secs_f64());
    }
    Ok(all)
}

/// How long hashing the blob takes; reading it is not counted.
fn hash(bench: &Bench) -> Result<Duration> {
    let mut file = File::open(bench.origin.blob("bench", &bench.blob))?;
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut took = Duration::ZERO;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        let start = Instant::now();
        hasher.update(&buffer[..read]);
        took += start.elapsed();
    }
    ensure!(
        hasher.finish().to_string() == bench.blob,
        "the blob is not what it was"
    );
    Ok(took)
}

fn pull(bench: &Bench, server: &Server, series: &mut Series) -> Result<()> {
    let before = server.cpu()?;
    let got = server.get(&bench.blob_path(), Sink::Copy).run()?;
    ensure!(
        got.bytes == bench.plan.blob,
        "{}: too few bytes",
        server.name
    );
    series.name = server.name;
    series.seconds.push(got.took.as_secs_f64());
    series.first_ms.push(got.first_byte.as_secs_f64() * 1e3);
    series.cpu.push(server.cpu()? - before);
    Ok(())
}

fn rows(section: &mut Section, upstream: &str, all: &[Series; 3]) {
    for one in all {
        section.row([
            upstream.to_owned(),
            one.name.to_owned(),
            spread(&one.seconds, 2),
            format!("{:.2}", paired(&one.seconds, &all[0].seconds)),
            format!("{:.1}", median(&one.first_ms)),
            format!("{:.2}", median(&one.cpu)),
        ]);
    }
}

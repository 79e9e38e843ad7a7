//! A manifest by digest, warm, 32 connections: requests a second and latency.
//!
//! Twice: both servers as they come, writing an access line for each request, and both silent.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::bench::{Bench, Pace};
use crate::client::Sink;
use crate::report::{Bound, Section};
use crate::stats::{median, paired, spread};

const CONNECTIONS: usize = 32;

#[derive(Default)]
struct Series {
    per_second: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    cpu_us: Vec<f64>,
}

pub fn measure(bench: &Bench) -> Result<Section> {
    let path = format!("/v2/bench/manifests/{}", bench.manifest);
    let nginx = bench.nginx_static()?;
    let logging = bench.larder(Pace::Open, "info")?;
    let silent = bench.larder(Pace::Open, "info,access=off")?;
    // A server, the address that is measured, and whether it writes access lines; nginx before larder.
    let peers = [
        (&nginx, nginx.second_addr(), true),
        (&logging, logging.addr, true),
        (&nginx, nginx.addr, false),
        (&silent, silent.addr, false),
    ];
    for (server, ..) in peers {
        server.get(&path, Sink::Copy).run()?;
    }
    let mut all: Vec<Series> = peers.iter().map(|_| Series::default()).collect();
    for round in 0..bench.plan.rounds {
        for turn in 0..peers.len() {
            let at = (turn + round) % peers.len();
            let (server, addr, _) = peers[at];
            let before = server.cpu()?;
            let load = wrk(bench, &server.url(addr, &path))?;
            let cpu = server.cpu()? - before;
            let series = &mut all[at];
            series.per_second.push(load.per_second);
            series.p50_us.push(load.p50_us);
            series.p99_us.push(load.p99_us);
            series.cpu_us.push(cpu * 1e6 / load.requests);
        }
    }
    let columns = [
        "server",
        "access log",
        "req/s",
        "x nginx",
        "p50 us",
        "p99 us",
        "p99 x nginx",
        "CPU us/req",
    ];
    let mut section = Section::new(
        format!("Warm manifest by digest, {CONNECTIONS} connections"),
        &columns,
    );
    section.about(format!(
        "wrk -t1 -c{CONNECTIONS}, {} s each; nginx static reads the file for each request.",
        bench.plan.load.as_secs()
    ));
    for (at, (server, _, logs)) in peers.iter().enumerate() {
        let (one, nginx) = (&all[at], &all[at - at % 2]);
        let faster = paired(&one.per_second, &nginx.per_second);
        let slower = paired(&one.p99_us, &nginx.p99_us);
        section.row([
            server.name.to_owned(),
            if *logs { "on" } else { "off" }.to_owned(),
            spread(&one.per_second, 0),
            format!("{faster:.2}"),
            format!("{:.0}", median(&one.p50_us)),
            spread(&one.p99_us, 0),
            format!("{slower:.2}"),
            format!("{:.1}", median(&one.cpu_us)),
        ]);
        if at % 2 == 1 {
            let how = if *logs { "access logs on" } else { "silent" };
            let who = format!("warm manifest, {CONNECTIONS} connections, {how}");
            section.verdict(
                format!("{who}: requests/s beside nginx static"),
                Bound::AtLeast(0.8),
                faster,
                "x",
            );
            section.verdict(
                format!("{who}: p99 beside nginx static"),
                Bound::AtMost(2.0),
                slower,
                "x",
            );
        }
    }
    Ok(section)
}

struct Load {
    requests: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

fn wrk(bench: &Bench, url: &str) -> Result<Load> {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), "--latency"])
        .arg(format!("-d{}s", bench.plan.load.as_secs()))
        .arg(url)
        .output()
        .context("starting wrk; scripts/bench installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "wrk {url}: {}\n{text}",
        output.status
    );
    read_wrk(&text).with_context(|| format!("wrk said\n{text}"))
}

fn read_wrk(text: &str) -> Option<Load> {
    let value = |name: &str| {
        let mut lines = text.lines().map(str::trim);
        lines.find_map(|line| line.strip_prefix(name).map(str::trim))
    };
    let (requests, _) = text.split_once(" requests in ")?;
    Some(Load {
        requests: requests.lines().last()?.trim().parse().ok()?,
        per_second: value("Requests/sec:")?.parse().ok()?,
        p50_us: microseconds(value("50%")?)?,
        p99_us: microseconds(value("99%")?)?,
    })
}

/// `790.00us`, `5.23ms` or `1.20s`.
fn microseconds(text: &str) -> Option<f64> {
    let number = |unit: &str| text.strip_suffix(unit)?.parse::<f64>().ok();
    number("us")
        .or_else(|| Some(number("ms")? * 1e3))
        .or_else(|| Some(number("s")? * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let load = read_wrk(
            "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 32 connections\n  \
             Thread Stats   Avg      Stdev     Max   +/- Stdev\n    \
             Latency     1.03ms  401.00us  10.00ms   90.00%\n  Latency Distribution\n     \
             50%  790.00us\n     75%    1.10ms\n     90%    1.20ms\n     99%    5.25ms\n  \
             30161 requests in 1.00s, 48.00MB read\nRequests/sec:  30160.50\nTransfer/sec: 48.0MB\n",
        )
        .unwrap();
        assert!((load.requests - 30161.0).abs() < 1e-6);
        assert!((load.per_second - 30160.5).abs() < 1e-6);
        assert!((load.p50_us - 790.0).abs() < 1e-6);
        assert!((load.p99_us - 5250.0).abs() < 1e-6);
        assert!((microseconds("1.50s").unwrap() - 1.5e6).abs() < 1e-6);
        assert!(microseconds("fast").is_none());
    }
}

//! What larder costs where no client pulls: processor time and memory, alone and with everything on.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::fake::FakeRegistry;
use larder_tests::members::Cluster;
use larder_tests::node::Node;
use nix::unistd::{SysconfVar, sysconf};

use crate::bench::{Bench, Pace};
use crate::memory::resident;
use crate::report::{Bound, Section};

/// Scrapes are part of being idle: Prometheus asks every 15 to 60 s.
const SCRAPE_EVERY: Duration = Duration::from_secs(15);

/// Work of the start is over by then: the scan of the store, the look-up of members.
const SETTLE: Duration = Duration::from_secs(3);

pub fn measure(bench: &Bench) -> Result<Section> {
    let watch = bench.plan.idle;
    let mut section = Section::new(
        "Idle",
        &["larder", "CPU, of one core", "RSS MiB", "of it anonymous"],
    );
    section.about(format!(
        "Nobody pulls for {} s; /metrics is read at the beginning and every {} s. Everything on: three members over \
         mutual TLS and an object store.",
        watch.as_secs(),
        SCRAPE_EVERY.as_secs(),
    ));
    let alone = bench.node(Pace::Open, "info", None);
    let (share, mib, own) = idle(bench, &alone, watch)?;
    section.row([
        "alone".to_owned(),
        percent(share),
        format!("{mib:.1}"),
        format!("{own:.1}"),
    ]);
    drop(alone);

    let store = bench.dir.path().join("idle-objects");
    fs::create_dir_all(&store)?;
    let config = format!(
        "[cluster.object_store]\nurl = \"file://{}\"\n",
        store.display()
    );
    let cluster = bench.runtime.block_on(async {
        let fake = FakeRegistry::start().await;
        Cluster::of(3).upstream(&fake).config(&config).start().await
    });
    let (share, mib, own) = idle(bench, cluster.node(0), watch)?;
    section.row([
        "everything on".to_owned(),
        percent(share),
        format!("{mib:.1}"),
        format!("{own:.1}"),
    ]);
    section.verdict(
        "idle processor time, everything on, of one core",
        Bound::AtMost(0.2),
        share * 100.0,
        "%",
    );
    section.verdict(
        "idle memory, everything on",
        Bound::AtMost(16.0),
        mib,
        "MiB",
    );
    Ok(section)
}

/// The share of one core that a node uses over `watch`, and its RSS in MiB at the end, all and anonymous.
fn idle(bench: &Bench, node: &Node, watch: Duration) -> Result<(f64, f64, f64)> {
    std::thread::sleep(SETTLE);
    let before = cpu_seconds(node.pid())?;
    let mut left = watch;
    while !left.is_zero() {
        bench.runtime.block_on(node.metrics());
        let pause = left.min(SCRAPE_EVERY);
        std::thread::sleep(pause);
        left -= pause;
    }
    let used = cpu_seconds(node.pid())? - before;
    Ok((
        used / watch.as_secs_f64(),
        resident(node.pid(), "VmRSS")?,
        resident(node.pid(), "RssAnon")?,
    ))
}

/// Processor time of a process so far, to the tick of 10 ms; proc(5), fields 14 and 15 of `stat`.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no name")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || -> Result<f64> { Ok(fields.next().context("no time")?.parse()?) };
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok((ticks()? + ticks()?) / per_second as f64)
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

//! How many bytes the upstream sends when many clients want one blob, and when one client wants a little of it.
//!
//! The upstream is the tests' own registry, which counts what it has sent to the byte.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::FakeRegistry;
use larder_tests::node::Node;

use crate::bench::{Bench, REGISTRY};
use crate::client::{Sink, together};
use crate::memory::resident;
use crate::report::{Bound, Section};
use crate::server::Server;
use crate::stats::{median, spread};

const CLIENTS: usize = 32;
const READS: usize = 100;
const READ: u64 = 50_000;
/// The unit of presence in larder's store.
const SPAN: u64 = 1 << 20;

pub fn measure(bench: &Bench) -> Result<Section> {
    let columns = [
        "what",
        "wanted MB",
        "upstream sent MB",
        "x wanted",
        "seconds",
        "larder RSS MiB",
    ];
    let mut section = Section::new("Bytes asked of the upstream", &columns);
    section.about(format!(
        "An empty larder each time; {CLIENTS} discarding clients start together; {READS} reads of {} KB one after another.",
        READ / 1000
    ));
    section.about(format!(
        "Wanted: the blob once; or each span of {SPAN} bytes that a read touches, once."
    ));
    let fake = bench.runtime.block_on(FakeRegistry::start());
    let digest = fake.put_blob_of("bench", 2, bench.plan.blob);
    let path = format!("/v2/bench/blobs/{digest}");
    let mut herd = Vec::new();
    for _ in 0..bench.plan.counts {
        let larder = larder(bench, &fake)?;
        let get = larder.get(&path, Sink::Discard);
        let (_, took) = together(CLIENTS, |_| get.run())?;
        let sent = sent(&fake, &digest)?;
        herd.push((bench.plan.blob, sent, took, peak(&larder)?));
    }
    let what = format!(
        "{CLIENTS} clients, one cold blob of {} MB",
        bench.plan.blob / 1_000_000
    );
    let ratio = row(&mut section, &what, &herd);
    section.verdict(
        format!("{CLIENTS} cold clients, one blob: upstream bytes"),
        Bound::AtMost(1.02),
        ratio,
        "x",
    );
    let mut lazy = Vec::new();
    for round in 0..bench.plan.counts {
        let larder = larder(bench, &fake)?;
        let mut random = fastrand::Rng::with_seed(round as u64);
        let mut touched = BTreeSet::new();
        let start = Instant::now();
        for _ in 0..READS {
            let first = random.u64(..bench.plan.blob - READ);
            let last = first + READ - 1;
            touched.extend(first / SPAN..=last / SPAN);
            let mut get = larder.get(&path, Sink::Copy);
            get.range = Some((first, last));
            let got = get.run()?;
            ensure!(got.bytes == READ, "{} bytes of a range came", got.bytes);
        }
        let took = start.elapsed();
        let wanted = touched.len() as u64 * SPAN;
        lazy.push((wanted, sent(&fake, &digest)?, took, peak(&larder)?));
    }
    let what = format!("{READS} random cold ranges of {} KB", READ / 1000);
    let ratio = row(&mut section, &what, &lazy);
    section.verdict(
        format!(
            "{READS} random cold ranges of {} KB: upstream bytes beside spans touched",
            READ / 1000
        ),
        Bound::AtMost(1.3),
        ratio,
        "x",
    );
    Ok(section)
}

fn larder(bench: &Bench, fake: &FakeRegistry) -> Result<Server> {
    fake.reset_counts();
    let node = Node::builder()
        .upstream_at(REGISTRY, &fake.url())
        .log_level("info");
    let node = bench.runtime.block_on(node.start());
    Server::larder(&bench.accounting, node)
}

/// Bytes of the blob that the registry has sent, once it sends no more.
fn sent(fake: &FakeRegistry, digest: &str) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while fake.count(|seen| !seen.finished) > 0 {
        ensure!(Instant::now() < deadline, "the upstream still sends");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(fake.blob_bytes_sent(digest))
}

fn peak(larder: &Server) -> Result<f64> {
    let node = larder.node().context("not larder")?;
    resident(node.pid(), "VmHWM")
}

/// Adds a row and gives the median ratio.
fn row(section: &mut Section, what: &str, rounds: &[(u64, u64, Duration, f64)]) -> f64 {
    let column = |value: fn(&(u64, u64, Duration, f64)) -> f64| -> Vec<f64> {
        rounds.iter().map(value).collect()
    };
    let ratios = column(|(wanted, sent, ..)| *sent as f64 / *wanted as f64);
    section.row([
        what.to_owned(),
        format!("{:.1}", median(&column(|one| one.0 as f64 / 1e6))),
        format!("{:.1}", median(&column(|one| one.1 as f64 / 1e6))),
        spread(&ratios, 4),
        format!("{:.2}", median(&column(|one| one.2.as_secs_f64()))),
        format!("{:.1}", median(&column(|one| one.3))),
    ]);
    median(&ratios)
}

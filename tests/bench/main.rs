//! Measures larder beside nginx and docker-registry on one machine, in one run, and prints the figures.
//!
//! A benchmark, not a test: it fails when something cannot be measured, never because a figure is bad. `scripts/bench`
//! builds everything, gives it a network of its own where it can, and starts it. Each section's module says at its top
//! what it compares, and how. The targets stand in BENCHMARKS.md.

mod authorization;
mod bench;
mod client;
mod cold;
mod cpu;
mod economy;
mod first_byte;
mod idle;
mod lazy;
mod link;
mod machine;
mod manifest;
mod members;
mod memory;
mod nginx;
mod origin;
mod report;
mod restart;
mod server;
mod slow;
mod stats;
mod streaming;
mod warm;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use self::bench::{Bench, Plan};
use self::report::{Report, Section};

const USAGE: &str =
    "usage: larder-bench [--quick] [--only SECTION[,SECTION…]] [--image MB] [--markdown FILE]";

/// Measures one section of the report.
type Measure = fn(&Bench) -> Result<Section>;

/// Every section, in the order of the report.
const SECTIONS: [(&str, Measure); 12] = [
    ("warm", warm::measure),
    ("warm-bbr", warm::measure_bbr),
    ("manifest", manifest::measure),
    ("authorization", authorization::measure),
    ("cold", cold::measure),
    ("first-byte", first_byte::measure),
    ("economy", economy::measure),
    ("restart", restart::measure),
    ("memory", memory::measure),
    ("idle", idle::measure),
    ("link", link::measure),
    ("slow", slow::measure),
];

/// Sections that take so long that they run only where `--only` names them.
const ASKED_FOR: [(&str, Measure); 3] = [
    ("members", members::measure),
    ("streaming", streaming::measure),
    ("lazy", lazy::measure),
];

/// The whole run must end within this time where the command line says how large the image is.
const FOR_AN_IMAGE: Duration = Duration::from_hours(1);

struct Arguments {
    quick: bool,
    only: Vec<String>,
    /// Bytes of the image of `streaming` and `lazy`.
    image: Option<u64>,
    markdown: Option<PathBuf>,
}

fn arguments() -> Result<Arguments> {
    let mut said = Arguments {
        quick: false,
        only: Vec::new(),
        image: None,
        markdown: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => said.quick = true,
            "--only" => {
                let names = words.next().context(USAGE)?;
                said.only = names.split(',').map(str::to_owned).collect();
            }
            "--image" => {
                let mb: u64 = words.next().context(USAGE)?.parse().context(USAGE)?;
                ensure!(mb >= 10, "an image has 10 MB or more");
                said.image = Some(mb * 1_000_000);
            }
            "--markdown" => said.markdown = Some(words.next().context(USAGE)?.into()),
            _ => bail!("unknown argument {word}; {USAGE}"),
        }
    }
    for name in &said.only {
        let known: Vec<_> = sections().map(|(name, _)| name).collect();
        ensure!(
            known.contains(&&**name),
            "no section {name}; there are {}",
            known.join(", ")
        );
    }
    Ok(said)
}

fn sections() -> impl Iterator<Item = (&'static str, Measure)> {
    SECTIONS.into_iter().chain(ASKED_FOR)
}

fn main() -> Result<ExitCode> {
    let said = arguments()?;
    let mut plan = if said.quick {
        Plan::quick()
    } else {
        Plan::full()
    };
    if let Some(size) = said.image {
        plan.image = size;
        plan.limit = FOR_AN_IMAGE;
    }
    let began = Instant::now();
    client::end_all_by(began + plan.limit);
    let bench = Bench::new(plan)?;
    let mut report = Report::new(machine::describe(&bench));
    say(&report.head());
    for (name, measure) in sections() {
        let asked_for = said.only.iter().any(|only| only == name);
        let always = said.only.is_empty() && SECTIONS.iter().any(|(one, _)| *one == name);
        if !asked_for && !always {
            continue;
        }
        let start = Instant::now();
        // The harness panics when a program does not start; the other sections can still be measured.
        let outcome = catch_unwind(AssertUnwindSafe(|| measure(&bench)))
            .unwrap_or_else(|_| bail!("it panicked; the cause is above"));
        match outcome {
            Ok(section) => {
                say(&section.text());
                report.add(section);
            }
            Err(error) => {
                say(&format!("\n== {name}: NOT MEASURED: {error:#}\n"));
                report.failed(name, &error);
            }
        }
        say(&format!(
            "   ({name}: {:.0} s, load {})\n",
            start.elapsed().as_secs_f64(),
            machine::load()
        ));
    }
    report.took = began.elapsed();
    say(&report.verdicts());
    if let Some(path) = &said.markdown {
        std::fs::write(path, report.markdown())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(if report.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is no failure: the Markdown file may still be wanted.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

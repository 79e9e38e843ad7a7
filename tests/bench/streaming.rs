//! What a large image costs until a command in it is done, on each way to it; and what making ready layers costs.
//!
//! The registry gives 20 MB/s on each connection, and takes 10 ms for each request. The command reads one of 64 files
//! of the image, one after the other. A real containerd 2.4 pulls and runs it with a real runc, with an empty content
//! store each time. Files that were just unpacked are in memory; where files are read from disk, their pages were
//! dropped before.

mod stage;

use anyhow::{Context as _, Result};
use larder_tests::real::refusal;

use self::stage::Stage;
use crate::bench::Bench;
use crate::report::{Bound, Section};
use crate::stats::{median, paired, spread};

/// Bytes a second on each connection of the registry, and how long it takes to answer.
const RATE: u64 = 20_000_000;
const ANSWERS_AFTER_MS: u64 = 10;

/// How often each round reads all files.
const READS: usize = 2;

/// The ways to get an image. The measurements of one way are a row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// containerd asks the registry, and unpacks for overlayfs.
    Straight,
    /// containerd asks a larder that has nothing.
    Cold,
    /// containerd asks a larder that has all of the image.
    Warm,
    /// containerd finds the layers ready, and mounts them. The files are in memory, as those just unpacked are.
    Ready,
    /// The same, but no page of the files is in memory.
    ReadyCold,
}

impl Way {
    /// In the order of a round: a larder that was cold is warm afterwards.
    const ALL: [Self; 5] = [
        Self::Straight,
        Self::Cold,
        Self::Warm,
        Self::ReadyCold,
        Self::Ready,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Straight => "straight, unpacked for overlayfs",
            Self::Cold => "through larder cold, unpacked",
            Self::Warm => "through larder warm, unpacked",
            Self::Ready => "through larder, ready layers in memory",
            Self::ReadyCold => "through larder, ready layers on disk",
        }
    }
}

/// One pull and one command.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Seconds of the pull, and until the command was done.
    pull: f64,
    done: f64,
    /// Bytes that the registry sent, and its number of requests.
    sent: u64,
    requests: usize,
}

/// The making of the ready files.
#[derive(Clone, Copy, Debug)]
struct Making {
    seconds: f64,
    cpu: f64,
    /// MiB before the making, and at its peak.
    before: f64,
    most: f64,
}

pub fn measure(bench: &Bench) -> Result<Section> {
    let size = bench.plan.image;
    let title = format!(
        "An image of {} MB until a command in it is done",
        size / 1_000_000
    );
    let columns = [
        "way",
        "pull s",
        "until done s",
        "x straight",
        "upstream MB",
        "requests",
    ];
    let mut section = Section::new(title, &columns);
    if let Some(why) = refusal() {
        section.about(format!("Left out: {why}."));
        return Ok(section);
    }
    let (mut stage, making) = bench.runtime.block_on(async {
        let mut stage = Stage::new(bench, size).await?;
        let making = stage.make_ready().await?;
        anyhow::Ok((stage, making))
    })?;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); Way::ALL.len()];
    let (mut unpacked, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..bench.plan.pulls {
        for (way, runs) in Way::ALL.into_iter().zip(&mut runs) {
            let run = bench.runtime.block_on(stage.run(way));
            runs.push(run.with_context(|| format!("{way:?}"))?);
        }
        for _ in 0..READS {
            let read = |way| bench.runtime.block_on(stage.read_all(way));
            unpacked.push(read(Way::Warm)? / 1e6);
            ready.push(read(Way::ReadyCold)? / 1e6);
        }
    }
    let of = |way: Way, figure: fn(&Run) -> f64| -> Vec<f64> {
        let at = Way::ALL.into_iter().position(|one| one == way);
        runs[at.unwrap_or_default()].iter().map(figure).collect()
    };
    let (all, few) = (&stage.image().all, &stage.image().few);
    section.about(format!(
        "4 layers, {:.0} MB compressed by gzip -1, {:.0} MB in {} files. The command reads {} of them, {:.1} MB.",
        stage.compressed() as f64 / 1e6,
        all.bytes as f64 / 1e6,
        all.files,
        few.files,
        few.bytes as f64 / 1e6,
    ));
    section.about(format!(
        "The registry: {} MB/s on each connection, {ANSWERS_AFTER_MS} ms for each request. {} interleaved rounds, medians.",
        RATE / 1_000_000,
        bench.plan.pulls,
    ));
    for way in Way::ALL {
        section.row([
            way.as_str().to_owned(),
            spread(&of(way, |run| run.pull), 2),
            spread(&of(way, |run| run.done), 2),
            format!(
                "{:.3}",
                paired(&of(way, |run| run.done), &of(Way::Straight, |run| run.done))
            ),
            format!("{:.1}", median(&of(way, |run| run.sent as f64 / 1e6))),
            format!("{:.0}", median(&of(way, |run| run.requests as f64))),
        ]);
    }
    let beside = paired(&ready, &unpacked);
    section.about(format!(
        "All files read from disk, one after the other: {} MB/s over overlayfs on unpacked layers, {} MB/s over ready ones.",
        spread(&unpacked, 0),
        spread(&ready, 0),
    ));
    let per_gb = making.cpu * 1e9 / stage.compressed() as f64;
    section.about(format!(
        "The ready files, made once: {:.1} s, {per_gb:.1} CPU-s per compressed GB for index and file together; RSS {:.1} MiB before, {:.1} at the most.",
        making.seconds, making.before, making.most,
    ));
    let pull = median(&of(Way::ReadyCold, |run| run.pull));
    section.verdict("ready layers on disk: pull", Bound::AtMost(1.5), pull, "s");
    section.verdict(
        "ready layers, all files read from disk: throughput beside overlayfs",
        Bound::AtLeast(0.95),
        beside,
        "x",
    );
    section.verdict(
        "ready layers made, index and file: CPU-s per compressed GB",
        Bound::AtMost(15.0),
        per_gb,
        "",
    );
    section.verdict(
        "ready layers made: memory on top",
        Bound::AtMost(64.0),
        making.most - making.before,
        "MiB",
    );
    Ok(section)
}

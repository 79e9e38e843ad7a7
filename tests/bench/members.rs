//! What the nodes of a small cluster pay for an image over links as nodes have them: processor time of all of them
//! together, what the registry sends and is asked, and memory at the peak and a minute later.
//!
//! Four members over mutual TLS, each in a network namespace with a shaped link, and the registry in one more. Where
//! `LARDER_BEFORE` names another larder, all of it is measured for both, in turns.

mod alone;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use futures_util::future::try_join_all;
use larder_tests::fake::FakeRegistry;
use larder_tests::hosts::{Net, Shape};
use larder_tests::image::{Image, LayerSpec, build};
use larder_tests::members::Cluster;
use larder_tests::node::{Node, larder_program};

use crate::bench::Bench;
use crate::cpu::{Accounting, Share};
use crate::memory::resident;
use crate::report::{Bound, Section};
use crate::stats::{median, spread};

const MEMBERS: usize = 4;
const REPOSITORY: &str = "bench/image";

/// Mbit/s of each link, in each direction.
const LINK: u32 = 200;

/// Mbit/s where three members pull from the one that has the image.
const FAST_LINK: u32 = 1000;

/// The share of a core that a busy member gets.
const BUSY: f64 = 0.1;

/// How long after the last byte memory is measured again.
const LATER: Duration = Duration::from_mins(1);

/// One larder under comparison.
struct Version {
    name: &'static str,
    program: PathBuf,
}

/// The members that pull.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pullers {
    One,
    All,
    /// All but the first, which has the image already.
    Others,
}

impl Pullers {
    fn numbers(self) -> std::ops::Range<usize> {
        match self {
            Self::One => 0..1,
            Self::All => 0..MEMBERS,
            Self::Others => 1..MEMBERS,
        }
    }
}

/// A case, and its figures for one version.
struct Case {
    name: String,
    pullers: Pullers,
    link: u32,
    /// The share of a core of each member; `None` for no limit.
    share: Option<f64>,
}

#[derive(Default)]
struct Figures {
    cpu: Vec<f64>,
    seconds: Vec<f64>,
    images: Vec<f64>,
    requests: Vec<f64>,
    peak: Vec<f64>,
    later: Vec<f64>,
}

pub fn measure(bench: &Bench) -> Result<Section> {
    let size = if bench.plan.quick { 100 } else { 400 } * 1_000_000;
    let columns = [
        "case",
        "larder",
        "CPU s of all",
        "seconds",
        "upstream images",
        "upstream requests",
        "peak RSS MiB",
        "RSS MiB later",
    ];
    let title = format!(
        "{MEMBERS} members, an image of 4 layers, {} MB, shaped links",
        size / 1_000_000
    );
    let mut section = Section::new(title, &columns);
    section.about("Mutual TLS; each node and the registry behind a link of its own. The highest memory of a node counts.");
    section.about(format!(
        "Later: {} s after the last byte, or after the connections ended.",
        later(bench).as_secs()
    ));
    if !nix::unistd::geteuid().is_root() {
        section.about("Left out: shaped links take root.");
        return Ok(section);
    }
    let mut versions = vec![Version {
        name: "this",
        program: larder_program(),
    }];
    if let Some(program) = std::env::var_os("LARDER_BEFORE") {
        versions.push(Version {
            name: "before",
            program: program.into(),
        });
    }
    let case = |name: String, pullers, link, share| Case {
        name,
        pullers,
        link,
        share,
    };
    let cases = [
        case(
            format!("cold, one pulls, {LINK} Mbit/s"),
            Pullers::One,
            LINK,
            None,
        ),
        case(
            format!("cold, all pull, {LINK} Mbit/s"),
            Pullers::All,
            LINK,
            None,
        ),
        case(
            format!("three pull what one has, {FAST_LINK} Mbit/s"),
            Pullers::Others,
            FAST_LINK,
            None,
        ),
        case(
            format!("cold, all pull, each has {:.0} % of a core", BUSY * 100.0),
            Pullers::All,
            LINK,
            Some(BUSY),
        ),
    ];
    for case in &cases {
        if let Some(why) = case.share.and_then(Share::refusal) {
            section.about(format!("Left out: {}: {why:#}.", case.name));
            continue;
        }
        let mut all: Vec<Figures> = versions.iter().map(|_| Figures::default()).collect();
        let rounds = match case.pullers {
            Pullers::Others => 1,
            _ => bench.plan.pulls,
        };
        for round in 0..rounds {
            for turn in 0..versions.len() {
                let at = (turn + round) % versions.len();
                pull(bench, case, &versions[at], size, round, &mut all[at])?;
            }
        }
        for (version, figures) in versions.iter().zip(&all) {
            section.row([
                case.name.clone(),
                version.name.to_owned(),
                spread(&figures.cpu, 2),
                spread(&figures.seconds, 1),
                spread(&figures.images, 3),
                spread(&figures.requests, 0),
                spread(&figures.peak, 1),
                if figures.later.is_empty() {
                    String::new()
                } else {
                    spread(&figures.later, 1)
                },
            ]);
        }
        judge(&mut section, case, &all[0]);
    }
    alone::measure(bench, &versions, &mut section)?;
    Ok(section)
}

fn judge(section: &mut Section, case: &Case, figures: &Figures) {
    let name = &case.name;
    section.verdict(
        format!("{name}: upstream images"),
        Bound::AtMost(if case.share.is_some() { 1.1 } else { 1.05 }),
        median(&figures.images),
        "",
    );
    if case.pullers == Pullers::Others {
        let [peak, later] = [median(&figures.peak), median(&figures.later)];
        section.verdict(
            format!("{name}: peak RSS"),
            Bound::AtMost(64.0),
            peak,
            "MiB",
        );
        section.verdict(
            format!("{name}: RSS later"),
            Bound::AtMost(24.0),
            later,
            "MiB",
        );
    }
}

fn later(bench: &Bench) -> Duration {
    if bench.plan.quick { LATER / 3 } else { LATER }
}

fn pull(
    bench: &Bench,
    case: &Case,
    version: &Version,
    size: u64,
    round: usize,
    figures: &mut Figures,
) -> Result<()> {
    let net = Net::new(MEMBERS);
    let shape = Shape::mbit(case.link);
    net.upstream().shape(shape);
    (0..MEMBERS).for_each(|number| net.host(number).shape(shape));
    bench.runtime.block_on(async {
        let fake = FakeRegistry::start_in(net.upstream()).await;
        let specs = [8, 6, 4, 2].map(|part| {
            let seed = part + 10 * round as u64;
            LayerSpec::new(seed, size * part / 20)
        });
        let image = build(&fake, REPOSITORY, "v1", &specs);
        let plan = Cluster::in_hosts(&net).upstream(&fake);
        let cluster = plan.program(&version.program).start().await;
        let pids: Vec<u32> = cluster.nodes().iter().map(Node::pid).collect();
        if case.pullers == Pullers::Others {
            pull_by(&cluster, &fake, &image, 0..1).await?;
            let digests: Vec<_> = image
                .layers
                .iter()
                .map(|layer| layer.digest.clone())
                .collect();
            for digest in digests {
                ensure!(fake.blob_bytes_sent(&digest) > 0, "{digest} was not pulled");
            }
        }
        // A share moves a process into a group of its own, and perhaps out of the account's.
        let accounting = match case.share {
            Some(_) => &Accounting::Ticks,
            None => &bench.accounting,
        };
        let meter = accounting.meter("members", &pids)?;
        let shares = case.share.iter().flat_map(|share| {
            let pids = pids.iter();
            pids.map(move |pid| Share::give(*pid, *share))
        });
        let shares: Vec<Share> = shares.collect::<Result<_>>()?;
        let (cpu, sent) = (meter.seconds()?, upstream(&fake, &image));
        let begun = Instant::now();
        pull_by(&cluster, &fake, &image, case.pullers.numbers()).await?;
        figures.seconds.push(begun.elapsed().as_secs_f64());
        figures.cpu.push(meter.seconds()? - cpu);
        let now = upstream(&fake, &image);
        let had = if case.pullers == Pullers::Others {
            1.0
        } else {
            0.0
        };
        figures
            .images
            .push(had + (now.0 - sent.0) as f64 / image.size() as f64);
        figures.requests.push((now.1 - sent.1) as f64);
        figures.peak.push(highest(&pids, "VmHWM")?);
        if case.pullers == Pullers::Others {
            tokio::time::sleep(later(bench)).await;
            figures.later.push(highest(&pids, "VmRSS")?);
        }
        drop(cluster);
        drop((meter, shares));
        anyhow::Ok(())
    })
}

async fn pull_by(
    cluster: &Cluster,
    fake: &FakeRegistry,
    image: &Image,
    numbers: std::ops::Range<usize>,
) -> Result<()> {
    let pulls = numbers.map(|number| {
        let (door, image) = (cluster.door(number, fake, REPOSITORY), image.clone());
        tokio::spawn(async move { door.pull("v1", &image).await })
    });
    for got in try_join_all(pulls).await? {
        got.map_err(|error| anyhow!(error))?;
    }
    Ok(())
}

/// What the registry has sent of an image's layers, in bytes, and how many requests it has answered.
fn upstream(fake: &FakeRegistry, image: &Image) -> (u64, usize) {
    let sent = larder_tests::members::upstream_bytes(fake, image);
    (sent, fake.count(|_| true))
}

/// The highest of these processes' figures, in MiB.
fn highest(pids: &[u32], name: &str) -> Result<f64> {
    let all: Result<Vec<f64>> = pids.iter().map(|pid| resident(*pid, name)).collect();
    Ok(all?.into_iter().fold(0.0, f64::max))
}

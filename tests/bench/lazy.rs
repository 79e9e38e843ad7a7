//! An image that starts before it is on the node: the first member of a cluster has it whole, the second member has
//! nothing.
//!
//! The registry gives 20 MB/s on each connection, and takes 10 ms for each request. The command reads one of 64 files
//! of the image, or all files of one of 64 directories, one after the other. Members are on the loopback interface.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::holder::Holder;
use larder_tests::image::{FEW, Large, READER, TOGETHER, Told, build_large};
use larder_tests::members::Cluster;
use larder_tests::node::Node;
use larder_tests::real::{Containerd, Release, refusal, succeeded};
use larder_tests::watcher::Watcher;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::report::{Bound, Section};
use crate::stats::{median, paired, spread};

const RATE: u64 = 20_000_000;
const ANSWERS_AFTER: Duration = Duration::from_millis(10);

const REPOSITORY: &str = "team/app";
const FIRST: usize = 0;
const SECOND: usize = 1;

/// Within this time indexes are made, layers become whole, and an order is learnt.
const PATIENCE: Duration = Duration::from_mins(5);

/// The ways to get the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// containerd asks the registry, and unpacks for overlayfs.
    Straight,
    /// containerd mounts its layers before they are on the node.
    Lazy,
    /// The same, and larder fetches ahead what an earlier start has read.
    Learnt,
    /// The same two, where the command reads whole directories.
    LazyTogether,
    LearntTogether,
}

impl Way {
    /// In the order of a round: larder learns an order from the lazy start before.
    const ALL: [Self; 5] = [
        Self::Straight,
        Self::Lazy,
        Self::Learnt,
        Self::LazyTogether,
        Self::LearntTogether,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Straight => "straight, unpacked for overlayfs",
            Self::Lazy => "lazy layers",
            Self::Learnt => "lazy layers, learnt order",
            Self::LazyTogether => "lazy layers, files that lie together",
            Self::LearntTogether => "lazy layers, learnt order, files that lie together",
        }
    }

    /// Whether larder knows what the command will read.
    const fn is_learnt(self) -> bool {
        matches!(self, Self::Learnt | Self::LearntTogether)
    }

    /// The list that the command reads, and what it says of it.
    fn list(self, image: &Large) -> (&'static str, &Told) {
        match self {
            Self::Straight | Self::Lazy | Self::Learnt => (FEW, &image.few),
            Self::LazyTogether | Self::LearntTogether => (TOGETHER, &image.together),
        }
    }
}

/// One pull and one command.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Seconds of the pull, until the command was done, and until the whole image was on the node.
    pull: f64,
    done: f64,
    whole: f64,
    /// Bytes that came to the node until the command was done.
    brought: f64,
}

pub fn measure(bench: &Bench) -> Result<Section> {
    let size = bench.plan.image;
    let title = format!(
        "An image of {} MB starts before it is here",
        size / 1_000_000
    );
    let columns = [
        "way",
        "pull s",
        "until done s",
        "x straight",
        "brought MB until done",
        "whole s",
    ];
    let mut section = Section::new(title, &columns);
    if let Some(why) = refusal() {
        section.about(format!("Left out: {why}."));
        return Ok(section);
    }
    let mut stage = bench.runtime.block_on(Stage::new(size))?;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); Way::ALL.len()];
    for _ in 0..bench.plan.pulls {
        for (way, runs) in Way::ALL.into_iter().zip(&mut runs) {
            let run = bench.runtime.block_on(stage.run(way));
            runs.push(run.with_context(|| format!("{way:?}"))?);
        }
    }
    let of = |way: Way, figure: fn(&Run) -> f64| -> Vec<f64> {
        let at = Way::ALL.into_iter().position(|one| one == way);
        runs[at.unwrap_or_default()].iter().map(figure).collect()
    };
    let (few, together) = (&stage.image.few, &stage.image.together);
    section.about(format!(
        "The command reads {} files, {:.1} MB of the image's {:.0}, which lie evenly over it; or {} files, {:.1} MB, in a \
         few directories. {} interleaved rounds, medians.",
        few.files,
        few.bytes as f64 / 1e6,
        stage.image.all.bytes as f64 / 1e6,
        together.files,
        together.bytes as f64 / 1e6,
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
            format!("{:.1}", median(&of(way, |run| run.brought / 1e6))),
            spread(&of(way, |run| run.whole), 1),
        ]);
    }
    let done = |way| median(&of(way, |run| run.done));
    let brought = |way, told: &Told| median(&of(way, |run| run.brought)) / told.bytes as f64;
    let whole = paired(
        &of(Way::Lazy, |run| run.whole),
        &of(Way::Straight, |run| run.pull),
    );
    for (what, bound, measured, unit) in [
        (
            "lazy layers: pull",
            1.5,
            median(&of(Way::Lazy, |run| run.pull)),
            "s",
        ),
        ("lazy layers: until done", 20.0, done(Way::Lazy), "s"),
        (
            "lazy layers, learnt order: until done",
            4.0,
            done(Way::Learnt),
            "s",
        ),
        (
            "lazy layers, learnt order: bytes brought, of those read",
            3.0,
            brought(Way::Learnt, few),
            "x",
        ),
        (
            "lazy layers, files that lie together: until done",
            20.0,
            done(Way::LazyTogether),
            "s",
        ),
        (
            "lazy layers, learnt order, files that lie together: until done",
            4.0,
            done(Way::LearntTogether),
            "s",
        ),
        (
            "lazy layers, learnt order, files that lie together: bytes brought, of those read",
            3.0,
            brought(Way::LearntTogether, together),
            "x",
        ),
        ("lazy layers: whole, beside a plain pull", 1.0, whole, "x"),
    ] {
        section.verdict(what, Bound::AtMost(bound), measured, unit);
    }
    Ok(section)
}

struct Stage {
    image: Large,
    /// Unpacks; pulls straight from the registry.
    straight: Containerd,
    /// Mounts; pulls through the second member.
    mounts: Containerd,
    cluster: Cluster,
    holder: Option<Holder>,
    fake: FakeRegistry,
    dir: TempDir,
    _first: (Containerd, Watcher),
    _watcher: Watcher,
}

impl Stage {
    /// The first member has the image and its indexes.
    async fn new(size: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lazy-").tempdir()?;
        let fake = FakeRegistry::start().await;
        let image = build_large(&fake, REPOSITORY, "v1", size)?;
        fake.fault(Match::any(), Fault::Delay(ANSWERS_AFTER));
        fake.fault(Match::any(), Fault::ThrottleBytesPerSecond(RATE));
        let runtime = Containerd::start(Release::Two).await?;
        let first = Watcher::start(&runtime.socket(), &["--every", "1s"]);
        let layers = dir.path().join("layers");
        let mounts = Containerd::start_with_ready_files(&layers).await?;
        let second = Watcher::start(&mounts.socket(), &["--every", "1s"]);
        let hold = dir.path().join("hold");
        fs::create_dir_all(&hold)?;
        // Of one holder's daemons the last to come serves, so the first member has none.
        let config = |report: PathBuf, layers: &Path, holder: &Path| {
            format!(
                "[runtime]\nfile = \"{}\"\ncontent = \"off\"\n[streaming]\nmode = \"lazy\"\nmin_layer = \"0\"\ndirectory = \"{}\"\nholder = \"{}\"\n",
                report.display(),
                layers.display(),
                holder.display(),
            )
        };
        let plan = Cluster::of(1).upstream(&fake).stranger(SECOND);
        let others = dir.path().join("others");
        let of_first = config(first.file(), &others, &others.join("socket"));
        let of_second = config(second.file(), &layers, &hold.join("socket"));
        let plan = plan
            .config_of(FIRST, &of_first)
            .config_of(SECOND, &of_second);
        let mut cluster = plan.start().await;
        let name = format!("{}/{REPOSITORY}:v1", fake.host());
        lead(&runtime, &fake, &cluster.node(FIRST).url())?;
        succeeded(&runtime.ctr_pull(&name, &[]).await?)?;
        let wanted = image.diff_ids.len() as f64;
        let deadline = Instant::now() + PATIENCE;
        while cluster.node(FIRST).metric_sum("larder_layer_indexes").await < wanted {
            ensure!(Instant::now() < deadline, "{}", cluster.node(FIRST).log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.add().await;
        lead(&mounts, &fake, &cluster.node(SECOND).url())?;
        let straight = Containerd::start(Release::Two).await?;
        lead(&straight, &fake, &fake.url())?;
        Ok(Self {
            image,
            straight,
            mounts,
            cluster,
            holder: None,
            fake,
            dir,
            _first: (runtime, first),
            _watcher: second,
        })
    }

    fn name(&self) -> String {
        format!("{}/{REPOSITORY}:v1", self.fake.host())
    }

    fn second(&self) -> &Node {
        self.cluster.node(SECOND)
    }

    async fn run(&mut self, way: Way) -> Result<Run> {
        let name = self.name();
        let containerd = if way == Way::Straight {
            &self.straight
        } else {
            &self.mounts
        };
        if !succeeded(&containerd.ctr(&["images", "ls", "-q"]).await?)?.is_empty() {
            containerd.remove(&name).await?;
        }
        if way != Way::Straight {
            self.empty(way).await?;
        }
        let containerd = if way == Way::Straight {
            &self.straight
        } else {
            &self.mounts
        };
        let start = Instant::now();
        succeeded(&containerd.ctr_pull(&name, &[]).await?)
            .with_context(|| format!("{way:?}: {}", self.second().log()))?;
        let pull = start.elapsed().as_secs_f64();
        let (list, told) = way.list(&self.image);
        let said = containerd.run_in_image(&name, &[READER, list]).await?;
        let done = start.elapsed().as_secs_f64();
        told.took(&said)?;
        if way == Way::Straight {
            let brought = self.image.image.layers.iter();
            return Ok(Run {
                pull,
                done,
                whole: pull,
                brought: brought.map(|layer| layer.content.len()).sum::<u64>() as f64,
            });
        }
        let brought = self
            .second()
            .metric_sum("larder_received_bytes_total")
            .await;
        let whole = self.until(start, "all layers are whole", async |stage| {
            let shown = stage.second().admin("/layers").await;
            let layers = shown["layers"].as_array().cloned().unwrap_or_default();
            ensure!(
                !layers.is_empty(),
                "nothing was offered: {}",
                stage.second().log()
            );
            Ok(layers.iter().all(|layer| layer["streams"] == false))
        });
        let whole = whole.await?.as_secs_f64();
        let orders = self.second().store().join("orders");
        self.until(start, "the order is learnt", async |_| {
            Ok(fs::read_dir(&orders).is_ok_and(|mut orders| orders.next().is_some()))
        })
        .await?;
        Ok(Run {
            pull,
            done,
            whole,
            brought,
        })
    }

    /// How long after `start` the condition held.
    async fn until(
        &self,
        start: Instant,
        what: &str,
        condition: impl AsyncFn(&Self) -> Result<bool>,
    ) -> Result<Duration> {
        while !condition(self).await? {
            ensure!(
                start.elapsed() < PATIENCE,
                "{what}: {}",
                self.second().log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(start.elapsed())
    }

    /// Empties the second member, but for what it has learnt.
    async fn empty(&mut self, way: Way) -> Result<()> {
        let can_mount = |stage: &Self| {
            let log = stage.second().log();
            log.matches("layers can be mounted before they are here")
                .count()
        };
        let before = can_mount(self);
        self.cluster.node_mut(SECOND).kill9().await;
        self.holder = None;
        let layers = self.dir.path().join("layers");
        for entry in fs::read_dir(self.second().store())?.chain(fs::read_dir(&layers)?) {
            let entry = entry?;
            let keeps = way.is_learnt() && entry.file_name() == "orders";
            if entry.file_type()?.is_dir() && !keeps {
                fs::remove_dir_all(entry.path())?;
            }
        }
        self.holder = Some(Holder::start(&self.dir.path().join("hold"))?);
        self.cluster.node_mut(SECOND).restart().await;
        let start = Instant::now();
        self.until(start, "layers can be mounted", async |stage| {
            Ok(can_mount(stage) > before)
        })
        .await?;
        Ok(())
    }
}

/// Makes containerd ask this host alone.
fn lead(containerd: &Containerd, fake: &FakeRegistry, url: &str) -> Result<()> {
    let hosts = format!(
        "server = \"{url}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    );
    containerd.write_hosts(&fake.host(), &hosts)
}

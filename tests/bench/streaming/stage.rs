//! The stage for the measurements: the registry and its image, two containerds, and larders.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::{FakeRegistry, Fault, Match};
use larder_tests::image::{ALL, FEW, Large, READER, build_large};
use larder_tests::node::{Node, larder_program};
use larder_tests::real::{Containerd, Release, succeeded, until};
use rustix::fs::{Advice, fadvise, syncfs};
use tempfile::TempDir;

use super::{ANSWERS_AFTER_MS, Making, RATE, Run, Way};
use crate::bench::Bench;
use crate::cpu::Meter;
use crate::memory::resident;

/// A name that does not resolve: whatever arrives has come by the intended way.
const REGISTRY: &str = "registry.example";
const NAME: &str = "registry.example/team/app:v1";

/// Where containerd unpacks for overlayfs.
const UNPACKED: &str = "root/io.containerd.snapshotter.v1.overlayfs/snapshots";

/// Within this time larder has made all ready files.
const MADE: Duration = Duration::from_mins(5);

/// Within this time containerd has no container any more, and nothing is mounted.
const QUIET: Duration = Duration::from_mins(1);

pub(super) struct Stage {
    image: Large,
    /// Unpacks.
    overlay: Containerd,
    /// Mounts ready files.
    erofs: Containerd,
    /// Offers ready files. The node ends before its account is closed: fields drop in order.
    offers: Node,
    meter: Meter,
    /// Has an empty store, until something is pulled through it.
    passes: Option<Node>,
    fake: FakeRegistry,
    report: PathBuf,
    layers: PathBuf,
    _dir: TempDir,
}

impl Stage {
    pub(super) async fn new(bench: &Bench, size: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("streaming-").tempdir()?;
        let (layers, report) = (dir.path().join("layers"), dir.path().join("runtime.json"));
        let fake = FakeRegistry::start().await;
        let image = build_large(&fake, "team/app", "v1", size)?;
        let delay = Fault::Delay(Duration::from_millis(ANSWERS_AFTER_MS));
        fake.fault(Match::any(), delay);
        fake.fault(Match::any(), Fault::ThrottleBytesPerSecond(RATE));
        let config = format!(
            "[runtime]\nfile = \"{}\"\ncontent = \"off\"\n[streaming]\nmode = \"ready\"\nmin_layer = \"0\"\ndirectory = \"{}\"\n",
            report.display(),
            layers.display(),
        );
        let offers = Node::builder()
            .upstream_at(REGISTRY, &fake.url())
            .log_level("info")
            .config(config)
            .start()
            .await;
        let meter = bench.accounting.meter("layers", &[offers.pid()])?;
        Ok(Self {
            image,
            overlay: Containerd::start(Release::Two).await?,
            erofs: Containerd::start_with_ready_files(&layers).await?,
            offers,
            meter,
            passes: None,
            fake,
            report,
            layers,
            _dir: dir,
        })
    }

    pub(super) fn image(&self) -> &Large {
        &self.image
    }

    /// Bytes of all layers.
    pub(super) fn compressed(&self) -> u64 {
        let layers = self.image.image.layers.iter();
        layers.map(|layer| layer.content.len()).sum()
    }

    /// Pulls the image through larder once, and waits until its layers are ready. larder makes none before the watcher
    /// reports.
    pub(super) async fn make_ready(&mut self) -> Result<Making> {
        ask(&self.erofs, &self.offers.url())?;
        succeeded(&self.erofs.ctr_pull(NAME, &[]).await?)?;
        settled(&self.offers).await?;
        let pid = self.offers.pid();
        let (before, cpu) = (resident(pid, "VmRSS")?, self.meter.seconds()?);
        // The highest RSS is measured from now on; proc(5).
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let start = Instant::now();
        let _watcher = tokio::process::Command::new(larder_program())
            .args(["runtime", "--every", "1s", "--socket"])
            .arg(self.erofs.socket())
            .arg("--file")
            .arg(&self.report)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let is_ready = || {
            self.image
                .diff_ids
                .iter()
                .all(|one| self.file(one).is_file())
        };
        until("all layers are ready", MADE, is_ready)
            .await
            .with_context(|| self.offers.log())?;
        let making = Making {
            seconds: start.elapsed().as_secs_f64(),
            cpu: self.meter.seconds()? - cpu,
            before,
            most: resident(pid, "VmHWM")?,
        };
        self.erofs.remove(NAME).await?;
        Ok(making)
    }

    /// Where containerd looks for a layer.
    fn file(&self, diff_id: &str) -> PathBuf {
        let hex = diff_id.trim_start_matches("sha256:");
        let name = format!("sha256/{}/{hex}.erofs", &hex[..2]);
        self.layers.join(name)
    }

    /// Pulls and runs in this way. The image stays until the next time.
    pub(super) async fn run(&mut self, way: Way) -> Result<Run> {
        if way == Way::Cold {
            self.passes = None;
            let node = Node::builder().upstream_at(REGISTRY, &self.fake.url());
            self.passes = Some(node.log_level("info").start().await);
        }
        let passes = self.passes.as_ref().map(Node::url).unwrap_or_default();
        let (containerd, url) = match way {
            Way::Straight => (&self.overlay, self.fake.url()),
            Way::Cold | Way::Warm => (&self.overlay, passes),
            Way::Ready | Way::ReadyCold => (&self.erofs, self.offers.url()),
        };
        let pulled = succeeded(&containerd.ctr(&["images", "ls", "-q"]).await?)?;
        if !pulled.is_empty() {
            containerd.remove(NAME).await?;
        }
        ask(containerd, &url)?;
        written(containerd.dir())?;
        if way == Way::ReadyCold {
            unmounted(containerd).await?;
            dropped(&self.layers)?;
        }
        self.fake.reset_counts();
        let start = Instant::now();
        succeeded(&containerd.ctr_pull(NAME, &[]).await?)?;
        let pull = start.elapsed().as_secs_f64();
        let said = containerd.run_in_image(NAME, &[READER, FEW]).await?;
        let done = start.elapsed().as_secs_f64();
        self.image.few.took(&said)?;
        let (sent, requests) = (self.fake.bytes_sent(), self.fake.requests().len());
        if let Some(node) = &self.passes {
            settled(node).await?;
        }
        Ok(Run {
            pull,
            done,
            sent,
            requests,
        })
    }

    /// Reads every file of the image from disk, in a container, and compares it. Gives bytes a second.
    pub(super) async fn read_all(&self, way: Way) -> Result<f64> {
        let (containerd, of) = match way {
            Way::Ready | Way::ReadyCold => (&self.erofs, self.layers.clone()),
            Way::Straight | Way::Cold | Way::Warm => {
                (&self.overlay, self.overlay.dir().join(UNPACKED))
            }
        };
        unmounted(containerd).await?;
        written(containerd.dir())?;
        dropped(&of)?;
        let said = containerd.run_in_image(NAME, &[READER, ALL]).await?;
        let micros = self.image.all.took(&said)?;
        Ok(self.image.all.bytes as f64 * 1e6 / micros as f64)
    }
}

/// Waits until no container's files are mounted any more: a mount holds the pages of its files.
async fn unmounted(containerd: &Containerd) -> Result<()> {
    let dir = containerd.dir().to_string_lossy().into_owned();
    let mounted = || {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.contains(&dir)
    };
    until("nothing is mounted", QUIET, || !mounted()).await
}

/// Makes containerd ask this host alone.
fn ask(containerd: &Containerd, url: &str) -> Result<()> {
    let hosts = format!(
        "server = \"{url}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    );
    containerd.write_hosts(REGISTRY, &hosts)
}

/// Waits until the node has written to disk all that was pulled.
async fn settled(node: &Node) -> Result<()> {
    let deadline = Instant::now() + QUIET;
    while !node.admin("/status").await["fills"]
        .as_array()
        .is_some_and(Vec::is_empty)
    {
        ensure!(Instant::now() < deadline, "a fill is still under way");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Makes the kernel write its dirty pages.
fn written(dir: &Path) -> Result<()> {
    Ok(syncfs(File::open(dir)?)?)
}

/// Drops the cached pages of every file below.
fn dropped(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            dropped(&entry.path())?;
        } else if kind.is_file() {
            fadvise(File::open(entry.path())?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

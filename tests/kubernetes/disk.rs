//! One disk and three collectors: larder's bounds, the kubelet's image collection and containerd's own collector share
//! a node's disk that fills up. larder gives way first, running images stay, and pods go on.
//!
//! The bounds are the shipped ones. larder has its `min_free` of 17 %. The kubelet has its defaults: it removes unused
//! images when less than 15 % is free, and evicts pods if that does not help. Only its patience is shorter.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::image::{Executable, LayerSpec, oci_layout};
use larder_tests::kubernetes::Cluster;

use crate::setup::{Setup, one_of_two, pod};

const NODE: &str = "n1";
/// The size of a node's disk. A hundredth of it holds three images, with what a pull of one leaves.
const DISK: &str = "3G";
/// Bytes of an image's layer. A pull leaves it three times: in larder's tier, in containerd's content store, and
/// unpacked.
const LAYER: u64 = 10 << 20;
/// Free space, in hundredths, below which larder begins to free, and the kubelet.
const LARDER: f64 = 17.0;
const KUBELET: f64 = 15.0;
/// Free space before the first of these images comes, in hundredths.
const BEGIN: f64 = 20.0;
/// larder checks the disk every 5 s, the kubelet every 10 s.
const SETTLED: Duration = Duration::from_mins(1);

/// The kubelet's defaults, where `scripts/kube` sets others, except for times. An image may go when it is a second old,
/// and after a full disk the kubelet does not refuse pods for five minutes. Without the isolation it does not check its
/// disk.
const KUBELET_DEFAULTS: &str = r#"
    .imageGCHighThresholdPercent = 85 | .imageGCLowThresholdPercent = 80 | .localStorageCapacityIsolation = true
    | .evictionHard = {"nodefs.available": "10%", "imagefs.available": "15%", "memory.available": "50Mi"}
    | .imageMinimumGCAge = "1s" | .evictionPressureTransitionPeriod = "1s""#;

/// The node's disk at one moment.
#[derive(Clone, Copy, Debug)]
struct Disk {
    size: u64,
    free: u64,
    /// Bytes in larder's tier.
    larder: u64,
    /// How many of the pulled images the runtime lists.
    images: usize,
}

impl Disk {
    /// Free space in hundredths.
    fn free(&self) -> f64 {
        self.free as f64 * 100.0 / self.size as f64
    }
}

struct Filling {
    setup: Setup,
    /// The number of pulled images.
    pulled: usize,
}

fn image(number: usize) -> String {
    format!("registry.test/disk/app{number}:v1")
}

impl Filling {
    /// A node whose kubelet has its defaults, with larder and the watcher.
    async fn begin() -> Result<Self> {
        let setup = Setup::with_disks(1, DISK).await?;
        let config = "/etc/kubernetes/kubelet.yaml";
        let change = format!("jq '{KUBELET_DEFAULTS}' {config} >/run/new && cp /run/new {config}");
        setup.on(NODE, &["sh", "-ec", &change]).await?;
        setup.stop(&["n1/kubelet"]).await?;
        setup.start(&["n1/kubelet"]).await?;
        setup.push_larder("one").await?;
        let settings = [
            "--wait",
            "--set",
            "runtime.watch.enabled=true",
            "--set-string",
            "config.store.min_free=17%",
        ];
        setup.install(&settings).await?;
        setup.note("larder runs");
        Ok(Self { setup, pulled: 0 })
    }

    async fn disk(&self) -> Result<Disk> {
        let fs = [
            "stat",
            "--file-system",
            "--format=%S %b %a",
            "/var/lib/larder",
        ];
        let said = self.setup.on(NODE, &fs).await?;
        let mut numbers = said.split_whitespace().map(str::parse::<u64>);
        let mut next = || anyhow::Ok(numbers.next().context("a number")??);
        let (block, blocks, free) = (next()?, next()?, next()?);
        let larder = self
            .setup
            .metric(NODE, "larder_store_size_bytes", "")
            .await?;
        let listed = self.setup.cri(NODE).await?.list().await?;
        let names: Vec<&String> = listed.iter().flat_map(|one| &one.repo_tags).collect();
        let images = (0..self.pulled).filter(|number| names.contains(&&image(*number)));
        Ok(Disk {
            size: block * blocks,
            free: block * free,
            larder: larder as u64,
            images: images.count(),
        })
    }

    /// Fills the disk with other files until only so much is free.
    async fn fill_up_to(&self, free: f64) -> Result<()> {
        let disk = self.disk().await?;
        let more = disk.free - (disk.size as f64 * free / 100.0) as u64;
        let more = more.to_string();
        let words = ["fallocate", "--length", &more, "/var/lib/cni/other-files"];
        self.setup.on(NODE, &words).await?;
        Ok(())
    }

    /// Runs a pod with an image that the node does not have.
    async fn pull(&mut self, stays: bool) -> Result<()> {
        let number = self.pulled;
        let layout = self.setup.dir().join(format!("disk-{number}"));
        let seed = 5000 + number as u64;
        let cluster: &Cluster = &self.setup;
        let executable = Executable {
            host_path: cluster.dir().join("bin/wait"),
            image_path: format!("wait-disk-{number}"),
        };
        oci_layout(
            &layout,
            "app",
            &[LayerSpec::new(seed, LAYER)],
            Some(&executable),
        )?;
        self.setup.push(&layout, &image(number)).await?;
        std::fs::remove_dir_all(layout)?;
        let name = format!("disk-{number}");
        if stays {
            self.setup
                .apply(&[pod(&name, NODE, &image(number))])
                .await?;
            let outcome = self.setup.outcome(&name).await?;
            ensure!(outcome.is_ok(), "{outcome:?}");
        } else {
            self.setup.runs(&name, NODE, &image(number)).await?;
        }
        self.pulled += 1;
        Ok(())
    }

    /// Waits until the condition holds, and gives the disk at that moment; `None` if it never does.
    async fn settled(&self, so: impl Fn(&Disk) -> bool) -> Result<Option<Disk>> {
        let deadline = Instant::now() + SETTLED;
        loop {
            let disk = self.disk().await?;
            if so(&disk) {
                return Ok(Some(disk));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn note(&self, what: &str, disk: &Disk) {
        self.setup.note(&format!(
            "{what}: {:.1} % free, {} MB in larder's tier, {} of {} images",
            disk.free(),
            disk.larder / 1_000_000,
            disk.images,
            self.pulled
        ));
    }

    /// The kubelet lists the images at its start and every five minutes. It takes an image that it has not listed
    /// before for too young to be removed, and would evict pods instead.
    async fn the_kubelet_notes_images(&self) -> Result<()> {
        self.setup.stop(&["n1/kubelet"]).await?;
        self.setup.start(&["n1/kubelet"]).await?;
        self.setup.note("the kubelet notes what images there are");
        Ok(())
    }

    /// Waits until the kubelet says that its disk is no longer full.
    async fn the_kubelet_takes_pods(&self) -> Result<()> {
        let look = async || {
            let node = self.setup.get(&["node", NODE]).await?;
            let conditions = node["status"]["conditions"].as_array().cloned();
            let relieved = conditions.into_iter().flatten().any(|condition| {
                condition["type"] == "DiskPressure" && condition["status"] == "False"
            });
            Ok(relieved.then_some(()))
        };
        self.setup.until("room on the disk", look).await
    }

    /// The first pod runs, and was never restarted.
    async fn the_first_pod_runs(&self) -> Result<()> {
        let pod = self.setup.get(&["pod", "disk-0"]).await?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(
            status["state"]["running"].is_object() && status["restartCount"] == 0,
            "{}",
            pod["status"]
        );
        let there = self.setup.cri(NODE).await?.image_status(&image(0)).await?;
        ensure!(there.is_some(), "its image is gone");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_gets_full_costs_larders_copies_first_and_nothing_that_runs() -> Result<()> {
    let _machine = one_of_two().await;
    let mut filling = Filling::begin().await?;
    filling.fill_up_to(BEGIN).await?;
    filling.pull(true).await?;
    let disk = filling.disk().await?;
    filling.note("a pod runs", &disk);
    ensure!(disk.larder > LAYER, "larder has kept a copy");

    let direct = filling.setup.direct("registry")?;
    // While larder still has copies to evict, the kubelet has no reason to remove an image.
    let mut gave_way = false;
    for _ in 0..16 {
        filling.pull(false).await?;
        let held = |disk: &Disk| disk.free() >= LARDER || disk.larder < LAYER;
        let settled = filling.settled(held).await?;
        let disk = settled.context("larder does not give way")?;
        filling.note("pulled", &disk);
        ensure!(
            disk.images == filling.pulled,
            "the kubelet removed images while larder held {} bytes",
            disk.larder
        );
        gave_way |= disk.larder < (filling.pulled as u64) * LAYER;
        if disk.larder < LAYER {
            break;
        }
    }
    ensure!(gave_way, "larder has never freed anything");
    filling.the_first_pod_runs().await?;
    let disk = filling.disk().await?;
    ensure!(disk.larder < LAYER, "larder still keeps {disk:?}");
    ensure!(disk.free() > KUBELET, "{disk:?}");

    // larder keeps nothing, and pulls go on: containerd's content fills the disk now. The kubelet removes unused
    // images.
    let (mut collected, mut noted) = (None, false);
    for _ in 0..16 {
        filling.pull(false).await?;
        let disk = filling.disk().await?;
        filling.note("pulled, larder keeps nothing", &disk);
        if disk.free() < KUBELET {
            let removes = |disk: &Disk| disk.free() > LARDER;
            collected = filling.settled(removes).await?;
            let fewer = |disk: &Disk| disk.images < filling.pulled;
            collected = collected.filter(fewer);
            ensure!(collected.is_some(), "the kubelet removes nothing: {disk:?}");
            break;
        }
        // One pull takes less than a hundredth: this is the last pull or the last but one before the disk is full.
        if disk.free() < KUBELET + 1.0 && !noted {
            noted = true;
            filling.the_kubelet_notes_images().await?;
        }
    }
    let disk = collected.context("the disk did not get full")?;
    filling.note("the kubelet has removed images", &disk);
    filling.the_first_pod_runs().await?;
    ensure!(
        filling.setup.direct("registry")? == direct,
        "containerd went past larder"
    );
    filling.the_kubelet_takes_pods().await?;

    // There is room again, and larder keeps pulled content.
    filling.pull(false).await?;
    let keeps = filling.settled(|disk| disk.larder > LAYER).await?;
    filling.note("pulled again", &keeps.context("larder keeps nothing")?);
    filling.the_first_pod_runs().await
}

//! Content that a real container runs, as the real watcher reports it, outlives its node and its registry. Content that
//! no container runs is evicted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use larder_tests::fake::FakeRegistry;
use larder_tests::image::{build, build_waiting};
use larder_tests::members::Cluster;
use larder_tests::real::{Containerd, Release, refusal, skipped, succeeded};
use larder_tests::scene::{committed, eventually};
use larder_tests::watcher::{Watcher, entries};

use super::super::{REPOSITORY, beside, layers, within};
use super::{Kept, ROOM, blobs, holds_nothing};

/// A step on the way through ten days: about as often, holders announce all that they hold.
const LONG_STEP: Duration = Duration::from_hours(2);
const STEPS: u32 = 120;
/// How long members may take to find each other's content, once the registry is down.
const SPREAD: Duration = Duration::from_secs(10);

async fn a_container_runs_for_ten_days(release: Release) -> Result<()> {
    let _machine = beside().await;
    let fake = FakeRegistry::start().await;
    let used = build_waiting(&fake, REPOSITORY, "used", &layers(1, &[2, 1]))?;
    let unused = build(&fake, REPOSITORY, "unused", &layers(11, &[2, 1]));
    let containerd = Containerd::start(release).await?;
    let mut watcher = Watcher::start(&containerd.socket(), &["--every", "1s"]);
    let config = format!("[runtime]\nfile = \"{}\"\n", watcher.file().display());
    let plan = Cluster::of(3).upstream(&fake).config(ROOM);
    let mut kept = Kept::with(fake, plan.config_of(0, &config)).await;
    let all = [0, 1, 2];

    // The runtime pulls both images through its node's larder, and runs one.
    let mirror = format!(
        "[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
        kept.cluster.node(0).url()
    );
    containerd.write_hosts(&kept.fake.host(), &mirror)?;
    for (tag, image) in [("used", &used), ("unused", &unused)] {
        let name = format!("{}/{REPOSITORY}:{tag}", kept.fake.host());
        succeeded(&containerd.ctr_pull(&name, &[]).await?)?;
        for digest in blobs(image) {
            let store = kept.cluster.node(0).store();
            eventually(digest, || committed(store, digest)).await;
        }
    }
    let name = format!("{}/{REPOSITORY}:used", kept.fake.host());
    containerd.start_image(&name, "app").await?;
    let runs = |report: &_| !entries(report, "users", "id", "app").is_empty();
    watcher.until("the container", runs).await;
    for (image, expected) in [(&used, true), (&unused, false)] {
        kept.until("it is known what is in use", async |kept| {
            let images = kept.cluster.node(0).admin("/images").await;
            let images = images["images"].as_array().cloned().unwrap_or_default();
            images.iter().any(|one| {
                one["digest"] == image.manifest_digest.as_str() && one["in_use"] == expected
            })
        })
        .await;
        kept.until_held(image, &all, 2).await;
    }

    for _ in 0..STEPS {
        kept.pass(LONG_STEP).await;
        ensure!(
            kept.holders(&used, &all).iter().all(|held| *held >= 2),
            "what runs has lost a copy"
        );
    }
    for digest in blobs(&used) {
        ensure!(
            committed(kept.cluster.node(0).store(), digest),
            "{digest} is not on its node"
        );
    }
    kept.until("what nothing runs is gone everywhere", async |kept| {
        let mut nodes = kept.cluster.nodes().iter();
        nodes.all(|node| holds_nothing(node.store(), &unused))
    })
    .await;
    let container = containerd.ctr(&["tasks", "ls"]).await?;
    let line = succeeded(&container)?;
    let line = line.lines().find(|line| line.starts_with("app"));
    ensure!(line.context("the container")?.contains("RUNNING"));

    // The node is gone, and so is the registry.
    kept.cluster.node_mut(0).kill9().await;
    drop((watcher, containerd));
    kept.fake.stop().await;
    let rest = [1, 2];
    ensure!(!kept.holders(&used, &rest).contains(&0), "a part is lost");
    let door = |number| kept.cluster.door(number, &kept.fake, REPOSITORY);
    within("by tag", SPREAD, || async {
        door(1).pull("used", &used).await
    })
    .await;
    // Without any client, the other member gets the copies that it lacks.
    kept.until_held(&used, &rest, 2).await;
    let door = kept.cluster.door(2, &kept.fake, REPOSITORY);
    within("by tag", SPREAD, || door.pull("used", &used)).await;
    Ok(())
}

macro_rules! with_each_containerd {
    ($($module:ident = $release:ident),+) => {$(
        mod $module {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_container_runs_for_ten_days() -> anyhow::Result<()> {
                if let Some(why) = super::refusal() {
                    super::skipped(concat!(module_path!(), "::a_container_runs_for_ten_days"), why);
                    return Ok(());
                }
                super::a_container_runs_for_ten_days(super::Release::$release).await
            }
        }
    )+};
}
with_each_containerd!(containerd_1 = One, containerd_2 = Two);

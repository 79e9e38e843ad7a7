//! The chart's memory limit, under more load than a node ever has at once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use larder_tests::http;
use larder_tests::real::Release;

use crate::setup::{REGISTRY, Setup, alone};

const STREAMS: u64 = 256;
/// Together they are larger than the limit: the page cache cannot hold all written bytes.
const BLOBS: u64 = 40;
const SIZE: u64 = 16 << 20;

/// The container's control group, of version 1 or 2.
fn control_group(container: &str) -> Result<PathBuf> {
    let roots = ["/sys/fs/cgroup/memory/k8s.io", "/sys/fs/cgroup/k8s.io"];
    let mut found = roots
        .map(|root| Path::new(root).join(container))
        .into_iter();
    found.find(|path| path.is_dir()).context("no control group")
}

/// A number from one of the group's files.
fn number(group: &Path, names: &[&str]) -> Result<u64> {
    let text = names
        .iter()
        .find_map(|name| fs::read_to_string(group.join(name)).ok());
    let text = text.with_context(|| format!("none of {names:?} in {}", group.display()))?;
    Ok(text.trim().parse()?)
}

/// A line of `memory.stat`.
fn stat(group: &Path, names: &[&str]) -> Result<u64> {
    let text = fs::read_to_string(group.join("memory.stat"))?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines
        .find(|(name, _)| names.contains(name))
        .context("no such line")?;
    Ok(found.1.parse()?)
}

fn oom_kills(group: &Path) -> Result<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let text = read("memory.oom_control")
        .or_else(|| read("memory.events"))
        .context("no events")?;
    let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(kills.context("no oom_kill")?.trim().parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_memory_holds() -> Result<()> {
    let _machine = alone().await;
    let mut setup = Setup::new(Release::Two).await?;
    setup.push_larder("one")?;
    let objects = setup.chart("one").render();
    let said =
        objects.daemon_set("larder")["spec"]["containers"][0]["resources"]["limits"]["memory"]
            .clone();
    let pod = setup.run(&objects, "larder").await?;
    let group = control_group(pod.container("larder"))?;
    let limit = number(&group, &["memory.limit_in_bytes", "memory.max"])?;
    assert_eq!(
        said,
        format!("{}Mi", limit >> 20),
        "the chart's limit is in force"
    );
    assert!(BLOBS * SIZE > limit);

    let blobs: Vec<String> = (0..BLOBS)
        .map(|seed| setup.fake.put_blob_of("app", seed, SIZE))
        .collect();
    let url = |digest: &str| format!("http://127.0.0.1:7420/v2/app/blobs/{digest}?ns={REGISTRY}");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let sampled = group.clone();
    let sampling = tokio::spawn(async move {
        let mut peak = 0;
        while stopped.try_recv().is_err() {
            peak = peak.max(stat(&sampled, &["rss", "anon"]).unwrap_or(0));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        peak
    });
    let streams = (0..STREAMS).map(|n| {
        let digest = blobs[(n % BLOBS) as usize].clone();
        let url = url(&digest);
        setup.node().run(async move {
            let answer = http::get_digest(&url, &[]).await;
            anyhow::ensure!(answer.is_ok_and(|got| got.digest == digest), "{url}");
            Ok(())
        })
    });
    let failed: Vec<_> = join_all(streams)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    let _ = stop.send(());
    let anonymous = sampling.await?;
    let used = number(&group, &["memory.max_usage_in_bytes", "memory.peak"])?;
    let kills = oom_kills(&group)?;
    let mib = |bytes: u64| bytes >> 20;
    eprintln!(
        "{STREAMS} streams over {BLOBS} blobs of {} MiB, limit {} MiB: charged at most {} MiB with the page cache, \
         {} MiB without, {kills} killed",
        mib(SIZE),
        mib(limit),
        mib(used),
        mib(anonymous)
    );
    assert!(failed.is_empty(), "{failed:?}\n{}", pod.log("larder"));
    assert_eq!(kills, 0);
    assert_eq!(
        setup.kubelet.cri.exited(pod.container("larder")).await?,
        None
    );
    // The page cache can shrink; the program's own memory has to leave room for it.
    assert!(anonymous < limit / 4 * 3, "{} MiB", mib(anonymous));
    setup.kubelet.stop(&pod).await
}

//! From the first installation through an upgrade to the removal, while clients pull images all the time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use larder_tests::image::{LayerSpec, build};
use larder_tests::real::{CriClient, Release};
use larder_tests::scene::files;

use crate::setup::{REGISTRY, Setup, alone};

/// Every file that the runtime reads, with its content.
fn runtime_files(setup: &Setup) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = setup.kubelet.containerd.hosts_dir();
    let etc = dir.parent().expect("a directory above");
    let read = |path: PathBuf| std::fs::read(&path).map(|bytes| (path, bytes)).ok();
    files(etc).into_iter().filter_map(read).collect()
}

/// Pulls that go on until the test stops them. Every failure is recorded.
struct Pulls {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Pulls {
    fn begin(cri: &CriClient, images: &[&str]) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let pull = |image: &&str| {
            let (cri, image) = (cri.clone(), format!("{REGISTRY}/{image}"));
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match cri.pull(&image).await {
                        Ok(id) => {
                            done.fetch_add(1, Ordering::Relaxed);
                            if let Err(error) = cri.remove_image(&id).await {
                                failures.push(format!("removing {image}: {error}"));
                            }
                        }
                        Err(error) => failures.push(format!("{image}: {error}")),
                    }
                }
                failures
            })
        };
        let tasks = images.iter().map(pull).collect();
        Self { stop, done, tasks }
    }

    /// Waits until so many more have succeeded.
    async fn more(&self, count: usize) -> Result<()> {
        let goal = self.done.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_mins(2);
        while self.done.load(Ordering::Relaxed) < goal {
            anyhow::ensure!(Instant::now() < deadline, "pulls do not go on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// How many pulls succeeded, and every failure.
    async fn end(self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await?);
        }
        Ok((self.done.load(Ordering::Relaxed), failures))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_of_containerd_1_go_on_through_installation_upgrade_and_removal() -> Result<()> {
    installed_upgraded_removed(Release::One).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_of_containerd_2_go_on_through_installation_upgrade_and_removal() -> Result<()> {
    installed_upgraded_removed(Release::Two).await
}

async fn installed_upgraded_removed(release: Release) -> Result<()> {
    let _machine = alone().await;
    let mut setup = Setup::new(release).await?;
    let [one, two] = [setup.push_larder("one")?, setup.push_larder("two")?];
    assert_ne!(one, two);
    for (name, seed) in [("app", 1), ("tool", 2)] {
        build(
            &setup.fake,
            name,
            "v1",
            &[
                LayerSpec::new(seed, 4_000_000),
                LayerSpec::new(seed + 10, 50_000),
            ],
        );
    }
    let before = runtime_files(&setup);
    let pulls = Pulls::begin(&setup.kubelet.cri, &["app:v1", "tool:v1"]);
    pulls.more(2).await?;

    // Installation.
    let old = setup.run(&setup.chart("one").render(), "larder").await?;
    assert_ne!(runtime_files(&setup), before);
    pulls.more(6).await?;
    assert!(
        setup.metric(&old, "larder_requests_total").await? > 0.0,
        "they go through larder"
    );

    // Before an upgrade, a hook pulls the new image through the running larder.
    setup.fake.reset_counts();
    let objects = setup.chart("two").render();
    let hook = setup.run(&objects, "larder-upgrade").await?;
    let straight = setup.direct();
    let of_larder = |seen: &larder_tests::fake::Seen| seen.repository == "larder";
    assert!(!straight.iter().any(of_larder), "{straight:?}");
    setup.kubelet.stop(&hook).await?;

    // The old pod ends before the new one starts: only one can have the port.
    setup.fake.reset_counts();
    setup.kubelet.stop(&old).await?;
    pulls.more(2).await?;
    let new = setup.run(&objects, "larder").await?;
    let of_new_image = setup.direct().iter().filter(|seen| of_larder(seen)).count();
    assert_eq!(of_new_image, 0, "the new image was there already");
    pulls.more(6).await?;
    let fetched = setup.fetches();
    assert_eq!(
        fetched,
        [],
        "what the old one kept is served by the new one"
    );
    // Pulls that began before the new pod was ready have ended.
    setup.fake.reset_counts();
    pulls.more(4).await?;
    assert_eq!(setup.direct(), []);

    // Removal: the runtime's files first, then larder.
    let removal = setup.run(&objects, "larder-removal").await?;
    assert_eq!(runtime_files(&setup), before, "as they were");
    pulls.more(4).await?;
    setup.kubelet.stop(&new).await?;
    setup.kubelet.stop(&removal).await?;
    setup.fake.reset_counts();
    pulls.more(4).await?;
    assert!(!setup.direct().is_empty(), "the node pulls as before");

    let (done, failures) = pulls.end().await?;
    eprintln!("{done} pulls, {} failed", failures.len());
    assert_eq!(failures, Vec::<String>::new(), "of {done}");
    assert_eq!(runtime_files(&setup), before);
    Ok(())
}

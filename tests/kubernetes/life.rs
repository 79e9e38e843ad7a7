//! larder's life on a cluster, by Helm: it is installed, upgraded, rolled back, restarted, killed and removed, and its
//! runtime is restarted. Pods are created all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::setup::{CHART, SYSTEM, Setup, TIMEOUT, one_of_two, outcome, pod};

const NODES: [&str; 2] = ["n1", "n2"];
const APPS: usize = 3;

/// Pods that a thread creates on every node, one after another, until the test stops it. Each pulls an image that its
/// node does not have.
struct Churn {
    stop: Arc<AtomicBool>,
    /// Whether the runtime may be down: a pod that waits for it has not failed.
    restarting: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Churn {
    fn begin(setup: &Arc<Setup>) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let restarting = Arc::<AtomicBool>::default();
        let on_node = |node: &'static str| {
            let (setup, stop, done) = (Arc::clone(setup), Arc::clone(&stop), Arc::clone(&done));
            let restarting = Arc::clone(&restarting);
            // The thread and its runtime outlive a test that fails.
            tokio::task::spawn_blocking(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime
                    .expect("a runtime")
                    .block_on(pods(&setup, node, &stop, &restarting, &done))
            })
        };
        let tasks = NODES.map(on_node).into();
        Self {
            stop,
            restarting,
            done,
            tasks,
        }
    }

    /// Waits until so many more have run.
    async fn more(&self, count: usize) -> Result<()> {
        let goal = self.done.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_mins(4);
        while self.done.load(Ordering::Relaxed) < goal {
            ensure!(Instant::now() < deadline, "pods do not go on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// How many pods ran, and every failure.
    async fn end(mut self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in std::mem::take(&mut self.tasks) {
            failures.extend(task.await?);
        }
        Ok((self.done.load(Ordering::Relaxed), failures))
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn pods(
    setup: &Setup,
    node: &str,
    stop: &AtomicBool,
    restarting: &AtomicBool,
    done: &AtomicUsize,
) -> Vec<String> {
    let mut failures = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let image = format!("registry.test/team/app{}:v1", number % APPS);
        let name = format!("churn-{node}-{number}");
        match one_pod(setup, node, &name, &image, restarting).await {
            Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    failures
}

async fn one_pod(
    setup: &Setup,
    node: &str,
    name: &str,
    image: &str,
    restarting: &AtomicBool,
) -> Result<()> {
    setup.apply(&[pod(name, node, image)]).await?;
    let patient = async || {
        let outcome = outcome(&setup.get(&["pod", name]).await?);
        // The kubelet retries by itself.
        let without_runtime = matches!(&outcome, Some(Err(why)) if is_runtimes(why));
        Ok(outcome.filter(|_| !(without_runtime && restarting.load(Ordering::Relaxed))))
    };
    let outcome = setup.until(&format!("the pod {name}"), patient).await?;
    setup.remove_pod(name).await?;
    let forgotten = async || match setup.forget(node, image).await {
        Ok(()) => Ok(Some(())),
        Err(_) if restarting.load(Ordering::Relaxed) => Ok(None),
        Err(error) => Err(error),
    };
    setup.until("the runtime", forgotten).await?;
    outcome.map_err(anyhow::Error::msg)
}

/// Whether a pod failed because the runtime stopped.
fn is_runtimes(why: &str) -> bool {
    let words = [
        "containerd.sock",
        "code = Unavailable",
        "ttrpc: closed",
        "context canceled",
    ];
    words.iter().any(|word| why.contains(word))
}

/// The kubelets' warnings about those pods.
async fn warnings(setup: &Setup) -> Result<Vec<String>> {
    let events = setup
        .list(&[
            "events",
            "--field-selector=type=Warning,involvedObject.kind=Pod",
        ])
        .await?;
    let text = |event: &Value| {
        let (of, why) = (&event["involvedObject"]["name"], &event["message"]);
        format!("{of} {}: {why}", event["reason"])
    };
    Ok(events.iter().map(text).collect())
}

/// Kills larder on a node as the kernel does when memory is short.
async fn kill_larder(setup: &Setup, node: &str) -> Result<()> {
    let pod = setup.larder_on(node).await?;
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
    let id = id
        .context("an id")?
        .trim_start_matches("containerd://")
        .to_owned();
    let kill = [
        "ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", &id,
    ];
    setup.on(node, &kill).await?;
    let restarted = async || {
        let pod = setup.larder_on(node).await?;
        let status = &pod["status"]["containerStatuses"][0];
        let again = status["restartCount"] == 1 && status["ready"] == true;
        Ok(again.then_some(()))
    };
    setup.until("larder after a kill", restarted).await
}

async fn rolled_out(setup: &Setup) -> Result<()> {
    let words = [
        "rollout",
        "status",
        "daemonset/larder",
        "--namespace",
        SYSTEM,
        TIMEOUT,
    ];
    setup.kubectl(&words).await?;
    Ok(())
}

async fn image_of_larder(setup: &Setup) -> Result<Value> {
    let daemon_set = setup
        .get(&["daemonset", "larder", "--namespace", SYSTEM])
        .await?;
    Ok(daemon_set["spec"]["template"]["spec"]["containers"][0]["image"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_on_through_installation_upgrade_rollback_restarts_kills_and_removal() -> Result<()>
{
    let _machine = one_of_two().await;
    let setup = Arc::new(Setup::new(NODES.len()).await?);
    for version in ["one", "two"] {
        setup.push_larder(version).await?;
    }
    for number in 0..APPS {
        let image = format!("registry.test/team/app{number}:v1");
        setup.push_app(&image, number as u64).await?;
    }
    setup.note("the images are pushed");
    let mut before = Vec::new();
    for node in NODES {
        before.push(setup.runtime_files(node).await?);
    }
    let churn = Churn::begin(&setup);
    churn.more(2).await?;

    setup.note("pods run");
    setup.install(&["--wait"]).await?;
    churn.more(2).await?;
    for node in NODES {
        let requests = setup.metric(node, "larder_requests_total", "").await?;
        ensure!(
            requests > 0.0,
            "the pods of {node} do not pull through larder"
        );
    }
    // Pulls that began before it have ended.
    let direct = setup.direct("registry")?;
    churn.more(3).await?;
    ensure!(
        setup.direct("registry")? == direct,
        "containerd goes past larder"
    );

    setup.note("pods run by larder");
    let upgrade = [
        "upgrade",
        "larder",
        CHART,
        "--namespace",
        SYSTEM,
        "--reset-then-reuse-values",
    ];
    let two = ["--set", "image.tag=two", "--wait", TIMEOUT];
    setup.helm(&[&upgrade[..], &two[..]].concat()).await?;
    ensure!(image_of_larder(&setup).await? == "registry.test/larder:two");
    churn.more(3).await?;

    setup.note("upgraded");
    let bad = [
        "--set",
        "image.tag=none,hooks.timeoutSeconds=8",
        "--wait",
        TIMEOUT,
    ];
    let failed = setup.helm(&[&upgrade[..], &bad[..]].concat()).await;
    ensure!(failed.is_err(), "an image that is nowhere: {failed:?}");
    ensure!(image_of_larder(&setup).await? == "registry.test/larder:two");
    churn.more(3).await?;

    setup.note("not upgraded");
    let rollback = [
        "rollback",
        "larder",
        "1",
        "--namespace",
        SYSTEM,
        "--wait",
        TIMEOUT,
    ];
    setup.helm(&rollback).await?;
    ensure!(image_of_larder(&setup).await? == "registry.test/larder:one");
    churn.more(3).await?;

    setup.note("rolled back");
    setup
        .kubectl(&[
            "rollout",
            "restart",
            "daemonset/larder",
            "--namespace",
            SYSTEM,
        ])
        .await?;
    rolled_out(&setup).await?;
    churn.more(3).await?;

    setup.note("restarted");
    for node in NODES {
        kill_larder(&setup, node).await?;
        churn.more(2).await?;
    }

    setup.note("killed");
    let until_now = warnings(&setup).await?;
    assert_eq!(until_now, Vec::<String>::new(), "before the runtime ends");
    churn.restarting.store(true, Ordering::Relaxed);
    for program in ["n1/containerd", "n2/containerd"] {
        setup.stop(&[program]).await?;
        setup.start(&[program]).await?;
        churn.more(3).await?;
    }
    churn.restarting.store(false, Ordering::Relaxed);
    churn.more(3).await?;

    setup.note("the runtimes were restarted");
    setup
        .helm(&[
            "uninstall",
            "larder",
            "--namespace",
            SYSTEM,
            "--wait",
            TIMEOUT,
        ])
        .await?;
    churn.more(3).await?;
    for (node, before) in NODES.into_iter().zip(before) {
        let after = setup.runtime_files(node).await?;
        ensure!(after == before, "{node} had\n{before}\nand has\n{after}");
    }
    let left = [
        "all,configmaps,secrets,serviceaccounts,roles,rolebindings",
        "--namespace",
        SYSTEM,
    ];
    let label = "--selector=app.kubernetes.io/instance=larder";
    let left = setup.list(&[&left[..], &[label]].concat()).await?;
    let names = left.iter().map(|object| {
        let word = |part: &Value| part.as_str().unwrap_or_default().to_owned();
        format!(
            "{} {}",
            word(&object["kind"]),
            word(&object["metadata"]["name"])
        )
    });
    // A failed hook keeps its log.
    let names: Vec<_> = names
        .filter(|name| !name.contains("larder-upgrade"))
        .collect();
    ensure!(names.is_empty(), "left behind: {names:?}");

    let (done, failures) = churn.end().await?;
    let warnings = warnings(&setup).await?;
    eprintln!("{done} pods, {} failed", failures.len());
    assert_eq!(failures, Vec::<String>::new(), "of {done}");
    let warnings: Vec<_> = warnings
        .into_iter()
        .filter(|why| !is_runtimes(why))
        .collect();
    assert_eq!(warnings, Vec::<String>::new(), "of {done}");
    Ok(())
}

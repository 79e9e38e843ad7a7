//! Ready layers and a real kubelet. The kubelet pulls nothing that is ready, and its image collection frees what larder
//! may then remove. Pods start without the registry, and without larder.

use anyhow::{Context as _, Result, ensure};
use larder_tests::image::{Executable, LayerSpec, oci_layout};
use larder_tests::kubernetes::Cluster;
use larder_tests::node::larder_program;
use serde_json::Value;

use crate::setup::{CHART, SYSTEM, Setup, TIMEOUT, one_of_two, pod};

const NODE: &str = "n1";
const APP: &str = "registry.test/ready/app:v1";
const LAYERS: &str = "/var/lib/larder-layers";

/// The size of the node's own disk, and of a layer of the application.
const DISK: &str = "3G";
const LAYER: u64 = 60 << 20;

/// What `larder layers` says on the node about the application's layers.
async fn layers(setup: &Setup) -> Result<Vec<Value>> {
    let larder = setup.larder_on(NODE).await?;
    let name = larder["metadata"]["name"].as_str().context("a name")?;
    let words = ["exec", "--namespace", SYSTEM, name, "--container", "larder"];
    let said = setup
        .kubectl(&[&words[..], &["--", "larder", "layers", "--json"]].concat())
        .await?;
    let said: Value = serde_json::from_str(&said)?;
    let layers = said["layers"].as_array().context("layers")?.clone();
    let of_app = |layer: &Value| layer["image"] == "registry.test/ready/app";
    Ok(layers.into_iter().filter(of_app).collect())
}

/// Waits until each of the application's layers is in this state.
async fn until_layers(setup: &Setup, count: usize, state: &str) -> Result<()> {
    let look = async || {
        // A kubelet that has just started does not know the pod in which to run the command.
        let Ok(layers) = layers(setup).await else {
            return Ok(None);
        };
        let are = layers.len() == count && layers.iter().all(|layer| layer["state"] == state);
        Ok(are.then_some(()))
    };
    setup.until(&format!("{count} layers, {state}"), look).await
}

/// The blobs among these that containerd's content store has.
async fn downloaded(setup: &Setup, blobs: &[String]) -> Result<Vec<String>> {
    let store = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256";
    let found = setup.on(NODE, &["ls", store]).await?;
    let found = found.lines().map(|hex| format!("sha256:{hex}"));
    Ok(found.filter(|blob| blobs.contains(blob)).collect())
}

/// Starts a pod with this pull policy, and waits until it runs.
async fn runs(setup: &Setup, name: &str, policy: &str) -> Result<()> {
    let mut pod = pod(name, NODE, APP);
    pod["spec"]["containers"][0]["imagePullPolicy"] = policy.into();
    setup.apply(&[pod]).await?;
    let outcome = setup.outcome(name).await?;
    ensure!(outcome.is_ok(), "{name}: {outcome:?}");
    setup.note(&format!("the pod {name} runs"));
    Ok(())
}

/// `helm upgrade` with one more value. Missing objects are created.
async fn upgrade(setup: &Setup, value: &str) -> Result<()> {
    let words = ["upgrade", "larder", CHART, "--namespace", SYSTEM, TIMEOUT];
    let more = ["--reuse-values", "--wait", "--set", value];
    setup.helm(&[&words[..], &more[..]].concat()).await?;
    Ok(())
}

/// Waits until the runtime has no container of the application: the kubelet does not collect an image with one.
async fn no_container(setup: &Setup) -> Result<()> {
    let look = async || {
        let list = ["ctr", "--namespace", "k8s.io", "containers", "ls"];
        let listed = setup.on(NODE, &list).await?;
        Ok((!listed.contains(APP)).then_some(()))
    };
    setup.until("the containers are removed", look).await
}

/// The kubelet's limits, as in its configuration: it wants at least so much of the disk free.
async fn kubelet_wants(setup: &Setup, available: &str) -> Result<()> {
    let config = "/etc/kubernetes/kubelet.yaml";
    let limits = format!(
        r#".localStorageCapacityIsolation = true | .imageMinimumGCAge = "1s" | .evictionPressureTransitionPeriod = "1s"
        | .evictionHard = {{"nodefs.available": "1%", "imagefs.available": "{available}", "memory.available": "50Mi"}}"#
    );
    let change = format!("jq '{limits}' {config} >/run/new && cp /run/new {config}");
    setup.on(NODE, &["sh", "-ec", &change]).await?;
    setup.stop(&["n1/kubelet"]).await?;
    setup.start(&["n1/kubelet"]).await
}

/// Makes the kubelet remove the images without a container, because its disk is too full.
async fn collect(setup: &Setup) -> Result<()> {
    no_container(setup).await?;
    let free = [
        "stat",
        "--file-system",
        "--format=%S %a",
        "/var/lib/containerd",
    ];
    let free = setup.on(NODE, &free).await?;
    let numbers: Result<Vec<u64>, _> = free.split_whitespace().map(str::parse).collect();
    let free: u64 = numbers?.iter().product();
    kubelet_wants(setup, &(free + LAYER / 2).to_string()).await?;
    let collected = async || {
        let cri = setup.cri(NODE).await?;
        Ok(cri.image_status(APP).await?.is_none().then_some(()))
    };
    setup.until("the image is collected", collected).await?;
    kubelet_wants(setup, "1%").await?;
    let relieved = async || {
        let node = setup.get(&["node", NODE]).await?;
        let conditions = node["status"]["conditions"].as_array().cloned();
        let relieved = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "DiskPressure" && condition["status"] == "False");
        Ok(relieved.then_some(()))
    };
    setup.until("room on the disk", relieved).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_start_from_ready_layers_without_the_registry_and_without_larder() -> Result<()> {
    let _machine = one_of_two().await;
    let setup = Setup::with_disks(1, DISK).await?;
    setup.push_larder("one").await?;
    let layout = setup.dir().join("ready");
    let executable = Executable {
        host_path: Cluster::dir(&setup).join("bin/wait"),
        image_path: "wait-ready".to_owned(),
    };
    let specs = [LayerSpec::new(1, LAYER), LayerSpec::new(2, 100)];
    oci_layout(&layout, "app", &specs, Some(&executable))?;
    setup.push(&layout, APP).await?;
    // A prepared node: containerd reads drop-ins, and one of them is larder's.
    let config = "/etc/containerd/config.toml";
    let imports = "version = 3\\nimports = [\"/etc/containerd/conf.d/*.toml\"]";
    let imports = format!("s|^version = 3$|{imports}|");
    setup.on(NODE, &["sed", "-i", &imports, config]).await?;
    let larder = larder_program();
    let larder = larder.to_str().context("UTF-8")?;
    setup.on(NODE, &[larder, "install", "--streaming"]).await?;
    setup.stop(&["n1/containerd"]).await?;
    setup.start(&["n1/containerd"]).await?;
    let settings = [
        "--wait",
        "--set",
        "runtime.watch.enabled=true,streaming.mode=ready",
        "--set-string",
        "config.streaming.min_layer=0",
    ];
    setup.install(&settings).await?;
    setup.note("larder runs");

    // The first pull downloads. Then larder makes the layers ready, beside the snapshots.
    runs(&setup, "first", "Always").await?;
    until_layers(&setup, 3, "offered").await?;
    setup.note("the layers are ready");
    let blobs = layers(&setup).await?;
    let blobs = blobs.iter().filter_map(|layer| layer["layer"].as_str());
    let blobs: Vec<String> = blobs.map(str::to_owned).collect();
    assert_eq!(downloaded(&setup, &blobs).await?.len(), blobs.len());
    setup.remove_pod("first").await?;
    collect(&setup).await?;
    setup.note("the kubelet has removed the image");
    let gone = async || Ok(downloaded(&setup, &blobs).await?.is_empty().then_some(()));
    setup.until("its content is collected", gone).await?;

    // The next pull mounts the layers.
    runs(&setup, "second", "Always").await?;
    let found = downloaded(&setup, &blobs).await?;
    ensure!(found.is_empty(), "downloaded: {found:?}");
    until_layers(&setup, 3, "in-use").await?;
    setup.remove_pod("second").await?;

    // Without the registry, the node starts another pod by itself.
    setup.stop(&["registry"]).await?;
    runs(&setup, "third", "Always").await?;
    // And without larder.
    let ds = [
        "delete",
        "daemonset",
        "--namespace",
        SYSTEM,
        "--all",
        "--wait",
    ];
    setup.kubectl(&ds).await?;
    runs(&setup, "fourth", "IfNotPresent").await?;
    setup.remove_pod("third").await?;
    setup.remove_pod("fourth").await?;
    setup.start(&["registry"]).await?;

    // larder comes back. Once the kubelet has removed the image, nothing refers to the ready files, and larder may
    // remove them.
    upgrade(&setup, "image.tag=one").await?;
    until_layers(&setup, 3, "in-use").await?;
    collect(&setup).await?;
    until_layers(&setup, 3, "offered").await?;
    upgrade(&setup, "config.streaming.never[0]=*/ready/*").await?;
    let none = async || {
        let find = ["find", LAYERS, "-name", "*.erofs*"];
        Ok(setup.on(NODE, &find).await?.is_empty().then_some(()))
    };
    setup.until("the files are removed", none).await
}

//! What the pod serves, and to which clients.

use anyhow::Result;
use data_encoding::BASE64;
use larder_tests::image::{LayerSpec, build};
use larder_tests::kubernetes::Objects;
use larder_tests::real::Release;
use larder_tests::real::cri::{PodSandboxConfig, PodSandboxMetadata};
use serde_json::json;

use crate::setup::{REFUSED, REGISTRY, Setup, alone, curl_from};

/// An empty pod, whose network is that of any other pod of the node. Gives the process id of its sandbox.
async fn another_pod(setup: &Setup) -> Result<(String, u32)> {
    let config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "other".to_owned(),
            uid: "other".to_owned(),
            namespace: "default".to_owned(),
        }),
        ..PodSandboxConfig::default()
    };
    let sandbox = setup.kubelet.cri.run_pod(&config).await?;
    let (_, pid) = setup.kubelet.cri.pod_network(&sandbox).await?;
    Ok((sandbox, pid))
}

/// The members' certificate as files.
fn member(objects: &Objects) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let secret = objects.get("Secret", "larder-peers");
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        let text = secret["data"][name].as_str().unwrap_or_default();
        std::fs::write(dir.path().join(name), BASE64.decode(text.as_bytes())?)?;
    }
    Ok(dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_containerd_1_is_served_through_the_host_port_and_nobody_else() -> Result<()> {
    served_through_the_host_port(Release::One).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_containerd_2_is_served_through_the_host_port_and_nobody_else() -> Result<()> {
    served_through_the_host_port(Release::Two).await
}

async fn served_through_the_host_port(release: Release) -> Result<()> {
    let _machine = alone().await;
    let mut setup = Setup::new(release).await?;
    setup.push_larder("one")?;
    let objects = setup
        .chart("one")
        .set("peers.enabled", &json!(true))
        .set("clusterDomain", &json!("test"))
        .render();
    let image = build(
        &setup.fake,
        "app",
        "v1",
        &[LayerSpec::new(1, 3_000_000), LayerSpec::new(2, 100)],
    );
    // larder's own image comes straight from its registry: no larder runs yet.
    let pod = setup.run(&objects, "larder").await?;
    assert!(
        !setup.direct().is_empty(),
        "containerd has pulled larder's image"
    );
    let hosts = setup
        .kubelet
        .containerd
        .hosts_dir()
        .join(REGISTRY)
        .join("hosts.toml");
    let hosts = std::fs::read_to_string(hosts)?;
    assert!(
        hosts.contains("http://127.0.0.1:7420") && hosts.starts_with("# Ours.\nserver"),
        "{hosts}"
    );

    // Commands that look at the node's files find them in the pod, by the node's paths.
    let container = pod.container("larder");
    let doctor = ["larder", "doctor", "--json"];
    let (_, text) = setup.kubelet.cri.exec(container, &doctor).await?;
    let diagnosis: serde_json::Value = serde_json::from_str(&text)?;
    let findings = diagnosis["findings"].as_array().expect("findings");
    for (check, found) in [
        ("runtime", "/etc/containerd/config.toml names "),
        ("hosts", "containerd asks larder first: "),
    ] {
        let well = |finding: &&serde_json::Value| {
            finding["check"] == check
                && finding["severity"] == "ok"
                && finding["found"]
                    .as_str()
                    .is_some_and(|words| words.starts_with(found))
        };
        assert!(findings.iter().any(|finding| well(&finding)), "{text}");
    }

    // The runtime's pull goes through the host port; larder resolves the registry's name inside its container.
    setup.fake.reset_counts();
    let id = setup.pull("app:v1").await?;
    assert_eq!(id, image.config_digest);
    assert_eq!(setup.direct(), [], "containerd went past larder");
    assert!(
        !setup.fetches().is_empty(),
        "larder asked the registry:\n{}",
        pod.log("larder")
    );
    setup.kubelet.cri.remove_image(&id).await?;
    setup.fake.reset_counts();
    setup.pull("app:v1").await?;
    assert_eq!(setup.fetches(), [], "it is warm:\n{}", pod.log("larder"));

    // Run as by `kubectl exec`.
    let status = setup
        .kubelet
        .cri
        .exec(pod.container("larder"), &["larder", "status"])
        .await?;
    assert_eq!(status.0, 0, "{}", status.1);

    // Requests of other pods, by any address, and of other machines.
    let (sandbox, other) = another_pod(&setup).await?;
    let ping = |host: &str| format!("http://{host}:7420/v2/");
    let by_pod = curl_from(other, &[&ping(&pod.ip)]).await?;
    let said = String::from_utf8_lossy(&by_pod.stdout).into_owned();
    assert!(said.ends_with("\n403"), "{by_pod:?}");
    assert!(setup.metric(&pod, "larder_turned_away_total").await? >= 1.0);
    let node = setup.node().address().to_string();
    for host in [node.as_str(), "10.88.0.1", "127.0.0.1"] {
        let refused = curl_from(other, &[&ping(host)]).await?;
        assert_eq!(refused.status.code(), REFUSED, "{host}: {refused:?}");
    }
    let url = ping(&node);
    let machine = setup
        .net
        .host(1)
        .run(async move { larder_tests::http::get(&url, &[]).await.is_err() });
    assert!(machine.await, "another machine reaches the port");

    // The peer port answers members only.
    let peers = format!("https://{}:7422/v2/", pod.ip);
    let anybody = curl_from(other, &["--insecure", &peers]).await?;
    assert!(!anybody.status.success(), "{anybody:?}");
    let files = member(&objects)?;
    let path = |name: &str| files.path().join(name).display().to_string();
    let connect = format!("larder-peer:7422:{}:7422", pod.ip);
    let (ca, crt, key) = (path("ca.crt"), path("tls.crt"), path("tls.key"));
    let as_member = curl_from(
        other,
        &[
            "--cacert",
            &ca,
            "--cert",
            &crt,
            "--key",
            &key,
            "--connect-to",
            &connect,
            "https://larder-peer:7422/v2/",
        ],
    )
    .await?;
    assert!(
        as_member.status.success(),
        "{as_member:?}\n{}",
        pod.log("larder")
    );
    assert!(setup.metric(&pod, "larder_peer_turned_away_total").await? >= 1.0);

    setup.kubelet.cri.stop_pod(&sandbox).await?;
    setup.kubelet.cri.remove_pod(&sandbox).await?;
    setup.kubelet.stop(&pod).await
}

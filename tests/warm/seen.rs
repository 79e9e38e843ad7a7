//! A set can take its images from what the members' container runtimes pulled or use, and a new node gets them.

use std::path::Path;
use std::time::SystemTime;

use larder_tests::members::Cluster;
use serde_json::json;

use super::*;

/// Writes a watcher's report of these images, all of them in use.
fn runs(file: &Path, fake: &FakeRegistry, images: &[(&str, &Image)]) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let listed = images.iter().map(|(repository, image)| {
        json!({
            "namespace": "k8s.io", "names": [format!("{}/{repository}:v1", fake.host())],
            "target": image.manifest_digest, "manifest": image.manifest_digest, "config": image.config_digest,
        })
    });
    let users = images.iter().map(|(repository, image)| {
        json!({
            "namespace": "k8s.io", "kind": "container", "id": *repository, "image": image.config_digest,
            "digest": image.config_digest,
        })
    });
    let report = json!({
        "version": 1, "at": now.expect("a time").as_secs(), "boot": boot.trim(),
        "runtime": { "name": "containerd", "version": "2.1.4" },
        "images": listed.collect::<Vec<_>>(), "users": users.collect::<Vec<_>>(),
    });
    let new = file.with_extension("new");
    fs::write(&new, report.to_string()).expect("a file");
    fs::rename(new, file).expect("a file");
}

/// Two nodes run one image, and a third node alone runs another. Every node fetches the first image, and a node that
/// joins while the registry is down gets it from the others. A private image that no node may fetch is not in the set.
#[tokio::test]
async fn what_runs_on_members_is_on_a_new_node_with_the_registry_gone() {
    let fake = FakeRegistry::start().await;
    let build = |repository: &str, seed| {
        image::build(&fake, repository, "v1", &[LayerSpec::new(seed, 100_000)])
    };
    let (both, single, private) = (
        build("team/both", 1),
        build("team/single", 2),
        build("team/private", 3),
    );
    fake.require_basic("team/private", "robot", "secret");
    let dir = tempfile::tempdir().expect("a directory");
    let file = |number: usize| dir.path().join(format!("{number}.json"));
    let everywhere = [("team/both", &both), ("team/private", &private)];
    runs(&file(0), &fake, &everywhere);
    runs(&file(1), &fake, &everywhere);
    runs(&file(2), &fake, &[("team/single", &single)]);
    let config = |number: usize| {
        format!(
            "[store]\nmin_free = \"0\"\n[runtime]\nfile = \"{}\"\n[warm]\nrefresh = \"1s\"\n\
             [[warm.sets.labs.from]]\nseen = \"1h\"\non = 2\nmatch = [\"*/team/*\"]\n",
            file(number).display()
        )
    };
    let plan = Cluster::of(3).upstream(&fake);
    let plan = (0..4).fold(plan, |plan, number| {
        plan.config_of(number, &config(number))
            .knows(number, &[0, 1, 2, 3])
    });
    let mut cluster = plan.start().await;
    // A client's pull shows that the repositories are public.
    for repository in ["team/both", "team/single"] {
        let node = cluster.node(0).url();
        let url = format!("{node}/v2/{repository}/manifests/v1?ns={}", fake.host());
        let answer = http::get(&url, &[]).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    for node in cluster.nodes() {
        let status = until(node, "what two nodes run is here", |status| {
            list(status, "available_images").len() == 1
        })
        .await;
        assert!(has(node, &both) && !has(node, &single), "{status:#}");
        assert_eq!(list(&status, "desired_images").len(), 1, "{status:#}");
        assert_eq!(status["images"][0]["tags"], json!(["v1"]));
        assert!(
            status["images"][0]["why"]
                .as_str()
                .is_some_and(|why| why.contains("2 nodes")),
            "{status:#}"
        );
    }
    fake.stop().await;
    cluster.add().await;
    let node = cluster.node(3);
    until(node, "it is here", |status| {
        list(status, "available_images").len() == 1
    })
    .await;
    assert!(has(node, &both));
}

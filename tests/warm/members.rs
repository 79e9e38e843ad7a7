//! A cluster warms a set together.

use larder_tests::members::{Cluster, upstream_bytes};

use super::*;

#[tokio::test]
async fn five_members_fetch_each_blob_of_ten_images_once() {
    let fake = FakeRegistry::start().await;
    let images: Vec<Image> = (0..10)
        .map(|week| put(&fake, &format!("w_2026_{week}"), week, 300_000))
        .collect();
    let config = newest(
        &fake,
        "",
        "",
        "newest = [{ match = \"w_#_#\", count = 10 }]",
    );
    let cluster = Cluster::of(5).upstream(&fake).config(&config).start().await;
    for node in cluster.nodes() {
        until(node, "all is here", |status| {
            list(status, "available_images").len() == 10
                && list(status, "images_to_cache").is_empty()
        })
        .await;
    }
    for image in &images {
        assert_eq!(
            upstream_bytes(&fake, image),
            image_blobs(image),
            "once for all members"
        );
        assert!(cluster.nodes().iter().all(|node| has(node, image)));
    }
}

fn image_blobs(image: &Image) -> u64 {
    image.size() - image.manifest.len() as u64
}

/// A node that joins while the registry is down gets the named images from the other members.
#[tokio::test]
async fn a_new_member_is_warm_from_its_peers_with_the_registry_gone() {
    let fake = FakeRegistry::start().await;
    let image = put(&fake, "recommended", 1, 300_000);
    let config = newest(&fake, "", "", "tags = [\"recommended\"]\nlist = \"off\"");
    let plan = Cluster::of(2).upstream(&fake).config(&config);
    let plan = (0..3).fold(plan, |plan, number| plan.knows(number, &[0, 1, 2]));
    let mut cluster = plan.start().await;
    for node in cluster.nodes() {
        until(node, "it is here", |status| {
            is_here(status, &["recommended"])
        })
        .await;
    }
    fake.stop().await;
    cluster.add().await;
    let node = cluster.node(2);
    until(node, "it is here", |status| {
        list(status, "available_images").len() == 1
    })
    .await;
    assert!(has(node, &image));
}

/// The same for the newest images of a list: a node without a list takes an earlier one from a member.
#[tokio::test]
async fn a_new_member_has_the_newest_from_its_peers_with_the_registry_gone() {
    let fake = FakeRegistry::start().await;
    let images: Vec<Image> = (1..=3)
        .map(|week| put(&fake, &format!("w_2026_{week}"), week, 300_000))
        .collect();
    let newest = newest(&fake, "", "", "newest = [{ match = \"w_#_#\", count = 2 }]");
    let plan = Cluster::of(2).upstream(&fake).config(&newest);
    let plan = (0..3).fold(plan, |plan, number| plan.knows(number, &[0, 1, 2]));
    let mut cluster = plan.start().await;
    for node in cluster.nodes() {
        until(node, "the newest are here", |status| {
            is_here(status, &["w_2026_3", "w_2026_2"])
        })
        .await;
    }
    fake.stop().await;
    cluster.add().await;
    let node = cluster.node(2);
    let status = until(node, "the newest are here", |status| {
        list(status, "available_images").len() == 2
    })
    .await;
    assert_eq!(tags(&status, "images"), ["w_2026_3", "w_2026_2"]);
    assert!(
        !status["error"].is_null(),
        "the list is an old one: {status:#}"
    );
    assert!(has(node, &images[2]) && has(node, &images[1]) && !has(node, &images[0]));
}

/// An image that all nodes of a set hold is common. A node without the set's labels shows the same, and says what each
/// node lacks.
#[tokio::test]
async fn what_all_nodes_of_a_set_hold_is_common() {
    let fake = FakeRegistry::start().await;
    put(&fake, "w_2026_1", 1, 300_000);
    let held = put(&fake, "w_2026_2", 2, 300_000);
    let source = "newest = [{ match = \"w_#_#\", count = 2 }]";
    let config = |pool: &str| {
        let warm = format!("at_once = 2\nlabels = {{ pool = \"{pool}\" }}");
        newest(&fake, &warm, "nodes = { pool = \"labs\" }", source)
    };
    let plan = Cluster::of(3).upstream(&fake);
    let plan = plan
        .config_of(0, &config("labs"))
        .config_of(1, &config("labs"));
    let gate = fake.gate(
        larder_tests::fake::Match::blob().reference(&held.layers[0].digest),
        1000,
    );
    let cluster = plan.config_of(2, &config("base")).start().await;
    for node in cluster.nodes() {
        let status = until(node, "one is common", |status| {
            list(status, "common_cache").len() == 1
        })
        .await;
        assert_eq!(
            status["images_to_cache"][0]["image_hash"],
            held.manifest_digest.as_str()
        );
        assert_eq!(list(&status, "nodes").len(), 3, "{status:#}");
    }
    assert_eq!(shown(cluster.node(2), "/warm/labs/ready").await.0, 200);
    assert_eq!(shown(cluster.node(0), "/warm/labs/ready").await.0, 503);
    gate.open();
    for node in cluster.nodes() {
        until(node, "both are common", |status| {
            list(status, "common_cache").len() == 2 && list(status, "images_to_cache").is_empty()
        })
        .await;
    }
    assert_eq!(
        cluster.node(2).cli(&["warm", "labs"]).await.status.code(),
        Some(0)
    );
}

/// A node outside the set shows what members report, also there without what is private.
#[tokio::test]
async fn what_members_say_of_private_repositories_is_not_exposed() {
    let fake = FakeRegistry::start().await;
    fake.require_basic("labs/lab", "robot", "secret");
    put(&fake, "w_2026_1", 1, 1000);
    let dir = tempfile::tempdir().expect("a directory");
    let word = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (username, password) = (word("u", "robot"), word("p", "secret"));
    let config = |pool: &str| {
        let warm = format!("expose = true\nlabels = {{ pool = \"{pool}\" }}");
        let source = "newest = [{ match = \"w_#_#\", count = 2 }]";
        let set = newest(&fake, &warm, "nodes = { pool = \"labs\" }", source);
        format!(
            "[upstreams.\"{}\"]\nendpoints = [\"{}\"]\ncredentials = {{ username_file = \"{username}\", password_file = \"{password}\" }}\n\
             [telemetry]\nexpose = \"127.0.0.3:0\"\n{set}",
            fake.host(),
            fake.url(),
        )
    };
    let plan = Cluster::of(2)
        .config_of(0, &config("labs"))
        .config_of(1, &config("other"));
    let cluster = plan.start().await;
    until(cluster.node(0), "it is here", |status| {
        is_here(status, &["w_2026_1"])
    })
    .await;
    until(cluster.node(1), "it shows what the other says", |status| {
        list(status, "desired_images").len() == 1
    })
    .await;
    for node in cluster.nodes() {
        let exposed = node.admin("/status").await["listen"]["exposed"].clone();
        let exposed = exposed.as_str().expect("an address").to_owned();
        let answer = http::get(&format!("http://{exposed}/warm/labs"), &[]).await;
        let answer = answer.expect("an answer");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{text}");
        assert!(
            !text.contains("labs/lab") && !text.contains("w_2026_1"),
            "{text}"
        );
    }
}

//! One member lists for all (promise P31): what N members cost a registry, what happens when the lister goes, and what
//! a member that lies can do.

use larder_tests::fake::{Content, digest_of};
use larder_tests::members::{Cluster, FakePeer, Manner};

use super::listing::lists;
use super::*;

/// Lists asked of the registry, and lists taken from members.
async fn questions(nodes: &[Node]) -> (Vec<f64>, Vec<f64>) {
    let (mut registry, mut members) = (Vec::new(), Vec::new());
    for node in nodes {
        let questions = lists(node, "listed").await + lists(node, "unchanged").await;
        registry.push(questions);
        members.push(lists(node, "taken").await);
    }
    (registry, members)
}

/// N members cost the registry one list a refresh. When the lister is killed, another one takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_lists_for_all_until_it_is_killed() {
    let fake = FakeRegistry::start().await;
    let image = put(&fake, "w_1", 1, 1000);
    let config = newest(&fake, "", "", "newest = [{ match = \"w_#\", count = 1 }]");
    let mut cluster = Cluster::of(4).upstream(&fake).config(&config).start().await;
    for node in cluster.nodes() {
        until(node, "it is here", |status| is_here(status, &["w_1"])).await;
        assert!(has(node, &image));
    }
    // Nodes that have just started may not know each other yet. A node that lists by itself in the meantime stops doing
    // so.
    let deadline = Instant::now() + PATIENCE;
    let lister = loop {
        let (before, taken) = questions(cluster.nodes()).await;
        let mut now = (before.clone(), taken.clone());
        while now
            .0
            .iter()
            .zip(&before)
            .all(|(now, before)| now - before < 3.0)
        {
            assert!(Instant::now() < deadline, "no refreshes: {now:?}");
            tokio::time::sleep(GLANCE).await;
            now = questions(cluster.nodes()).await;
        }
        let ask = |node: &usize| now.0[*node] > before[*node];
        let listers: Vec<_> = (0..4).filter(ask).collect();
        let takers = (0..4).filter(|node| now.1[*node] > taken[*node]).count();
        if listers.len() == 1 && takers == 3 {
            break listers[0];
        }
        assert!(Instant::now() < deadline, "{listers:?} ask the registry");
    };
    cluster.node_mut(lister).kill9().await;
    let image = put(&fake, "w_2", 2, 1000);
    for number in (0..4).filter(|number| *number != lister) {
        let node = cluster.node(number);
        until(node, "the new one is here", |status| {
            is_here(status, &["w_2"])
        })
        .await;
        assert!(has(node, &image));
    }
}

/// The key of a repository's list among members.
fn thing(fake: &FakeRegistry, repository: &str) -> String {
    digest_of(format!("warm/{}/{repository}/auto", fake.host()).as_bytes())
}

/// A list only chooses. larder asks the set's own repository for a foreign digest, and that repository does not have
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lies_brings_no_foreign_image() {
    let fake = FakeRegistry::start().await;
    let foreign = image::build(&fake, "other/secret", "v1", &[LayerSpec::new(77, 1000)]);
    let told = serde_json::json!({
        "listing": {"tags": [{"tag": "w_9", "digest": foreign.manifest_digest}], "complete": true},
        "generation": "made up", "at": 1_700_000_000, "tried_ago": 0,
    });
    // Among so many lists, the liar ranks first for some.
    let repositories: Vec<_> = (0..12).map(|n| format!("labs/lab{n}")).collect();
    let sets = repositories.iter().map(|repository| {
        let name = repository.replace('/', "-");
        format!(
            "[[warm.sets.{name}.from]]\nrepository = \"{}/{repository}\"\nnewest = [{{ match = \"w_#\", count = 1 }}]\n",
            fake.host()
        )
    });
    let config = format!("[warm]\nrefresh = \"1s\"\n{}", sets.collect::<String>());
    let plan = Cluster::of(1).stranger(1).upstream(&fake).config(&config);
    let authority = plan.authority();
    let tls = authority.server(&authority.member());
    let liar = FakePeer::start(plan.address(1), Some(tls), Manner::Honest).await;
    liar.hold("/larder/v1/alive", &Content::bytes("0"));
    let mut own = Vec::new();
    for (seed, repository) in (1..).zip(&repositories) {
        let layers = [LayerSpec::new(seed, 1000)];
        own.push(image::build(&fake, repository, "w_1", &layers));
        let told = Content::bytes(told.to_string());
        liar.hold(&thing(&fake, repository), &told);
    }
    let cluster = plan.start().await;
    let node = cluster.node(0);
    let deadline = Instant::now() + PATIENCE;
    let mut believed = 0;
    for (repository, own) in repositories.iter().zip(&own) {
        let name = repository.replace('/', "-");
        loop {
            let (_, set) = asked(node, &format!("/warm?set={name}")).await;
            let image = &list(&set, "images").first().cloned().unwrap_or_default();
            if image["state"] == "here" {
                assert!(has(node, own), "{set:#}");
                break;
            }
            if image["state"] == "failed" {
                believed += 1;
                break;
            }
            assert!(Instant::now() < deadline, "{set:#}\n{}", node.log());
            tokio::time::sleep(GLANCE).await;
        }
    }
    let heard = liar.heard();
    let lists = heard
        .iter()
        .filter(|heard| heard.target.contains("/larder/v1/lists"));
    assert!(lists.count() > 0, "the liar was asked for no list");
    assert!(believed > 0, "no list of the liar was believed");
    assert!(!committed(node.store(), &foreign.manifest_digest));
    assert!(!committed(node.store(), &foreign.layers[0].digest));
}

/// A list that was shown to a credential leaves a node only if its members show certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_lists_stay_where_members_show_no_certificate() {
    let fake = FakeRegistry::start().await;
    let image = put(&fake, "w_1", 1, 1000);
    fake.require_basic("labs/lab", "larder", "hunter2-hunter2");
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in [("user", "larder"), ("pass", "hunter2-hunter2")] {
        fs::write(dir.path().join(name), text).expect("a file");
    }
    let upstream = format!(
        "[upstreams.\"{}\"]\nendpoints = [\"{}\"]\naccess = \"shared\"\ncredentials = {{ username_file = \"{2}/user\", password_file = \"{2}/pass\" }}\n",
        fake.host(),
        fake.url(),
        dir.path().display()
    );
    let config = newest(&fake, "", "", "newest = [{ match = \"w_#\", count = 1 }]");
    let config = format!("{config}{upstream}");
    for (tls, shared) in [(true, true), (false, false)] {
        let plan = Cluster::of(2).config(&config);
        let plan = if tls { plan } else { plan.tls_off() };
        let cluster = plan.start().await;
        for node in cluster.nodes() {
            until(node, "it is here", |status| {
                list(status, "available_images").len() == 1
            })
            .await;
            assert!(has(node, &image));
        }
        // Several refreshes of each node.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut counts = Vec::new();
            for node in cluster.nodes() {
                counts.push((lists(node, "unchanged").await, lists(node, "taken").await));
            }
            let taken: f64 = counts.iter().map(|(_, taken)| taken).sum();
            let settled = counts.iter().all(|(own, taken)| own + taken >= 3.0);
            if settled && (taken > 0.0) == shared {
                break;
            }
            assert!(
                shared || taken == 0.0,
                "a private list went by plain HTTP: {counts:?}"
            );
            assert!(Instant::now() < deadline, "tls {tls}: {counts:?}");
            tokio::time::sleep(GLANCE).await;
        }
        for node in cluster.nodes() {
            assert!(!node.log().contains("hunter2"), "{}", node.log());
        }
    }
}

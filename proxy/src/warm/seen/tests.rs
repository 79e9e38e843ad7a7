use serde_json::{from_value, json};

use super::*;
use crate::config::{Config, WarmSource};

fn digest(of: &str) -> Digest {
    Digest::sha256(of.as_bytes())
}

fn image(name: &str, nodes: u32, at: u64) -> SeenImage {
    let name: ImageName = name.parse().unwrap();
    let tag = match &name.reference {
        Reference::Tag(tag) => tag.clone(),
        Reference::Digest(_) => unreachable!("it has a tag"),
    };
    SeenImage {
        digest: digest(&name.to_string()),
        registry: name.registry,
        repository: name.repository,
        tags: vec![tag],
        at,
        nodes,
        public: false,
    }
}

#[test]
fn a_report_tells_what_was_pulled_and_what_is_used() {
    let (index, config, manifest) = (digest("index"), digest("config"), digest("manifest"));
    let report: Report = from_value(json!({
        "version": 1, "at": 1000, "runtime": {"name": "containerd", "version": "2"},
        "images": [
            {"namespace": "k8s.io", "names": ["ghcr.io/team/app:v1", format!("ghcr.io/team/app@{index}"), config], "target": index, "manifest": manifest, "config": config, "updated": 400},
            {"namespace": "k8s.io", "names": ["ghcr.io/team/old:v1"], "target": digest("old"), "updated": 10},
            {"namespace": "k8s.io", "names": ["ghcr.io/team/silent:v1"], "target": digest("silent")},
            {"namespace": "", "names": ["quay.io/crio/app:2", format!("quay.io/crio/app@{manifest}")], "target": config, "config": config},
        ],
        "users": [
            {"namespace": "k8s.io", "kind": "container", "id": "1", "image": "ghcr.io/team/app:v1", "digest": config},
            {"namespace": "", "kind": "container", "id": "2", "image": "quay.io/crio/app:2"},
        ],
    }))
    .unwrap();
    let seen = of_report(&report);
    let told: Vec<_> = seen
        .iter()
        .map(|one| {
            let name = format!("{}/{}", one.registry, one.repository);
            let tags: Vec<_> = one.tags.iter().map(ToString::to_string).collect();
            (name, one.digest, tags.join(" "), one.at)
        })
        .collect();
    let row = |name: &str, digest, tags: &str, at| (name.to_owned(), digest, tags.to_owned(), at);
    assert_eq!(
        told,
        [
            row("ghcr.io/team/app", index, "v1", 1000),
            row("quay.io/crio/app", manifest, "2", 1000),
            row("ghcr.io/team/old", digest("old"), "v1", 10),
        ]
    );
}

#[test]
fn members_count_once_and_those_on_most_nodes_come_first() {
    let (a, b) = ("ghcr.io/team/a:1", "ghcr.io/team/b:1");
    let liar = vec![image(a, 99, 5); 3];
    let all = together(vec![liar, vec![image(b, 1, 7)], vec![image(b, 1, 9)]]);
    let told: Vec<_> = all
        .iter()
        .map(|one| (one.repository.as_str(), one.nodes, one.at))
        .collect();
    assert_eq!(told, [("team/b", 2, 9), ("team/a", 1, 5)]);
}

#[test]
fn a_source_chooses_by_time_nodes_and_name() {
    let text = "[[warm.sets.a.from]]\nseen = \"1m\"\non = 2\nmatch = [\"ghcr.io/team/*\"]\nskip = [\"*/never\"]\n";
    let config = Config::parse(text, std::path::Path::new("larder.toml")).unwrap();
    let WarmSource::Seen(from) = &config.warm.sets[0].1.from[0] else {
        panic!("{:?}", config.warm)
    };
    let seen = [
        image("ghcr.io/team/few:1", 1, 1000),
        image("ghcr.io/team/late:1", 9, 900),
        image("ghcr.io/team/app:1", 2, 941),
        image("ghcr.io/team/most:1", 3, 940),
        image("ghcr.io/team/never:1", 3, 1000),
        image("quay.io/team/app:1", 3, 1000),
    ];
    let chosen = choose(&seen, from, 1000);
    let names: Vec<_> = chosen.iter().map(|one| one.repository.as_str()).collect();
    assert_eq!(names, ["team/most", "team/app"]);
}

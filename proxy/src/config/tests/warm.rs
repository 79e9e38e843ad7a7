//! `[warm]`: its meaning, and the exact error for every mistake.

use super::*;

const FULL: &str = r#"
[warm]
refresh = "90s"
path = "/cachemachine"
expose = true
max_size = "20GB"
max_rate = "30MB"
at_once = 2
labels = { pool = "labs" }
labels_file = "/etc/podinfo/labels"

[warm.sets.jupyter]
nodes = { pool = "labs|gpu", "topology.kubernetes.io/zone" = "*" }
platforms = ["linux/amd64"]
keep = "2h"
max_size = "30%"
from = [
  { repository = "docker.io/nginx", tags = ["stable"], list = "off" },
  { seen = "24h", on = 2, match = ["ghcr.io/team/*"], skip = ["*/pause"] },
  { images = ["alpine:3", "r.io/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"] },
]

[[warm.sets.base.from]]
repository = "us-central1-docker.pkg.dev/x/y/sciplat-lab"
list = "gar"
tags = ["recommended"]
newest = [{ match = "w_#_#", count = 2 }, { match = "r#_#_#", count = 3 }]
skip = ["*-arm64"]
max_age = "90d"
"#;

#[test]
fn sets_are_understood_in_the_order_of_the_file_and_read_back() {
    let config = parsed(FULL);
    let names: Vec<_> = config.warm.sets.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["jupyter", "base"], "in the order of the file");
    let WarmSource::Repository(hub) = &config.warm.sets[0].1.from[0] else {
        panic!("{:?}", config.warm)
    };
    assert_eq!(hub.repository.as_str(), "library/nginx");
    assert_eq!(parsed(&config.to_toml()), config);
    let labs = config.warm.set("jupyter").expect("a set");
    let labels = |pool: &str, zone: &[&str]| {
        let zone = zone
            .iter()
            .map(|zone| ("topology.kubernetes.io/zone", *zone));
        let all = zone.chain([("pool", pool)]);
        all.map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    };
    assert!(labs.matches(&labels("gpu", &["a"])));
    assert!(!labs.matches(&labels("base", &["a"])));
    assert!(!labs.matches(&labels("labs", &[])));
}

/// A file, and the whole error.
const REFUSED: &[(&str, &str)] = &[
    (
        "[warm]\nrefresh = \"10ms\"",
        "2:11: `refresh` in [warm] is \"10ms\": a registry is not asked that often: write \"5m\"",
    ),
    (
        "[warm]\npath = \"/metrics\"",
        "2:8: `path` in [warm] is \"/metrics\": larder serves something else there: choose another path",
    ),
    (
        "[warm.sets.\"a/b\"]",
        "1:12: [warm.sets.\"a/b\"]: a set's name is a part of a path: letters, digits, `.`, `_` and `-`, 63 at the most",
    ),
    (
        "[warm.sets.labs]\nkeep = \"1h\"",
        "1:12: `from` in [warm.sets.\"labs\"]: a set needs a source: from = [{ repository = \"REGISTRY/NAME\", tags = [\"TAG\"] }]",
    ),
    (
        "[[warm.sets.labs.from]]\nrepository = \"ghcr.io/a/b\"",
        "2:14: `repository` in `from` of [warm.sets.\"labs\"]: nothing of it is chosen: add `tags`, or newest = [{ match = \"v#.#.#\", count = 2 }]",
    ),
    (
        "[[warm.sets.labs.from]]\nrepository = \"team/app\"\ntags = [\"a\"]",
        "2:14: `repository` in `from` of [warm.sets.\"labs\"] is \"team/app\": a repository is REGISTRY/NAME without a tag, such as \"ghcr.io/team/app\"",
    ),
    (
        "[[warm.sets.labs.from]]\nrepository = \"ghcr.io/a/b\"\nnewest = [{ match = \"w_##\", count = 2 }]",
        "3:21: `match` in `newest` of `from` of [warm.sets.\"labs\"] is \"w_##\": `#` takes all digits of a number: no digit and no second `#` can stand beside it",
    ),
    (
        "[[warm.sets.labs.from]]\nrepository = \"ghcr.io/a/b\"\nlist = \"off\"\nnewest = [{ match = \"v#\", count = 2 }]",
        "4:10: `newest` in `from` of [warm.sets.\"labs\"]: it needs a list, and `list` is \"off\": leave one of the two out",
    ),
    (
        "[[warm.sets.labs.from]]\nrepository = \"ghcr.io/a/b\"\nimages = [\"alpine\"]",
        "3:10: `images` in `from` of [warm.sets.\"labs\"]: `repository` names another source: write two entries",
    ),
    (
        "[[warm.sets.labs.from]]\nseen = \"0\"",
        "2:8: `seen` in `from` of [warm.sets.\"labs\"] is \"0\": nothing was pulled within no time: write \"24h\"",
    ),
    (
        "[[warm.sets.labs.from]]\nseen = \"1d\"\nmatch = [\"nginx\"]",
        "3:10: `match` in `from` of [warm.sets.\"labs\"] is \"nginx\": a pattern is REGISTRY/NAME in which `*` stands for anything, such as \"ghcr.io/team/*\"; without a tag",
    ),
    (
        "[[warm.sets.labs.from]]\nrepositry = \"ghcr.io/a/b\"",
        "2:1: unknown key `repositry` in `from` of [warm.sets.\"labs\"]: did you mean `repository`?",
    ),
];

#[test]
fn mistakes_are_named_with_their_place_and_their_fix() {
    for (text, wanted) in REFUSED {
        let error = parse(text).expect_err(text).to_string();
        assert_eq!(error, format!("larder.toml:{wanted}"), "{text}");
    }
}

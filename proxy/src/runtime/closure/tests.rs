use larder_shared::runtime::{Software, UserKind, VERSION};

use super::*;

fn digest(of: &str) -> Digest {
    Digest::sha256(of.as_bytes())
}

/// The content of the node tier: each manifest or index, with what it names.
const TIER: &[(&str, &[&str])] = &[
    ("index", &["amd", "arm"]),
    ("amd", &["amd-config", "base", "amd-top"]),
    ("arm", &["arm-config", "base", "arm-top"]),
    ("other", &["other-config", "base", "other-top"]),
    ("old-index", &["old", "absent"]),
    ("old", &["old-config", "old-layer"]),
    ("fat", &["one", "two"]),
    ("one", &["one-config", "one-layer"]),
];

fn tier() -> Manifests {
    let descriptor = |name: &str| format!(r#"{{"digest": "{}"}}"#, digest(name));
    let text = |name: &str, below: &[&str]| {
        if ["index", "old-index", "fat"].contains(&name) {
            let all: Vec<String> = below.iter().map(|name| descriptor(name)).collect();
            return format!(r#"{{"manifests": [{}]}}"#, all.join(", "));
        }
        let layers: Vec<String> = below[1..].iter().map(|name| descriptor(name)).collect();
        let config = descriptor(below[0]);
        format!(
            r#"{{"config": {config}, "layers": [{}]}}"#,
            layers.join(", ")
        )
    };
    TIER.iter()
        .map(|(name, below)| (digest(name), Names::of(text(name, below).as_bytes())))
        .collect()
}

/// `name, name = target manifest config layer layer`; `-` for a field that the runtime leaves out.
fn image(line: &str) -> Image {
    let (names, digests) = line.split_once(" = ").unwrap();
    let mut digests = digests.split(' ');
    let mut next = || digests.next().filter(|word| *word != "-").map(digest);
    Image {
        namespace: "k8s.io".to_owned(),
        names: names.split(", ").map(str::to_owned).collect(),
        target: next().unwrap(),
        digests: Vec::new(),
        manifest: next(),
        config: next(),
        layers: std::iter::from_fn(next).collect(),
        updated: None,
    }
}

fn report(images: &[&str], name: &str, names_digest: Option<Digest>) -> Report {
    Report {
        version: VERSION,
        at: 0,
        boot: None,
        runtime: Software {
            name: "containerd".to_owned(),
            version: "2.1.4".to_owned(),
        },
        images: images.iter().map(|line| image(line)).collect(),
        users: vec![User {
            namespace: "k8s.io".to_owned(),
            kind: UserKind::Container,
            id: "c1".to_owned(),
            image: name.to_owned(),
            digest: names_digest,
            created: None,
            pod_namespace: None,
        }],
        snapshots: Vec::new(),
        plugins: Vec::new(),
        snapshotter: None,
        content: Vec::new(),
    }
}

fn tagged(name: &ImageName) -> Option<Digest> {
    (name.to_string() == "r.io/a/b:old").then(|| digest("old-index"))
}

/// What the report says, what a user names, and what is in use then.
#[test]
fn whatever_the_runtime_names_all_of_the_image_is_in_use() {
    const AMD: &str = "index amd amd-config base amd-top";
    let whole = "r.io/a/b:v1 = index amd amd-config base amd-top";
    let by_digest = format!("r.io/a/b@{}", digest("index"));
    let of_manifest = format!("r.io/a/b@{}", digest("amd"));
    let config = digest("amd-config").to_string();
    #[expect(
        clippy::type_complexity,
        reason = "a table: what, images, the user's name and digest, the closure"
    )]
    let rows: &[(&str, &[&str], &str, Option<&str>, &str)] = &[
        ("the report says all", &[whole], "r.io/a/b:v1", None, AMD),
        (
            "and the user has the digest",
            &[whole],
            "r.io/a/b:v1",
            Some("index"),
            AMD,
        ),
        (
            "or that of the manifest",
            &[whole],
            "r.io/a/b:v1",
            Some("amd"),
            AMD,
        ),
        (
            "or that of the configuration",
            &[whole],
            "r.io/a/b:v1",
            Some("amd-config"),
            AMD,
        ),
        (
            "index and manifest alone",
            &["r.io/a/b:v1 = index amd"],
            "r.io/a/b:v1",
            None,
            AMD,
        ),
        (
            "index and configuration",
            &["r.io/a/b:v1 = index - amd-config"],
            "r.io/a/b:v1",
            None,
            AMD,
        ),
        (
            "the manifest alone",
            &["r.io/a/b:v1 = amd"],
            "r.io/a/b:v1",
            None,
            AMD,
        ),
        (
            "the configuration alone, as CRI-O has it",
            &["r.io/a/b:v1 = amd-config"],
            "r.io/a/b:v1",
            None,
            AMD,
        ),
        ("a name that is a configuration", &[], &config, None, AMD),
        (
            "a name with a digest",
            &[],
            &by_digest,
            None,
            "index amd amd-config base amd-top arm arm-config arm-top",
        ),
        (
            "a name with the manifest's digest",
            &[],
            &of_manifest,
            None,
            AMD,
        ),
        (
            "an index of which one platform is here",
            &[],
            "x",
            Some("fat"),
            "fat one one-config one-layer",
        ),
        (
            "an image that is listed no longer",
            &[],
            "r.io/a/b:gone",
            Some("other"),
            "other other-config base other-top",
        ),
        (
            "a name that is listed no longer, and the tier knows",
            &[],
            "r.io/a/b:old",
            None,
            "old-index old old-config old-layer",
        ),
        (
            "a name that nobody knows",
            &[whole],
            "r.io/a/b:gone",
            None,
            "",
        ),
        (
            "a name that has moved since",
            &["r.io/a/b:v1 = other"],
            "r.io/a/b:v1",
            Some("index"),
            "index amd amd-config base amd-top arm arm-config arm-top",
        ),
        (
            "two names of one image",
            &["r.io/a/b:v1, r.io/a/b:v2 = amd"],
            "r.io/a/b:v2",
            None,
            AMD,
        ),
        (
            "one name of two images",
            &["n = one", "n = other"],
            "n",
            None,
            "one one-config one-layer fat other other-config base other-top",
        ),
        (
            "an image of which nothing is here",
            &["n = far far-manifest far-config far-layer"],
            "n",
            None,
            "far far-manifest far-config far-layer",
        ),
        (
            "a listed image that nothing uses",
            &[whole, "n = one"],
            "n",
            None,
            "one one-config one-layer fat",
        ),
    ];
    let manifests = tier();
    for (what, images, name, names_digest, expected) in rows {
        let report = report(images, name, names_digest.map(digest));
        let found = in_use(&report, &manifests, tagged);
        let words = expected.split(' ').filter(|word| !word.is_empty());
        let expected: HashSet<Digest> = words.map(digest).collect();
        assert_eq!(found, expected, "{what}");
    }
}

/// Each namespace of containerd is separate: the same name may mean another image.
#[test]
fn a_name_means_the_image_of_its_own_namespace() {
    let mut report = report(&["n = one", "n = other"], "n", None);
    report.images[0].namespace = "moby".to_owned();
    let found = in_use(&report, &tier(), tagged);
    assert!(found.contains(&digest("other")) && !found.contains(&digest("one")));
    report.users[0].namespace = "moby".to_owned();
    let found = in_use(&report, &tier(), tagged);
    assert!(found.contains(&digest("one")) && !found.contains(&digest("other")));
}

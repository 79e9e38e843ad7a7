//! The kubelet's table of matches, and its order.

use super::*;

fn image(text: &str) -> Image {
    let (registry, repository) = text.split_once('/').expect("a registry and a repository");
    Image {
        registry: registry.parse().expect("a registry"),
        repository: repository.parse().expect("a repository"),
    }
}

/// A key of `auths`, an image, and whether the key is for the image.
const AUTHS: &[(&str, &str, bool)] = &[
    // Hosts
    ("reg.example.com", "reg.example.com/app", true),
    ("reg.example.com", "reg.example.org/app", false),
    ("reg.example.com", "other.example.com/app", false),
    ("Reg.Example.COM", "reg.example.com/app", true),
    ("localhost", "localhost/app", true),
    // Globs, label by label
    ("*.example.com", "reg.example.com/app", true),
    ("*.example.com", "a.reg.example.com/app", false),
    ("*.example.com", "example.com/app", false),
    ("*.*.example.com", "a.reg.example.com/app", true),
    ("*.*.example.com", "reg.example.com/app", false),
    ("reg.*.com", "reg.example.com/app", true),
    ("reg.example.*", "reg.example.com/app", true),
    ("*-eu.example.com", "reg-eu.example.com/app", true),
    ("*-eu.example.com", "reg-us.example.com/app", false),
    ("r*g.example.com", "reg.example.com/app", true),
    ("k*.io", "quay.io/app", false),
    ("*", "localhost/app", true),
    ("*", "reg.example.com/app", false),
    (
        "*.dkr.ecr.*.amazonaws.com",
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com/app",
        true,
    ),
    // Ports are equal, or absent on both sides
    ("reg.example.com:5000", "reg.example.com:5000/app", true),
    ("reg.example.com:5000", "reg.example.com:5001/app", false),
    ("reg.example.com", "reg.example.com:5000/app", false),
    ("reg.example.com:443", "reg.example.com/app", true),
    ("*.example.com:5000", "reg.example.com:5000/app", true),
    ("reg.example.com:*", "reg.example.com:5000/app", false),
    ("[::1]:5000", "[::1]:5000/app", true),
    ("[::1]:5000", "[::2]:5000/app", false),
    // Schemes and the versions of the API
    ("https://reg.example.com", "reg.example.com/app", true),
    ("http://reg.example.com", "reg.example.com/app", true),
    ("https://reg.example.com/", "reg.example.com/app", true),
    ("https://reg.example.com/v1/", "reg.example.com/app", true),
    ("https://reg.example.com/v2/", "reg.example.com/app", true),
    ("reg.example.com/v2/team", "reg.example.com/team/app", true),
    ("reg.example.com/v2", "reg.example.com/app", false),
    ("reg.example.com/v2", "reg.example.com/v2/app", true),
    ("reg.example.com/v3/", "reg.example.com/app", false),
    ("ftp://reg.example.com", "reg.example.com/app", false),
    ("https://me@reg.example.com", "reg.example.com/app", true),
    // Paths are plain prefixes
    ("reg.example.com/team", "reg.example.com/team/app", true),
    ("reg.example.com/team", "reg.example.com/team", true),
    ("reg.example.com/team", "reg.example.com/teamwork/app", true),
    ("reg.example.com/team/", "reg.example.com/team/app", true),
    (
        "reg.example.com/team/",
        "reg.example.com/teamwork/app",
        false,
    ),
    ("reg.example.com/team/", "reg.example.com/team", false),
    ("reg.example.com/team", "reg.example.com/app", false),
    ("reg.example.com/t*m", "reg.example.com/team/app", false),
    ("*.example.com/team", "reg.example.com/team/app", true),
    // Docker Hub
    ("docker.io", "docker.io/library/nginx", true),
    ("docker.io/library/nginx", "docker.io/library/nginx", true),
    ("index.docker.io", "docker.io/library/nginx", true),
    (
        "https://index.docker.io/v1/",
        "docker.io/library/nginx",
        true,
    ),
    ("https://index.docker.io/v1/", "reg.example.com/app", false),
    ("index.docker.io/library", "docker.io/library/nginx", false),
    ("registry-1.docker.io", "docker.io/library/nginx", false),
    ("*.docker.io", "docker.io/library/nginx", false),
    // No keys at all
    ("", "reg.example.com/app", false),
    ("reg.example.com:http", "reg.example.com/app", false),
    ("reg example.com", "reg.example.com/app", false),
    ("[a-z]*.example.com", "reg.example.com/app", false),
];

#[test]
fn an_entry_is_for_the_images_that_the_kubelet_says() {
    for (key, name, fits) in AUTHS {
        let keyring = Keyring::new([((*key).to_owned(), ())]);
        let found = keyring.lookup(&image(name)).len();
        assert_eq!(found == 1, *fits, "{key:?} {name}");
    }
}

#[test]
fn match_images_are_taken_as_they_stand() {
    for (pattern, name, fits) in [
        ("*.example.com", "reg.example.com/app", true),
        ("reg.example.com/team", "reg.example.com/team/app", true),
        (
            "reg.example.com:5000/team",
            "reg.example.com:5000/team/app",
            true,
        ),
        ("reg.example.com/", "reg.example.com/app", true),
        ("https://reg.example.com", "reg.example.com/app", false),
        ("reg.example.com/v2/", "reg.example.com/app", false),
        ("index.docker.io", "docker.io/library/nginx", false),
    ] {
        let pattern_fits =
            ImagePattern::parse(pattern).is_some_and(|pattern| pattern.matches(&image(name)));
        assert_eq!(pattern_fits, fits, "{pattern} {name}");
    }
}

#[test]
fn the_most_special_entry_goes_first() {
    let keys = [
        "*.example.com",
        "reg.example.com",
        "reg.*.com/team",
        "https://reg.example.com/team/app",
        "reg.example.com/v2/team",
        "reg.example.org",
        "https://reg.example.com/v1/",
    ];
    let keyring = Keyring::new(keys.map(|key| (key.to_owned(), key)));
    let found: Vec<&str> = keyring
        .lookup(&image("reg.example.com/team/app"))
        .into_iter()
        .copied()
        .collect();
    assert_eq!(
        found,
        [
            "https://reg.example.com/team/app",
            "reg.example.com/v2/team",
            // Equal keys keep their order.
            "reg.example.com",
            "https://reg.example.com/v1/",
            "reg.*.com/team",
            "*.example.com",
        ]
    );
}

#[test]
fn docker_hubs_old_name_counts_only_when_no_other_does() {
    let keys = ["https://index.docker.io/v1/", "docker.io/library"];
    let keyring = Keyring::new(keys.map(|key| (key.to_owned(), key)));
    assert_eq!(
        keyring.lookup(&image("docker.io/library/nginx")),
        [&"docker.io/library"]
    );
    assert_eq!(
        keyring.lookup(&image("docker.io/team/app")),
        [&"https://index.docker.io/v1/"]
    );
}

proptest::proptest! {
    #[test]
    fn no_key_panics(said in "\\PC{0,40}") {
        let keyring = Keyring::new([(said.clone(), ())]);
        keyring.lookup(&image("reg.example.com:5000/app"));
        if let Some(pattern) = ImagePattern::parse(&said) {
            pattern.matches(&image("[::1]:5000/app"));
        }
    }
}

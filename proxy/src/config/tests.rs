//! The file format from outside: which files are accepted, and what they mean.

mod cloud;
mod cluster;
mod refused;
mod schema;
mod warm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::value::{time, time_text};
use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("larder.toml"))
}

fn parsed(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

#[test]
fn the_empty_file_is_the_default_and_the_default_reads_back() {
    assert_eq!(parsed(""), Config::default());
    assert_eq!(parsed("[store]\n[upstreams]\n"), Config::default());
    assert_eq!(parsed(&Config::default().to_toml()), Config::default());
    assert_eq!(Config::load(None).unwrap(), Config::default());
}

const FULL: &str = r#"
[registry]
listen = "[::1]:8000"
default_upstream = "Index.Docker.io"
allow = ["*.example.com", "index.docker.io"]
deny = ["bad.example.com"]
allow_hosts = ["Mirror.example.com."]

[store]
path = "/srv/larder \"1\""
max_size = "50GiB"
min_free = "1500MB"
ttl = "0"

[runtime]
file = "/srv/watch/runtime.json"
content = "off"

[streaming]
mode = "ready"
directory = "/srv/layers"
holder = "/run/hold/socket"
never = ["Index.docker.io/library/*", "*/pause", "namespace:larder"]
private = true
min_layer = "1MiB"

[tags]
fresh_for = "1h30m"
timeout = "500ms"
when_unreachable = "fail"
when_deleted = "forget"

[access]
ttl = 0
grace = "2d"

[upstreams."registry-1.docker.io"]
endpoints = ["https://mirror.example.com/hub/", "https://registry-1.docker.io"]
ca = "/etc/ca.pem"
alias = "hub"
ttl = "24h"
tags = [{ match = "v*", fresh_for = "1h" }, { match = "*", fresh_for = "0" }]
access = "shared"
credentials = { docker_config = "/etc/docker \"1\"/config.json" }

[upstreams."127.0.0.1:5000"]
endpoints = ["http://127.0.0.1:5000"]
insecure_skip_verify = true
client_cert = "/tls/tls.crt"
client_key = "/tls/tls.key"
ttl = "0"

[cluster]
listen = "0.0.0.0:7422"
advertise = "10.0.0.1:7422"
members = "dns:larder-peers.larder.svc"
tls = { ca = "/tls/ca.crt", cert = "/tls/tls.crt", key = "/tls/tls.key" }
key = "/tls/cluster.key"
copies = 3
copy_rate = "5MB"
copies_private = true

[cluster.object_store]
url = "s3://bucket/larder"
options = { endpoint = "http://127.0.0.1:8333", region = "here" }
max_rate = "50MB"

[telemetry]
listen = "off"
expose = "10.0.0.1:7421"
log = "larder=debug,warn"
log_format = "json"

[admin]
socket = "/tmp/admin.sock"
"#;

#[test]
fn a_file_that_says_everything_is_understood_and_reads_back() {
    let config = parsed(FULL);
    assert_eq!(config.registry.default_upstream, "docker.io");
    assert_eq!(config.registry.allow[1].as_str(), "docker.io");
    assert_eq!(config.registry.allow_hosts, ["mirror.example.com"]);
    assert_eq!(config.store.path, PathBuf::from("/srv/larder \"1\""));
    assert_eq!(config.store.max_size, Amount::Bytes(50 << 30));
    assert_eq!(config.store.min_free, Amount::Bytes(1_500_000_000));
    assert_eq!(config.store.ttl, None);
    assert_eq!(config.runtime.file, Some("/srv/watch/runtime.json".into()));
    assert_eq!(config.runtime.content, None);
    let never = |text: &str| Never::Repositories(Pattern::new(text));
    assert_eq!(
        config.streaming,
        Streaming {
            mode: Mode::Ready,
            directory: "/srv/layers".into(),
            holder: "/run/hold/socket".into(),
            never: vec![
                never("docker.io/library/*"),
                never("*/pause"),
                Never::Namespace("larder".to_owned()),
            ],
            private: true,
            min_layer: 1 << 20,
        }
    );
    assert_eq!(config.tags.fresh_for, Duration::from_mins(90));
    assert_eq!(config.tags.timeout, Duration::from_millis(500));
    assert_eq!(config.tags.when_unreachable, WhenUnreachable::Fail);
    assert_eq!(config.tags.when_deleted, WhenDeleted::Forget);
    assert_eq!(config.access.ttl, Duration::ZERO);
    assert_eq!(config.access.grace, Duration::from_hours(48));
    assert_eq!(config.telemetry.listen, None);
    assert_eq!(config.telemetry.expose, "10.0.0.1:7421".parse().ok());
    assert_eq!(config.telemetry.log_format, LogFormat::Json);

    let hub = config.upstream("index.docker.io");
    assert!(hub.configured);
    assert_eq!(hub.endpoints[0].url, "https://mirror.example.com/hub");
    assert!(
        hub.endpoints
            .iter()
            .all(|endpoint| endpoint.ca == Some("/etc/ca.pem".into()))
    );
    assert_eq!(hub.ttl, Some(Some(Duration::from_hours(24))));
    let local = config.upstream("127.0.0.1:5000");
    assert!(local.endpoints[0].insecure_skip_verify);
    let client = local.endpoints[0].client.as_ref();
    assert!(client.is_some_and(|client| client.key == Path::new("/tls/tls.key")));
    assert_eq!(local.ttl, Some(None));

    assert_eq!(hub.access, Sharing::Shared);
    assert_eq!(
        hub.credentials,
        Some(Credentials::DockerConfig {
            path: "/etc/docker \"1\"/config.json".into()
        })
    );
    assert_eq!(local.access, Sharing::PerCredential);
    assert_eq!(local.credentials, None);

    assert_eq!(config.alias("hub"), Some("docker.io"));
    assert_eq!(config.alias("library"), None);
    assert_eq!(parsed(&config.to_toml()), config);
}

#[test]
fn an_upstream_that_nothing_names_is_its_own_endpoint() {
    let config = Config::default();
    for (name, url) in [
        ("ghcr.io", "https://ghcr.io/"),
        ("GHCR.io", "https://ghcr.io/"),
        ("docker.io", "https://registry-1.docker.io/"),
        ("index.docker.io", "https://registry-1.docker.io/"),
        ("127.0.0.1:5000", "https://127.0.0.1:5000/"),
        ("[::1]:5000", "https://[::1]:5000/"),
    ] {
        let upstream = config.upstream(name);
        assert!(!upstream.configured);
        assert_eq!(upstream.endpoints.len(), 1);
        assert_eq!(upstream.endpoints[0].url, url, "{name}");
    }
    assert!(config.upstream("not a registry").endpoints.is_empty());
    let named = parsed("[upstreams.\"docker.io\"]");
    assert_eq!(
        named.upstream("docker.io").endpoints,
        config.upstream("docker.io").endpoints
    );
}

#[test]
fn the_first_tag_rule_decides_freshness() {
    let config = parsed(
        "[tags]\nfresh_for = \"5m\"\n[upstreams.\"ghcr.io\"]\ntags = [{ match = \"v1.*\", fresh_for = \"1h\" }, { match = \"v*\", fresh_for = \"2h\" }]",
    );
    for (registry, tag, minutes) in [
        ("ghcr.io", "v1.2", 60),
        ("ghcr.io", "v2", 120),
        ("ghcr.io", "latest", 5),
        ("quay.io", "v1.2", 5),
    ] {
        assert_eq!(
            config.fresh_for(registry, tag),
            Duration::from_mins(minutes),
            "{registry} {tag}"
        );
    }
}

#[test]
fn every_source_of_credentials_is_understood_and_reads_back() {
    for (said, meant) in [
        (
            "docker_config = \"/run/secret\"",
            Credentials::DockerConfig {
                path: "/run/secret".into(),
            },
        ),
        (
            "password_file = \"/s/password\", username_file = \"/s/username\"",
            Credentials::Files {
                username: "/s/username".into(),
                password: "/s/password".into(),
            },
        ),
        (
            "helper = \"ecr-login\"",
            Credentials::Helper {
                name: "ecr-login".to_owned(),
            },
        ),
        (
            "kubelet_config = \"/etc/k.yaml\", bin_dir = \"/opt/bin\"",
            Credentials::Kubelet {
                config: "/etc/k.yaml".into(),
                bin_dir: "/opt/bin".into(),
            },
        ),
    ] {
        for text in [
            format!("[upstreams.\"a.b\"]\ncredentials = {{ {said} }}"),
            format!(
                "[upstreams.\"a.b\".credentials]\n{}",
                said.replace(", ", "\n")
            ),
        ] {
            let config = parsed(&text);
            assert_eq!(config.upstream("a.b").credentials.as_ref(), Some(&meant));
            assert_eq!(parsed(&config.to_toml()), config);
        }
    }
}

#[test]
fn a_flag_names_an_upstream_and_keeps_what_the_file_says() {
    let mut config = parsed(FULL);
    config
        .with_upstream_flag("docker.io=http://127.0.0.1:5001")
        .unwrap();
    let hub = config.upstream("docker.io");
    assert_eq!(hub.endpoints.len(), 1);
    assert_eq!(hub.endpoints[0].url, "http://127.0.0.1:5001/");
    assert_eq!(hub.alias.as_deref(), Some("hub"));
    config
        .with_upstream_flag("quay.io=https://mirror.example.com/quay")
        .unwrap();
    assert!(config.upstream("quay.io").configured);

    for (flag, expected) in [
        (
            "quay.io",
            "--upstream: \"quay.io\" is not NAME=URL, such as ghcr.io=https://mirror.example.com",
        ),
        (
            "quay.io=mirror",
            "--upstream: quay.io: \"mirror\": the scheme is missing: write \"https://mirror\"",
        ),
        (
            "a/b=https://x",
            "--upstream: \"a/b\": leave out the path, the registry's name is enough: \"ghcr.io\"",
        ),
        (
            "quay.io=https://me:hunter2@quay.io",
            "--upstream: quay.io: a value not shown here: a URL must hold no user and no password here: take out what stands before the `@`",
        ),
    ] {
        let error = config.with_upstream_flag(flag).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_file_on_disk_is_read_or_the_reason_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("larder.toml");
    let missing = Config::load(Some(&path)).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("{}: cannot be read", path.display())
    );
    assert!(std::error::Error::source(&missing).is_some());

    std::fs::write(&path, "[store]\npath = \"/x\"\n").unwrap();
    assert_eq!(
        Config::load(Some(&path)).unwrap().store.path,
        PathBuf::from("/x")
    );

    std::fs::write(&path, b"[store]\npath = \"\xff\"\n").unwrap();
    let error = Config::load(Some(&path)).unwrap_err();
    assert_eq!(error.position(), Some(Position { line: 2, column: 9 }));
    assert_eq!(error.message(), "not UTF-8: save the file as UTF-8 text");

    std::fs::write(&path, vec![b'#'; LONGEST_FILE as usize + 1]).unwrap();
    let error = Config::load(Some(&path)).unwrap_err();
    assert_eq!(error.message(), "over 1 MiB long: is this the right file?");
}

#[test]
fn a_hostile_file_is_refused_not_fatal() {
    let dots = format!("{}a = 1", "a.".repeat(400_000));
    assert_eq!(
        parse(&dots).unwrap_err().to_string(),
        "larder.toml:1:1: not TOML: recursion limit"
    );
    parse(&format!("a = {}", "[".repeat(400_000))).unwrap_err();
    parse(&format!("[{}]", "a .\t".repeat(100_000))).unwrap_err();
    parsed(&format!(
        "[store]\npath = \"/{}\" # {}",
        ".".repeat(100),
        "a.".repeat(100)
    ));
}

#[test]
fn patterns_match_the_whole_name() {
    for (glob, name, fits) in [
        ("*", "", true),
        ("*", "ghcr.io", true),
        ("", "", true),
        ("", "a", false),
        ("ghcr.io", "ghcr.io", true),
        ("ghcr.io", "ghcr.io:443", false),
        ("*.example.com", "a.b.example.com", true),
        ("*.example.com", "example.com", false),
        ("a*b*c", "aXbYbZc", true),
        ("a*b*c", "aXbYbZ", false),
        ("*ab", "aab", true),
        ("v1*", "v1", true),
    ] {
        assert_eq!(Pattern::new(glob).matches(name), fits, "{glob} {name}");
    }
}

/// The kubelet counts in whole percent: a disk is 85 % full, and images are removed, when less than 16 % is free. It
/// stops at 80 %, where larder must still be able to keep something.
#[test]
fn the_default_of_min_free_leaves_the_kubelet_its_bytes_and_larder_some() {
    for total in [20_000_000_000_u64, 100_000_000_000, 4_000_000_000_000] {
        let min_free = Config::default().store.min_free.of(total);
        assert!(100 - min_free * 100 / total < 85, "of {total}");
        assert!(total / 5 - min_free >= total / 50, "of {total}");
    }
}

#[test]
fn amounts_are_of_a_whole() {
    assert_eq!(Amount::Percent(80).of(1_000), 800);
    assert_eq!(Amount::Percent(100).of(u64::MAX), u64::MAX);
    assert_eq!(Amount::Percent(0).of(u64::MAX), 0);
    assert_eq!(Amount::Bytes(7).of(5), 7);
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn parsing_a_damaged_file_never_panics(at in 0..FULL.len(), cut in 0usize..8, put in "[\\[\\]{}\"'.=#\\\\%0-9a-zé\n@:/]{0,6}") {
        let at = FULL.floor_char_boundary(at);
        let end = FULL.ceil_char_boundary((at + cut).min(FULL.len()));
        let damaged = format!("{}{put}{}", &FULL[..at], &FULL[end..]);
        if let Ok(config) = parse(&damaged) {
            prop_assert_eq!(parsed(&config.to_toml()), config);
        }
    }

    #[test]
    fn sizes_and_times_read_back(bytes in 0..u64::MAX, millis in 0..3_000_000_000_000u64) {
        let amount = Amount::Bytes(bytes);
        prop_assert_eq!(Amount::parse(&amount.to_string()), Ok(amount));
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(time(&time_text(duration)), Ok(duration));
    }

    #[test]
    fn no_value_reader_panics(text in "\\PC{0,24}") {
        let _ = (Amount::parse(&text), time(&text), value::address(&text), registry_name(&text), Endpoint::parse(&text));
    }

    #[test]
    fn a_pattern_agrees_with_its_definition(glob in "[ab*]{0,6}", name in "[ab]{0,8}") {
        fn fits(glob: &[u8], name: &[u8]) -> bool {
            match glob.split_first() {
                None => name.is_empty(),
                Some((b'*', rest)) => (0..=name.len()).any(|taken| fits(rest, &name[taken..])),
                Some((byte, rest)) => name.first() == Some(byte) && fits(rest, &name[1..]),
            }
        }
        prop_assert_eq!(Pattern::new(glob.clone()).matches(&name), fits(glob.as_bytes(), name.as_bytes()));
    }
}

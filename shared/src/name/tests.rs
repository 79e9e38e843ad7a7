use proptest::prelude::*;

use super::*;

#[test]
fn repositories() {
    for good in [
        "a",
        "library/nginx",
        "a/b/c/d",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a---b",
        "0/1",
    ] {
        assert!(good.parse::<Repository>().is_ok(), "{good}");
    }
    for bad in [
        "", "/", "a/", "/a", "a//b", "A", "a___b", "a._b", "-a", "a-", ".", "..", "a/../b",
        "a%2fb", "a b", "a:b", "ä",
    ] {
        assert!(bad.parse::<Repository>().is_err(), "{bad}");
    }
    assert!("a".repeat(255).parse::<Repository>().is_ok());
    assert_eq!(
        "a".repeat(256).parse::<Repository>(),
        Err(NameError::TooLong)
    );
}

#[test]
fn registries() {
    for (given, means) in [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("GHCR.io", "ghcr.io"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("localhost", "localhost"),
        ("LocalHost.", "localhost"),
        ("ghcr.io:443", "ghcr.io"),
        ("ghcr.io:00443", "ghcr.io"),
        ("GHCR.io.:443", "ghcr.io"),
        ("ghcr.io:80", "ghcr.io:80"),
        ("ghcr.io:05000", "ghcr.io:5000"),
        ("Index.Docker.io.:443", "docker.io"),
        ("docker.io:5000", "docker.io:5000"),
        ("index.docker.io:5000", "index.docker.io:5000"),
        ("127.1:5000", "127.0.0.1:5000"),
        ("0x7f.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("2130706433:443", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("1.2.3", "1.2.0.3"),
        ("256.1", "256.1"),
        ("1.2.3.256", "1.2.3.256"),
        ("4294967296", "4294967296"),
        ("08.1", "08.1"),
        ("v1.2", "v1.2"),
        ("[0:0:0::1]:5000", "[::1]:5000"),
        ("[FD00::A]", "[fd00::a]"),
        ("[::ffff:127.0.0.1]:5000", "127.0.0.1:5000"),
        ("[::FFFF:7f00:1]:443", "127.0.0.1"),
    ] {
        assert_eq!(given.parse::<RegistryName>().unwrap().as_str(), means);
    }
    for bad in [
        "",
        ".",
        "..",
        "a..b",
        "-a.io",
        "a/b",
        "a:b",
        "a:0",
        "a:99999",
        "a:+1",
        "a:",
        "a:000",
        "a:1:2",
        "a..",
        "a.io:443:443",
        "[::1]:",
        "[fe80::1%eth0]",
        "a]:1",
        "u@a.io",
        "https://a.io",
        "[::1",
        "[x]",
        "[::1]x",
        "a b",
        "a\0b",
        "a%00",
    ] {
        assert!(bad.parse::<RegistryName>().is_err(), "{bad}");
    }
}

#[test]
fn images() {
    let hex = "a".repeat(64);
    for (given, means) in [
        (
            "nginx".to_owned(),
            "docker.io/library/nginx:latest".to_owned(),
        ),
        ("nginx:1".into(), "docker.io/library/nginx:1".into()),
        (
            "bitnami/redis".into(),
            "docker.io/bitnami/redis:latest".into(),
        ),
        ("ghcr.io/a/b:v1".into(), "ghcr.io/a/b:v1".into()),
        ("localhost:5000/a".into(), "localhost:5000/a:latest".into()),
        (
            format!("ghcr.io/a:v@sha256:{hex}"),
            format!("ghcr.io/a@sha256:{hex}"),
        ),
    ] {
        assert_eq!(given.parse::<ImageName>().unwrap().to_string(), means);
    }
    for bad in ["", "A", "ghcr.io/", "a@b", "a:b:c", "nginx@sha256:1"] {
        assert!(bad.parse::<ImageName>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(text in "\\PC*") {
        let _ = text.parse::<RegistryName>();
        let _ = text.parse::<Repository>();
        let _ = text.parse::<Reference>();
        let _ = text.parse::<ImageName>();
    }

    #[test]
    fn what_parses_is_safe_as_a_path(text in "[a-zA-Z0-9._/:%\\[\\]-]{0,40}") {
        if let Ok(repository) = text.parse::<Repository>() {
            prop_assert!(repository.as_str().split('/').all(|c| !c.is_empty() && !c.starts_with(['.', '_'])));
        }
        if let Ok(registry) = text.parse::<RegistryName>() {
            prop_assert!(!registry.as_str().contains('/') && registry.as_str() != "." && registry.as_str() != "..");
        }
        if let Ok(tag) = text.parse::<Tag>() {
            prop_assert!(!tag.as_str().contains('/') && !tag.as_str().starts_with('.'));
        }
    }

    #[test]
    fn a_registry_is_spelled_in_one_way(text in "[a-zA-Z0-9.\\[\\]:_-]{0,20}|[0-9x.]{1,12}(:0{0,3}[0-9]{1,4})?|\\[[0-9a-fA-F:.]{0,20}\\](:[0-9]{1,5})?") {
        if let Ok(once) = text.parse::<RegistryName>() {
            prop_assert_eq!(once.as_str().parse::<RegistryName>().unwrap(), once);
        }
    }

    #[test]
    fn what_reaches_the_same_place_is_the_same_name(
        host in "[a-z]{1,6}(\\.[a-z0-9]{1,5}[a-z]){0,2}",
        v4 in any::<Option<u32>>(),
        port in prop_oneof![Just(443_u16), 1_u16..],
        zeros in "0{0,3}",
        upper in any::<bool>(),
        spelling in 0_usize..6,
    ) {
        let (host, other) = match v4.map(std::net::Ipv4Addr::from) {
            None => (host.clone(), format!("{host}.")),
            Some(v4) => {
                let [a, b, c, d] = v4.octets();
                let other = match spelling {
                    0 => u32::from(v4).to_string(),
                    1 => format!("{:#x}", u32::from(v4)),
                    2 => format!("{a}.{:#o}", u32::from(v4) & 0xff_ffff).replace("0o", "0"),
                    3 => format!("[{}]", v4.to_ipv6_mapped()),
                    4 => format!("[::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}]"),
                    _ => format!("{a}.{b}.{}", u32::from(v4) & 0xffff),
                };
                (v4.to_string(), other)
            }
        };
        let other = if upper { other.to_ascii_uppercase() } else { other };
        let plain = if port == 443 { host } else { format!("{host}:{port}") };
        let same: RegistryName = format!("{other}:{zeros}{port}").parse().unwrap();
        prop_assert_eq!(&same, &plain.parse::<RegistryName>().unwrap());
        prop_assert_eq!(same.as_str(), plain);
    }

    #[test]
    fn an_image_name_means_itself(text in "([a-z0-9]{1,5}\\.io/)?[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,2}(:[a-z0-9]{1,5})?") {
        let once = text.parse::<ImageName>().unwrap();
        prop_assert_eq!(once.to_string().parse::<ImageName>().unwrap(), once);
    }
}

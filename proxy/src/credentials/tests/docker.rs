//! Docker's config.json.

use std::os::unix::fs::symlink;

use data_encoding::{BASE64, BASE64_NOPAD};
use serde_json::json;

use super::*;

fn source(node: &Node) -> config::Credentials {
    config::Credentials::DockerConfig {
        path: node.path("config.json"),
    }
}

#[tokio::test]
async fn every_way_to_say_a_credential() {
    let key = json_key();
    let node = Node::new();
    node.write(
        "config.json",
        json!({
            "HttpHeaders": {"User-Agent": "x"},
            "auths": {
                "plain.example.com": {"username": "me", "password": key, "email": "me@example.com"},
                "padded.example.com": {"auth": BASE64.encode(format!("_json_key:{key}").as_bytes())},
                "bare.example.com": {"auth": BASE64_NOPAD.encode(b"me:a")},
                "wrapped.example.com": {"auth": "bWU6\r\nYQ==\n"},
                "both.example.com": {"username": "not", "password": "this", "auth": BASE64.encode(b"AWS:a:b:")},
                "token.example.com": {"auth": BASE64.encode(b"00000000-0000-0000-0000-000000000000:"), "identitytoken": key},
                "empty.example.com": {},
                "null.example.com": null,
            }
        })
        .to_string(),
    );
    let source = source(&node);
    for (registry, expected) in [
        ("plain.example.com", vec![basic("me", &key)]),
        ("padded.example.com", vec![basic("_json_key", &key)]),
        ("bare.example.com", vec![basic("me", "a")]),
        ("wrapped.example.com", vec![basic("me", "a")]),
        ("both.example.com", vec![basic("AWS", "a:b:")]),
        ("token.example.com", vec![token(&key)]),
        ("empty.example.com", vec![]),
        ("null.example.com", vec![]),
        ("other.example.com", vec![]),
    ] {
        let found = node.lookup(&format!("{registry}/app"), &source).await;
        assert_eq!(found, Ok(expected), "{registry}");
    }
    assert!(node.credentials.findings_of(&source).await.is_empty());
}

#[tokio::test]
async fn every_match_is_given_the_closest_first() {
    let node = Node::new();
    let auth = |text: &str| json!({"auth": BASE64.encode(text.as_bytes())});
    node.write(
        "config.json",
        json!({"auths": {
            "*.example.com": auth("glob:1"),
            "reg.example.com": auth("host:2"),
            "reg.example.com/team": auth("team:3"),
        }})
        .to_string(),
    );
    assert_eq!(
        node.lookup("reg.example.com/team/app", &source(&node))
            .await,
        Ok(vec![
            basic("team", "3"),
            basic("host", "2"),
            basic("glob", "1")
        ])
    );
}

#[tokio::test]
async fn a_mounted_secret_is_found_and_its_swap_seen() {
    let node = Node::new();
    let source = config::Credentials::DockerConfig {
        path: node.dir.path().to_owned(),
    };
    let config = |user: &str| {
        let auth = BASE64.encode(format!("{user}:x").as_bytes());
        json!({"auths": {"reg.example.com": {"auth": auth}}}).to_string()
    };
    let image = "reg.example.com/app";
    assert_eq!(
        node.lookup(image, &source).await.unwrap_err().to_string(),
        format!(
            "{}: holds neither `.dockerconfigjson` nor `config.json`: mount a Secret of type kubernetes.io/dockerconfigjson there",
            node.dir.path().display()
        )
    );
    node.write("config.json", config("file"));
    assert_eq!(
        node.lookup(image, &source).await,
        Ok(vec![basic("file", "x")])
    );
    for (version, user) in [("..1", "old"), ("..2", "new")] {
        fs::create_dir(node.path(version)).unwrap();
        node.write(&format!("{version}/.dockerconfigjson"), config(user));
        symlink(version, node.path("..data_tmp")).unwrap();
        fs::rename(node.path("..data_tmp"), node.path("..data")).unwrap();
        if version == "..1" {
            symlink("..data/.dockerconfigjson", node.path(".dockerconfigjson")).unwrap();
        }
        assert_eq!(
            node.lookup(image, &source).await,
            Ok(vec![basic(user, "x")])
        );
    }
}

#[tokio::test]
async fn a_file_that_changes_is_read_again_and_nothing_old_is_kept() {
    let node = Node::new();
    let source = source(&node);
    let image = "reg.example.com/app";
    let config = |password: &str| {
        json!({"auths": {"reg.example.com": {"username": "me", "password": password}}}).to_string()
    };
    // Written in place, with the same size, faster than the file system's clock may tick.
    for password in ["a", "b", "c", "d"] {
        node.write("config.json", config(password));
        for _ in 0..2 {
            assert_eq!(
                node.lookup(image, &source).await,
                Ok(vec![basic("me", password)])
            );
        }
    }
    node.write("config.json", "{\"auths\": {\n  oops");
    assert_eq!(
        node.refused(image, &source).await,
        "config.json: not JSON, at line 2, column 3: fix it there"
    );
    fs::remove_file(node.path("config.json")).unwrap();
    assert_eq!(
        node.refused(image, &source).await,
        "config.json: does not exist: mount the Secret there, or correct the path in larder's configuration"
    );
    node.write("config.json", config("e"));
    assert_eq!(
        node.lookup(image, &source).await,
        Ok(vec![basic("me", "e")])
    );
    node.write("config.json", "{}");
    assert_eq!(node.lookup(image, &source).await, Ok(vec![]));
}

#[tokio::test]
async fn a_broken_entry_is_an_error_only_to_its_own_images() {
    let node = Node::new();
    let source = source(&node);
    for auth in ["%%%", "bm9jb2xvbg==", "//8="] {
        node.write(
            "config.json",
            json!({"auths": {"bad.example.com": {"auth": auth}, "good.example.com": {"auth": "bWU6YQ"}}})
                .to_string(),
        );
        assert_eq!(
            node.refused("bad.example.com/app", &source).await,
            "config.json: the entry of `auths` for bad.example.com: its `auth` must be base64 of USERNAME:PASSWORD"
        );
        assert_eq!(
            node.lookup("good.example.com/app", &source).await,
            Ok(vec![basic("me", "a")])
        );
    }
    node.write(
        "config.json",
        "{\"auths\": {\"reg.example.com\": \"secret\"}}",
    );
    assert_eq!(
        node.refused("reg.example.com/app", &source).await,
        "config.json: JSON, but not of the expected form, at line 1, column 38: fix it there"
    );
    node.write("config.json", "{\"credsStore\": \"../../bin/sh\"}");
    assert_eq!(
        node.refused("reg.example.com/app", &source).await,
        "config.json: `credHelpers` and `credsStore` name helpers by what follows `docker-credential-`, without a path"
    );
}

#[tokio::test]
async fn helpers_that_the_file_names_are_asked() {
    let node = Node::new();
    let source = source(&node);
    for name in ["one", "rest"] {
        node.script(
            &format!("docker-credential-{name}"),
            &format!(
                "read -r server; echo \"{name} $1 $server\" >> asked\nprintf '{{\"ServerURL\":\"\",\"Username\":\"{name}\",\"Secret\":\"s\"}}'"
            ),
        );
    }
    node.write(
        "config.json",
        json!({
            "auths": {"both.example.com": {"username": "me", "password": "a"}, "stored.example.com": {}},
            "credHelpers": {"both.example.com": "one", "https://index.docker.io/v1/": "one"},
            "credsStore": "rest",
        })
        .to_string(),
    );
    for (image, expected) in [
        (
            "both.example.com/app",
            vec![basic("one", "s"), basic("me", "a")],
        ),
        ("docker.io/library/nginx", vec![basic("one", "s")]),
        ("stored.example.com:5000/app", vec![basic("rest", "s")]),
    ] {
        assert_eq!(node.lookup(image, &source).await, Ok(expected), "{image}");
    }
    assert_eq!(
        node.lines("asked"),
        [
            "one get both.example.com",
            "one get https://index.docker.io/v1/",
            "rest get stored.example.com:5000",
        ]
    );
}

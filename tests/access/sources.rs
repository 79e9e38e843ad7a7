//! The node's own credentials (promise P18): every kind of source, which callers it serves, its rotation, and what
//! fails while it is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use larder_tests::fake::{FakeRegistry, IDENTITY_TOKEN, Kind};
use larder_tests::http::Call;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use larder_tests::scene::{committed, eventually};
use tempfile::TempDir;

use crate::private::{Private, Who, basic, confidential, encoded, refused, secret};

const REPOSITORY: &str = "team/app";

/// A registry with one private repository, and a directory with a node's credentials.
struct Place {
    fake: FakeRegistry,
    content: bytes::Bytes,
    digest: String,
    dir: TempDir,
}

impl Place {
    async fn new() -> Self {
        let fake = FakeRegistry::start().await;
        let content = confidential("blob");
        let digest = fake.put_blob(REPOSITORY, content.clone());
        fake.put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, content.clone());
        let dir = tempfile::tempdir().expect("a directory");
        Self {
            fake,
            content,
            digest,
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file at once, as a Secret's rotation does.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).expect("a file");
        fs::rename(self.path("new"), self.path(name)).expect("a rename");
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    /// A node with these credentials for the registry, and this `access`.
    async fn node(&self, access: &str, credentials: &str) -> Private {
        let config = format!(
            "[upstreams.\"{0}\"]\nendpoints = [\"{1}\"]\n{access}\ncredentials = {{ {credentials} }}\n",
            self.fake.host(),
            self.fake.url()
        );
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", self.dir.path().display());
        Private::start(Node::builder().config(config).env("PATH", path)).await
    }

    fn blob(&self, scene: &Private) -> String {
        scene.blob(&self.fake, REPOSITORY, &self.digest)
    }

    async fn opens(&self, scene: &Private) {
        for url in [
            self.blob(scene),
            scene.manifest(&self.fake, REPOSITORY, "v1"),
        ] {
            let answer = scene.get(&Who::Nobody, &url).await;
            assert_eq!(
                (answer.status, &answer.body),
                (200, &self.content),
                "{}",
                answer.text()
            );
        }
    }

    /// The credentials that larder shows to the registry's token server.
    fn shown(&self) -> Vec<String> {
        let tokens = self
            .fake
            .requests()
            .into_iter()
            .filter(|seen| seen.kind == Kind::Token);
        tokens.filter_map(|seen| seen.authorization).collect()
    }

    fn docker_config(&self, who: &Who) -> String {
        let (user, password) = who.pair();
        let auth = BASE64.encode(format!("{user}:{password}").as_bytes());
        serde_json::json!({"auths": {self.fake.host(): {"auth": auth}}}).to_string()
    }
}

fn toml(key: &str, path: &Path) -> String {
    format!("{key} = \"{}\"", path.display())
}

const SHARED: &str = "access = \"shared\"";

/// Each kind of source. Shared credentials serve every client of the node; others serve no client by themselves.
#[tokio::test]
async fn what_the_nodes_credentials_open_is_served_only_where_the_operator_says_so() {
    for kind in [
        "docker_config",
        "secret",
        "files",
        "helper",
        "token",
        "kubelet",
        "store",
    ] {
        let place = Place::new().await;
        let node = Who::User("node".to_owned(), secret());
        let (user, password) = node.pair();
        place
            .fake
            .require_bearer(REPOSITORY, &[(user, password), (IDENTITY_TOKEN, password)]);
        let said = match kind {
            "docker_config" => {
                place.write("config.json", &place.docker_config(&node));
                toml("docker_config", &place.path("config.json"))
            }
            "secret" => {
                fs::create_dir(place.path("mounted")).expect("a directory");
                place.write("mounted/.dockerconfigjson", &place.docker_config(&node));
                toml("docker_config", &place.path("mounted"))
            }
            "files" => {
                place.write("username", user);
                place.write("password", &format!("{password}\n"));
                format!(
                    "{}, {}",
                    toml("username_file", &place.path("username")),
                    toml("password_file", &place.path("password"))
                )
            }
            "helper" => {
                let script = format!(
                    "read server; [ \"$1 $server\" = 'get {}' ] || exit 1\nprintf '{{\"ServerURL\":\"x\",\"Username\":\"{user}\",\"Secret\":\"{password}\"}}'",
                    place.fake.host()
                );
                place.program("docker-credential-ours", &script);
                "helper = \"ours\"".to_owned()
            }
            "token" => {
                let script =
                    format!("printf '{{\"Username\":\"<token>\",\"Secret\":\"{password}\"}}'");
                place.program("docker-credential-ours", &script);
                "helper = \"ours\"".to_owned()
            }
            "store" => {
                let script =
                    format!("printf '{{\"Username\":\"{user}\",\"Secret\":\"{password}\"}}'");
                place.program("docker-credential-ours", &script);
                let config = serde_json::json!({"credHelpers": {place.fake.host(): "ours"}});
                place.write("config.json", &config.to_string());
                toml("docker_config", &place.path("config.json"))
            }
            _ => {
                let answer = serde_json::json!({
                    "kind": "CredentialProviderResponse",
                    "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
                    "cacheKeyType": "Registry",
                    "cacheDuration": "1h",
                    "auth": {place.fake.host(): {"username": user, "password": password}},
                });
                place.write("answer.json", &answer.to_string());
                let script = format!(
                    "grep -q '\"image\":\"{}/{REPOSITORY}\"' && [ \"$1 $KIND\" = 'get ours' ] || exit 1\ncat '{}'",
                    place.fake.host(),
                    place.path("answer.json").display()
                );
                place.program("our-provider", &script);
                let (ip, port) = place
                    .fake
                    .host()
                    .rsplit_once(':')
                    .map(|(ip, port)| (ip.to_owned(), port.to_owned()))
                    .expect("a port");
                let config = format!(
                    "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n- name: our-provider\n  matchImages: [\"{ip}:{port}\"]\n  defaultCacheDuration: 0s\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [\"get\"]\n  env:\n  - name: KIND\n    value: ours\n"
                );
                place.write("providers.yaml", &config);
                format!(
                    "{}, {}",
                    toml("kubelet_config", &place.path("providers.yaml")),
                    toml("bin_dir", place.dir.path())
                )
            }
        };
        let shared = place.node(SHARED, &said).await;
        place.opens(&shared).await;
        shared.end(&[&place.fake]).await;
        let alone = place.node("", &said).await;
        for round in ["cold", "cached"] {
            let answer = alone.get(&Who::Nobody, &place.blob(&alone)).await;
            refused(kind, &answer, &place.content);
            assert_eq!(answer.status, 401, "{kind} {round}");
            if kind != "token" {
                assert_eq!(
                    alone.get(&node, &place.blob(&alone)).await.body,
                    place.content,
                    "{kind} {round}"
                );
            }
        }
        alone.end(&[&place.fake]).await;
    }
}

#[tokio::test]
async fn what_rotates_is_picked_up() {
    let place = Place::new().await;
    let (old, new) = (Who::new("robot"), Who::new("robot"));
    place.write("config.json", &place.docker_config(&old));
    place.fake.require_bearer(REPOSITORY, &[old.pair()]);
    let scene = place
        .node(SHARED, &toml("docker_config", &place.path("config.json")))
        .await;
    place.opens(&scene).await;
    place.write("config.json", &place.docker_config(&new));
    place.fake.require_bearer(REPOSITORY, &[new.pair()]);
    place.fake.revoke_tokens();
    place.fake.reset_counts();
    place.opens(&scene).await;
    let (expected, former) = (new.basic(), old.basic());
    let shown = place.shown();
    assert!(shown.contains(&expected) && !shown.contains(&former));
    scene.end(&[&place.fake]).await;
}

/// A missing Secret stops no public and no cached content, and larder reads it once it exists.
#[tokio::test]
async fn a_missing_source_stops_nothing_that_is_here() {
    let place = Place::new().await;
    let robot = Who::new("robot");
    place.fake.require_bearer(REPOSITORY, &[robot.pair()]);
    let public = place.fake.put_blob("public/app", "public");
    let scene = place
        .node(SHARED, &toml("docker_config", &place.path("config.json")))
        .await;
    let open = scene.blob(&place.fake, "public/app", &public);
    assert_eq!(scene.get(&Who::Nobody, &open).await.text(), "public");
    let answer = scene.get(&Who::Nobody, &place.blob(&scene)).await;
    refused("without credentials", &answer, &place.content);
    // A pod's own secret works without the node's credentials.
    assert_eq!(
        scene.get(&robot, &place.blob(&scene)).await.body,
        place.content
    );
    place.write("config.json", &place.docker_config(&robot));
    place.opens(&scene).await;
    eventually("it is committed", || {
        committed(scene.node.store(), &place.digest)
    })
    .await;
    for spoilt in ["", "{", "missing"] {
        match spoilt {
            "missing" => fs::remove_file(place.path("config.json")).expect("a file"),
            text => place.write("config.json", text),
        }
        assert_eq!(scene.get(&Who::Nobody, &open).await.text(), "public");
        // A pull by tag works too, with a warning that says why larder did not ask the registry.
        place.opens(&scene).await;
        let url = scene.manifest(&place.fake, REPOSITORY, "v1");
        let answer = scene.get(&Who::Nobody, &url).await;
        let warning = answer.header("warning").expect("a warning");
        assert!(warning.contains("credentials"), "{warning}");
    }
    // larder names the missing source, with its fix, and counts it.
    let path = place.path("config.json").display().to_string();
    let findings = scene.node.admin("/status").await["upstreams"].to_string();
    assert!(findings.contains(&path), "{findings}");
    let failed = scene
        .node
        .metric("larder_credentials_failed_total{fault=\"file\"}")
        .await;
    assert!(failed.is_some_and(|count| count > 0.0), "{failed:?}");
    place.write("config.json", &place.docker_config(&robot));
    place.opens(&scene).await;
    let findings = scene.node.admin("/status").await["upstreams"].to_string();
    assert!(!findings.contains(&path), "{findings}");
    scene.end(&[&place.fake]).await;
}

/// A secret arrives byte for byte, whatever is in it and by whichever way it comes.
#[tokio::test]
async fn secrets_arrive_byte_for_byte() {
    let key = format!(
        "{{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN PRIVATE KEY-----\\n{}\\n-----END\\n\"\n}}\n",
        secret().repeat(62)
    );
    assert!(key.len() > 3000);
    for (user, password) in [
        ("_json_key", key.clone()),
        (
            "user",
            format!("{}'\"\\\n$HOME `id` %41+&=;#: \t{{}}", secret()),
        ),
        ("org+robot", format!(":{}::", secret())),
        ("user@example.org", format!("{} pässwörd ✓", secret())),
        ("robot$project+name", format!("{}\r\n", secret())),
    ] {
        let place = Place::new().await;
        place.fake.require_bearer(REPOSITORY, &[(user, &password)]);
        let expected = basic(user, &password);
        // The pod's own, by all ways to a token.
        let pod = Private::before(&[&place.fake]).await;
        let who = Who::User(user.to_owned(), password.clone());
        assert_eq!(
            pod.get(&who, &place.blob(&pod)).await.body,
            place.content,
            "{user}"
        );
        assert!(place.shown().contains(&expected), "{user}");
        let form = [
            ("grant_type", "password"),
            ("username", user),
            ("password", &*password),
        ];
        let form = form
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .join("&");
        let realm = format!("{}/token/{}", pod.node.url(), place.fake.host());
        let token = pod.token_of(&pod.send(Call::new("POST", realm).body(form)).await);
        let call = Call::get(place.blob(&pod)).header("authorization", &format!("Bearer {token}"));
        assert_eq!(pod.send(call).await.body, place.content, "{user}");
        pod.end(&[&place.fake]).await;
        // The node's: both forms of config.json, two files, a helper.
        let auth = BASE64.encode(format!("{user}:{password}").as_bytes());
        let configs = [
            serde_json::json!({"auths": {place.fake.host(): {"auth": auth}}}),
            serde_json::json!({"auths": {format!("https://{}/v2/", place.fake.host()): {"username": user, "password": password}}}),
        ];
        for config in configs {
            place.fake.reset_counts();
            place.write("config.json", &config.to_string());
            let scene = place
                .node(SHARED, &toml("docker_config", &place.path("config.json")))
                .await;
            place.opens(&scene).await;
            assert!(place.shown().contains(&expected), "{user}");
            scene.end(&[&place.fake]).await;
        }
        place.fake.reset_counts();
        place.write("username", &format!("{user}\n"));
        place.write("password", &format!("{password}\n"));
        let said = format!(
            "{}, {}",
            toml("username_file", &place.path("username")),
            toml("password_file", &place.path("password"))
        );
        let scene = place.node(SHARED, &said).await;
        place.opens(&scene).await;
        assert!(place.shown().contains(&expected), "{user}");
        scene.end(&[&place.fake]).await;
        place.fake.reset_counts();
        let answer = serde_json::json!({"ServerURL": "x", "Username": user, "Secret": password});
        place.write("answer.json", &answer.to_string());
        place.program(
            "docker-credential-ours",
            &format!("cat '{}'", place.path("answer.json").display()),
        );
        let scene = place.node(SHARED, "helper = \"ours\"").await;
        place.opens(&scene).await;
        assert!(place.shown().contains(&expected), "{user}");
        scene.end(&[&place.fake]).await;
    }
}

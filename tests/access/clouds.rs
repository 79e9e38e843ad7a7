//! Fixtures that the tests of all clouds share: a registry under a cloud's name, a node in front of it, and the node's
//! own report on its credentials.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_tests::clouds::CloudServer;
use larder_tests::fake::FakeRegistry;
use larder_tests::http::Response;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::node::Node;
use tempfile::TempDir;

use crate::private::{Private, Who, confidential};

pub const REPOSITORY: &str = "team/app";

/// A registry with one private repository under a cloud's host name, and a directory for keys and tokens.
pub struct CloudPlace {
    pub fake: FakeRegistry,
    pub name: String,
    pub content: Bytes,
    pub digest: String,
    dir: TempDir,
}

impl CloudPlace {
    pub async fn new(name: &str) -> Self {
        let fake = FakeRegistry::start().await;
        let content = confidential("blob");
        let digest = fake.put_blob(REPOSITORY, content.clone());
        fake.put_manifest(REPOSITORY, Some("v1"), OCI_MANIFEST, content.clone());
        Self {
            fake,
            name: name.to_owned(),
            content,
            digest,
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file at once, as the kubelet does.
    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path("new"), text).expect("a file");
        fs::rename(self.path("new"), self.path(name)).expect("a rename");
        self.path(name).display().to_string()
    }

    /// A node whose own credentials are these, for every client, with these variables of the environment.
    pub async fn node(&self, credentials: &str, environment: &[(&str, &str)]) -> Private {
        self.node_at(credentials, environment, None).await
    }

    /// The same over this store.
    pub async fn node_at(
        &self,
        credentials: &str,
        environment: &[(&str, &str)],
        store: Option<&Path>,
    ) -> Private {
        let config = format!(
            "[store]\nmin_free = \"0\"\n[access]\nttl = \"1s\"\n[upstreams.\"{}\"]\nendpoints = [\"{}\"]\naccess = \"shared\"\ncredentials = {{ {credentials} }}\n",
            self.name,
            self.fake.url()
        );
        let builder = Node::builder().config(config);
        let builder = match store {
            Some(store) => builder.store(store),
            None => builder,
        };
        let with = environment.iter();
        Private::start(with.fold(builder, |builder, (name, value)| builder.env(name, *value))).await
    }

    fn url(&self, scene: &Private, path: &str) -> String {
        format!(
            "{}/v2/{REPOSITORY}/{path}?ns={}",
            scene.node.url(),
            self.name
        )
    }

    pub async fn manifest(&self, scene: &Private) -> Response {
        let url = self.url(scene, "manifests/v1");
        scene.get(&Who::Nobody, &url).await
    }

    pub async fn blob(&self, scene: &Private, digest: &str) -> Response {
        let url = self.url(scene, &format!("blobs/{digest}"));
        scene.get(&Who::Nobody, &url).await
    }

    /// A client without credentials gets the private image.
    pub async fn opens(&self, scene: &Private) {
        for answer in [
            self.manifest(scene).await,
            self.blob(scene, &self.digest).await,
        ] {
            let said = answer.text();
            assert_eq!(
                (answer.status, &answer.body),
                (200, &self.content),
                "{said}"
            );
        }
    }

    /// A blob that no client has pulled before.
    pub fn another(&self) -> String {
        self.fake.put_blob(REPOSITORY, confidential("another"))
    }

    /// What `larder upstreams` says of the identity, and its findings.
    pub async fn said(&self, scene: &Private) -> (String, String) {
        let upstreams = scene
            .node
            .admin(&format!("/upstreams?name={}", self.name))
            .await;
        let upstream = &upstreams["upstreams"][0];
        let identity = upstream["identity"].as_str().unwrap_or_default();
        (identity.to_owned(), upstream["findings"].to_string())
    }

    /// Waits until the identity or a finding says this.
    pub async fn until_said(&self, scene: &Private, words: &str) {
        let begun = Instant::now();
        loop {
            let (identity, findings) = self.said(scene).await;
            if identity.contains(words) || findings.contains(words) {
                return;
            }
            let late = begun.elapsed() > Duration::from_secs(40);
            assert!(!late, "{words:?} is not in {identity:?} or {findings}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `larder upstreams NAME --check`, as text: its exit code and its whole output.
    pub async fn checked(&self, scene: &Private) -> (Option<i32>, String) {
        let output = scene.node.cli(&["upstreams", &self.name, "--check"]).await;
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// The check fails, at once or when the last token on its way has expired, and says all of this.
    pub async fn refuses(&self, scene: &Private, words: &[&str]) {
        let begun = Instant::now();
        let said = loop {
            let (code, said) = self.checked(scene).await;
            if code == Some(3) {
                break said;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        for words in words {
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
        // `larder doctor` says the same.
        let output = scene.node.cli(&["doctor"]).await;
        let doctor = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = words.last().expect("words");
        assert!(doctor.contains(last), "{last:?} is not in {doctor}");
    }

    /// The check finds nothing wrong, now or soon.
    pub async fn refuses_no_more(&self, scene: &Private) {
        let begun = Instant::now();
        loop {
            let (code, said) = self.checked(scene).await;
            if code == Some(0) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end of every test: each request to the cloud's servers had the form that they want, and no secret is left
    /// anywhere.
    pub async fn end(&self, mut scene: Private, servers: &[&CloudServer]) {
        for server in servers {
            server.assert_exact();
        }
        if scene.node.ended().is_none() {
            let command = fs::read(format!("/proc/{}/cmdline", scene.node.pid()));
            scene.keep("the command line", &command.expect("a command line"));
            let page = format!("http://{}/", scene.node.telemetry());
            let page = larder_tests::http::get(&page, &[]).await.expect("a page");
            assert!(page.text().contains("identity"), "{}", page.text());
            scene.keep("the page", &page.body);
            for arguments in [&["upstreams", "--check", "--json"][..], &["doctor"]] {
                let output = scene.node.cli(arguments).await;
                scene.keep("the command", &[output.stdout, output.stderr].concat());
            }
        }
        scene.end(&[&self.fake]).await;
    }
}

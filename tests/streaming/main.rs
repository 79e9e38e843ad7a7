//! Layers that a container runtime mounts instead of unpacking them (promise P34). Where no containerd runs, the watcher's
//! file is written by the tests, and says what a containerd says that finds ready files.

mod containerd;
mod doctor;
mod full;
mod install;
mod lazy;
mod life;
mod off;
mod ready;
mod rights;
mod seen;
mod setup;
mod whole;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use larder_tests::fake::{Content, FakeRegistry, digest_of};
use larder_tests::image::{Image, Layer, OCI_MANIFEST};
use larder_tests::node::{Node, NodeBuilder};
use larder_tests::scene::{Scene, files};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a condition is waited for: reports are looked at every few seconds, and work is done when the machine is idle.
const PATIENCE: Duration = Duration::from_mins(2);

/// A node that offers ready layers, and what its runtime says.
struct Offering {
    scene: Scene,
    dir: TempDir,
    says: Mutex<Says>,
}

/// What the runtime says at the next report.
#[derive(Default)]
struct Says {
    images: Vec<Value>,
    users: Vec<Value>,
    /// DiffIDs to whose files snapshots refer.
    snapshots: Vec<String>,
    version: Option<&'static str>,
}

impl Offering {
    /// A node with this in its `[streaming]` and in its `[store]`.
    async fn with(streaming: &str, store: &str) -> Self {
        Self::on(streaming, store, |node| node).await
    }

    async fn on(
        streaming: &str,
        store: &str,
        more: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> Self {
        let fake = FakeRegistry::start().await;
        Self::of(fake, streaming, store, more).await
    }

    /// The same in front of a registry that is there.
    async fn of(
        fake: FakeRegistry,
        streaming: &str,
        store: &str,
        more: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, layers) = (dir.path().join("runtime.json"), dir.path().join("layers"));
        let directory = if streaming.contains("directory") {
            String::new()
        } else {
            format!("directory = \"{}\"\n", layers.display())
        };
        let config = format!(
            "[store]\nmin_free = \"0\"\n{store}\n[runtime]\nfile = \"{}\"\n[streaming]\nmode = \"ready\"\nmin_layer = \"0\"\n{directory}{streaming}\n",
            file.display()
        );
        let node = Node::builder().upstream(&fake).config(config);
        let node = more(node).start().await;
        let scene = Scene { fake, node };
        Self {
            scene,
            dir,
            says: Mutex::default(),
        }
    }

    fn layers(&self) -> PathBuf {
        self.dir.path().join("layers")
    }

    /// Where the runtime looks for a diffID.
    fn path(&self, diff_id: &str) -> PathBuf {
        let hex = diff_id.strip_prefix("sha256:").expect("sha256");
        let name = format!("sha256/{}/{hex}.erofs", &hex[..2]);
        self.layers().join(name)
    }

    fn is_offered(&self, diff_id: &str) -> bool {
        self.path(diff_id).exists()
    }

    /// Every file of the directory but its lock.
    fn files(&self) -> Vec<PathBuf> {
        let mut all = files(&self.layers());
        all.retain(|path| !path.ends_with("lock"));
        all
    }

    /// The runtime pulls an image through larder, and lists it from now on.
    async fn pull(&self, repository: &str, image: &Image) {
        let door = self.scene.door(repository);
        door.pull("v1", image).await.expect("the image");
        for layer in &image.layers {
            self.scene.until_committed(&layer.digest).await;
        }
        self.scene.until_idle().await;
        self.lists(image);
    }

    fn lists(&self, image: &Image) {
        self.says(|says| says.lists(image));
    }

    fn says(&self, change: impl FnOnce(&mut Says)) {
        change(&mut self.says.lock().expect("no panic"));
    }

    /// A container or a sandbox uses an image from now on.
    fn uses(&self, kind: &str, namespace: &str, image: &Image) {
        self.says(|says| {
            says.users.push(json!({
                "namespace": "k8s.io", "kind": kind, "id": format!("c{}", says.users.len()),
                "image": image.config_digest, "digest": image.config_digest,
                "pod_namespace": namespace,
            }));
        });
    }

    /// The watcher writes its file.
    fn tell(&self) {
        let says = self.says.lock().expect("no panic");
        says.tell(self.dir.path(), |diff_id| self.path(diff_id));
    }

    /// Has the watcher report, and larder keep house, until the condition holds.
    async fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.tell();
            let shown = self.scene.node.admin("/layers").await;
            if condition(&shown) {
                return shown;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {shown:#}\n{:#?}\n{}",
                self.files(),
                self.scene.node.log()
            );
            self.scene.node.cli(&["gc"]).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn until_offered(&self, diff_ids: &[&str]) -> Value {
        let all = |_: &Value| diff_ids.iter().all(|diff_id| self.is_offered(diff_id));
        self.until(&format!("{diff_ids:?} are offered"), all).await
    }

    /// Waits until larder says why it does not offer all of an image.
    async fn until_not_offered(&self, image: &Image, why: &str) {
        let said = |shown: &Value| {
            let all = shown["not_offered"].as_array();
            all.into_iter().flatten().any(|not| {
                let says = |key: &str, text: &str| {
                    not[key].as_str().is_some_and(|said| said.contains(text))
                };
                says("image", &image.manifest_digest) && says("why", why)
            })
        };
        self.until(&format!("it is not offered: {why}"), said).await;
    }
}

impl Says {
    /// The runtime lists an image.
    fn lists(&mut self, image: &Image) {
        self.images.push(json!({
            "namespace": "k8s.io", "names": [], "target": image.manifest_digest,
            "manifest": image.manifest_digest, "config": image.config_digest,
        }));
    }

    /// The watcher writes `runtime.json` in a directory. `path`: where the runtime finds a diffID.
    fn tell(&self, dir: &Path, path: impl Fn(&str) -> PathBuf) {
        let snapshots = self.snapshots.iter().map(|diff_id| {
            json!({
                "namespace": "k8s.io", "snapshotter": "erofs", "name": diff_id, "labels": {
                    "io.containerd.erofs.v1/blob.source": "cache",
                    "io.containerd.erofs.v1/blob.ref": path(diff_id),
                },
            })
        });
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let report = json!({
            "version": 1, "at": now.expect("a time").as_secs(), "boot": boot.trim(),
            "runtime": { "name": "containerd", "version": self.version.unwrap_or("2.4.2") },
            "images": self.images, "users": self.users,
            "snapshots": snapshots.collect::<Vec<_>>(),
        });
        let new = dir.join("new");
        fs::write(&new, report.to_string()).expect("a file");
        fs::rename(new, dir.join("runtime.json")).expect("a file");
    }
}

/// A tar of directories and files, by GNU tar.
fn tar(entries: &[(&str, &[u8])]) -> Bytes {
    tar_of(entries, &["."])
}

/// The same of these paths alone: directories above them have no entry.
fn tar_of(entries: &[(&str, &[u8])], paths: &[&str]) -> Bytes {
    let dir = tempfile::tempdir().expect("a directory");
    for (path, content) in entries {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "-cf", "-", "-C"]);
    let out = tar.arg(dir.path()).args(paths).output().expect("GNU tar");
    assert!(out.status.success(), "{out:?}");
    out.stdout.into()
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut child = Command::new("gzip")
        .args(["-nc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut to = child.stdin.take().expect("a pipe");
    let bytes = bytes.to_vec();
    let writing = std::thread::spawn(move || to.write_all(&bytes));
    let out = child.wait_with_output().expect("gzip");
    writing.join().expect("no panic").expect("a pipe");
    out.stdout.into()
}

/// Pushes an image of these layers, whose configuration names these diffIDs.
fn push(fake: &FakeRegistry, repository: &str, layers: &[Bytes], diff_ids: &[String]) -> Image {
    for bytes in layers {
        fake.put_blob(repository, bytes.clone());
    }
    push_naming(fake, repository, layers, diff_ids)
}

/// The same, but the repository has none of the layers that its manifest names.
fn push_naming(
    fake: &FakeRegistry,
    repository: &str,
    layers: &[Bytes],
    diff_ids: &[String],
) -> Image {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = Bytes::from(config.to_string());
    let config_digest = fake.put_blob(repository, config.clone());
    let layers: Vec<Layer> = layers
        .iter()
        .map(|bytes| Layer {
            digest: digest_of(bytes),
            content: Content::bytes(bytes.clone()),
        })
        .collect();
    let described = layers.iter().map(|layer| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer.digest, "size": layer.content.len(),
        })
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest, "size": config.len(),
        },
        "layers": described.collect::<Vec<_>>(),
    });
    let manifest = Bytes::from(manifest.to_string());
    let manifest_digest = fake.put_manifest(repository, Some("v1"), OCI_MANIFEST, manifest.clone());
    Image {
        media_type: OCI_MANIFEST,
        manifest,
        manifest_digest,
        config,
        config_digest,
        layers,
    }
}

/// An image of one plain layer with one file, and its diffID.
fn one_layer(fake: &FakeRegistry, repository: &str, seed: u8, size: usize) -> (Image, String) {
    // Bytes that do not repeat within a block of the store.
    let mut random = fastrand::Rng::with_seed(seed.into());
    let content: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
    let layer = tar(&[("file", &content)]);
    let diff_id = digest_of(&layer);
    let image = push(fake, repository, &[layer], std::slice::from_ref(&diff_id));
    (image, diff_id)
}

/// The inode of a file: a file that was made again has another one.
fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").ino()
}

//! A container runtime's store, as larder finds it: a content store of files, and the watcher's file about it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{Content, digest_of};
use crate::image::{Image, Index};

/// A content store and the watcher's report of it. There is no report before [`Holding::tell`].
#[derive(Debug)]
pub struct Holding {
    dir: TempDir,
    /// By digest: size and labels.
    content: BTreeMap<String, (u64, BTreeMap<String, String>)>,
    images: Vec<Value>,
}

impl Default for Holding {
    fn default() -> Self {
        Self::new()
    }
}

impl Holding {
    /// An empty store.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("holding-").tempdir();
        let dir = dir.expect("a temporary directory");
        fs::create_dir_all(dir.path().join("content/blobs/sha256")).expect("our own directory");
        Self {
            dir,
            content: BTreeMap::new(),
            images: Vec::new(),
        }
    }

    /// The lines of a configuration by which larder finds it.
    pub fn config(&self) -> String {
        let (file, content) = (self.file(), self.content());
        format!(
            "[runtime]\nfile = \"{}\"\ncontent = \"{}\"\n",
            file.display(),
            content.display()
        )
    }

    /// The watcher's file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("runtime.json")
    }

    /// The content store.
    pub fn content(&self) -> PathBuf {
        self.dir.path().join("content")
    }

    /// The path of a blob.
    pub fn path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("sha256");
        self.content().join("blobs/sha256").join(hex)
    }

    /// Puts bytes under their digest.
    pub fn put(&mut self, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        self.put_under(&digest, bytes);
        digest
    }

    /// Puts content that may be long.
    pub fn put_content(&mut self, digest: &str, content: &Content) {
        self.put_under(digest, &content.read(0..content.len()));
    }

    /// Puts bytes under any digest.
    pub fn put_under(&mut self, digest: &str, bytes: &[u8]) {
        self.write(digest, bytes);
        let entry = self.content.entry(digest.to_owned()).or_default();
        entry.0 = bytes.len() as u64;
    }

    /// Replaces a blob's file, as containerd does: by a rename. The watcher's report of it stays the same.
    pub fn write(&self, digest: &str, bytes: &[u8]) {
        let new = self.dir.path().join("new");
        fs::write(&new, bytes).expect("our own file");
        let mode = fs::Permissions::from_mode(0o444);
        fs::set_permissions(&new, mode).expect("our own file");
        fs::rename(new, self.path(digest)).expect("our own file");
    }

    /// Adds the labels that containerd puts on content which it pulls from a repository of that host.
    pub fn label(&mut self, digest: &str, host: &str, repositories: &str) {
        let label = format!("containerd.io/distribution.source.{host}");
        let entry = self.content.get_mut(digest).expect("it is here");
        entry.1.insert(label, repositories.to_owned());
    }

    /// Puts all of an image, without a name.
    pub fn put_image(&mut self, image: &Image) {
        self.put(&image.manifest);
        self.put(&image.config);
        for layer in &image.layers {
            self.put_content(&layer.digest, &layer.content);
        }
    }

    /// Puts an image under a name, as a pull does.
    pub fn pulled(&mut self, name: &str, image: &Image) {
        self.put_image(image);
        self.name(name, &image.manifest_digest, image);
    }

    /// Puts one platform of an index under a name.
    pub fn pulled_index(&mut self, name: &str, index: &Index, platform: usize) {
        self.put(&index.bytes);
        self.put_image(&index.images[platform]);
        self.name(name, &index.digest, &index.images[platform]);
    }

    /// Gives an image in the store a name.
    pub fn name(&mut self, name: &str, target: &str, image: &Image) {
        let layers: Vec<_> = image.layers.iter().map(|layer| &layer.digest).collect();
        self.images.push(json!({
            "namespace": "k8s.io",
            "names": [name],
            "target": target,
            "manifest": image.manifest_digest,
            "config": image.config_digest,
            "layers": layers,
        }));
    }

    /// Removes all of an image, as the runtime's collector does.
    pub fn collect(&mut self, image: &Image) {
        let layers = image.layers.iter().map(|layer| &layer.digest);
        for digest in layers.chain([&image.manifest_digest, &image.config_digest]) {
            fs::remove_file(self.path(digest)).expect("our own file");
            self.content.remove(digest);
        }
        let target = |listed: &Value| listed["target"] == image.manifest_digest.as_str();
        self.images.retain(|listed| !target(listed));
        self.tell();
    }

    /// The watcher no longer lists this blob. Its file stays.
    pub fn forget(&mut self, digest: &str) {
        self.content.remove(digest);
    }

    /// The watcher writes its file.
    pub fn tell(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a clock").as_secs();
        let content: Vec<_> = self
            .content
            .iter()
            .map(|(digest, (size, labels))| {
                json!({
                    "namespace": "k8s.io", "digest": digest, "size": size, "labels": labels,
                    "created": now,
                })
            })
            .collect();
        let report = json!({
            "version": 1,
            "at": now,
            "runtime": {"name": "containerd", "version": "2.1.4"},
            "images": self.images,
            "users": [],
            "content": content,
        });
        put(&self.file(), report.to_string().as_bytes());
    }
}

/// Writes a file and renames it into place.
fn put(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).expect("our own file");
    fs::rename(new, path).expect("our own file");
}

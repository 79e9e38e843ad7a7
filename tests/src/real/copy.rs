//! skopeo and podman: clients built on containers/image, which reach a mirror by prefix addressing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::Result;
use data_encoding::BASE64;
use tempfile::TempDir;
use tokio::process::Command;

use super::process::{run, succeeded};

const PULL: Duration = Duration::from_mins(5);

/// A registries.conf with one registry and one mirror in front of it.
#[derive(Clone, Debug)]
pub struct PrefixMirror {
    /// The registry's name in references.
    pub registry: String,
    /// The registry's host and port, plain HTTP, when its name does not resolve.
    pub location: Option<SocketAddr>,
    /// Where the mirror listens; clients ask it for `<registry>/<repository>`.
    pub mirror: SocketAddr,
}

impl PrefixMirror {
    /// The file's content.
    pub fn registries_conf(&self) -> String {
        let Self {
            registry, mirror, ..
        } = self;
        let location = self
            .location
            .map_or_else(|| registry.clone(), |addr| addr.to_string());
        format!(
            "unqualified-search-registries = []\n\n[[registry]]\nprefix = \"{registry}\"\n\
             location = \"{location}\"\ninsecure = {}\n\n[[registry.mirror]]\n\
             location = \"{mirror}/{registry}\"\ninsecure = true\n",
            self.location.is_some()
        )
    }
}

/// skopeo with a registries.conf of its own.
#[derive(Debug)]
pub struct Skopeo {
    dir: TempDir,
}

impl Skopeo {
    /// A skopeo that pulls through `mirror`.
    pub fn new(mirror: &PrefixMirror) -> Result<Self> {
        Ok(Self {
            dir: configured("skopeo-", mirror)?,
        })
    }

    /// A skopeo without mirrors, except for files in [`drop_ins`](Self::drop_ins).
    pub fn without_mirrors() -> Result<Self> {
        Ok(Self {
            dir: with_drop_ins("skopeo-")?,
        })
    }

    /// Its registries.conf.d, which it reads at each start.
    pub fn drop_ins(&self) -> PathBuf {
        drop_ins(self.dir.path())
    }

    /// From now on it shows this user's password to `key`: a registry, or a registry and a path.
    pub fn sign_in(&self, key: &str, user: &str, password: &str) -> Result<()> {
        sign_in(self.dir.path(), key, user, password)
    }

    /// Copies an image (the local platform of an index) to a new directory and returns the
    /// directory: `manifest.json`, and each blob named by its digest in hex.
    pub async fn copy(&self, image: &str) -> Result<PathBuf> {
        self.copy_with(image, &[]).await
    }

    /// As [`copy`](Self::copy), with further options of `skopeo copy`.
    pub async fn copy_with(&self, image: &str, options: &[&str]) -> Result<PathBuf> {
        let to = self.dir.path().join(format!("{:016x}", fastrand::u64(..)));
        let mut skopeo = Command::new("skopeo");
        isolate(&mut skopeo, self.dir.path());
        // skopeo 1.9 does not read CONTAINERS_REGISTRIES_CONF.
        skopeo
            .arg("--registries-conf")
            .arg(registries(self.dir.path()));
        skopeo.args(["--insecure-policy", "copy"]).args(options);
        skopeo.arg(format!("docker://{image}"));
        skopeo.arg(format!("dir:{}", to.display()));
        succeeded(&run(&mut skopeo, PULL).await?)?;
        Ok(to)
    }
}

/// podman with storage of its own.
#[derive(Debug)]
pub struct Podman {
    dir: TempDir,
}

impl Podman {
    /// A podman that pulls through `mirror`.
    pub fn new(mirror: &PrefixMirror) -> Result<Self> {
        Ok(Self {
            dir: configured("podman-", mirror)?,
        })
    }

    /// A podman without mirrors, except for files in [`drop_ins`](Self::drop_ins).
    pub fn without_mirrors() -> Result<Self> {
        Ok(Self {
            dir: with_drop_ins("podman-")?,
        })
    }

    /// Its registries.conf.d, which it reads at each start.
    pub fn drop_ins(&self) -> PathBuf {
        drop_ins(self.dir.path())
    }

    /// From now on it shows this user's password to `key`: a registry, or a registry and a path.
    pub fn sign_in(&self, key: &str, user: &str, password: &str) -> Result<()> {
        sign_in(self.dir.path(), key, user, password)
    }

    /// Runs podman with these arguments.
    pub async fn podman(&self, arguments: &[&str]) -> Result<Output> {
        let mut podman = Command::new("podman");
        isolate(&mut podman, self.dir.path());
        podman.arg("--root").arg(self.dir.path().join("root"));
        podman.arg("--runroot").arg(self.dir.path().join("run"));
        podman.arg("--tmpdir").arg(self.dir.path().join("tmp"));
        // vfs needs nothing from the kernel; these images are small.
        podman.args(["--storage-driver=vfs", "--events-backend=file"]);
        podman.args(["--cgroup-manager=cgroupfs"]);
        run(podman.args(arguments), PULL).await
    }

    /// Pulls an image and returns the digest podman knows it by.
    pub async fn pull(&self, image: &str) -> Result<String> {
        succeeded(&self.podman(&["pull", "--quiet", image]).await?)?;
        let output = self
            .podman(&["image", "inspect", "--format", "{{.Digest}}", image])
            .await?;
        Ok(succeeded(&output)?.trim().to_owned())
    }

    /// Removes an image from podman's storage.
    pub async fn remove(&self, image: &str) -> Result<()> {
        succeeded(&self.podman(&["image", "rm", image]).await?)?;
        Ok(())
    }
}

/// A directory with a registries.conf and no credentials.
fn configured(prefix: &str, mirror: &PrefixMirror) -> Result<TempDir> {
    with_registries(prefix, &mirror.registries_conf())
}

/// A directory whose registries.conf names no registry, with an empty registries.conf.d.
fn with_drop_ins(prefix: &str) -> Result<TempDir> {
    let dir = with_registries(prefix, "unqualified-search-registries = []\n")?;
    std::fs::create_dir_all(drop_ins(dir.path()))?;
    Ok(dir)
}

/// Where the library looks for a user's drop-ins, below the home directory.
fn drop_ins(dir: &Path) -> PathBuf {
    dir.join(".config/containers/registries.conf.d")
}

fn with_registries(prefix: &str, text: &str) -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir()?;
    std::fs::write(registries(dir.path()), text)?;
    std::fs::write(dir.path().join("auth.json"), "{}")?;
    Ok(dir)
}

/// The credentials of containers-auth.json(5).
fn sign_in(dir: &Path, key: &str, user: &str, password: &str) -> Result<()> {
    let auth = BASE64.encode(format!("{user}:{password}").as_bytes());
    let auths = serde_json::json!({"auths": {key: {"auth": auth}}});
    std::fs::write(dir.join("auth.json"), auths.to_string())?;
    Ok(())
}

fn registries(dir: &Path) -> PathBuf {
    dir.join("registries.conf")
}

/// Keeps the machine's own configuration, credentials and caches out.
fn isolate(command: &mut Command, dir: &Path) {
    command
        .env("CONTAINERS_REGISTRIES_CONF", registries(dir))
        .env("REGISTRY_AUTH_FILE", dir.join("auth.json"))
        .env("HOME", dir)
        .env("XDG_RUNTIME_DIR", dir)
        .env("TMPDIR", dir);
}

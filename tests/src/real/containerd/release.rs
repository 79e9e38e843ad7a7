//! A containerd's release, its options for a pull, and the place of its programs.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The directory of containerd 2's programs. `scripts/test` builds them and sets it.
const PROGRAMS: &str = "LARDER_CONTAINERD2";
/// Where they are if the variable is not set, below the home directory.
const CACHED: &str = ".cache/larder/containerd2/bin";

/// The size of the layer pieces that are fetched at once: smaller than the tests' layers.
const PIECE: usize = 1 << 20;

/// A containerd of one of the two series that nodes have, with its way to pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Debian's, 1.6.
    One,
    /// 2.x as it comes: its transfer service pulls.
    Two,
    /// 2.x, whose CRI plugin pulls by itself (`use_local_image_pull`), as all did before 2.1.
    TwoLocal,
    /// 2.x, whose transfer service fetches pieces of a layer at once (`concurrent_layer_fetch_buffer`).
    TwoParallel,
}

impl Release {
    /// A command of this release, whose own programs come first on its PATH.
    pub fn command(self, program: &str) -> Result<Command> {
        let Some(dir) = self.programs()? else {
            return Ok(Command::new(program));
        };
        let mut command = Command::new(dir.join(program));
        command.env("PATH", with_first(&dir)?);
        Ok(command)
    }

    /// The environment's `PATH` with this release's programs first.
    pub(super) fn search_path(self) -> Result<OsString> {
        match self.programs()? {
            Some(dir) => with_first(&dir),
            None => Ok(env::var_os("PATH").unwrap_or_default()),
        }
    }

    /// Its configuration. With `certs` it reads `hosts.toml` there; without, it has no setting for registries, like a
    /// package's file.
    pub(super) fn config_toml(
        self,
        dir: &Path,
        snapshotter: &str,
        pause: &str,
        certs: Option<&Path>,
    ) -> String {
        let own = match self {
            Self::One => version_2(dir, snapshotter, pause),
            Self::Two | Self::TwoLocal | Self::TwoParallel => {
                self.version_3(dir, snapshotter, pause)
            }
        };
        let registry = certs.map(|certs| {
            let section = self.registry_section();
            format!("\n[{section}]\n  config_path = {:?}\n", text(certs))
        });
        own + &registry.unwrap_or_default()
    }

    /// The section of its configuration that names the directory of hosts files.
    pub fn registry_section(self) -> &'static str {
        match self {
            Self::One => r#"plugins."io.containerd.grpc.v1.cri".registry"#,
            _ => r#"plugins."io.containerd.cri.v1.images".registry"#,
        }
    }

    /// Options that make `ctr images pull` pull in this way.
    pub(super) fn pull_options(self) -> &'static [&'static str] {
        match self {
            Self::TwoLocal => &["--local"],
            Self::One | Self::Two | Self::TwoParallel => &[],
        }
    }

    fn programs(self) -> Result<Option<PathBuf>> {
        if self == Self::One {
            return Ok(None);
        }
        let cached = || env::home_dir().map(|home| home.join(CACHED));
        let dir = env::var_os(PROGRAMS).map(PathBuf::from).or_else(cached);
        let dir = dir.with_context(|| format!("no home directory, and no {PROGRAMS}"))?;
        let there = dir.join("containerd").is_file();
        ensure!(
            there,
            "no containerd 2 in {}: scripts/test builds it; {PROGRAMS} may name another directory",
            dir.display()
        );
        Ok(Some(dir))
    }

    /// Read by containerd 2.0 and later.
    fn version_3(self, dir: &Path, snapshotter: &str, pause: &str) -> String {
        let local = self == Self::TwoLocal;
        let piece = if self == Self::TwoParallel { PIECE } else { 0 };
        let platform = match std::env::consts::ARCH {
            "aarch64" => "linux/arm64",
            _ => "linux/amd64",
        };
        let dir = dir.display();
        format!(
            r#"version = 3
imports = ["{dir}/conf.d/*.toml"]
root = "{dir}/root"
state = "{dir}/state"

[grpc]
  address = "{dir}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"

[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
  use_local_image_pull = {local}

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
  # Root without CAP_SYS_RESOURCE, as in a container, may not lower an oom_score_adj.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{dir}/cni"

[plugins."io.containerd.transfer.v1.local"]
  concurrent_layer_fetch_buffer = {piece}

[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "{platform}"
  snapshotter = "{snapshotter}"
"#
        )
    }
}

fn with_first(dir: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_owned()).chain(env::split_paths(&path));
    Ok(env::join_paths(dirs)?)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Read by containerd 1.3 and later.
fn version_2(dir: &Path, snapshotter: &str, pause: &str) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"

[grpc]
  address = "{dir}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  # Root without CAP_SYS_RESOURCE, as in a container, may not lower an oom_score_adj.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{dir}/cni"
"#
    )
}

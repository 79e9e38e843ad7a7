//! containerd's erofs snapshotter, which mounts ready files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Containerd, Release};

impl Containerd {
    /// Starts containerd 2 with the erofs snapshotter for all that is pulled, and with one directory of ready files.
    pub async fn start_with_ready_files(directory: &Path) -> Result<Self> {
        let mut containerd = Self::start(Release::Two).await?;
        let drop_in = format!(
            r#"version = 3

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "erofs"

[plugins."io.containerd.snapshotter.v1.erofs"]
  layer_content_caches = ["{}"]

[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "erofs"
  differ = "walking"
"#,
            directory.display()
        );
        fs::create_dir_all(containerd.drop_ins())?;
        fs::write(containerd.drop_ins().join("ready-files.toml"), drop_in)?;
        containerd.restart_with("erofs").await?;
        Ok(containerd)
    }

    /// Where its drop-ins are.
    pub fn drop_ins(&self) -> PathBuf {
        self.dir.path().join("conf.d")
    }

    /// Starts it again. From now on it pulls and runs with this snapshotter.
    pub async fn restart_with(&mut self, snapshotter: &'static str) -> Result<()> {
        self.snapshotter = snapshotter;
        self.restart().await
    }

    /// Does what a reboot of the node does: no container runs, nothing is mounted, memory is empty, and containerd
    /// starts anew.
    pub async fn reboot(&mut self) -> Result<()> {
        self.end_tasks();
        self.daemon.end(Duration::from_secs(10));
        self.unmount();
        let state = self.dir.path().join("state");
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        ensure!(
            !mounts.contains(&*self.dir.path().to_string_lossy()),
            "something is still mounted:\n{mounts}"
        );
        fs::remove_dir_all(state)?;
        self.restart().await
    }
}

//! Two members in front of one registry. The first one's runtime is played by the test; the second one has a real containerd, a real
//! watcher, and a holder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use larder_tests::fake::{FakeRegistry, Gate, Match};
use larder_tests::holder::Holder;
use larder_tests::image::{Compressed, build_compressed};
use larder_tests::members::Cluster;
use larder_tests::node::Node;
use larder_tests::real::{Containerd, succeeded};
use larder_tests::scene::files;
use larder_tests::watcher::Watcher;
use serde_json::Value;
use tempfile::TempDir;

use crate::Says;

/// How long a condition is waited for.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

/// What a member logs that can serve what is mounted.
const CAN_MOUNT: &str = "layers can be mounted before they are here";

pub(super) const REPOSITORY: &str = "team/app";

/// All of it.
pub(super) struct Lazy {
    pub(super) fake: FakeRegistry,
    pub(super) image: Compressed,
    pub(super) cluster: Cluster,
    pub(super) containerd: Arc<Containerd>,
    pub(super) holder: Holder,
    pub(super) _watcher: Watcher,
    says: Says,
    /// Where the second one's runtime looks for layers.
    directory: PathBuf,
    /// Of the first member, and of the second.
    dirs: [TempDir; 2],
}

/// The member that has pulled the image before, and the one that starts it.
pub(super) const FIRST: usize = 0;
pub(super) const SECOND: usize = 1;

impl Lazy {
    /// The image is whole on the first member, which has its indexes.
    pub(super) async fn new(layers: u64) -> Result<Self> {
        Self::with(layers, "").await
    }

    /// The same with more keys of the second member's `[streaming]`.
    pub(super) async fn with(layers: u64, streaming: &str) -> Result<Self> {
        Self::on(layers, streaming, "", None).await
    }

    /// The same with more of its `[store]`, and with this directory for layers.
    pub(super) async fn on(
        layers: u64,
        streaming: &str,
        store: &str,
        directory: Option<&Path>,
    ) -> Result<Self> {
        let fake = FakeRegistry::start().await;
        let image = build_compressed(&fake, REPOSITORY, "v1", 7, layers)?;
        let dirs = [TempDir::new()?, TempDir::new()?];
        let ready = directory.map_or_else(|| dirs[SECOND].path().join("layers"), Path::to_owned);
        fs::create_dir_all(&ready)?;
        let containerd = Containerd::start_with_ready_files(&ready).await?;
        let watcher = Watcher::start(&containerd.socket(), &["--every", "1s"]);
        let holder_dir = dirs[SECOND].path().join("hold");
        fs::create_dir_all(&holder_dir)?;
        let holder = Holder::start(&holder_dir)?;
        let config = |number: usize, report: PathBuf, store: &str, layers: &Path| {
            let dir = dirs[number].path();
            format!(
                "[store]\nmin_free = \"0\"\n{store}\n[runtime]\nfile = \"{}\"\ncontent = \"off\"\n[streaming]\nmode = \"lazy\"\nmin_layer = \"0\"\ndirectory = \"{}\"\nholder = \"{}\"\n",
                report.display(),
                layers.display(),
                dir.join("hold/socket").display(),
            )
        };
        let first = config(
            FIRST,
            dirs[FIRST].path().join("runtime.json"),
            "",
            &dirs[FIRST].path().join("layers"),
        );
        let second = config(SECOND, watcher.file(), store, &ready) + streaming + "\n";
        let plan = Cluster::of(1).upstream(&fake).stranger(SECOND);
        let plan = plan.config_of(FIRST, &first).config_of(SECOND, &second);
        let cluster = plan.start().await;
        let mut lazy = Self {
            fake,
            image,
            cluster,
            containerd: Arc::new(containerd),
            holder,
            _watcher: watcher,
            says: Says::default(),
            directory: ready,
            dirs,
        };
        lazy.first_has_indexes().await?;
        // Only now: it would have fetched some of the image for the first one.
        lazy.cluster.add().await;
        lazy.lead_containerd()?;
        lazy.until("the second member can mount", |lazy| {
            lazy.second().log().contains(CAN_MOUNT)
        })
        .await?;
        Ok(lazy)
    }

    pub(super) fn second(&self) -> &Node {
        self.cluster.node(SECOND)
    }

    /// Where the second member serves a layer of the image.
    pub(super) fn mounted(&self, layer: usize) -> PathBuf {
        let hex = self.image.diff_ids[layer].trim_start_matches("sha256:");
        let files = self.dirs[SECOND].path().join("hold/files");
        files.join(format!("{hex}.erofs"))
    }

    /// Where the second member offers layers.
    pub(super) fn offered(&self) -> PathBuf {
        self.directory.join("sha256")
    }

    /// Names of the layers that are offered there.
    pub(super) fn links(&self) -> Vec<String> {
        let found = files(&self.offered());
        let names = found.iter().filter_map(|path| path.file_name()?.to_str());
        let names = names.filter_map(|name| name.strip_suffix(".erofs"));
        names.map(ToOwned::to_owned).collect()
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{REPOSITORY}:v1", self.fake.host())
    }

    /// containerd asks the second member alone.
    fn lead_containerd(&self) -> Result<()> {
        let larder = self.second().url();
        let hosts = format!(
            "server = \"{larder}\"\n\n[host.\"{larder}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        self.containerd.write_hosts(&self.fake.host(), &hosts)
    }

    async fn first_has_indexes(&mut self) -> Result<()> {
        let door = self.cluster.door(FIRST, &self.fake, REPOSITORY);
        let image = &self.image.image;
        door.pull("v1", image).await.map_err(anyhow::Error::msg)?;
        self.says.lists(image);
        let wanted = self.image.diff_ids.len() as f64;
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.says
                .tell(self.dirs[FIRST].path(), |_| PathBuf::from("/nowhere"));
            let first = self.cluster.node(FIRST);
            if first.metric_sum("larder_layer_indexes").await >= wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no indexes: {}", first.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            ensure!(
                Instant::now() < deadline,
                "{what}:\n{}\n{}",
                self.second().log(),
                self.holder.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// What the second member says of its layers.
    pub(super) async fn layers(&self) -> Vec<Value> {
        let shown = self.second().admin("/layers").await;
        shown["layers"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until the watcher has reported that snapshots refer to every layer.
    pub(super) async fn until_referenced(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self
            .layers()
            .await
            .iter()
            .any(|layer| layer["referenced_by"] == 0)
        {
            ensure!(Instant::now() < deadline, "{:#?}", self.layers().await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Waits until every layer of the second member is whole there.
    pub(super) async fn until_whole(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let layers = self.layers().await;
            let streams = layers.iter().any(|layer| layer["streams"] == true);
            if layers.len() == self.image.diff_ids.len() && !streams {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{layers:#?}\n{}",
                self.second().log()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(super) async fn pull(&self) -> Result<()> {
        succeeded(&self.containerd.ctr_pull(&self.name(), &[]).await?)?;
        Ok(())
    }

    /// The layers that containerd stored.
    pub(super) fn downloaded(&self) -> Result<Vec<usize>> {
        let mut downloaded = Vec::new();
        for (number, layer) in self.image.image.layers.iter().enumerate() {
            if self.containerd.blob(&layer.digest)?.is_some() {
                downloaded.push(number);
            }
        }
        Ok(downloaded)
    }

    /// Starts a container, and compares all that it sees with what is in the layers.
    pub(super) async fn run_and_compare(&self) -> Result<()> {
        let said = self.containerd.run_image(&self.name()).await;
        self.compare(&self.logging(said)?)
    }

    /// An error comes with what both processes say.
    pub(super) fn logging<T>(&self, done: Result<T>) -> Result<T> {
        done.with_context(|| format!("{}\n{}", self.second().log(), self.holder.log()))
    }

    /// Whether a container has seen what is in the layers.
    pub(super) fn compare(&self, said: &str) -> Result<()> {
        let mut said: Vec<_> = said.lines().collect();
        said.sort_unstable();
        let mut wanted: Vec<_> = self.image.told.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        ensure!(said == wanted, "{said:#?}\n{wanted:#?}");
        Ok(())
    }

    /// The image is pulled and streams, and nothing but its registry has its bytes, which waits until the gate is opened.
    pub(super) async fn gated(layers: u64) -> Result<(Self, Gate)> {
        Self::new(layers).await?.gate().await
    }

    /// The same of this one.
    pub(super) async fn gate(self) -> Result<(Self, Gate)> {
        let mut lazy = self;
        // It has the indexes before the first member goes: then nothing of a layer can come by way of that.
        let door = lazy.cluster.door(SECOND, &lazy.fake, REPOSITORY);
        let manifest = door.call("GET", "manifests/v1").send().await?;
        ensure!(manifest.status == 200, "{}", manifest.status);
        for layer in &lazy.image.image.layers {
            let path = format!(
                "/index?registry={}&repository={REPOSITORY}&layer={}&size={}",
                lazy.fake.host(),
                layer.digest,
                layer.content.len()
            );
            let deadline = Instant::now() + PATIENCE;
            loop {
                let second = lazy.second();
                let answer = second.admin_request("GET", &path, Bytes::new()).await?;
                if answer.status == 200 {
                    break;
                }
                ensure!(Instant::now() < deadline, "{path}: {}", answer.text());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        lazy.cluster.node_mut(FIRST).kill9().await;
        let layers = lazy.image.image.layers.iter();
        let layers: Vec<String> = layers.map(|layer| layer.digest.clone()).collect();
        let of_layer = Match::blob().when(move |request| layers.contains(&request.reference));
        let gate = lazy.fake.gate(of_layer, 0);
        lazy.pull().await?;
        let downloaded = lazy.downloaded()?;
        ensure!(
            downloaded.is_empty(),
            "{downloaded:?} {}",
            lazy.second().log()
        );
        Ok((lazy, gate))
    }

    /// The second member is started again, and can mount layers.
    pub(super) async fn restart_second(&mut self) -> Result<()> {
        let can = |lazy: &Self| lazy.second().log().matches(CAN_MOUNT).count();
        let before = can(self);
        self.cluster.node_mut(SECOND).restart().await;
        self.until("layers can be mounted again", |lazy| can(lazy) > before)
            .await
    }

    /// What a reboot does to the holder's mount.
    pub(super) fn take_mounts_away(&self) -> Result<()> {
        self.holder.take_mount_away()
    }

    /// The second member loses everything but what it has learnt of images' starts, and its runtime the image.
    pub(super) async fn forget_all_but_orders(&mut self) -> Result<()> {
        self.containerd.remove(&self.name()).await?;
        self.cluster.node_mut(SECOND).kill9().await;
        self.holder.kill9()?;
        self.take_mounts_away()?;
        let store = self.second().store().to_owned();
        for entry in fs::read_dir(&store)?.chain(fs::read_dir(&self.directory)?) {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != "orders" {
                fs::remove_dir_all(entry.path())?;
            }
        }
        self.start_holder()?;
        self.restart_second().await
    }

    /// Another holder, in the same place.
    pub(super) fn start_holder(&mut self) -> Result<()> {
        let directory = self.dirs[SECOND].path().join("hold");
        let new = Holder::start(&directory)?;
        std::mem::replace(&mut self.holder, new).is_followed();
        Ok(())
    }
}

//! What the tests with real containerd start with: a registry, larder, containerd, and ready files that the test makes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Cursor};
use std::num::NonZero;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use larder_layer::{Index, build, ready};
use larder_tests::fake::{FakeRegistry, Kind};
use larder_tests::image::{Compressed, build_compressed};
use larder_tests::node::{Node, larder_program};
use larder_tests::real::{Containerd, refusal, skipped, succeeded};
use larder_tests::schemas::assert_schema;
use serde_json::Value;
use tempfile::TempDir;

/// A name that does not resolve: whatever arrives has come through larder.
pub(crate) const REGISTRY: &str = "registry.example";
pub(crate) const NAME: &str = "registry.example/team/app:v1";
const LAYERS: u64 = 4;

/// Whether this machine cannot run containerd, which is said.
pub(crate) fn refused(test: &str) -> bool {
    let why = refusal();
    if let Some(why) = why {
        skipped(test, why);
    }
    why.is_some()
}

/// A registry with one image, larder, and containerd, which asks larder alone.
pub(crate) struct Setup {
    pub(crate) fake: FakeRegistry,
    pub(crate) node: Node,
    pub(crate) image: Compressed,
    pub(crate) containerd: Containerd,
    /// Of the ready files.
    pub(crate) directory: TempDir,
}

impl Setup {
    pub(crate) async fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("layers-").tempdir()?;
        let containerd = Containerd::start_with_ready_files(directory.path()).await?;
        Self::on(containerd, directory).await
    }

    /// The same with this containerd.
    pub(crate) async fn on(containerd: Containerd, directory: TempDir) -> Result<Self> {
        let fake = FakeRegistry::start().await;
        let image = build_compressed(&fake, "team/app", "v1", 1, LAYERS)?;
        let node = Node::builder().upstream_at(REGISTRY, &fake.url());
        let node = node.start().await;
        Self::of(fake, node, image, containerd, directory)
    }

    /// The same with all of these.
    pub(crate) fn of(
        fake: FakeRegistry,
        node: Node,
        image: Compressed,
        containerd: Containerd,
        directory: TempDir,
    ) -> Result<Self> {
        let larder = node.url();
        let hosts = format!(
            "server = \"{larder}\"\n\n[host.\"{larder}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        containerd.write_hosts(REGISTRY, &hosts)?;
        Ok(Self {
            fake,
            node,
            image,
            containerd,
            directory,
        })
    }

    /// Makes the ready file of one layer.
    pub(crate) fn offer(&self, number: usize) -> Result<()> {
        let content = &self.image.image.layers[number].content;
        let layer = content.read(0..content.len());
        let dir = tempfile::tempdir()?;
        let (layer_file, index_file) = (dir.path().join("layer"), dir.path().join("index"));
        fs::write(&layer_file, &layer)?;
        let mut to = BufWriter::new(File::create(&index_file)?);
        build(&mut Cursor::new(&layer), &mut to)?;
        drop(to);
        let index = Index::open(&mut File::open(&index_file)?)?;
        assert_eq!(index.diff_id().to_string(), self.image.diff_ids[number]);
        let hex = index.diff_id().hex();
        let place = self.directory.path().join("sha256").join(&hex[..2]);
        fs::create_dir_all(&place)?;
        let windows = File::open(&index_file)?;
        let layer = File::open(&layer_file)?;
        let file = File::create(place.join(format!("{hex}.erofs")))?;
        ready::write(&index, &windows, &layer, &file, NonZero::<usize>::MIN)?;
        Ok(())
    }

    pub(crate) fn offer_all(&self) -> Result<()> {
        (0..self.image.diff_ids.len()).try_for_each(|number| self.offer(number))
    }

    /// The layers that the registry was asked for, and those that containerd stored.
    pub(crate) fn downloaded(&self) -> Result<Vec<usize>> {
        let mut downloaded = Vec::new();
        for (number, layer) in self.image.image.layers.iter().enumerate() {
            let asked = self
                .fake
                .count(|seen| seen.kind == Kind::Blob && seen.reference == layer.digest);
            let stored = self.containerd.blob(&layer.digest)?.is_some();
            ensure!((asked > 0) == stored, "layer {number}: {asked}, {stored}");
            if stored {
                downloaded.push(number);
            }
        }
        Ok(downloaded)
    }

    pub(crate) async fn pull(&self) -> Result<()> {
        succeeded(&self.containerd.ctr_pull(NAME, &[]).await?)?;
        Ok(())
    }

    /// Starts a container, and compares all that it sees with what is in the layers.
    pub(crate) async fn run_and_compare(&self) -> Result<()> {
        let said = self.containerd.run_image(NAME).await?;
        let mut said: Vec<_> = said.lines().collect();
        said.sort_unstable();
        let mut wanted: Vec<_> = self.image.told.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        assert_eq!(said, wanted);
        Ok(())
    }

    /// What the watcher reports.
    pub(crate) fn report(&self) -> Result<Value> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("runtime.json");
        let asked = Command::new(larder_program())
            .args(["runtime", "--once", "--socket"])
            .arg(self.containerd.socket())
            .arg("--file")
            .arg(&file)
            .output()?;
        ensure!(
            asked.status.success(),
            "{}",
            String::from_utf8_lossy(&asked.stderr)
        );
        let report = serde_json::from_slice(&fs::read(&file)?)?;
        assert_schema(&report, "runtime");
        Ok(report)
    }

    /// The ready files to which the report says that snapshots refer.
    pub(crate) fn referred(&self) -> Result<BTreeSet<String>> {
        let report = self.report()?;
        let snapshots = report["snapshots"].as_array().into_iter().flatten();
        let paths =
            snapshots.filter_map(|one| one["labels"]["io.containerd.erofs.v1/blob.ref"].as_str());
        let mut found = BTreeSet::new();
        for path in paths {
            ensure!(Path::new(path).is_file(), "{path}");
            ensure!(Path::new(path).starts_with(self.directory.path()), "{path}");
            let name = path
                .rsplit('/')
                .next()
                .and_then(|name| name.strip_suffix(".erofs"));
            found.insert(format!("sha256:{}", name.unwrap_or(path)));
        }
        Ok(found)
    }

    pub(crate) fn all(&self) -> BTreeSet<String> {
        self.image.diff_ids.iter().cloned().collect()
    }
}

//! One round: it asks every question, and writes the answers into the draft.

mod cri;

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use larder_shared::{
    digest::Digest,
    runtime::{Image, Plugin},
};
use tonic::Code;

use super::{
    ask::Runtime,
    draft::Draft,
    manifest::{self, Known, Platform},
    memory::Memory,
    translate::{self, CRI_NAMESPACE, Named},
    trouble::Trouble,
    wire::{Empty, containerd},
};

/// A longer manifest is not read. Those of images are some kilobytes long.
const LONGEST_MANIFEST: usize = 1 << 20;

/// The plugins that keep snapshots.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// The plugins that pull and unpack.
const PULLING: [&str; 3] = [
    SNAPSHOTTER,
    "io.containerd.differ.v1",
    "io.containerd.transfer.v1",
];

/// A round that is under way.
#[derive(Debug)]
pub struct Round<'a> {
    runtime: &'a Runtime,
    before: &'a Memory,
    /// The memory for the next round.
    now: Memory,
    draft: Draft,
    platform: Platform,
}

impl<'a> Round<'a> {
    pub fn new(runtime: &'a Runtime, before: &'a Memory, draft: Draft) -> Self {
        Self {
            runtime,
            before,
            now: Memory::default(),
            draft,
            platform: Platform::own(),
        }
    }

    /// Asks containerd, and its CRI plugin for what only the plugin knows. Puts the file in its place, and returns the
    /// memory for the next round.
    pub async fn containerd(mut self, cri: bool) -> Result<Memory, Trouble> {
        let by_cri = if cri {
            let snapshotter = self.snapshotter_of_pulls().await?;
            self.value("snapshotter", snapshotter.as_deref())?;
            Some(self.cri_containers().await?)
        } else {
            None
        };
        let namespaces = self.namespaces().await?;
        self.list("images")?;
        let mut names = Vec::with_capacity(namespaces.len());
        for namespace in &namespaces {
            names.push(self.images(namespace).await?);
        }
        self.list("users")?;
        let digests = by_cri.as_ref().map(|found| &found.digests);
        for (namespace, names) in namespaces.iter().zip(&names) {
            let digests = digests.filter(|_| namespace == CRI_NAMESPACE);
            self.containers(namespace, names, digests).await?;
        }
        for volume in by_cri.into_iter().flat_map(|found| found.volumes) {
            self.item(&volume)?;
        }
        drop(names);
        let plugins = self.plugins().await?;
        self.list("plugins")?;
        for plugin in &plugins {
            self.item(plugin)?;
        }
        self.list("snapshots")?;
        let snapshotters = snapshotters(&plugins);
        for namespace in &namespaces {
            for snapshotter in &snapshotters {
                self.snapshots(namespace, snapshotter).await?;
            }
        }
        self.list("content")?;
        for namespace in &namespaces {
            self.content(namespace).await?;
        }
        self.finish()
    }

    async fn namespaces(&self) -> Result<Vec<String>, Trouble> {
        let answer: containerd::Namespaces = self
            .runtime
            .one(containerd::NAMESPACES, "", Empty {})
            .await?;
        let names = answer.namespaces.into_iter().map(|one| one.name);
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn images(&mut self, namespace: &str) -> Result<HashMap<String, Named>, Trouble> {
        let all = containerd::Filters::default();
        let answer: containerd::Images =
            self.runtime.one(containerd::IMAGES, namespace, all).await?;
        let (images, names) = translate::images(namespace, answer.images);
        for mut image in images {
            self.fill_in(&mut image).await?;
            self.item(&image)?;
        }
        Ok(names)
    }

    /// Adds the fields of the image's manifest. If the target is an index, that is the manifest for this node's
    /// platform.
    async fn fill_in(&mut self, image: &mut Image) -> Result<(), Trouble> {
        let mut candidates = vec![image.target];
        let mut seen = 0;
        while let Some(digest) = candidates.get(seen).copied() {
            seen += 1;
            match self.manifest(&image.namespace, digest).await?.as_deref() {
                Some(Known::Manifest { config, layers }) => {
                    image.manifest = Some(digest);
                    image.config = *config;
                    image.layers.clone_from(layers);
                    return Ok(());
                }
                // An index within an index is not read.
                Some(Known::Index(own)) if seen == 1 => candidates.extend(own),
                _ => {}
            }
        }
        Ok(())
    }

    /// The index or manifest with this digest; `None` if the runtime does not have it.
    async fn manifest(
        &mut self,
        namespace: &str,
        digest: Digest,
    ) -> Result<Option<Arc<Known>>, Trouble> {
        let known = self.now.manifests.get(&digest);
        let known = known
            .or_else(|| self.before.manifests.get(&digest))
            .cloned();
        let known = match known {
            Some(known) => known,
            None => match self.read(namespace, digest).await? {
                Some(known) => Arc::new(known),
                None => return Ok(None),
            },
        };
        self.now.manifests.insert(digest, Arc::clone(&known));
        Ok(Some(known))
    }

    async fn read(&self, namespace: &str, digest: Digest) -> Result<Option<Known>, Trouble> {
        let question = containerd::ReadRequest {
            digest: digest.to_string(),
        };
        let gone = |trouble: Trouble| match trouble.code() {
            Some(Code::NotFound) => Ok(None),
            _ => Err(trouble),
        };
        let answers = self.runtime.many(containerd::READ, namespace, question);
        let mut answers = match answers.await {
            Ok(answers) => answers,
            Err(trouble) => return gone(trouble),
        };
        let mut bytes = BytesMut::new();
        loop {
            let answer: Option<containerd::ReadResponse> = match answers.next().await {
                Ok(answer) => answer,
                Err(trouble) => return gone(trouble),
            };
            let Some(answer) = answer else { break };
            bytes.extend_from_slice(&answer.data);
            if bytes.len() > LONGEST_MANIFEST {
                return Ok(Some(Known::Opaque));
            }
        }
        // A damaged blob is ignored.
        let whole = Digest::of(digest.algorithm(), &bytes) == digest;
        Ok(whole.then(|| manifest::read(&bytes, self.platform)))
    }

    async fn containers(
        &mut self,
        namespace: &str,
        names: &HashMap<String, Named>,
        by_cri: Option<&HashMap<String, Digest>>,
    ) -> Result<(), Trouble> {
        let all = containerd::Filters::default();
        let mut answers = self
            .runtime
            .many(containerd::CONTAINERS, namespace, all)
            .await?;
        while let Some(answer) = answers.next().await? {
            let answer: containerd::ContainerMessage = answer;
            let Some(container) = answer.container else {
                continue;
            };
            let key = (namespace.to_owned(), container.id.clone());
            let by_cri = by_cri.and_then(|found| found.get(&container.id)).copied();
            let known = self.before.running.get(&key).copied();
            let digest = translate::digest_of(&container, by_cri, known, names);
            if let Some(digest) = digest {
                self.now.running.insert(key, digest);
            }
            if let Some(user) = translate::user(namespace, container, digest) {
                self.item(&user)?;
            }
        }
        Ok(())
    }

    async fn plugins(&self) -> Result<Vec<Plugin>, Trouble> {
        let question = containerd::Filters {
            filters: PULLING.map(|kind| format!("type=={kind}")).to_vec(),
        };
        let answer: containerd::Plugins =
            self.runtime.one(containerd::PLUGINS, "", question).await?;
        let plugins = answer.plugins.into_iter();
        Ok(plugins.map(translate::plugin).collect())
    }

    async fn snapshots(&mut self, namespace: &str, snapshotter: &str) -> Result<(), Trouble> {
        let question = containerd::SnapshotsRequest {
            snapshotter: snapshotter.to_owned(),
        };
        let mut answers = self
            .runtime
            .many(containerd::SNAPSHOTS, namespace, question)
            .await?;
        while let Some(answer) = answers.next().await? {
            let answer: containerd::SnapshotList = answer;
            for info in answer.info {
                self.item(&translate::snapshot(namespace, snapshotter, info))?;
            }
        }
        Ok(())
    }

    async fn content(&mut self, namespace: &str) -> Result<(), Trouble> {
        let all = containerd::Filters::default();
        let mut answers = self
            .runtime
            .many(containerd::CONTENT, namespace, all)
            .await?;
        while let Some(answer) = answers.next().await? {
            let answer: containerd::ContentList = answer;
            for info in answer.info {
                if let Some(content) = translate::content(namespace, info) {
                    self.item(&content)?;
                }
            }
        }
        Ok(())
    }

    /// Writes a field, if there is a value for it.
    fn value(&mut self, name: &str, value: Option<&str>) -> Result<(), Trouble> {
        let written = value.map_or(Ok(()), |value| self.draft.value(name, value));
        written.map_err(|error| Trouble::of_writing(&error))
    }

    fn list(&mut self, name: &str) -> Result<(), Trouble> {
        let written = self.draft.list(name);
        written.map_err(|error| Trouble::of_writing(&error))
    }

    fn item(&mut self, item: &impl serde::Serialize) -> Result<(), Trouble> {
        let written = self.draft.item(item);
        written.map_err(|error| Trouble::of_writing(&error))
    }

    fn finish(self) -> Result<Memory, Trouble> {
        let written = self.draft.finish();
        written.map_err(|error| Trouble::of_writing(&error))?;
        Ok(self.now)
    }
}

/// The snapshotters that have started without an error.
fn snapshotters(plugins: &[Plugin]) -> Vec<&str> {
    let able = |plugin: &&Plugin| plugin.kind == SNAPSHOTTER && plugin.trouble.is_none();
    let mut names: Vec<&str> = plugins
        .iter()
        .filter(able)
        .map(|plugin| plugin.id.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

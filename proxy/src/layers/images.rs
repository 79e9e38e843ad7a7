//! The images of the node tier and their layers, and which of them are never offered.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use larder_shared::{
    Digest, RegistryName, Repository,
    runtime::{Report, UserKind},
};
use serde::Deserialize;

use super::rights::Refusal;
use crate::{
    config::{Never, Streaming},
    runtime::Seen,
    store::{Names, Store, image_name},
};

/// The last part of the name of larder's own repository, the same on every mirror.
const OWN: &str = "larder";

/// What a manifest and its configuration say.
#[derive(Debug)]
pub struct Content {
    pub config: Digest,
    /// Digest and length of each layer, the lowest first.
    pub layers: Vec<(Digest, u64)>,
    /// The diffIDs that the configuration names. `None` if it is not here, or is not an image's.
    pub diff_ids: Option<Vec<Digest>>,
}

/// An image that a repository holds.
#[derive(Clone, Debug)]
pub struct Image {
    pub registry: RegistryName,
    pub repository: Repository,
    pub manifest: Digest,
    pub content: Arc<Content>,
    /// When its manifest was last used, by the store's clock.
    pub used: u64,
    /// The repository is known to hold all of the image. A digest in its manifest proves nothing: anyone can push a
    /// manifest that names another repository's layer.
    pub held: bool,
    /// The whole image is on this node.
    pub whole: bool,
}

impl Image {
    /// The image's name, for logs and pages.
    pub fn name(&self) -> String {
        image_name(&self.registry, &self.repository, &self.manifest)
    }

    /// Each layer, and its diffID if the configuration names one.
    pub fn layers(&self) -> Vec<(Digest, Option<Digest>)> {
        let diff_ids = self.content.diff_ids.as_deref().unwrap_or_default();
        let layers = self.content.layers.iter().enumerate();
        layers
            .map(|(place, (layer, _))| (*layer, diff_ids.get(place).copied()))
            .collect()
    }

    /// The digests that a caller has to be allowed to read.
    pub fn subjects(&self) -> Vec<Digest> {
        let layers = self.content.layers.iter().map(|(layer, _)| *layer);
        [self.manifest, self.content.config]
            .into_iter()
            .chain(layers)
            .collect()
    }
}

/// Manifests that were read. They are kept because they do not change.
#[derive(Default)]
pub struct Read {
    contents: HashMap<Digest, Option<Arc<Content>>>,
    seen: Seen,
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// Every image whose manifest is here (blocking). Updates `read` to what is here.
pub fn images(store: &Store, read: &mut Read) -> Vec<Image> {
    let mut before = std::mem::take(&mut read.contents);
    let read = &mut read.contents;
    let mut images = Vec::new();
    let here = |digest: &Digest| store.has(digest) || store.adopts(digest);
    store.repositories().each(|holding| {
        let links: HashSet<Digest> = holding.links.iter().map(|link| link.digest).collect();
        for link in holding
            .links
            .iter()
            .filter(|link| link.media_type.is_some())
        {
            let manifest = link.digest;
            if !here(&manifest) {
                continue;
            }
            let known = read.entry(manifest).or_insert_with(|| {
                // A configuration may arrive later than its manifest.
                let known = before.remove(&manifest).filter(|known| {
                    let content = known.as_ref();
                    content.is_none_or(|content| content.diff_ids.is_some())
                });
                known.unwrap_or_else(|| content(store, &manifest))
            });
            let Some(content) = known else {
                continue;
            };
            let below = || {
                let layers = content.layers.iter().map(|(layer, _)| layer);
                layers.chain([&content.config])
            };
            images.push(Image {
                registry: holding.registry.clone(),
                repository: holding.repository.clone(),
                manifest,
                content: Arc::clone(content),
                used: store.holding(&manifest).map_or(0, |held| held.used),
                held: below().all(|digest| links.contains(digest)),
                whole: below().all(here),
            });
        }
    });
    images
}

/// What a manifest and its configuration say. `None` if the blob is not an image's manifest.
fn content(store: &Store, manifest: &Digest) -> Option<Arc<Content>> {
    let names = Names::of(&verified(store, manifest)?);
    let config = *names.config()?;
    let layers: Vec<(Digest, u64)> = names
        .layers()
        .map(|named| (named.digest, named.size.unwrap_or(0)))
        .collect();
    if layers.is_empty() {
        return None;
    }
    let bytes = verified(store, &config);
    Some(Arc::new(Content {
        config,
        layers,
        diff_ids: bytes.and_then(|bytes| diff_ids(&bytes)),
    }))
}

/// The diffIDs that a configuration names. `None` if the blob is not an image's configuration.
pub fn diff_ids(configuration: &[u8]) -> Option<Vec<Digest>> {
    let parsed = serde_json::from_slice::<Configuration>(configuration).ok()?;
    Some(parsed.rootfs.diff_ids)
}

/// The verified bytes of a small blob. The read does not count as a use; a damaged blob is a miss.
fn verified(store: &Store, digest: &Digest) -> Option<Vec<u8>> {
    let own = store.read_unseen(digest);
    let own = own.filter(|bytes| Digest::of(digest.algorithm(), bytes) == *digest);
    own.or_else(|| store.read_adopted_unseen(digest))
}

/// Why nothing of a repository is ever offered, if its name is the reason.
pub fn by_name(
    config: &Streaming,
    registry: &RegistryName,
    repository: &Repository,
) -> Option<Refusal> {
    if repository.as_str().rsplit('/').next() == Some(OWN) {
        return Some(Refusal::Own);
    }
    let named = |never: &Never| match never {
        Never::Repositories(pattern) => pattern.matches(&format!("{registry}/{repository}")),
        Never::Namespace(_) => false,
    };
    config.never.iter().any(named).then_some(Refusal::Never)
}

/// The images that are never offered.
#[derive(Default, Debug)]
pub struct Barred {
    /// Manifests, configurations and layers that sandboxes use.
    sandboxes: HashSet<Digest>,
    /// The same for images that `streaming.never` names. `own` is for larder's own images.
    never: HashSet<Digest>,
    own: HashSet<Digest>,
}

impl Barred {
    /// Finds out what is barred among these images (blocking).
    pub fn of(
        store: &Store,
        read: &mut Read,
        report: &Report,
        config: &Streaming,
        images: &[Image],
    ) -> Self {
        read.seen = std::mem::take(&mut read.seen).again(store);
        let sandboxes = read
            .seen
            .used_by(report, |user| user.kind == UserKind::Sandbox);
        let namespaces: Vec<&str> = config
            .never
            .iter()
            .filter_map(|never| match never {
                Never::Namespace(name) => Some(name.as_str()),
                Never::Repositories(_) => None,
            })
            .collect();
        let mut never = read.seen.used_by(report, |user| {
            let of = user.pod_namespace.as_deref();
            of.is_some_and(|of| namespaces.contains(&of))
        });
        let mut own = HashSet::new();
        for image in images {
            match by_name(config, &image.registry, &image.repository) {
                Some(Refusal::Own) => own.extend(image.subjects()),
                Some(_) => never.extend(image.subjects()),
                None => {}
            }
        }
        Self {
            sandboxes,
            never,
            own,
        }
    }

    pub fn is_own(&self, digest: &Digest) -> bool {
        self.own.contains(digest)
    }

    pub fn is_of_sandbox(&self, digest: &Digest) -> bool {
        self.sandboxes.contains(digest)
    }

    pub fn is_never(&self, digest: &Digest) -> bool {
        self.never.contains(digest)
    }

    /// Whether a layer belongs to an image that is never offered. Then no other image offers the layer either.
    pub fn has(&self, digest: &Digest) -> bool {
        self.is_own(digest) || self.is_of_sandbox(digest) || self.is_never(digest)
    }
}

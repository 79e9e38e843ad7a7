//! What is known of the sets of this node, between two looks at their registries.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use larder_shared::{
    Digest, Reference, RegistryName, Repository, Tag, name::ImageName, warm::Listed,
};

use super::choice::{Answers, Choice, Why};
use crate::{
    config::WarmSource,
    pull::Parts,
    store::{Counts, WarmImage},
};

/// One set.
#[derive(Clone, Debug, Default)]
pub(super) struct SetState {
    /// Labels that a node must have.
    pub labels: BTreeMap<String, String>,
    pub matches: bool,
    pub sources: Vec<SourceState>,
    /// In the order in which they are fetched.
    pub images: Vec<Wanted>,
    /// Images that left the set and are still held.
    pub left: Vec<WarmImage>,
    /// Whether the registries were asked since the start.
    pub looked: bool,
    /// `os/architecture`: the platforms for which the parts were chosen.
    pub platforms: Vec<String>,
    /// How long an image that left the set is held.
    pub keep: Duration,
}

/// One source of a set.
#[derive(Clone, Debug)]
pub(super) struct SourceState {
    pub source: WarmSource,
    /// The last list, and the answers about tags beside it.
    pub listed: Option<Arc<Listed>>,
    pub answers: Answers,
    pub choice: Arc<Choice>,
    /// When the registry last answered, in Unix seconds.
    pub at: Option<u64>,
    pub trouble: Option<Trouble>,
}

/// Why there is nothing newer from a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Trouble {
    pub why: String,
    /// In Unix seconds.
    pub since: u64,
}

impl SourceState {
    pub fn new(source: WarmSource) -> Self {
        Self {
            source,
            listed: None,
            answers: Answers::new(),
            choice: Arc::default(),
            at: None,
            trouble: None,
        }
    }
}

/// One image of a set.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub registry: RegistryName,
    pub repository: Repository,
    /// Absent if no registry could be asked for the image's tag.
    pub digest: Option<Digest>,
    /// The first is the tag by which the image was chosen.
    pub tags: Vec<Tag>,
    /// For each tag with this digest in a list: when the registry was asked for that list, in Unix seconds.
    pub listed: HashMap<Tag, u64>,
    pub why: String,
    pub parts: Option<Parts>,
    pub progress: Progress,
}

/// The progress of an image, besides what lies in the tier.
#[derive(Clone, Debug, Default)]
pub(super) enum Progress {
    #[default]
    Waiting,
    Coming(Arc<Counts>),
    NoRoom,
    Failed(String),
}

impl From<Why> for Progress {
    fn from(why: Why) -> Self {
        match why {
            Why::Failed(error) => Self::Failed(error),
            _ => Self::Waiting,
        }
    }
}

impl Wanted {
    /// The image by its digest.
    pub fn by_digest(&self) -> Option<ImageName> {
        Some(ImageName {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            reference: Reference::Digest(self.digest?),
        })
    }

    /// The image as a pod names it.
    pub fn name(&self) -> ImageName {
        let reference = match (self.tags.first(), self.digest) {
            (Some(tag), _) => Reference::Tag(tag.clone()),
            // There is always a tag or a digest.
            (None, digest) => Reference::Digest(digest.unwrap_or_else(|| Digest::sha256(b""))),
        };
        ImageName {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            reference,
        }
    }

    /// Whether this is the same image, whatever its tags are.
    pub fn is(&self, registry: &RegistryName, repository: &Repository, digest: &Digest) -> bool {
        self.digest.as_ref() == Some(digest)
            && self.registry == *registry
            && self.repository == *repository
    }

    /// The image as the set's file records it, once its parts are known.
    pub fn held(&self) -> Option<WarmImage> {
        let parts = self.parts.as_ref()?;
        Some(WarmImage {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            tags: self.tags.clone(),
            digest: parts.digest,
            media_type: parts.media_type.clone(),
            parts: parts.all.to_vec(),
            left: false,
            left_at: None,
        })
    }
}

/// The parts of an image that a set's file records.
pub(super) fn parts_of(held: &WarmImage) -> Parts {
    Parts {
        digest: held.digest,
        media_type: held.media_type.clone(),
        all: held.parts.iter().copied().collect(),
    }
}

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
    /// In the order in which they come.
    pub images: Vec<Wanted>,
    /// What left the set and is still held.
    pub left: Vec<WarmImage>,
    /// The registries were asked at least once since the start.
    pub looked: bool,
    /// `os/architecture`, as the parts were chosen by.
    pub platforms: Vec<String>,
    /// How long an image that left is held.
    pub keep: Duration,
}

/// One source of a set.
#[derive(Clone, Debug)]
pub(super) struct SourceState {
    pub source: WarmSource,
    /// The last list, and what was learnt of tags beside it.
    pub listed: Option<Arc<Listed>>,
    pub answers: Answers,
    pub choice: Arc<Choice>,
    /// When the registry last answered, in Unix seconds.
    pub at: Option<u64>,
    pub trouble: Option<Trouble>,
}

/// Why a source is old.
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
    /// Absent where no registry could be asked for its tag.
    pub digest: Option<Digest>,
    /// First the one that it was chosen by.
    pub tags: Vec<Tag>,
    /// When the registry was asked for the list that has such a tag with the digest, in Unix seconds.
    pub listed: HashMap<Tag, u64>,
    pub why: String,
    pub parts: Option<Parts>,
    pub progress: Progress,
}

/// How far an image is, besides what lies in the tier.
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

    /// As a pod names it.
    pub fn name(&self) -> ImageName {
        let reference = match (self.tags.first(), self.digest) {
            (Some(tag), _) => Reference::Tag(tag.clone()),
            // One of the two is known.
            (None, digest) => Reference::Digest(digest.unwrap_or_else(|| Digest::sha256(b""))),
        };
        ImageName {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            reference,
        }
    }

    /// Whether it is the same image, whatever its tags.
    pub fn is(&self, registry: &RegistryName, repository: &Repository, digest: &Digest) -> bool {
        self.digest.as_ref() == Some(digest)
            && self.registry == *registry
            && self.repository == *repository
    }

    /// What the set's file says of it, once its parts are known.
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

/// The parts of an image that a set's file tells.
pub(super) fn parts_of(held: &WarmImage) -> Parts {
    Parts {
        digest: held.digest,
        media_type: held.media_type.clone(),
        all: held.parts.iter().copied().collect(),
    }
}

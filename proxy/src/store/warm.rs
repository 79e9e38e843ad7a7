//! What warm sets hold. It is evicted after everything that is merely here, and before what containers use.
//!
//! Each set has a file, `<store>/warm/NAME`, so that a restart lets go of nothing before the set is looked at again. A
//! set's holds are no pins: leaving a set unpins nothing, and pins keep nothing in a set.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use larder_shared::{Digest, RegistryName, Repository, Tag};
use serde::{Deserialize, Serialize};

use super::{Store, lock};

/// The version of the files.
const VERSION: u32 = 1;

/// The file of a set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WarmHolds {
    version: u32,
    /// The platforms; none means the node's own.
    #[serde(default)]
    pub platforms: Vec<String>,
    pub images: Vec<WarmImage>,
}

/// One image that a set holds, with everything that belongs to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WarmImage {
    pub registry: RegistryName,
    pub repository: Repository,
    #[serde(default)]
    pub tags: Vec<Tag>,
    pub digest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// Manifests and blobs, with their bytes.
    pub parts: Vec<(Digest, u64)>,
    /// The image is no longer in the set.
    #[serde(default)]
    pub left: bool,
    /// When the image that replaced it was here, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_at: Option<u64>,
}

impl WarmHolds {
    pub fn of(platforms: Vec<String>, images: Vec<WarmImage>) -> Self {
        Self {
            version: VERSION,
            platforms,
            images,
        }
    }
}

/// The sets' holds, and all their digests together.
#[derive(Debug, Default)]
pub(super) struct Held {
    sets: BTreeMap<String, WarmHolds>,
    digests: Arc<HashSet<Digest>>,
}

impl Held {
    fn count(&mut self) {
        let images = self.sets.values().flat_map(|set| &set.images);
        let parts = images.flat_map(|image| &image.parts);
        self.digests = Arc::new(parts.map(|(digest, _)| *digest).collect());
    }

    /// Reads the files in `dir`. A broken file holds nothing.
    pub(super) fn read(dir: &Path) -> Self {
        let mut held = Self::default();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let text = fs::read(entry.path()).unwrap_or_default();
            let holds = serde_json::from_slice::<WarmHolds>(&text).ok();
            let holds = holds.filter(|holds| holds.version == VERSION);
            if let (Some(name), Some(holds)) = (entry.file_name().to_str(), holds) {
                held.sets.insert(name.to_owned(), holds);
            }
        }
        held.count();
        held
    }
}

impl Store {
    /// Whether a warm set holds a digest.
    pub fn is_warm(&self, digest: &Digest) -> bool {
        lock(&self.warm).digests.contains(digest)
    }

    /// What each set holds.
    pub fn warm_sets(&self) -> BTreeMap<String, WarmHolds> {
        lock(&self.warm).sets.clone()
    }

    /// Makes the set hold these images from now on, and no others. `None` removes the set (blocking). The images are
    /// held even if the file cannot be written.
    pub fn hold_warm(&self, set: &str, holds: Option<WarmHolds>) -> io::Result<()> {
        self.owned()?;
        {
            let mut warm = lock(&self.warm);
            if warm.sets.get(set) == holds.as_ref() {
                return Ok(());
            }
            match &holds {
                Some(holds) => warm.sets.insert(set.to_owned(), holds.clone()),
                None => warm.sets.remove(set),
            };
            warm.count();
        }
        let path = self.layout.warm().join(set);
        let Some(holds) = holds else {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => self.noting(Err(error)),
                _ => Ok(()),
            };
        };
        // Writing these types to memory cannot fail.
        let text = serde_json::to_vec(&holds).unwrap_or_default();
        let written = self.layout.write_atomic(&path, &text, true);
        self.noting(written)
    }

    /// Bytes of these parts that are in the tier or in the runtime's store, and of all of them.
    pub fn present(&self, parts: &[(Digest, u64)]) -> (u64, u64) {
        let here = |(digest, _): &&(Digest, u64)| self.has(digest) || self.adopts(digest);
        let sum = |parts: &mut dyn Iterator<Item = &(Digest, u64)>| {
            parts.fold(0_u64, |sum, (_, size)| sum.saturating_add(*size))
        };
        (sum(&mut parts.iter().filter(here)), sum(&mut parts.iter()))
    }

    /// Whether all of these parts are here.
    pub fn has_all(&self, parts: &[(Digest, u64)]) -> bool {
        let mut parts = parts.iter();
        parts.all(|(digest, _)| self.has(digest) || self.adopts(digest))
    }

    /// Bytes of the tier that are pinned or in use, without what is in `but`.
    pub fn spoken_for(&self, but: &HashMap<Digest, u64>) -> u64 {
        let (pins, in_use) = (self.pins(), self.in_use());
        let all: HashSet<&Digest> = pins.iter().chain(in_use.digests()).collect();
        let index = lock(&self.index);
        let others = all.into_iter().filter(|digest| !but.contains_key(*digest));
        others.filter_map(|digest| index.size(digest)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(of: &str) -> WarmImage {
        let digest = Digest::sha256(of.as_bytes());
        WarmImage {
            registry: "r.io".parse().unwrap(),
            repository: "a/b".parse().unwrap(),
            tags: vec!["v1".parse().unwrap()],
            digest,
            media_type: "m".to_owned(),
            parts: vec![(digest, 3)],
            left: false,
            left_at: None,
        }
    }

    #[test]
    fn holds_outlive_the_process_and_a_broken_file_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (image("one"), image("two"));
        {
            let store = Store::open(dir.path()).unwrap();
            store
                .hold_warm("a", Some(WarmHolds::of(Vec::new(), vec![one.clone()])))
                .unwrap();
            store
                .hold_warm(
                    "b",
                    Some(WarmHolds::of(Vec::new(), vec![one.clone(), two.clone()])),
                )
                .unwrap();
            assert!(store.is_warm(&one.digest) && store.is_warm(&two.digest));
            assert!(store.pins().is_empty());
        }
        fs::write(dir.path().join("warm/c"), "{").unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.warm_sets().len(), 2);
        assert!(store.is_warm(&two.digest));
        // A digest that another set holds as well stays held.
        store.hold_warm("b", None).unwrap();
        assert!(store.is_warm(&one.digest) && !store.is_warm(&two.digest));
        store.hold_warm("a", None).unwrap();
        assert!(!store.is_warm(&one.digest));
        assert!(!dir.path().join("warm/a").exists());
    }
}

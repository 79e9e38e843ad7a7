//! The content of the node tier, as people think of it: images and blobs.
//!
//! Looking counts as no use: no time of last use changes, and nothing enters the memory tier. Locks of the data path
//! are held only while their content is copied. Reads from disk run on a blocking thread.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use larder_shared::{
    Digest,
    admin::{Blob, Blobs, Image, Images, ReadyLayers},
};

use super::Pull;
use crate::{
    config::Mode,
    store::{Entry, Holding, Names, Store},
};

impl Pull {
    /// Every image of which this node has the manifest, in the order of their names.
    pub async fn images(&self) -> Images {
        let runtime = Arc::clone(&self.runtime);
        let offers = self.config.load().streaming.mode != Mode::Off;
        let look = move |store: &Store| images(store, |digest| runtime.is_in_use(digest), offers);
        self.store.survey(look).await.unwrap_or_default()
    }

    /// Every committed blob, the most recently used first.
    pub async fn blobs(&self) -> Blobs {
        self.store.survey(blobs).await.unwrap_or_default()
    }
}

fn blobs(store: &Store) -> Blobs {
    let entries = store.entries();
    let pins = store.pins();
    let mut held: HashMap<Digest, Vec<String>> = HashMap::new();
    store.repositories().each(|holding| {
        let name = format!("{}/{}", holding.registry, holding.repository);
        for link in &holding.links {
            held.entry(link.digest).or_default().push(name.clone());
        }
    });
    let blob = |(digest, entry): (Digest, Entry)| {
        let mut repositories = held.remove(&digest).unwrap_or_default();
        repositories.sort();
        Blob {
            digest,
            bytes: entry.size,
            last_used: store.used_at(&entry),
            pinned: pins.contains(&digest),
            repositories,
        }
    };
    Blobs {
        blobs: entries.into_iter().rev().map(blob).collect(),
    }
}

fn images(store: &Store, in_use: impl Fn(&Digest) -> bool, offers: bool) -> Images {
    let shown = store.entries().into_iter().map(|(digest, entry)| {
        let used = store.used_at(&entry);
        (digest, Entry { used, ..entry })
    });
    let mut entries: HashMap<Digest, Entry> = shown.collect();
    // These have no copy here, so larder does not know when they were last used.
    for (digest, size) in store.adopted_blobs() {
        entries.entry(digest).or_insert(Entry { size, used: 0 });
    }
    let here = Here {
        entries,
        pins: store.pins(),
    };
    // A manifest that many repositories hold is read once.
    let mut read: HashMap<Digest, Names> = HashMap::new();
    let mut images = Vec::new();
    store.repositories().each(|holding| {
        for link in &holding.links {
            let manifest = link.media_type.is_some() && here.entries.contains_key(&link.digest);
            if manifest && !read.contains_key(&link.digest) {
                // A manifest that was evicted meanwhile names nothing.
                let bytes = store.read_unseen(&link.digest);
                let bytes = bytes.or_else(|| store.read_adopted_unseen(&link.digest));
                let bytes = bytes.unwrap_or_default();
                read.insert(link.digest, Names::of(&bytes));
            }
        }
        images.extend(images_of(&holding, &here, &read));
    });
    for image in &mut images {
        image.in_use = in_use(&image.digest);
        image.ready = offers.then(|| ready(store, image, &read));
    }
    images.sort_by(|a: &Image, b| {
        let name = |image: &Image| (image.registry.clone(), image.repository.clone());
        // The most recently used image of a repository comes first.
        (name(a), b.last_used, a.digest.hex()).cmp(&(name(b), a.last_used, b.digest.hex()))
    });
    Images { images }
}

/// How far the layers of an image are ready: of all its manifests that are here.
fn ready(store: &Store, image: &Image, read: &HashMap<Digest, Names>) -> ReadyLayers {
    let mut all = ReadyLayers::default();
    let below = read.get(&image.digest).map(|names| &names.manifests);
    let below = below.into_iter().flatten().map(|named| named.digest);
    for manifest in std::iter::once(image.digest).chain(below) {
        let Some(names) = read.get(&manifest) else {
            continue;
        };
        let name = format!("{}/{}@{manifest}", image.registry, image.repository);
        let of = of_manifest(store, &name, names);
        all.layers += of.layers;
        all.ready += of.ready;
        all.missing.extend(of.missing);
        all.why = all.why.or(of.why);
    }
    all
}

/// As [`ready`], for one manifest. `name`: the name of its image.
pub(super) fn of_manifest(store: &Store, name: &str, names: &Names) -> ReadyLayers {
    let unknown = |why: &str| {
        let missing: Vec<Digest> = names.layers().map(|named| named.digest).collect();
        ReadyLayers {
            layers: missing.len() as u64,
            ready: 0,
            why: (!missing.is_empty()).then(|| why.to_owned()),
            missing,
        }
    };
    match store.ready() {
        None => unknown("[streaming] directory is not in use yet: the log says why"),
        Some(ready) => ready
            .of_image(name)
            .unwrap_or_else(|| unknown("it was not looked at yet")),
    }
}

/// The node tier at one moment.
#[derive(Default)]
struct Here {
    entries: HashMap<Digest, Entry>,
    pins: HashSet<Digest>,
}

/// The images of one repository: the manifests here to which a tag points, or which no other manifest here names.
/// `names` has the content that each manifest here names.
fn images_of(holding: &Holding, here: &Here, names: &HashMap<Digest, Names>) -> Vec<Image> {
    let mut tags: HashMap<Digest, Vec<String>> = HashMap::new();
    for (tag, record) in &holding.tags {
        let of = tags.entry(record.digest).or_default();
        of.push(tag.to_string());
    }
    let links = holding.links.iter();
    let manifests: Vec<_> = links
        .filter_map(|link| {
            let there = here.entries.contains_key(&link.digest);
            there.then_some((link, link.media_type.as_ref()?))
        })
        .collect();
    let below: HashSet<Digest> = manifests
        .iter()
        .filter_map(|(link, _)| names.get(&link.digest))
        .flat_map(|names| names.manifests.iter().map(|named| named.digest))
        .collect();
    let mut images = Vec::new();
    for (link, media_type) in manifests {
        let mut tags = tags.remove(&link.digest).unwrap_or_default();
        if tags.is_empty() && below.contains(&link.digest) {
            continue;
        }
        tags.sort();
        let extent = extent(&link.digest, here, names);
        images.push(Image {
            registry: holding.registry.to_string(),
            repository: holding.repository.to_string(),
            digest: link.digest,
            tags,
            media_type: media_type.clone(),
            bytes: extent.bytes,
            present_bytes: extent.present_bytes,
            blobs: extent.blobs,
            present_blobs: extent.present_blobs,
            pinned: here.pins.contains(&link.digest),
            in_use: false,
            public: holding.public,
            last_used: extent.last_used,
            ready: None,
        });
    }
    images
}

/// How large an image is, and how much of it is here.
#[derive(Default)]
struct Extent {
    bytes: u64,
    present_bytes: u64,
    blobs: u64,
    present_blobs: u64,
    last_used: u64,
}

/// Adds up all content below a manifest that is here. If any platform's manifest is here, platforms without one do not
/// count: no client of this node wants them.
fn extent(root: &Digest, here: &Here, names: &HashMap<Digest, Names>) -> Extent {
    let mut extent = Extent::default();
    let mut seen = HashSet::new();
    let mut pending = vec![(*root, None)];
    while let Some((digest, told)) = pending.pop() {
        if !seen.insert(digest) {
            continue;
        }
        let entry = here.entries.get(&digest);
        let size = entry.map(|entry| entry.size);
        extent.blobs += 1;
        extent.bytes = extent.bytes.saturating_add(size.or(told).unwrap_or(0));
        extent.present_blobs += u64::from(entry.is_some());
        extent.present_bytes += size.unwrap_or(0);
        let Some((names, entry)) = names.get(&digest).zip(entry) else {
            continue;
        };
        // Layers are shared between images, so only manifests tell when an image was used.
        extent.last_used = extent.last_used.max(entry.used);
        pending.extend(names.leaves().map(|named| (named.digest, named.size)));
        let is_here = |digest: &Digest| here.entries.contains_key(digest);
        let some = names.manifests.iter().any(|named| is_here(&named.digest));
        let platforms = names.manifests.iter();
        let wanted = platforms.filter(|named| !some || is_here(&named.digest));
        pending.extend(wanted.map(|named| (named.digest, named.size)));
    }
    extent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Link, TagRecord};

    fn digest(of: &str) -> Digest {
        Digest::sha256(of.as_bytes())
    }

    /// A repository that holds these manifests, and the content that each of them names.
    fn scene(manifests: &[(&str, &str)]) -> (Holding, HashMap<Digest, Names>) {
        let mut names = HashMap::new();
        let mut links = Vec::new();
        for (name, text) in manifests {
            let mut json: serde_json::Value = serde_json::from_str(text).expect("JSON");
            for list in ["manifests", "layers"] {
                let list = json.get_mut(list).and_then(|list| list.as_array_mut());
                for named in list.into_iter().flatten() {
                    let name = named["digest"].as_str().expect("a name").to_owned();
                    named["digest"] = digest(&name).to_string().into();
                }
            }
            names.insert(digest(name), Names::of(json.to_string().as_bytes()));
            links.push(Link {
                digest: digest(name),
                size: 1,
                media_type: Some("m".to_owned()),
            });
        }
        let holding = Holding {
            registry: "r.io".parse().expect("a name"),
            repository: "a/b".parse().expect("a name"),
            links,
            tags: Vec::new(),
            public: true,
        };
        (holding, names)
    }

    fn here(blobs: &[(&str, u64, u64)]) -> Here {
        let entry = |(name, size, used): &(&str, u64, u64)| {
            let (size, used) = (*size, *used);
            (digest(name), Entry { size, used })
        };
        Here {
            entries: blobs.iter().map(entry).collect(),
            pins: HashSet::new(),
        }
    }

    fn sums(image: &Image) -> [u64; 4] {
        [
            image.present_blobs,
            image.blobs,
            image.present_bytes,
            image.bytes,
        ]
    }

    #[test]
    fn platforms_that_nobody_here_wants_do_not_count() {
        let (holding, names) = scene(&[
            (
                "index",
                r#"{"manifests":[{"digest":"amd","size":5},{"digest":"arm","size":6}]}"#,
            ),
            (
                "amd",
                r#"{"layers":[{"digest":"x","size":100},{"digest":"y","size":200},{"digest":"x","size":100}]}"#,
            ),
        ]);
        let tier = here(&[("index", 10, 3), ("amd", 5, 9), ("x", 100, 70)]);
        let images = images_of(&holding, &tier, &names);
        assert_eq!(images.len(), 1, "the platform's manifest is part of it");
        assert_eq!(images[0].digest, digest("index"));
        assert_eq!(sums(&images[0]), [3, 4, 115, 315]);
        assert_eq!(images[0].last_used, 9, "of its manifests, not of a layer");
        let tier = here(&[("index", 10, 3)]);
        let images = images_of(&holding, &tier, &names);
        assert_eq!(
            sums(&images[0]),
            [1, 3, 10, 21],
            "an index alone can run nothing"
        );
    }

    #[test]
    fn a_tag_makes_a_platform_an_image_of_its_own() {
        let (mut holding, names) = scene(&[
            ("index", r#"{"manifests":[{"digest":"amd","size":5}]}"#),
            ("amd", r#"{"layers":[]}"#),
            ("gone", r#"{"layers":[]}"#),
        ]);
        holding.tags = vec![(
            "v1-amd64".parse().expect("a tag"),
            TagRecord {
                digest: digest("amd"),
                size: 5,
                media_type: "m".to_owned(),
                checked: 0,
            },
        )];
        let tier = here(&[("index", 10, 3), ("amd", 5, 9)]);
        let images = images_of(&holding, &tier, &names);
        let found: Vec<_> = images.iter().map(|i| (i.digest, i.tags.clone())).collect();
        assert_eq!(
            found,
            [
                (digest("index"), vec![]),
                (digest("amd"), vec!["v1-amd64".to_owned()])
            ]
        );
    }
}

//! From the images that users name to all digests of those images: a pure decision.
//!
//! The runtime may name an index, a manifest, a configuration, or only a name. The whole image is in use then: the
//! index, the manifest of this node's platform, the configuration and the layers, but no other platform of an index.
//! Manifests of the node tier fill in what the report leaves out.

use std::collections::{HashMap, HashSet};

use larder_shared::{
    Digest, Reference,
    name::ImageName,
    runtime::{Image, Report, User},
};

use crate::store::Names;

/// The manifests of the node tier, with the digests that each names.
pub(super) type Manifests = HashMap<Digest, Names>;

/// All digests that are in use. `tagged` gives the target of a name, as far as the node tier knows it.
pub(super) fn in_use(
    report: &Report,
    manifests: &Manifests,
    tagged: impl Fn(&ImageName) -> Option<Digest>,
) -> HashSet<Digest> {
    in_use_by(report, report.users.iter(), manifests, tagged)
}

/// The digests that these users of the report use.
pub(super) fn in_use_by<'a>(
    report: &Report,
    users: impl Iterator<Item = &'a User>,
    manifests: &Manifests,
    tagged: impl Fn(&ImageName) -> Option<Digest>,
) -> HashSet<Digest> {
    let listed = Listed::of(report);
    let above = above(manifests);
    let mut used = HashSet::new();
    for user in users {
        let found = listed.images_of(user);
        if found.is_empty() {
            let named = user.digest.or_else(|| digest_in(&user.image)).or_else(|| {
                let name = user.image.parse().ok()?;
                tagged(&name)
            });
            if let Some(digest) = named {
                used.extend(family(HashSet::from([digest]), manifests, &above));
            }
        }
        for image in found {
            let mut told: HashSet<Digest> = HashSet::from([image.target]);
            told.extend(&image.digests);
            told.extend(image.manifest);
            told.extend(image.config);
            let mut family = family(told, manifests, &above);
            family.extend(&image.layers);
            used.extend(family);
        }
    }
    used
}

/// The report's images, by every digest and name that a user may give.
struct Listed<'a> {
    by_digest: HashMap<(&'a str, Digest), Vec<&'a Image>>,
    by_name: HashMap<(&'a str, &'a str), Vec<&'a Image>>,
}

impl<'a> Listed<'a> {
    fn of(report: &'a Report) -> Self {
        let mut listed = Self {
            by_digest: HashMap::new(),
            by_name: HashMap::new(),
        };
        for image in &report.images {
            let place = image.namespace.as_str();
            let digests = image.digests.iter().chain([&image.target]);
            let digests: HashSet<Digest> = digests
                .chain(&image.manifest)
                .chain(&image.config)
                .copied()
                .collect();
            for digest in digests {
                let of = listed.by_digest.entry((place, digest)).or_default();
                of.push(image);
            }
            for name in &image.names {
                let of = listed.by_name.entry((place, name)).or_default();
                of.push(image);
            }
        }
        listed
    }

    /// A digest takes precedence: the name may have moved to another image since the container began.
    fn images_of<'b>(&'b self, user: &'b User) -> &'b [&'a Image] {
        let place = user.namespace.as_str();
        if let Some(digest) = user.digest.or_else(|| digest_in(&user.image)) {
            let found = self.by_digest.get(&(place, digest));
            return found.map(Vec::as_slice).unwrap_or_default();
        }
        let found = self.by_name.get(&(place, user.image.as_str()));
        found.map(Vec::as_slice).unwrap_or_default()
    }
}

/// The digest in `name@digest`, or a digest that stands in place of a name.
fn digest_in(name: &str) -> Option<Digest> {
    if let Ok(digest) = name.parse() {
        return Some(digest);
    }
    match name.parse::<ImageName>().ok()?.reference {
        Reference::Digest(digest) => Some(digest),
        Reference::Tag(_) => None,
    }
}

/// For each configuration and manifest, the manifests and indexes that name it.
fn above(manifests: &Manifests) -> HashMap<Digest, Vec<Digest>> {
    let mut above: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for (digest, names) in manifests {
        let named = names.manifests.iter().map(|named| &named.digest);
        for below in named.chain(names.config()) {
            above.entry(*below).or_default().push(*digest);
        }
    }
    above
}

/// All digests of the image that `told` belongs to.
fn family(
    told: HashSet<Digest>,
    manifests: &Manifests,
    above: &HashMap<Digest, Vec<Digest>>,
) -> HashSet<Digest> {
    let is_index = |digest: &Digest| {
        let names = manifests.get(digest);
        names.is_some_and(|names| !names.manifests.is_empty())
    };
    // The manifests of the platform: those in `told`, or else those whose configuration is in `told`.
    let mut of_platform: HashSet<Digest> = told
        .iter()
        .filter(|digest| manifests.contains_key(digest) && !is_index(digest))
        .copied()
        .collect();
    if of_platform.is_empty() {
        let with = told.iter().filter_map(|config| above.get(config)).flatten();
        of_platform.extend(with.filter(|digest| !is_index(digest)));
    }
    if of_platform.is_empty() {
        // From an index alone, larder cannot tell the platform. It takes the manifests that are here: this node fetched
        // no other.
        let below = told.iter().filter_map(|index| manifests.get(index));
        let below = below.flat_map(|names| names.manifests.iter().map(|named| named.digest));
        of_platform.extend(below.filter(|digest| manifests.contains_key(digest)));
    }
    let mut family = told;
    for manifest in of_platform {
        family.insert(manifest);
        let names = &manifests[&manifest];
        family.extend(names.leaves().map(|named| named.digest));
        family.extend(above.get(&manifest).into_iter().flatten());
    }
    family
}

#[cfg(test)]
mod tests;

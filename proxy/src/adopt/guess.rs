//! What a report of the runtime nominates.

use std::collections::HashSet;

use larder_shared::{
    Digest, Reference, RegistryName, Repository, Tag,
    name::{ImageName, in_registry},
    runtime::{Content, Image, Report},
};

use super::GUESSES;

/// containerd's label for where content came from. It ends in the registry's host, without the port; its value is a
/// list of repositories.
const SOURCE: &str = "containerd.io/distribution.source.";

/// containerd's labels for what content names: only an index or a manifest has them.
const NAMES: &str = "containerd.io/gc.ref.content.";

/// The most repositories that labels may nominate for one digest: anybody's manifest causes a label.
const LABELLED: usize = 8;

/// A guess that a repository holds something.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Guess {
    pub registry: RegistryName,
    pub repository: Repository,
    pub what: What,
}

/// What a repository is guessed to hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// A tag that points to this manifest.
    Tag(Tag, Digest),
    Manifest(Digest),
    Blob(Digest),
}

impl Guess {
    pub fn digest(&self) -> &Digest {
        match &self.what {
            What::Tag(_, digest) | What::Manifest(digest) | What::Blob(digest) => digest,
        }
    }

    /// Whether it is about the manifest that the tag of `other` points to.
    pub fn is_manifest_of(&self, other: &Self) -> bool {
        let manifest = matches!(self.what, What::Manifest(_));
        let place = (&self.registry, &self.repository) == (&other.registry, &other.repository);
        manifest && place && self.digest() == other.digest()
    }
}

/// What a report nominates, of what the runtime's content store holds: first images in use, then other images with a
/// name, then what only a label names. `configured` are registries that the operator has named.
pub fn guesses(report: &Report, configured: &[RegistryName]) -> Vec<Guess> {
    let held: HashSet<&Digest> = report
        .content
        .iter()
        .map(|content| &content.digest)
        .collect();
    let named: Vec<(&Image, Vec<ImageName>)> = report
        .images
        .iter()
        .map(|image| {
            (
                image,
                image.names.iter().filter_map(|name| parsed(name)).collect(),
            )
        })
        .collect();
    let used: HashSet<&str> = report
        .users
        .iter()
        .map(|user| user.image.as_str())
        .collect();
    let is_used = |image: &Image| image.names.iter().any(|name| used.contains(name.as_str()));
    let mut all = Guesses::default();
    for wanted in [true, false] {
        for (image, names) in named.iter().filter(|(image, _)| is_used(image) == wanted) {
            for name in names {
                all.of_image(image, name, &held);
            }
        }
    }
    let mut known: HashSet<RegistryName> = configured.iter().cloned().collect();
    for (_, names) in &named {
        known.extend(names.iter().map(|name| name.registry.clone()));
    }
    let manifests: HashSet<Digest> = report
        .images
        .iter()
        .flat_map(|image| image.manifest.iter().chain([&image.target]))
        .copied()
        .collect();
    for content in &report.content {
        all.of_labels(content, manifests.contains(&content.digest), &known);
    }
    all.list
}

/// A name of an image, if it says which registry is meant. A bare digest, which the runtime also uses as a name, does
/// not.
fn parsed(name: &str) -> Option<ImageName> {
    let (first, _) = name.split_once('/')?;
    RegistryName::is_plausible(first).then(|| name.parse().ok())?
}

#[derive(Default)]
struct Guesses {
    list: Vec<Guess>,
    seen: HashSet<Guess>,
}

impl Guesses {
    fn add(&mut self, registry: &RegistryName, repository: &Repository, what: What) {
        let guess = Guess {
            registry: registry.clone(),
            repository: repository.clone(),
            what,
        };
        if self.list.len() < GUESSES && self.seen.insert(guess.clone()) {
            self.list.push(guess);
        }
    }

    fn of_image(&mut self, image: &Image, name: &ImageName, held: &HashSet<&Digest>) {
        let mut add = |what: What, digest: &Digest| {
            if held.contains(digest) {
                self.add(&name.registry, &name.repository, what);
            }
        };
        if let Reference::Tag(tag) = &name.reference {
            add(What::Tag(tag.clone(), image.target), &image.target);
        }
        for manifest in [image.target].iter().chain(&image.manifest) {
            add(What::Manifest(*manifest), manifest);
        }
        for blob in image.config.iter().chain(&image.layers) {
            add(What::Blob(*blob), blob);
        }
    }

    fn of_labels(&mut self, content: &Content, manifest: bool, known: &HashSet<RegistryName>) {
        let manifest = manifest || content.labels.keys().any(|label| label.starts_with(NAMES));
        let mut nominated = 0;
        for (label, repositories) in &content.labels {
            let Some(host) = label.strip_prefix(SOURCE) else {
                continue;
            };
            for registry in registries(host, known) {
                for repository in repositories.split(',') {
                    let Ok(repository) = in_registry(&registry, repository) else {
                        continue;
                    };
                    if nominated == LABELLED {
                        return;
                    }
                    nominated += 1;
                    let digest = content.digest;
                    let what = if manifest {
                        What::Manifest(digest)
                    } else {
                        What::Blob(digest)
                    };
                    self.add(&registry, &repository, what);
                }
            }
        }
    }
}

/// The registries that a label's host may mean: the host itself, and known registries at a port of it.
fn registries(host: &str, known: &HashSet<RegistryName>) -> Vec<RegistryName> {
    let mut all: Vec<RegistryName> = known
        .iter()
        .filter(|registry| {
            let at_port = registry.as_str().strip_prefix(host);
            at_port.is_some_and(|port| port.starts_with(':'))
        })
        .cloned()
        .collect();
    all.sort();
    all.splice(..0, host.parse());
    all
}

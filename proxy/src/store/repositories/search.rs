//! Looking through all repositories: what is on disk of them, and what is newer in memory.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_shared::{Digest, RegistryName, Repository, Tag};

use super::{Known, Line, Link, Repositories, RepositoryRecord, TagRecord, lock};

/// What is known of one repository, copied.
#[derive(Clone, Debug)]
pub struct Holding {
    pub registry: RegistryName,
    pub repository: Repository,
    pub links: Vec<Link>,
    pub tags: Vec<(Tag, TagRecord)>,
    /// The registry's last word was to serve it to anonymous clients.
    pub public: bool,
}

impl Holding {
    fn of(registry: RegistryName, repository: Repository, known: &Known) -> Self {
        let tags = known.tags.iter();
        Self {
            registry,
            repository,
            links: known.links.values().cloned().collect(),
            tags: tags.map(|(t, r)| (t.clone(), r.clone())).collect(),
            public: known.public.is_some(),
        }
    }
}

impl Repositories {
    /// Shows every repository that anything is known of, one after the other, in no order (blocking: reads the logs of those that are
    /// not in memory, and puts none there).
    pub fn each(&self, mut look: impl FnMut(Holding)) {
        let loaded: HashMap<(RegistryName, Repository), Arc<RepositoryRecord>> = {
            let loaded = lock(&self.loaded);
            let pairs = loaded.iter();
            pairs.map(|(k, r)| (k.clone(), Arc::clone(r))).collect()
        };
        for ((registry, repository), record) in &loaded {
            let holding = Holding::of(registry.clone(), repository.clone(), &lock(&record.known));
            look(holding);
        }
        for registry in self.registries() {
            let root = self.layout.repositories().join(registry.as_str());
            each_log_in(&root, |path| {
                let name = path.parent().and_then(|dir| dir.strip_prefix(&root).ok());
                let Some(Ok(repository)) = name.and_then(|n| n.to_str()).map(str::parse) else {
                    return true;
                };
                let key = (registry.clone(), repository);
                if !loaded.contains_key(&key)
                    && let Ok(text) = fs::read(path)
                {
                    let (known, _) = Known::read(&text);
                    look(Holding::of(key.0, key.1, &known));
                }
                true
            });
        }
    }

    fn registries(&self) -> impl Iterator<Item = RegistryName> {
        let registries = fs::read_dir(self.layout.repositories())
            .into_iter()
            .flatten()
            .flatten();
        registries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }

    /// Every digest that some repository of `registry` is known to hold (blocking: reads the logs on disk).
    pub fn digests_of(&self, registry: &RegistryName) -> Vec<Digest> {
        let mut digests = Vec::new();
        self.each_log(registry, |text| {
            for line in text.lines() {
                if let Ok(Line::Link(link)) = serde_json::from_str(line) {
                    digests.push(link.digest);
                }
            }
            true
        });
        digests
    }

    /// Forgets everything about a registry's repositories (blocking). The digests that they held.
    pub fn forget(&self, registry: &RegistryName) -> Vec<Digest> {
        if !self.layout.claim().is_held() {
            return Vec::new();
        }
        let digests = self.digests_of(registry);
        {
            let mut loaded = lock(&self.loaded);
            let of_registry: Vec<_> = loaded
                .iter()
                .map(|(key, _)| key.clone())
                .filter(|(name, _)| name == registry)
                .collect();
            for key in of_registry {
                loaded.pop(&key);
            }
        }
        let _ = fs::remove_dir_all(self.layout.repositories().join(registry.as_str()));
        digests
    }

    /// Looks through a registry's logs until `look` has seen enough.
    fn each_log(&self, registry: &RegistryName, mut look: impl FnMut(&str) -> bool) {
        let root = self.layout.repositories().join(registry.as_str());
        each_log_in(&root, |path| {
            fs::read_to_string(path).map_or(true, |text| look(&text))
        });
    }

    /// Whether some repository of `registry` is known to hold `digest` (blocking: looks through the logs on disk).
    pub fn held_in(&self, registry: &RegistryName, digest: &Digest) -> bool {
        let wanted = digest.to_string();
        let mut held = false;
        // The text is only a hint: a registry may write any digest into a media type.
        let links = |line: &str| matches!(serde_json::from_str(line), Ok(Line::Link(link)) if link.digest == *digest);
        self.each_log(registry, |text| {
            held = text.contains(&wanted) && text.lines().any(links);
            !held
        });
        held
    }
}

/// The logs below a directory, until `look` has seen enough.
fn each_log_in(root: &Path, mut look: impl FnMut(&Path) -> bool) {
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name() != "_log" {
                pending.push(entry.path());
            } else if !look(&entry.path()) {
                return;
            }
        }
    }
}

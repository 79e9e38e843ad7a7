//! Searches of what repositories hold: one repository, in memory, or all, on disk and in memory.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_shared::{Digest, Link, RegistryName, Repository, Tag, TagRecord};

use super::{Known, Name, Repositories, RepositoryRecord, lock};
use crate::store::layout::Layout;

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

/// How a repository holds a digest.
#[derive(Clone, Debug)]
pub struct HeldAs {
    pub registry: RegistryName,
    pub repository: Repository,
    pub link: Link,
    /// When the registry last served the repository to an anonymous client, Unix seconds, if that was its last word.
    pub public: Option<u64>,
    /// The tags that point to it, if it is a manifest.
    pub tags: Vec<(Tag, TagRecord)>,
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

impl RepositoryRecord {
    /// Up to `count` links of the repository whose digest is `wanted`. First come those that its registry is most
    /// likely to have still: the manifests of the tags that were checked last.
    pub fn held(&self, count: usize, wanted: impl Fn(&Digest) -> bool) -> Vec<Link> {
        let known = lock(&self.known);
        let mut checked: HashMap<&Digest, u64> = HashMap::new();
        for record in known.tags.values() {
            let newest = checked.entry(&record.digest).or_default();
            *newest = record.checked.max(*newest);
        }
        let rank = |link: &Link| {
            let tagged = checked.get(&link.digest).copied();
            (tagged, link.media_type.is_some(), link.digest)
        };
        let mut held: Vec<&Link> = Vec::new();
        for link in known.links.values().filter(|link| wanted(&link.digest)) {
            let at = held.partition_point(|other| rank(other) > rank(link));
            if at < count {
                held.insert(at, link);
                held.truncate(count);
            }
        }
        held.into_iter().cloned().collect()
    }

    /// The manifests that the repository holds, as far as is known.
    pub fn manifests(&self) -> Vec<Digest> {
        let known = lock(&self.known);
        let manifests = known
            .links
            .values()
            .filter(|link| link.media_type.is_some());
        manifests.map(|link| link.digest).collect()
    }
}

impl Repositories {
    /// Shows every repository of which anything is known, in no order (blocking: reads the logs of those that are not
    /// in memory, and puts none there).
    pub fn each(&self, look: impl FnMut(Holding)) {
        self.each_of(None, look);
    }

    /// As [`Self::each`], of one registry alone if one is named.
    fn each_of(&self, only: Option<&RegistryName>, look: impl FnMut(Holding)) {
        let copy = |registry: &RegistryName, repository: &Repository, known: &Known| {
            Holding::of(registry.clone(), repository.clone(), known)
        };
        self.each_known(only, copy, look);
    }

    /// As `each_of`, without copies. `read` must be short, since requests ask the same records. What it returns goes to
    /// `then`, which may take its time.
    fn each_known<T>(
        &self,
        only: Option<&RegistryName>,
        mut read: impl FnMut(&RegistryName, &Repository, &Known) -> T,
        mut then: impl FnMut(T),
    ) {
        let loaded: HashMap<(RegistryName, Repository), Arc<RepositoryRecord>> = {
            let loaded = lock(&self.loaded);
            let pairs = loaded.iter();
            pairs
                .filter(|((registry, _), _)| only.is_none_or(|only| only == registry))
                .map(|(k, r)| (k.clone(), Arc::clone(r)))
                .collect()
        };
        for ((registry, repository), record) in &loaded {
            // A record whose log another thread is reading is shown as far as it is known.
            if record.is_to_be_read() {
                record.read();
            }
            let seen = read(registry, repository, &lock(&record.known));
            then(seen);
        }
        for name in names(&self.layout, only) {
            if !loaded.contains_key(&name)
                && let Ok(text) = fs::read(self.layout.repository_log(&name.0, &name.1))
            {
                let (known, _) = Known::read(&text);
                then(read(&name.0, &name.1, &known));
            }
        }
    }

    /// The repositories that hold each of these digests, at most `most` for each digest, each with at most `most` tags
    /// that lead to it (blocking: reads logs on disk).
    pub fn holders_of(
        &self,
        digests: &HashSet<Digest>,
        most: usize,
    ) -> HashMap<Digest, Vec<HeldAs>> {
        let mut found: HashMap<Digest, Vec<HeldAs>> = HashMap::new();
        let mut note = |registry: &RegistryName, repository: &Repository, known: &Known| {
            // Go through the shorter of the two.
            let links: Vec<&Link> = if known.links.len() < digests.len() {
                let all = known.links.values();
                all.filter(|link| digests.contains(&link.digest)).collect()
            } else {
                digests.iter().filter_map(|d| known.links.get(d)).collect()
            };
            for link in links {
                let of = found.entry(link.digest).or_default();
                let tags = known.tags.iter().filter(|(_, r)| r.digest == link.digest);
                if of.len() < most {
                    of.push(HeldAs {
                        registry: registry.clone(),
                        repository: repository.clone(),
                        link: link.clone(),
                        public: known.public,
                        tags: tags
                            .take(most)
                            .map(|(t, r)| (t.clone(), r.clone()))
                            .collect(),
                    });
                }
            }
        };
        self.each_known(None, &mut note, |()| {});
        found
    }

    /// Every digest that some repository of `registry` is known to hold (blocking: reads the logs on disk).
    pub fn digests_of(&self, registry: &RegistryName) -> Vec<Digest> {
        let mut digests = Vec::new();
        self.each_of(Some(registry), |holding| {
            digests.extend(holding.links.into_iter().map(|link| link.digest));
        });
        digests
    }

    /// Forgets everything about a registry's repositories (blocking). Returns the digests that they held.
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

    /// Whether some repository of `registry` is known to hold `digest`. Waits for the disk; see
    /// [`RepositoryRecord::ready`].
    pub async fn held_in(&self, registry: &RegistryName, digest: &Digest) -> bool {
        self.look_through().await;
        let Some(name) = self.held.holder(registry, digest) else {
            return false;
        };
        let record = self.seen(&name.0, &name.1);
        Arc::clone(&record).ready(self.calls.clone()).await;
        if name.0 == *registry && record.link(digest).is_some() {
            return true;
        }
        // The repository has let it go since. Another repository that holds it is not on the list, which costs a
        // download.
        self.held.forget(registry, digest);
        false
    }

    /// Reads all logs, once.
    async fn look_through(&self) {
        let mut whole = self.held.whole.lock().await;
        if *whole || !self.layout.claim().is_held() {
            return;
        }
        self.held.begin();
        for record in self.all_loaded() {
            record.note_held();
        }
        let layout = Arc::clone(&self.layout);
        let Ok(names) = self.calls.run(move || names(&layout, None)).await else {
            return;
        };
        for name in names {
            if self.is_loaded(&name) {
                continue;
            }
            let path = self.layout.repository_log(&name.0, &name.1);
            // A log whose read hangs is noted when its record reads it.
            if let Ok(Ok(text)) = self.calls.run(move || fs::read(path)).await {
                let (known, _) = Known::read(&text);
                let name = Name::new(name);
                for digest in known.links.keys() {
                    self.held.note(&name, digest);
                }
            }
        }
        *whole = true;
    }
    pub(super) fn is_loaded(&self, name: &(RegistryName, Repository)) -> bool {
        lock(&self.loaded).contains(name)
    }
}

/// The repositories that have a log, all or those of one registry (blocking).
pub(super) fn names(
    layout: &Layout,
    only: Option<&RegistryName>,
) -> Vec<(RegistryName, Repository)> {
    let registries: Vec<RegistryName> = match only {
        Some(registry) => vec![registry.clone()],
        None => fs::read_dir(layout.repositories())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect(),
    };
    let mut found = Vec::new();
    for registry in registries {
        let root = layout.repositories().join(registry.as_str());
        let mut pending: Vec<PathBuf> = vec![root.clone()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_name() != "_log" {
                    pending.push(entry.path());
                    continue;
                }
                let name = dir.strip_prefix(&root).ok().and_then(Path::to_str);
                if let Some(Ok(repository)) = name.map(str::parse) {
                    found.push((registry.clone(), repository));
                }
            }
        }
    }
    found
}

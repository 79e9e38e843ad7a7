//! Forgetting links to content that is gone, tags without their manifest, and logs that say nothing.

use std::{fs, path::Path, sync::atomic::Ordering};

use larder_shared::{Digest, RegistryName, Repository};

use super::{Known, Repositories, RepositoryRecord, lock, put_line};

impl Repositories {
    /// The repositories that have a log (blocking).
    pub fn names(&self) -> Vec<(RegistryName, Repository)> {
        if self.layout.claim().is_held() {
            super::search::names(&self.layout, None)
        } else {
            Vec::new()
        }
    }

    /// Forgets what one repository is known to hold and that is not `here` (blocking).
    pub fn sweep(&self, name: &(RegistryName, Repository), here: impl Fn(&Digest) -> bool) {
        let was_loaded = self.is_loaded(name);
        let record = self.seen(&name.0, &name.1);
        if record.is_to_be_read() {
            record.read();
        }
        record.sweep(&self.layout.repositories(), here);
        // A sweep of all repositories must not fill the memory.
        if !was_loaded && std::sync::Arc::strong_count(&record) == 2 {
            let mut loaded = lock(&self.loaded);
            if std::sync::Arc::strong_count(&record) == 2 && !record.stays() {
                loaded.pop(name);
            }
        }
    }
}

impl RepositoryRecord {
    fn sweep(&self, root: &Path, here: impl Fn(&Digest) -> bool) {
        let _one = lock(&self.log.writing);
        // A log that could not be read may be readable tomorrow: it is not written over.
        if !self.is_read() || self.unreadable.load(Ordering::Relaxed) {
            return;
        }
        let text = {
            let mut known = lock(&self.known);
            // Lines that are not written yet are new.
            if !self.log.lines.waiting().is_empty() {
                return;
            }
            let count = |known: &Known| {
                let words = known.said.len() + known.listed.len();
                (known.links.len(), known.tags.len(), words)
            };
            let before = count(&known);
            let mut links = std::mem::take(&mut known.links);
            links.retain(|digest, _| here(digest));
            known.tags.retain(|_, tag| links.contains_key(&tag.digest));
            known
                .listed
                .retain(|listed| links.contains_key(&listed.digest));
            known.links = links;
            known.listed.forget_old();
            known.said.forget_old();
            if before == count(&known) && !known.holds_nothing() {
                return;
            }
            let mut text = Vec::new();
            if !known.holds_nothing() {
                known.lines().for_each(|line| put_line(&mut text, &line));
            }
            text
        };
        let path = &self.log.path;
        if !text.is_empty() {
            let _ = self.layout.write_atomic(path, &text, false);
            return;
        }
        let _ = fs::remove_file(path);
        // Directories that are empty now go, too; another repository may be below.
        let dirs = path.ancestors().skip(1);
        for dir in dirs.take_while(|dir| *dir != root) {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }
}

//! Sweeping: partials that no fill writes, damaged blobs, stores that were set aside, and records of content that is
//! gone.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, time::Duration};

use larder_shared::{Algorithm, Digest};

use super::{
    Store, lock,
    partial::{remove_if_there, remove_spans},
};

/// A store of another layout stays set aside for this long, in case its version of larder is put back.
const SET_ASIDE: Duration = Duration::from_hours(7 * 24);

/// Repositories that are looked through between two pauses.
const SWEPT_AT_ONCE: usize = 64;

/// A rotten blob is kept this long for the operator to look at, room permitting.
const QUARANTINED: Duration = Duration::from_hours(24);

impl Store {
    /// Bytes on disk of blobs that are not whole (blocking).
    pub fn partial_bytes(&self) -> u64 {
        self.leftovers().values().map(|(bytes, _)| bytes).sum()
    }

    /// Partials on disk: the bytes that they occupy, and when they were last written (blocking).
    pub(super) fn leftovers(&self) -> HashMap<Digest, (u64, u64)> {
        let mut found = HashMap::new();
        for algorithm in Algorithm::ALL {
            for entry in fs::read_dir(self.layout.partials(algorithm))
                .into_iter()
                .flatten()
                .flatten()
            {
                let digest = entry
                    .file_name()
                    .to_str()
                    .and_then(|hex| Digest::from_hex(algorithm, hex).ok());
                if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                    found.insert(
                        digest,
                        (metadata.blocks() * 512, metadata.mtime().max(0) as u64),
                    );
                }
            }
        }
        found
    }

    /// Removes partials that no fill writes, and blobs in quarantine: old ones, and those whose room is needed. Returns
    /// the bytes that were freed.
    pub(super) fn sweep(
        &self,
        partials: &HashMap<Digest, (u64, u64)>,
        active: &impl Fn(&Digest) -> bool,
        ttl: Option<Duration>,
        over: u64,
    ) -> u64 {
        let mut freed = 0;
        let clock = self.clock();
        let mut idle: Vec<_> = partials
            .iter()
            .filter(|(digest, _)| !active(digest))
            .collect();
        idle.sort_by_key(|(_, (_, written))| *written);
        for (digest, (bytes, written)) in idle {
            let path = self.layout.partial(digest);
            let old = ttl.is_some_and(|ttl| clock.age_of_file(&path, *written) > ttl);
            // A fill of it may have begun meanwhile.
            if (old || freed < over) && !active(digest) {
                let _ = remove_spans(&self.layout, digest);
                let _ = remove_if_there(&path);
                freed += bytes;
            }
        }
        for entry in fs::read_dir(self.layout.quarantine())
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let age = clock.age_of_file(&entry.path(), metadata.mtime().max(0) as u64);
            if freed < over || age > QUARANTINED {
                let _ = fs::remove_file(entry.path());
                freed += metadata.blocks() * 512;
            }
        }
        freed
    }

    /// Removes stores of another layout that were set aside long ago (blocking).
    fn sweep_set_aside(&self) {
        let clock = self.clock();
        for entry in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let aside = name.to_str().is_some_and(|n| n.starts_with("set-aside-"));
            let Some(metadata) = entry.metadata().ok().filter(|m| aside && m.is_dir()) else {
                continue;
            };
            if clock.age_of_file(&entry.path(), metadata.mtime().max(0) as u64) > SET_ASIDE
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, path = %entry.path().display(), "a store that was set aside cannot be removed; remove it by hand");
            }
        }
    }

    /// Removes old stores that were set aside, and records of content that is gone, a part at a time (blocking, but
    /// `pause` is called between two parts). Does nothing while it is not known what is here.
    pub fn sweep_names(&self, active: impl Fn(&Digest) -> bool, pause: impl Fn()) {
        if !self.is_held() || !self.is_scanned() || self.trouble().is_some() {
            return;
        }
        self.sweep_set_aside();
        for (index, name) in self.repositories.names().iter().enumerate() {
            if index % SWEPT_AT_ONCE == SWEPT_AT_ONCE - 1 {
                pause();
            }
            // The fills are asked first, since a fill leaves their list only when its blob is here. The disk is asked
            // last, since the scan may have missed a directory that could not be read.
            let here = |digest: &Digest| {
                active(digest)
                    || lock(&self.index).comes(digest)
                    || self.may_adopt(digest)
                    || !matches!(self.layout.blob(digest).try_exists(), Ok(false))
            };
            self.repositories.sweep(name, here);
        }
    }
}

//! Lists what an earlier process left on disk.

use std::{fs, os::unix::fs::MetadataExt as _, sync::atomic::Ordering};

use larder_shared::{Algorithm, Digest};

use super::{Store, lock, partial, sums};

impl Store {
    /// Lists what is on disk into the index (blocking; some hundred milliseconds for 100,000 blobs).
    pub fn scan(&self) {
        if !self.is_held() {
            return;
        }
        for algorithm in Algorithm::ALL {
            partial::sweep_strays(&self.layout, algorithm);
            sums::sweep_strays(&self.layout, algorithm, |d| self.adopted.knows(d));
            for shard in fs::read_dir(self.layout.blobs(algorithm))
                .into_iter()
                .flatten()
                .flatten()
            {
                for entry in fs::read_dir(shard.path()).into_iter().flatten().flatten() {
                    let name = entry.file_name();
                    let digest = name
                        .to_str()
                        .and_then(|hex| Digest::from_hex(algorithm, hex).ok());
                    let Some(digest) = digest else {
                        continue;
                    };
                    let _stays = self.places.take(&digest);
                    if let Ok(metadata) = entry.metadata() {
                        // The access time is the last use: larder writes it at the commit and after uses, by the
                        // store's own clock. larder reads files in a way that does not change it.
                        let used = self.layout.clock().seen(metadata.atime().max(0) as u64);
                        lock(&self.index).found(digest, metadata.len(), used);
                    }
                }
            }
        }
        self.indexes.scan();
        self.scanned.store(true, Ordering::Release);
    }

    /// Whether what lies on disk is listed.
    pub fn is_scanned(&self) -> bool {
        self.scanned.load(Ordering::Acquire)
    }
}

//! Learnt orders: a small file for each image, about its starts. [`crate::layers`] knows what is in them.

use std::{fs, io, io::Read as _, path::PathBuf, time::SystemTime};

use larder_shared::Digest;

use super::{Store, Tenure};

/// A file is read up to this many bytes.
const LONGEST: u64 = 1 << 20;

/// The most files that are kept. The oldest are removed first.
const MOST: usize = 1000;

impl Store {
    fn orders(&self) -> PathBuf {
        self.layout.root().join("orders")
    }

    /// What was learnt of an image (blocking).
    pub fn order(&self, manifest: &Digest) -> Option<Vec<u8>> {
        let file = fs::File::open(self.orders().join(manifest.hex())).ok()?;
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Writes what was learnt of an image, whole or not at all (blocking). Another larder's store is left alone.
    pub fn keep_order(&self, manifest: &Digest, bytes: &[u8]) -> io::Result<()> {
        if self.tenure() != Tenure::Held {
            return Ok(());
        }
        let path = self.orders().join(manifest.hex());
        self.layout.write_atomic(&path, bytes, false)?;
        let entries = fs::read_dir(self.orders())?.flatten();
        let written = |entry: &fs::DirEntry| {
            let metadata = entry.metadata().and_then(|metadata| metadata.modified());
            metadata.unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let mut all: Vec<_> = entries
            .map(|entry| (written(&entry), entry.path()))
            .collect();
        all.sort_unstable();
        let most = all.len().saturating_sub(MOST);
        for (_, path) in all.into_iter().take(most) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_kept_by_their_images() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, two) = (Digest::sha256(b"one"), Digest::sha256(b"two"));
        assert_eq!(store.order(&one), None);
        store.keep_order(&one, b"1").unwrap();
        store.keep_order(&two, b"2").unwrap();
        store.keep_order(&one, b"3").unwrap();
        assert_eq!(store.order(&one).as_deref(), Some(b"3".as_slice()));
        assert_eq!(store.order(&two).as_deref(), Some(b"2".as_slice()));
    }
}

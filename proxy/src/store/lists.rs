//! Lists that registries gave of their repositories: a small file for each. [`crate::lists`] knows what is in them.

use std::{collections::HashSet, fs, io, io::Read as _, path::PathBuf};

use super::{Store, Tenure};

/// A file is read up to this many bytes.
const LONGEST: u64 = 64 << 20;

impl Store {
    fn lists(&self) -> PathBuf {
        self.layout.root().join("lists")
    }

    /// The list of this name (blocking).
    pub fn list(&self, name: &str) -> Option<Vec<u8>> {
        let file = fs::File::open(self.lists().join(name)).ok()?;
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Writes the list of this name, whole or not at all (blocking). Another larder's store is left alone.
    pub fn keep_list(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.tenure() != Tenure::Held {
            return Ok(());
        }
        let path = self.lists().join(name);
        self.layout.write_atomic(&path, bytes, false)
    }

    /// Removes all lists but these (blocking).
    pub fn keep_lists(&self, names: &HashSet<String>) {
        if self.tenure() != Tenure::Held {
            return;
        }
        let entries = fs::read_dir(self.lists()).into_iter().flatten().flatten();
        for entry in entries {
            let kept = entry
                .file_name()
                .to_str()
                .is_some_and(|name| names.contains(name));
            if !kept && let Err(error) = fs::remove_file(entry.path()) {
                tracing::debug!(%error, path = %entry.path().display(), "an old list stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_kept_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.list("a"), None);
        store.keep_list("a", b"1").unwrap();
        store.keep_list("a", b"2").unwrap();
        store.keep_list("b", b"3").unwrap();
        assert_eq!(store.list("a").as_deref(), Some(b"2".as_slice()));
        store.keep_lists(&HashSet::from(["a".to_owned()]));
        assert_eq!(store.list("b"), None);
        assert!(store.list("a").is_some());
    }
}

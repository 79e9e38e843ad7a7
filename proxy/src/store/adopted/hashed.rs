//! Which files of the runtime were hashed, written down: the next process hashes none of them again that is still the same.

use std::{collections::HashMap, fs};

use larder_shared::Digest;

use super::{Adopted, State};
use crate::store::{Store, file_state::FileState, layout::Layout};

impl Adopted {
    /// What an earlier process wrote down counts from now on.
    pub(in crate::store) fn remember(&self, hashed: HashMap<Digest, FileState>) {
        self.lock().hashed = hashed;
    }

    /// Whether an earlier process has hashed just this file.
    pub(super) fn was_hashed(&self, digest: &Digest, found: FileState) -> bool {
        self.lock().hashed.remove(digest) == Some(found)
    }

    /// Whether the runtime lists a blob, or did so before this process.
    pub(in crate::store) fn knows(&self, digest: &Digest) -> bool {
        let known = self.lock();
        known.listed.contains_key(digest) || known.hashed.contains_key(digest)
    }

    /// A line for each file that is right, if that is news.
    fn lines(&self) -> Option<Vec<String>> {
        let mut known = self.lock();
        if !std::mem::take(&mut known.unwritten) {
            return None;
        }
        let line = |digest: &Digest, found: &FileState| format!("{digest} {}\n", found.line());
        let sound = known
            .listed
            .iter()
            .filter_map(|(digest, entry)| match &entry.state {
                State::Sound(found) => Some(line(digest, found)),
                _ => None,
            });
        // What was not looked at yet is as good as it was.
        let before = known
            .hashed
            .iter()
            .map(|(digest, found)| line(digest, found));
        Some(sound.chain(before).collect())
    }
}

impl Store {
    /// Writes down which files of the runtime were hashed, if there are new ones (blocking).
    pub fn write_hashed(&self) {
        if !self.is_held() {
            return;
        }
        if let Some(mut lines) = self.adopted.lines() {
            lines.sort_unstable();
            let path = self.layout.adopted();
            let text = lines.concat();
            if let Err(error) = self.layout.write_atomic(&path, text.as_bytes(), false) {
                tracing::debug!(%error, "which files of the runtime were hashed was not written down, and will be again");
                self.adopted.lock().unwritten = true;
            }
        }
    }

    /// What an earlier process wrote down.
    pub(in crate::store) fn read_hashed(layout: &Layout) -> HashMap<Digest, FileState> {
        let text = fs::read_to_string(layout.adopted()).unwrap_or_default();
        let hashed = text.lines().filter_map(|line| {
            let (digest, found) = line.split_once(' ')?;
            Some((digest.parse().ok()?, FileState::of_line(found)?))
        });
        hashed.collect()
    }
}

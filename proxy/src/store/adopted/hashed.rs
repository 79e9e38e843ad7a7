//! A file that says which of the runtime's files were hashed, so that the next process does not hash an unchanged file
//! again.

use std::{collections::HashMap, fs};

use larder_shared::Digest;

use super::{Adopted, State};
use crate::store::{Store, file_state::FileState, layout::Layout};

impl Adopted {
    /// Takes over what an earlier process wrote down.
    pub(in crate::store) fn remember(&self, hashed: HashMap<Digest, FileState>) {
        self.lock().hashed = hashed;
    }

    /// Whether an earlier process has hashed this very file. The record is used up by the question.
    pub(super) fn was_hashed(&self, digest: &Digest, found: FileState) -> bool {
        self.lock().hashed.remove(digest) == Some(found)
    }

    /// Whether the runtime lists a blob, or did so before this process.
    pub(in crate::store) fn knows(&self, digest: &Digest) -> bool {
        let known = self.lock();
        known.listed.contains_key(digest) || known.hashed.contains_key(digest)
    }

    /// A line for each sound file. `None` if nothing changed since the last call.
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
        // A file that was not looked at yet keeps its line.
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

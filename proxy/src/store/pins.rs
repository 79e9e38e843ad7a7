//! Digests that an operator has pinned: they are never evicted.

use std::{collections::HashSet, fs, io, path::Path};

use larder_shared::Digest;

use super::{Store, lock};

impl Store {
    /// Pins digests, or unpins them, and writes all pins to a file, one digest a line (blocking).
    pub fn pin(&self, digests: &[Digest], pinned: bool) -> io::Result<()> {
        self.owned()?;
        // One change at a time: the file must end up with the latest pins.
        let _alone = lock(&self.pinning);
        let text = {
            let mut pins = lock(&self.pins);
            for digest in digests {
                if pinned {
                    pins.insert(*digest);
                } else {
                    pins.remove(digest);
                }
            }
            let mut lines: Vec<String> = pins.iter().map(|digest| format!("{digest}\n")).collect();
            lines.sort();
            lines.concat()
        };
        self.layout
            .write_atomic(&self.layout.pins(), text.as_bytes(), true)
    }

    pub(super) fn read_pins(path: &Path) -> HashSet<Digest> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// All pinned digests.
    pub fn pins(&self) -> HashSet<Digest> {
        lock(&self.pins).clone()
    }
}

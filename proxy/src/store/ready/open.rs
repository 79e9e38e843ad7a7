//! Opens the directory, once, and lists what an earlier process left there.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Mutex, atomic::AtomicU64},
};

use larder_shared::{Algorithm, Digest};

use super::{ASIDE, OFFERED, ORIGIN, Ready, ReadyFile, ReadyTotals, State, life::Phase, make_dir};
use crate::{
    clock::{Clock, unix_now},
    store::Store,
    sys::disk,
};

impl Store {
    /// Ready files of layers, if this larder offers any.
    pub fn ready(&self) -> Option<&Ready> {
        self.ready.get()
    }

    /// Offers ready files in `dir` from now on (blocking). `false` while another larder offers files there.
    pub fn open_ready(&self, dir: &Path) -> io::Result<bool> {
        if self.is_held()
            && self.ready.get().is_none()
            && let Some(ready) = Ready::open(dir, self.clock())?
        {
            // One task makes this call, one time after the other, so no other call has set it.
            let _ = self.ready.set(ready);
        }
        Ok(self.ready.get().is_some())
    }

    /// Bytes of ready files, by their kinds.
    pub fn ready_totals(&self) -> ReadyTotals {
        self.ready().map(Ready::totals).unwrap_or_default()
    }
}

impl Ready {
    /// Opens the directory, making it when it is not there, and lists what an earlier process left (blocking). `None`
    /// while another larder has it.
    pub(super) fn open(dir: &Path, clock: Clock) -> io::Result<Option<Self>> {
        let tmp = dir.join("tmp");
        make_dir(dir)?;
        let Some(taken) = disk::lock(&dir.join("lock"))? else {
            return Ok(None);
        };
        if let Err(error) = fs::remove_dir_all(&tmp)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        make_dir(&tmp)?;
        let mut state = State::default();
        let shards = fs::read_dir(dir.join(Algorithm::Sha256.as_str()));
        for shard in shards.into_iter().flatten().flatten() {
            for entry in fs::read_dir(shard.path()).into_iter().flatten().flatten() {
                let (name, path) = (entry.file_name(), entry.path());
                let Some((hex, end)) = name.to_str().and_then(|name| name.split_once('.')) else {
                    continue;
                };
                let Ok(diff_id) = Digest::from_hex(Algorithm::Sha256, hex) else {
                    continue;
                };
                let phase = match end {
                    OFFERED => Phase::Offered,
                    // A report that is newer than this start decides what becomes of it.
                    ASIDE => Phase::Aside { since: unix_now() },
                    ORIGIN => {
                        // A link counts, wherever it leads.
                        let of = |end| is_there(&shard.path().join(format!("{hex}.{end}")));
                        if !of(OFFERED) && !of(ASIDE) {
                            let _ = fs::remove_file(&path);
                        }
                        continue;
                    }
                    _ => continue,
                };
                // Both names are there if a file was made again while the old one was aside: the offered one counts.
                if phase != Phase::Offered && is_there(&path.with_extension("")) {
                    let _ = fs::remove_file(&path);
                    continue;
                }
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                let read = fs::read(shard.path().join(format!("{hex}.{ORIGIN}")));
                state.files.insert(
                    diff_id,
                    ReadyFile {
                        origin: read
                            .ok()
                            .and_then(|text| serde_json::from_slice(&text).ok()),
                        bytes: metadata.blocks() * 512,
                        used: clock.seen(metadata.mtime().max(0) as u64),
                        references: 0,
                        phase,
                        goes: None,
                        streams: metadata.is_symlink().then_some(0),
                    },
                );
            }
        }
        Ok(Some(Self {
            dir: dir.to_owned(),
            clock,
            state: Mutex::new(state),
            next_tmp: AtomicU64::new(0),
            _lock: taken,
        }))
    }
}

/// Whether there is something of this name. A link is not followed: this process will serve its target, later.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

//! Offering: a whole file, or a link to a layer that streams, gets the name under which the runtime looks for it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    time::Instant,
};

use larder_shared::Digest;

use super::{ASIDE, OFFERED, ORIGIN, Origin, Ready, ReadyFile, life::Phase, make_dir};
use crate::store::lock;

impl Ready {
    /// Offers a layer that is not whole here, by a link to `target`, where it can be read (blocking). It takes `bytes`
    /// now, of the `whole` that it will take. `false` if this diffID has a file or a link already.
    pub fn stream(
        &self,
        target: &Path,
        diff_id: &Digest,
        origin: Origin,
        (bytes, whole): (u64, u64),
    ) -> io::Result<bool> {
        let path = self.path(diff_id, OFFERED);
        let shard = path.parent().unwrap_or(&self.dir);
        if lock(&self.state).files.contains_key(diff_id) {
            return Ok(false);
        }
        make_dir(shard)?;
        self.write_origin(diff_id, &origin)?;
        // The name is free: only larder adds files here, one at a time, and it has listed what an earlier process left.
        symlink(target, &path)?;
        let file = ReadyFile {
            origin: Some(origin),
            bytes,
            used: self.clock.now(),
            references: 0,
            phase: Phase::Offered,
            goes: None,
            streams: Some(whole),
        };
        let mut state = lock(&self.state);
        state.looked_for.insert(*diff_id, Instant::now());
        state.files.insert(*diff_id, file);
        drop(state);
        File::open(shard)?.sync_all()?;
        Ok(true)
    }

    /// Layers that stream.
    pub fn streaming(&self) -> Vec<(Digest, ReadyFile)> {
        let state = lock(&self.state);
        let streaming = state
            .files
            .iter()
            .filter(|(_, file)| file.streams.is_some());
        streaming.map(|(id, file)| (*id, file.clone())).collect()
    }

    /// Takes note that a layer that streams takes `bytes` now, of the `whole` that it will take.
    pub fn has_grown(&self, diff_id: &Digest, bytes: u64, whole: u64) {
        let mut state = lock(&self.state);
        if let Some(file) = state.files.get_mut(diff_id)
            && file.streams.is_some()
        {
            (file.bytes, file.streams) = (bytes, Some(whole));
        }
    }

    /// Offers the file at `made`, which is whole and on disk (blocking). A whole file that is there already stays.
    pub fn offer(&self, made: &Path, diff_id: &Digest, mut origin: Origin) -> io::Result<()> {
        let path = self.path(diff_id, OFFERED);
        let shard = path.parent().unwrap_or(&self.dir);
        make_dir(shard)?;
        let file = File::open(made)?;
        file.set_modified(self.clock.stamp())?;
        let bytes = file.metadata()?.blocks() * 512;
        let Some(_moving) = self.moving(diff_id) else {
            return Err(io::Error::other("the file that it replaces is being moved"));
        };
        let before = lock(&self.state).files.get(diff_id).cloned();
        if before
            .as_ref()
            .is_some_and(|before| before.streams.is_none())
        {
            return fs::remove_file(made);
        }
        let link = before.as_ref().and_then(|link| link.origin.as_ref());
        origin.mounted = link.and_then(|origin| origin.mounted.clone());
        self.write_origin(diff_id, &origin)?;
        let was_link = before.is_some();
        // A file that replaces a link takes over the link's snapshots. If the link is aside, so is the file, until a
        // round brings it back.
        let (phase, references) = match before {
            Some(link) => (link.phase, link.references),
            None => (Phase::Offered, 0),
        };
        let end = match phase {
            Phase::Offered => OFFERED,
            Phase::Aside { .. } => ASIDE,
        };
        if let Err(error) = fs::rename(made, self.path(diff_id, end)) {
            if !was_link {
                // Without its file the record says nothing.
                let _ = fs::remove_file(self.path(diff_id, ORIGIN));
            }
            return Err(error);
        }
        let mut state = lock(&self.state);
        state.files.insert(
            *diff_id,
            ReadyFile {
                origin: Some(origin),
                bytes,
                used: self.clock.now(),
                references,
                phase,
                goes: None,
                streams: None,
            },
        );
        state.gone.remove(diff_id);
        drop(state);
        File::open(shard)?.sync_all()
    }

    /// Keeps other tasks from changing the names of a file. `None` while another one changes them.
    pub(super) fn moving(&self, diff_id: &Digest) -> Option<Moving<'_>> {
        let mut state = lock(&self.state);
        // The guard is made only if the mark is its own: dropping a guard takes the mark away.
        let free = state.moving.insert(*diff_id);
        drop(state);
        free.then(|| Moving {
            ready: self,
            diff_id: *diff_id,
        })
    }

    /// Records the image and the ground for which a file is offered from now on (blocking).
    pub fn set_origin(&self, diff_id: &Digest, mut origin: Origin) {
        let before = self.file(diff_id).and_then(|file| file.origin);
        origin.mounted = before.and_then(|before| before.mounted);
        if let Err(error) = self.write_origin(diff_id, &origin) {
            tracing::debug!(%error, "the origin of a ready file was not written down");
        }
        if let Some(file) = lock(&self.state).files.get_mut(diff_id) {
            file.origin = Some(origin);
        }
    }

    fn write_origin(&self, diff_id: &Digest, origin: &Origin) -> io::Result<()> {
        let (path, tmp) = (self.path(diff_id, ORIGIN), self.new_tmp());
        let text = serde_json::to_vec(origin).map_err(io::Error::other)?;
        let written = (|| {
            let mut file = File::create(&tmp)?;
            file.write_all(&text)?;
            // On disk before its file is: without the record nothing says why the file may be offered.
            file.sync_all()?;
            fs::rename(&tmp, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written
    }
}

/// The names of a file are being changed, until dropped.
pub(super) struct Moving<'a> {
    ready: &'a Ready,
    diff_id: Digest,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        lock(&self.ready.state).moving.remove(&self.diff_id);
    }
}

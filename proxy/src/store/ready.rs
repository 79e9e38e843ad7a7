//! Ready files: layers that the container runtime mounts as they lie, in the directory where it looks for them.
//!
//! ```text
//! <directory>/lock                               held by the larder that offers files here
//! <directory>/sha256/ab/<diffID>.erofs           offered: a file, or a link to the mount of a layer that streams
//! <directory>/sha256/ab/<diffID>.erofs.aside     set aside: no runtime finds it; see `life`
//! <directory>/sha256/ab/<diffID>.json            of which layer it was made, and why it may be offered
//! <directory>/tmp/                               what is being made; nothing of it outlives a start
//! ```
//!
//! Owns the account of these files and every change of them. They count with the node tier's blobs, and are evicted in
//! one order with them. [`crate::layers`] chooses which files are made, and which may be offered.

mod known;
pub mod life;
mod offer;
mod open;
mod rounds;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use larder_shared::{Algorithm, Digest, Hasher, RegistryName, Repository};
use serde::{Deserialize, Serialize};

pub use self::known::{OfImage, image_name};
use self::life::{Phase, Told};
use super::lock;
use crate::{clock::Clock, sys::disk};

/// The suffixes of a file that is offered, of one that is set aside, and of the record of its origin.
const OFFERED: &str = "erofs";
const ASIDE: &str = "erofs.aside";
const ORIGIN: &str = "json";

/// Why a layer may be offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ground {
    /// Its repository is public.
    Public,
    /// The operator shares what the node's own credentials open.
    Shared,
    /// The operator offers private layers.
    Private,
}

/// Where a ready file comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The layer as it was pushed.
    pub layer: Digest,
    pub registry: RegistryName,
    pub repository: Repository,
    /// The image for which it is offered.
    pub manifest: Digest,
    pub ground: Ground,
    /// The tree with which the layer was mounted before it was whole here. A kernel may still read by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<Tree>,
}

/// A tree that a kernel has mounted. The kernel reads next where this tree says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tree {
    pub sha256: Digest,
    pub bytes: u64,
}

impl Tree {
    pub fn of(tree: &[u8]) -> Self {
        Self {
            sha256: Digest::sha256(tree),
            bytes: tree.len() as u64,
        }
    }

    /// Whether a file begins with this tree (blocking).
    pub fn begins(&self, file: &File) -> io::Result<bool> {
        if file.metadata()?.len() < self.bytes {
            return Ok(false);
        }
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let (mut piece, mut at) = (vec![0; 64 << 10], 0);
        while at < self.bytes {
            let take = (self.bytes - at).min(piece.len() as u64) as usize;
            file.read_exact_at(&mut piece[..take], at)?;
            hasher.update(&piece[..take]);
            at += take as u64;
        }
        Ok(hasher.finish() == self.sha256)
    }
}

/// Why a ready file has to go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// Room is wanted.
    Room,
    /// It was not used for its TTL.
    Expired,
    /// It may not be offered any more.
    Withdrawn,
}

/// One ready file, or a link to a layer that streams.
#[derive(Clone, Debug)]
pub struct ReadyFile {
    /// `None` if the record beside it is gone or cannot be read: then nothing says why it may be offered.
    pub origin: Option<Origin>,
    pub bytes: u64,
    /// When it was made or a snapshot last referred to it, by the store's clock.
    pub used: u64,
    /// Snapshots that refer to it, by the latest report.
    pub references: u64,
    pub phase: Phase,
    /// Why it has to go, if it has to.
    pub goes: Option<Cause>,
    /// `Some` for a link to a layer that is not whole here: the bytes that the layer will have, or 0 if that is not
    /// known. `bytes` of them are here.
    pub streams: Option<u64>,
}

/// Bytes of ready files.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ReadyTotals {
    pub files: u64,
    /// Bytes of all files, and of those that are being made.
    pub bytes: u64,
    /// Bytes of the files that a snapshot refers to: they never go.
    pub kept: u64,
}

#[derive(Default, Debug)]
struct State {
    files: BTreeMap<Digest, ReadyFile>,
    told: Option<Told>,
    /// Bytes that are being made.
    making: u64,
    /// Files that went, and when, by the store's clock: they are not made again for the same use.
    gone: HashMap<Digest, u64>,
    /// Files whose names are being changed on the disk.
    moving: HashSet<Digest>,
    /// DiffIDs that the runtime is about to look for, and since when.
    looked_for: HashMap<Digest, Instant>,
    /// Files that went since the last look: why, and how many bytes.
    removed: Vec<(Cause, u64)>,
    /// What the last look at this node's images found.
    known: known::Known,
    /// Where layers that are not whole here can be mounted, or why they cannot.
    mounts: Option<Result<PathBuf, String>>,
}

/// The directory, and what is known of it.
#[derive(Debug)]
pub struct Ready {
    dir: PathBuf,
    clock: Clock,
    state: Mutex<State>,
    next_tmp: AtomicU64,
    _lock: disk::Lock,
}

/// The longest time between the runtime's pull of an image and a report of what it uses of that image.
const LOOKED_FOR: Duration = Duration::from_mins(2);

/// The most files that went and are remembered.
const REMEMBERED: usize = 10_000;

impl Ready {
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the file of a diffID lies, or would.
    fn path(&self, diff_id: &Digest, end: &str) -> PathBuf {
        let hex = diff_id.hex();
        let shard = self.dir.join(diff_id.algorithm().as_str()).join(&hex[..2]);
        shard.join(format!("{hex}.{end}"))
    }

    /// The ready file of a layer that a container mounted before it was whole (blocking).
    pub fn open_whole(&self, diff_id: &Digest) -> io::Result<File> {
        let opened = disk::open_unseen(&self.path(diff_id, OFFERED));
        opened.or_else(|_| disk::open_unseen(&self.path(diff_id, ASIDE)))
    }

    /// An unused path below the directory.
    pub fn new_tmp(&self) -> PathBuf {
        let number = self.next_tmp.fetch_add(1, Ordering::Relaxed);
        self.dir.join("tmp").join(number.to_string())
    }

    /// The file of a diffID.
    pub fn file(&self, diff_id: &Digest) -> Option<ReadyFile> {
        lock(&self.state).files.get(diff_id).cloned()
    }

    /// All files.
    pub fn files(&self) -> BTreeMap<Digest, ReadyFile> {
        lock(&self.state).files.clone()
    }

    /// The diffID of a layer of which there is a ready file.
    pub fn of_layer(&self, layer: &Digest) -> Option<Digest> {
        let state = lock(&self.state);
        let of = |file: &ReadyFile| file.origin.as_ref().map(|origin| origin.layer);
        let mut files = state
            .files
            .iter()
            .filter(|(_, file)| file.streams.is_none());
        files
            .find(|(_, file)| of(file) == Some(*layer))
            .map(|(diff_id, _)| *diff_id)
    }

    /// Whether there is a whole file of this diffID, or one went since the use at `used`: it is not made again for that
    /// use.
    pub fn has_or_had(&self, diff_id: &Digest, used: u64) -> bool {
        let state = lock(&self.state);
        let went = state.gone.get(diff_id).is_some_and(|went| used <= *went);
        let file = state.files.get(diff_id);
        went || file.is_some_and(|file| file.streams.is_none())
    }

    /// Whether the runtime finds this diffID, whole or streaming.
    pub fn offers(&self, diff_id: &Digest) -> bool {
        let state = lock(&self.state);
        let file = state.files.get(diff_id);
        file.is_some_and(|file| file.phase == Phase::Offered && file.goes.is_none())
    }

    /// Sums over all files.
    pub fn totals(&self) -> ReadyTotals {
        let state = lock(&self.state);
        let mut totals = ReadyTotals {
            bytes: state.making,
            ..ReadyTotals::default()
        };
        for file in state.files.values() {
            totals.files += 1;
            totals.bytes += file.bytes;
            totals.kept += if file.references > 0 { file.bytes } else { 0 };
        }
        totals
    }

    /// Room on the directory's file system (blocking).
    pub fn space(&self) -> io::Result<disk::Space> {
        disk::space(&self.dir)
    }

    /// Whether it is the file system of another directory (blocking).
    pub(super) fn is_beside(&self, other: &Path) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        device(&self.dir) == device(other)
    }

    /// Counts `bytes` as being made, until the returned guard is dropped.
    pub fn making(&self, bytes: u64) -> Making<'_> {
        lock(&self.state).making += bytes;
        Making { ready: self, bytes }
    }

    /// Sets or clears that a file may not be offered any more.
    pub fn withdraw(&self, diff_id: &Digest, withdrawn: bool) {
        if let Some(file) = lock(&self.state).files.get_mut(diff_id) {
            match (withdrawn, file.goes) {
                (true, _) => file.goes = Some(Cause::Withdrawn),
                (false, Some(Cause::Withdrawn)) => file.goes = None,
                (false, _) => {}
            }
        }
    }

    /// Takes note of what the latest report says of snapshots. `None` if no report says it.
    pub fn told(&self, told: Option<Told>, references: Option<&HashMap<Digest, u64>>) {
        let mut state = lock(&self.state);
        state.told = told;
        let Some(references) = references else {
            return;
        };
        let now = self.clock.now();
        for (diff_id, file) in &mut state.files {
            let before = file.references;
            file.references = references.get(diff_id).copied().unwrap_or(0);
            if before > 0 || file.references > 0 {
                file.used = now;
            }
        }
    }

    /// Takes note that the runtime pulls an image with these layers, and is about to look for their files. No report
    /// can say so yet, so they are not set aside for room.
    pub fn is_looked_for(&self, diff_ids: &[Digest]) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        state
            .looked_for
            .retain(|_, since| now.duration_since(*since) < LOOKED_FOR);
        let State {
            files, looked_for, ..
        } = &mut *state;
        // Only a file that is here can be set aside, and an image may name any diffIDs: the others are not remembered.
        let here = diff_ids
            .iter()
            .filter(|diff_id| files.contains_key(diff_id));
        looked_for.extend(here.map(|diff_id| (*diff_id, now)));
    }

    /// Says where the runtime can mount layers that are not whole here, or why nowhere.
    pub fn mounts_at(&self, mounts: Result<PathBuf, String>) {
        lock(&self.state).mounts = Some(mounts);
    }

    /// Where layers that are not whole here can be mounted, for people. `None` if none are to be.
    pub fn mounts(&self) -> Option<Result<PathBuf, String>> {
        lock(&self.state).mounts.clone()
    }

    /// What was removed since the last call: why, and how many bytes.
    pub fn take_removed(&self) -> Vec<(Cause, u64)> {
        std::mem::take(&mut lock(&self.state).removed)
    }

    /// Writes the times of use to the files, so that they outlive the process (blocking).
    pub fn write_uses(&self) {
        let files = self.files();
        // Opening a link would ask the process that serves it, which is this one.
        for (diff_id, file) in files.into_iter().filter(|(_, file)| file.streams.is_none()) {
            let end = if file.phase == Phase::Offered {
                OFFERED
            } else {
                ASIDE
            };
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(file.used);
            let opened = File::open(self.path(&diff_id, end));
            let _ = opened.and_then(|file| file.set_modified(used));
        }
    }
}

/// Makes a directory that no other user can look into: layers may be private.
fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Bytes that are being made, until dropped.
#[derive(Debug)]
pub struct Making<'a> {
    ready: &'a Ready,
    bytes: u64,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        lock(&self.ready.state).making -= self.bytes;
    }
}

#[cfg(test)]
mod tests;

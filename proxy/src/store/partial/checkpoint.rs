//! What an earlier process left of a partial: which bytes are present, how far they are hashed, and where they came
//! from.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
};

use data_encoding::BASE64;
use larder_shared::{Algorithm, Digest, Hasher, Range, RegistryName, Repository, Spans};
use serde::{Deserialize, Serialize};

use crate::{store::layout::Layout, sys::disk};

/// What `<hex>.spans` holds.
#[derive(Serialize, Deserialize)]
pub(in crate::store) struct Checkpoint {
    pub(in crate::store) size: u64,
    /// The registry that the bytes come from. Another registry's answer gives no right to them (promise P16).
    pub(super) registry: RegistryName,
    pub(super) boot_id: String,
    pub(super) spans: Vec<(u64, u64)>,
    pub(in crate::store) hashed: u64,
    /// The hasher's state, base64, and its format. A checkpoint that names no format has the first.
    pub(super) midstate: String,
    #[serde(default = "first_format")]
    pub(super) hasher: u32,
    /// The repositories that the registry gave the bytes out of.
    #[serde(default)]
    pub(super) proven_in: BTreeSet<Repository>,
}

impl Checkpoint {
    /// Bytes that are present.
    pub(in crate::store) fn present(&self) -> u64 {
        self.spans.iter().map(|(start, end)| end - start).sum()
    }
}

const fn first_format() -> u32 {
    1
}

/// The partial of `digest` that an earlier process left, if a fill can go on with it.
pub(super) fn left_behind(
    layout: &Layout,
    digest: &Digest,
) -> Option<(Checkpoint, Hasher, Spans, File)> {
    let (checkpoint, hasher) = read_checkpoint(layout, digest)?;
    let path = layout.partial(digest);
    let file = File::options().read(true).write(true).open(path).ok()?;
    if file.metadata().ok()?.len() != checkpoint.size {
        return None;
    }
    let spans: Spans = checkpoint
        .spans
        .iter()
        .map(|(s, e)| Range::new(*s, *e))
        .collect();
    // Pages that could not be written back leave holes, and the saved hash knows nothing of them.
    let written = spans
        .iter()
        .all(|span| disk::has_no_hole(&file, span.start, span.end).unwrap_or(false));
    written.then_some((checkpoint, hasher, spans, file))
}

/// Whether a partial that lies on disk is proven to have come through this repository.
pub(in crate::store) fn came_through(
    layout: &Layout,
    digest: &Digest,
    registry: &RegistryName,
    repository: &Repository,
) -> bool {
    read_checkpoint(layout, digest).is_some_and(|(checkpoint, _)| {
        checkpoint.registry == *registry && checkpoint.proven_in.contains(repository)
    })
}

/// Bytes that a partial from `registry` holds, as of its last checkpoint.
pub(in crate::store) fn present(layout: &Layout, digest: &Digest, registry: &RegistryName) -> u64 {
    match read_checkpoint(layout, digest) {
        Some((checkpoint, _)) if checkpoint.registry == *registry => checkpoint.present(),
        _ => 0,
    }
}

fn read_checkpoint(layout: &Layout, digest: &Digest) -> Option<(Checkpoint, Hasher)> {
    let text = fs::read(layout.spans(digest)).ok()?;
    checkpoint(&text, digest, &disk::boot_id())
}

/// What the text says of the partial of `digest`. `None` if the text contradicts itself, or if the machine was started
/// again since.
pub(in crate::store) fn checkpoint(
    text: &[u8],
    digest: &Digest,
    boot_id: &str,
) -> Option<(Checkpoint, Hasher)> {
    let checkpoint: Checkpoint = serde_json::from_slice(text).ok()?;
    let sound = checkpoint.boot_id == boot_id
        && checkpoint.hasher == Hasher::FORMAT
        && checkpoint
            .spans
            .iter()
            .all(|(s, e)| s < e && *e <= checkpoint.size)
        && checkpoint
            .spans
            .is_sorted_by(|(_, end), (start, _)| end <= start)
        && checkpoint.hashed
            <= checkpoint
                .spans
                .first()
                .filter(|(s, _)| *s == 0)
                .map_or(0, |(_, e)| *e);
    let midstate = BASE64.decode(checkpoint.midstate.as_bytes()).ok()?;
    let hasher = Hasher::restore(digest.algorithm(), &midstate)?;
    sound.then_some((checkpoint, hasher))
}

/// The digests whose checkpoint lies on disk (blocking).
fn checkpoints(layout: &Layout, algorithm: Algorithm) -> impl Iterator<Item = Digest> {
    let entries = fs::read_dir(layout.partials(algorithm)).into_iter();
    entries.flatten().flatten().filter_map(move |entry| {
        let name = entry.file_name();
        let hex = name.to_str()?.strip_suffix(".spans")?;
        Digest::from_hex(algorithm, hex).ok()
    })
}

/// Lists the partials that an earlier process left, so that requests need not look at the disk (blocking).
pub(in crate::store) fn list_left(layout: &Layout) {
    for algorithm in Algorithm::ALL {
        let found: Vec<Digest> = checkpoints(layout, algorithm).collect();
        layout.left().extend(found);
    }
}

/// Removes checkpoints whose partial is not there: a kill came between a commit's rename and its last step.
pub(in crate::store) fn sweep_strays(layout: &Layout, algorithm: Algorithm) {
    for digest in checkpoints(layout, algorithm) {
        if !layout.partial(&digest).exists() {
            let _ = remove_spans(layout, &digest);
        }
    }
}

/// Removes a checkpoint, so that no fill goes on with its partial.
pub(in crate::store) fn remove_spans(layout: &Layout, digest: &Digest) -> io::Result<()> {
    layout.left().remove(digest);
    remove_if_there(&layout.spans(digest))
}

pub(in crate::store) fn remove_if_there(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

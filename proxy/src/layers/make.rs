//! Makes ready files: indexes a layer, writes tree and tar into one file, and reads it back. All work is on
//! idle-priority threads.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read},
    num::NonZero,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use larder_layer::{Broken, Error, Index, Summary, build, ready};
use larder_shared::{Algorithm, Digest, Hasher};

use crate::sys;

/// Memory for all spans that are decoded at the same time.
const MEMORY: u64 = 48 << 20;

/// The most threads. More of them would only wait for the disk.
const THREADS: u64 = 4;

/// Bytes that are read back at a time.
const PIECE: usize = 256 << 10;

/// Why a ready file was not made.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    #[error("{0}")]
    Disk(#[from] io::Error),
    #[error("{0}")]
    Index(#[from] Broken),
    #[error("{0}")]
    Ready(#[from] ready::NotReady),
    #[error("what was written is not what was read: look at the disk")]
    Differs,
}

/// A file below a directory's `tmp`, removed when dropped.
#[derive(Debug)]
pub struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // The file may have been renamed, and then there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Does `work` on an idle-priority thread. `None` if it panicked, or no thread could be started.
pub async fn idle<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let idle = move || {
        sys::be_idle();
        let _ = tell.send(work());
    };
    thread::Builder::new()
        .name("layers".to_owned())
        .spawn(idle)
        .ok()?;
    told.await.ok()
}

/// Reads a file from its first byte, whatever position other readers of the same file are at.
struct FromStart(Arc<File>, u64);

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

fn create(path: &Path) -> io::Result<File> {
    // Layers may be private.
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Writes the index of a layer to `to` (blocking).
pub fn index(layer: Arc<File>, to: &Path) -> Result<Summary, Error> {
    let file = create(to).map_err(Error::Write)?;
    build(&mut FromStart(layer, 0), &mut BufWriter::new(file))
}

/// Writes tree and tar to `to`, and reads them back; they are on disk when this returns (blocking). `windows` is the
/// file that has the index.
pub fn write(index: &Index, windows: &File, layer: &File, to: &Path) -> Result<(), NotMade> {
    let file = create(to)?;
    let spans = index.spans().iter();
    let largest = spans.map(|span| span.layer_length + span.tar_length).max();
    let fit = MEMORY / largest.unwrap_or(1).max(1);
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = fit.min(cores).clamp(1, THREADS) as usize;
    ready::write(
        index,
        windows,
        layer,
        &file,
        NonZero::new(threads).unwrap_or(NonZero::<usize>::MIN),
    )?;
    file.sync_all()?;
    if is_right(index, &file)? {
        Ok(())
    } else {
        Err(NotMade::Differs)
    }
}

/// Reads the file back: it must have the tree, and a tar with the diffID.
fn is_right(index: &Index, file: &File) -> io::Result<bool> {
    let tree = index.tree();
    let length = tree.len() as u64 + index.tar_length();
    if file.metadata()?.len() != length {
        return Ok(false);
    }
    let mut piece = vec![0; PIECE];
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut at = 0;
    while at < length {
        let before = tree.len() as u64;
        let end = if at < before { before } else { length };
        let take = (PIECE as u64).min(end - at) as usize;
        file.read_exact_at(&mut piece[..take], at)?;
        if at < before {
            let from = at as usize;
            if piece[..take] != tree[from..from + take] {
                return Ok(false);
            }
        } else {
            hasher.update(&piece[..take]);
        }
        at += take as u64;
    }
    let digest: Digest = hasher.finish();
    Ok(digest == index.diff_id())
}

//! Tree and tar as one file, from a layer that is whole on this node. A kernel mounts the file without unpacking it.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::format::Span;
use crate::index::{Index, SpanError, decode};

/// Reads at any place, from several threads.
pub trait ReadAt: Sync {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
}

/// Writes at any place, from several threads.
pub trait WriteAt: Sync {
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, at)
    }
}

impl WriteAt for File {
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }
}

/// Why there is no ready file.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the layer or its index could not be read: {0}")]
    Read(#[source] io::Error),
    #[error("the file could not be written: {0}")]
    Write(#[source] io::Error),
    #[error("span {0}: {1}")]
    Span(usize, SpanError),
}

/// Writes tree and tar. Each thread holds one span in memory. The tree is written last, so a file that is not whole has
/// no superblock and cannot be mounted. `windows` is the file of the index.
pub fn write(
    index: &Index,
    windows: &impl ReadAt,
    layer: &impl ReadAt,
    to: &impl WriteAt,
    threads: NonZero<usize>,
) -> Result<(), NotReady> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<NotReady>> = Mutex::new(None);
    let tree_length = index.tree().len() as u64;
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(span) = index.spans().get(number) else {
                return;
            };
            if let Err(error) = write_span(number, span, tree_length, windows, layer, to) {
                // The other threads find no further span, and end.
                next.store(index.spans().len(), Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.get().min(index.spans().len()) {
            scope.spawn(work);
        }
        work();
    });
    match failed.into_inner() {
        Ok(None) => to.write_all_at(index.tree(), 0).map_err(NotReady::Write),
        Ok(Some(error)) => Err(error),
        Err(poisoned) => Err(poisoned
            .into_inner()
            .unwrap_or(NotReady::Span(0, SpanError::Tar))),
    }
}

fn write_span(
    number: usize,
    span: &Span,
    tree_length: u64,
    windows: &impl ReadAt,
    layer: &impl ReadAt,
    to: &impl WriteAt,
) -> Result<(), NotReady> {
    let mut window = vec![0; span.window_length as usize];
    windows
        .read_exact_at(&mut window, span.window_at)
        .map_err(NotReady::Read)?;
    let mut bytes = vec![0; span.layer_length as usize];
    layer
        .read_exact_at(&mut bytes, span.layer_at)
        .map_err(NotReady::Read)?;
    let tar = decode(span, &window, &bytes).map_err(|error| NotReady::Span(number, error))?;
    to.write_all_at(&tar, tree_length + span.tar_at)
        .map_err(NotReady::Write)
}

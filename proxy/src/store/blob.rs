//! A file of the node tier that is being served: a committed blob or a partial that grows.

use std::{
    fs::{self, File, Metadata},
    io,
    num::NonZeroUsize,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use larder_shared::{Digest, Range};

use super::{file_state::FileState, reads::Reads};
use crate::sys::{Mapping, Regions, disk};

/// An open file that holds, or will hold, the bytes of one digest. An open blob survives its eviction.
#[derive(Debug)]
pub struct Blob {
    digest: Digest,
    size: u64,
    file: Arc<File>,
    /// Stands for the bytes; `None` for the empty blob, which cannot be mapped.
    mapping: Option<Arc<Mapping>>,
    reads: Reads,
    /// `Some` for a file of the container runtime: the state in which it had these bytes.
    verified: Option<FileState>,
}

/// Device, inode and creation time: a file system reuses inode numbers.
pub(super) type Identity = (u64, u64, Option<SystemTime>);

fn identity(found: &Metadata) -> Identity {
    (found.dev(), found.ino(), found.created().ok())
}

impl Blob {
    pub(super) fn new(digest: Digest, size: u64, file: File) -> io::Result<Self> {
        let file = Arc::new(file);
        let mapping = match NonZeroUsize::new(size as usize) {
            Some(len) => Some(Arc::new(Mapping::new(Arc::clone(&file), len)?)),
            None => None,
        };
        Ok(Self {
            digest,
            size,
            file,
            mapping,
            reads: Reads::default(),
            verified: None,
        })
    }

    /// A file of the container runtime, in this state.
    pub(super) fn adopted(digest: Digest, file: File, state: FileState) -> io::Result<Self> {
        let blob = Self::new(digest, state.size(), file)?;
        Ok(Self {
            verified: Some(state),
            ..blob
        })
    }

    /// Whether the file is the container runtime's.
    pub fn is_adopted(&self) -> bool {
        self.verified.is_some()
    }

    /// The state in which the container runtime's file was opened.
    pub(super) fn verified(&self) -> Option<FileState> {
        self.verified
    }

    /// What the bytes hash to, once they are verified.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes of the whole blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of `range`, as addresses that a connection which knows `regions` sends by sendfile. The range must lie
    /// within the blob, and within what is present if it is a partial.
    pub fn slice(&self, range: Range, regions: &Regions) -> Bytes {
        match &self.mapping {
            Some(mapping) => {
                regions.add(mapping);
                mapping
                    .bytes()
                    .slice(range.start as usize..range.end as usize)
            }
            None => Bytes::new(),
        }
    }

    /// Reads `range` into memory (blocking).
    pub fn read(&self, range: Range) -> io::Result<Vec<u8>> {
        let _read = self.reads.begin();
        let mut bytes = vec![0; range.len() as usize];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// Reads `range`, if all of it is in memory; `None` where it is not, or where that cannot be known.
    pub fn read_cached(&self, range: Range) -> Option<Vec<u8>> {
        let mut bytes = vec![0; range.len() as usize];
        let mut read = 0;
        while read < bytes.len() {
            let at = range.start + read as u64;
            match disk::read_cached(&self.file, &mut bytes[read..], at) {
                Ok(0) | Err(_) => return None,
                Ok(more) => read += more,
            }
        }
        Some(bytes)
    }

    /// Whether a range seems to be in memory: its first and its last byte are.
    pub fn is_at_hand(&self, range: Range) -> bool {
        let last = range.end.saturating_sub(1).max(range.start);
        disk::is_cached(&self.file, range.start) && disk::is_cached(&self.file, last)
    }

    /// Brings a range into memory (blocking).
    pub fn warm(&self, range: Range) -> io::Result<()> {
        let _read = self.reads.begin();
        let mut piece = vec![0; (64 << 10).min(range.len() as usize)];
        let mut at = range.start;
        while at < range.end {
            let take = piece.len().min((range.end - at) as usize);
            self.file.read_exact_at(&mut piece[..take], at)?;
            at += take as u64;
        }
        Ok(())
    }

    /// Whether sending it failed: the disk cannot read it, or the file is shorter than it was.
    pub fn is_damaged(self: &Arc<Self>) -> bool {
        self.mapping
            .as_ref()
            .is_some_and(|mapping| mapping.is_damaged())
    }

    /// Whether the open file still has a name on disk and its length, and is unchanged if it is the container
    /// runtime's. larder's own files never change.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.metadata().is_ok_and(|found| {
            let unchanged = self
                .verified
                .is_none_or(|state| state == FileState::of(&found));
            found.nlink() > 0 && found.len() == self.size && unchanged
        })
    }

    /// The file's identity. `None` if not even that can be read.
    pub(super) fn identity(&self) -> Option<Identity> {
        Some(identity(&self.file.metadata().ok()?))
    }

    /// Whether the open file is the one at `path`.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let there = fs::metadata(path).ok().as_ref().map(identity);
        there.is_some() && there == self.identity()
    }

    /// The number of owners of this blob besides `known` ones: bodies that have not handed out their last bytes.
    pub(super) fn readers(self: &Arc<Self>, known: usize) -> usize {
        Arc::strong_count(self).saturating_sub(known)
    }

    /// Whether bytes are on their way to a socket.
    pub(super) fn is_being_sent(&self) -> bool {
        // Bytes on their way hold the mapping; one of its owners is the blob.
        let owners = self.mapping.as_ref().map_or(0, Arc::strong_count);
        owners > 1
    }

    /// The open file, for a later read.
    pub fn handle(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// The reads of it that are under way.
    pub(super) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

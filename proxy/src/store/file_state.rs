//! Files that are not larder's own: their identity and times, and how they are opened.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::sys::disk;

/// File systems count time in ticks of some milliseconds: within one, a file may change and show the same times.
const TICK: Duration = Duration::from_millis(500);

/// A file's identity, size and times. Another file, and the same file with other bytes, compare as different.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// As numbers in a line, for another process.
    pub(super) fn line(&self) -> String {
        let Self {
            device,
            inode,
            size,
            modified,
            changed,
        } = self;
        let (m, c) = (modified, changed);
        format!("{device} {inode} {size} {} {} {} {}", m.0, m.1, c.0, c.1)
    }

    /// Parses what another process wrote with [`Self::line`].
    pub(super) fn of_line(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [device, inode, size, times @ ..] = &words[..] else {
            return None;
        };
        let times: Option<Vec<i64>> = times.iter().map(|time| time.parse().ok()).collect();
        let [m, m_nanos, c, c_nanos] = times?[..] else {
            return None;
        };
        Some(Self {
            device: device.parse().ok()?,
            inode: inode.parse().ok()?,
            size: size.parse().ok()?,
            modified: (m, m_nanos),
            changed: (c, c_nanos),
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the file changed so recently that the next change may not show in its times.
    pub(super) fn is_young(&self) -> bool {
        let (seconds, nanos) = self.changed;
        let since = Duration::new(seconds.max(0) as u64, nanos.max(0) as u32);
        let changed = SystemTime::UNIX_EPOCH + since;
        // A time in the future comes from a clock that was set back since.
        changed.elapsed().is_ok_and(|age| age < TICK)
    }
}

/// Opens a regular file (blocking). Anything else is an error of the kind `NotFound`.
pub(super) fn open(path: &Path) -> io::Result<(File, FileState)> {
    // Opening a pipe would wait for a writer, and a link could lead anywhere.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = disk::open_unseen(path)?;
    let found = FileState::of(&file.metadata()?);
    Ok((file, found))
}

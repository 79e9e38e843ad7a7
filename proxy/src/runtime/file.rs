//! One look at the watcher's file (blocking): read within bounds, and only if it has changed.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use larder_shared::runtime::{Header, LONGEST, Report, VERSION};

use crate::sys::disk;

/// Identifies a file at the path, without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.len(),
        }
    }
}

/// The result of a look.
#[derive(Debug)]
pub(super) enum Found {
    /// There is no file.
    Nothing,
    /// The file has not changed since the last look.
    Same,
    Report(Box<Report>),
    Newer {
        version: u32,
    },
    Unreadable(Unreadable),
}

/// Why the watcher's file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// There was a file, and there is none now.
    Gone,
    /// It is a directory, a pipe or a device.
    NoFile,
    /// It is longer than [`LONGEST`].
    TooLong,
    /// It is no report, for example because the file was cut short.
    NoReport { line: usize, column: usize },
    /// It is from another node, or from before this node's last boot.
    Foreign,
    /// The system refuses to read it.
    Refused(io::ErrorKind),
    /// Reading it does not end.
    Hangs,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the file is gone"),
            Self::NoFile => f.write_str("not a regular file"),
            Self::TooLong => write!(f, "longer than {} MiB", LONGEST >> 20),
            Self::NoReport { line, column } => {
                write!(f, "not a report: line {line}, column {column}")
            }
            Self::Foreign => f.write_str("of another node, or of the time before this one booted"),
            Self::Refused(kind) => write!(f, "cannot be read: {kind}"),
            Self::Hangs => f.write_str("reading it takes too long"),
        }
    }
}

/// Looks at the file, and reads it unless it is the one of the stamp `before`. A file that could not be opened gets no
/// stamp, so the next look tries it again.
pub(super) fn look(path: &Path, before: Option<&Stamp>) -> (Option<Stamp>, Found) {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => (None, Found::Nothing),
        kind => (None, Found::Unreadable(Unreadable::Refused(kind))),
    };
    let stamp = match fs::metadata(path) {
        // Opening a pipe would wait for a writer.
        Ok(metadata) if !metadata.is_file() => {
            return (None, Found::Unreadable(Unreadable::NoFile));
        }
        Ok(metadata) => Stamp::of(&metadata),
        Err(error) => return refused(error),
    };
    if before == Some(&stamp) {
        return (Some(stamp), Found::Same);
    }
    match read(path) {
        // The stamp is of the file that was read, not of one that took its place in between.
        Ok((stamp, Some(bytes))) => (Some(stamp), parse(&bytes)),
        Ok((stamp, None)) => (Some(stamp), Found::Unreadable(Unreadable::TooLong)),
        Err(error) => refused(error),
    }
}

/// The file's bytes, or `None` if there are too many.
fn read(path: &Path) -> io::Result<(Stamp, Option<Vec<u8>>)> {
    let file = disk::open_at_once(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok((stamp, (bytes.len() as u64 <= LONGEST).then_some(bytes)))
}

/// Parses the report. Of a newer version, only the header is certain.
pub(super) fn parse(bytes: &[u8]) -> Found {
    let no_report = |error: serde_json::Error| {
        Found::Unreadable(Unreadable::NoReport {
            line: error.line(),
            column: error.column(),
        })
    };
    match serde_json::from_slice::<Header>(bytes) {
        Err(error) => no_report(error),
        Ok(Header { version }) if version > VERSION => Found::Newer { version },
        Ok(_) => match serde_json::from_slice::<Report>(bytes) {
            Ok(report) if is_foreign(&report) => Found::Unreadable(Unreadable::Foreign),
            Ok(report) => Found::Report(Box::new(report)),
            Err(error) => no_report(error),
        },
    }
}

/// Whether the report is from another boot than this one. A report without a boot id counts as this node's.
fn is_foreign(report: &Report) -> bool {
    let boot = report.boot.as_deref();
    boot.is_some_and(|boot| boot.trim() != disk::boot_id())
}

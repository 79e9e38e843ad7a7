//! Which connections the holders of one directory have mounted: a file in that directory, which outlives them.
//!
//! A daemon that gives a connection back says its numbers, and by these numbers the holder aborts. The daemon's user has
//! fewer rights than the holder, and must not have it abort another program's file system. So a holder takes back only what
//! a holder of this directory has made.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::wire::Connection;

const FILE: &str = "connections.json";

/// Connections that are remembered, the latest ones: more than a daemon ever gives back.
const MOST: usize = 64;

/// The id and the device of each connection, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    made: Vec<(u64, u32)>,
}

impl Record {
    /// What earlier holders have left (blocking). Nothing, if there is no file or it cannot be read.
    pub(super) fn open(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        let made = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %path.display(), "it is not known which connections an earlier holder has made: none of them is taken back");
            }
            Vec::new()
        });
        Self { path, made }
    }

    /// A holder has this connection, which it made itself or has from the holder before (blocking).
    pub(super) fn add(&mut self, connection: &Connection) {
        if self.has(connection) {
            return;
        }
        self.made.push((connection.id, connection.device));
        let surplus = self.made.len().saturating_sub(MOST);
        self.made.drain(..surplus);
        if let Err(error) = self.write() {
            tracing::warn!(%error, path = %self.path.display(), "a later holder will not take this connection back from the daemon; look at the directory");
        }
    }

    /// A connection is over: its device number may be another file system's soon (blocking).
    pub(super) fn forget(&mut self, connection: &Connection) {
        let before = self.made.len();
        self.made
            .retain(|made| *made != (connection.id, connection.device));
        if self.made.len() < before
            && let Err(error) = self.write()
        {
            tracing::warn!(%error, path = %self.path.display(), "a connection that is over stays on the list");
        }
    }

    pub(super) fn has(&self, connection: &Connection) -> bool {
        self.made.contains(&(connection.id, connection.device))
    }

    fn write(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(&serde_json::to_vec(&self.made)?)?;
        fs::rename(new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(id: u64, device: u32) -> Connection {
        Connection {
            id,
            device,
            at: None,
        }
    }

    #[test]
    fn the_next_holder_knows_what_was_made_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(dir.path());
        record.add(&connection(u64::MAX, 44));
        record.add(&connection(7, 45));
        let next = Record::open(dir.path());
        assert!(next.has(&connection(u64::MAX, 44)) && next.has(&connection(7, 45)));
        assert!(!next.has(&connection(7, 44)) && !next.has(&connection(8, 45)));
        record.forget(&connection(7, 45));
        let next = Record::open(dir.path());
        assert!(next.has(&connection(u64::MAX, 44)) && !next.has(&connection(7, 45)));
    }

    #[test]
    fn it_stays_small_and_a_broken_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(dir.path());
        for id in 0..MOST as u64 + 3 {
            record.add(&connection(id, 1));
        }
        assert!(!record.has(&connection(2, 1)) && record.has(&connection(3, 1)));
        fs::write(dir.path().join(FILE), "[[1,").unwrap();
        assert!(!Record::open(dir.path()).has(&connection(3, 1)));
    }
}
